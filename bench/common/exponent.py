"""Exponents of power laws: least squares on log-log axes, with 95 % confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.common.record import NOT_MEASURED, Row


def fit_exponent(sizes: Sequence[int], values: Sequence[float], offset: int = 0) -> Row:
    """Fit `values ~ (sizes + offset) ** exponent`; the interval is Student's, of n - 2 degrees of freedom.

    Returns:
        exponent, low and high, and the sizes as text. The numbers are None for fewer than three sizes: two points fit
        any line and say nothing of its error.
    """
    row: Row = {"exponent": None, "low": None, "high": None, "sizes": " ".join(map(str, sizes))}
    if len(sizes) < 3:
        return row
    from scipy import stats  # its import takes a second

    fit = stats.linregress(np.log(np.add(sizes, offset)), np.log(values))
    margin = float(stats.t.ppf(0.975, len(sizes) - 2) * fit.stderr)
    slope = float(fit.slope)
    return row | {"exponent": slope, "low": slope - margin, "high": slope + margin}


def interval(row: Row) -> str:
    """Return a fitted exponent and its interval in one cell."""
    if row.get("exponent") is None:
        return NOT_MEASURED
    return f"{row['exponent']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
