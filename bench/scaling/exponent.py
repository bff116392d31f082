"""The exponent of a power law, fitted on log-log axes, with its confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Exponent:
    """`y ~ x ** value`, and the interval that holds the exponent with `CONFIDENCE`."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def fit_exponent(x: Sequence[float], y: Sequence[float]) -> Exponent | None:
    """Least squares through `(log x, log y)`; the interval is Student's, of n - 2 degrees of freedom.

    Args:
        x: sizes, positive.
        y: what was counted or measured at each, positive.

    Returns:
        None for fewer than three points: two points fit any line and say nothing of its error.
    """
    if len(x) < 3:
        return None
    from scipy.stats import t  # comes with scikit-learn

    log_x, log_y = np.log(x), np.log(y)
    centered = log_x - log_x.mean()
    spread = float(centered @ centered)
    slope = float(centered @ (log_y - log_y.mean())) / spread
    residuals = log_y - log_y.mean() - slope * centered
    freedom = len(x) - 2
    error = math.sqrt(float(residuals @ residuals) / freedom / spread)
    margin = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return Exponent(slope, slope - margin, slope + margin)
