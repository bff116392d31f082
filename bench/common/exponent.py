"""Exponents of power laws: least squares on log-log axes, with 95 % confidence intervals."""

from collections.abc import Sequence

import numpy as np

from bench.common.record import NOT_MEASURED, Row


def fit_exponent(sizes: Sequence[int], values: Sequence[float], offset: int = 0) -> Row:
    """Fit `values ~ (sizes + offset) ** exponent`; return exponent, low and high, by Student's t of n - 2.

    Nothing for fewer than three sizes: two points fit any line and say nothing of its error.
    """
    if len(sizes) < 3:
        return {}
    from scipy import stats  # its import takes a second

    fit = stats.linregress(np.log(np.add(sizes, offset)), np.log(values))
    slope, margin = float(fit.slope), float(stats.t.ppf(0.975, len(sizes) - 2) * fit.stderr)
    return {"exponent": slope, "low": slope - margin, "high": slope + margin}


def interval(row: Row) -> str:
    """Return a fitted exponent and its interval in one cell."""
    return "{exponent:.2f} [{low:.2f}, {high:.2f}]".format(**row) if row else NOT_MEASURED
