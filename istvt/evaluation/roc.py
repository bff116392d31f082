"""ROC curve of weighted samples, the area under it, average precision and equal error rate.

The weights are a matrix with one row a bootstrap resample, so that two thousand resamples cost one sort.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RankingCurve:
    """True and false positives, as the threshold falls past each distinct score, from none to all.

    Both are float64 `[resamples, distinct scores + 1]` and start with zeros.
    """

    true_positives: np.ndarray
    false_positives: np.ndarray

    @property
    def true_positive_rate(self) -> np.ndarray:
        """Share of positives above each threshold, `[resamples, points]`."""
        return self.true_positives / self.true_positives[:, -1:]

    @property
    def false_positive_rate(self) -> np.ndarray:
        """Share of negatives above each threshold, `[resamples, points]`."""
        return self.false_positives / self.false_positives[:, -1:]

    def area(self) -> np.ndarray:
        """Return the area under the curve, `[resamples]`, by the trapezoid rule: a tie of classes counts half."""
        widths = np.diff(self.false_positives)
        heights = self.true_positives[:, 1:] + self.true_positives[:, :-1]
        return (widths * heights).sum(1) / (2 * self.true_positives[:, -1] * self.false_positives[:, -1])

    def average_precision(self) -> np.ndarray:
        """Return the sum over thresholds of precision times the gain in recall, `[resamples]`: no interpolation."""
        called = self.true_positives + self.false_positives
        precision = np.divide(self.true_positives, called, out=np.zeros_like(called), where=called > 0)
        gain = np.diff(self.true_positives)
        return (precision[:, 1:] * gain).sum(1) / self.true_positives[:, -1]

    def equal_error_rate(self) -> np.ndarray:
        """Return the rate at which false positives and false negatives are equally frequent, `[resamples]`.

        Read where the ROC curve, straight between its points, crosses `false negative rate = false positive rate`.
        """
        false_positive_rate = self.false_positive_rate
        surplus = 1 - self.true_positive_rate - false_positive_rate  # falls from 1 to -1
        after = np.argmax(surplus <= 0, axis=1)
        rows = np.arange(len(surplus))
        above, below = surplus[rows, after - 1], surplus[rows, after]
        start, end = false_positive_rate[rows, after - 1], false_positive_rate[rows, after]
        return start + (end - start) * above / (above - below)


class Ranking:
    """Scores in falling order, with equal scores kept together.

    Args:
        labels: 1 for a positive (a fake), 0 for a negative, `[samples]`.
        scores: the higher, the more positive, float64 `[samples]`.
    """

    def __init__(self, labels: np.ndarray, scores: np.ndarray):
        self._order = np.argsort(-scores, kind="stable")
        self._positive = (labels == 1)[self._order].astype(np.float64)
        falling = scores[self._order]
        self._last_of_tie = np.flatnonzero(np.append(np.diff(falling) != 0, True))

    def curve(self, weights: np.ndarray | None = None) -> RankingCurve:
        """Count positives and negatives above each threshold.

        Args:
            weights: how often each sample counts, float64 `[resamples, samples]`; None counts each once, in one row.
        """
        if weights is None:
            weights = np.ones((1, len(self._order)))
        ordered = weights[:, self._order]
        return RankingCurve(self._cumulate(ordered * self._positive), self._cumulate(ordered * (1 - self._positive)))

    def _cumulate(self, ordered: np.ndarray) -> np.ndarray:
        total = np.cumsum(ordered, axis=1)[:, self._last_of_tie]
        return np.concatenate([np.zeros((len(total), 1)), total], axis=1)


def without_collinear_points(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop the points of a polyline that lie on the straight line between their neighbors."""
    if len(x) < 3:
        return x, y
    run, rise = np.diff(x), np.diff(y)
    turns = np.abs(run[:-1] * rise[1:] - run[1:] * rise[:-1]) > 1e-15
    keep = np.concatenate([[True], turns, [True]])
    return x[keep], y[keep]
