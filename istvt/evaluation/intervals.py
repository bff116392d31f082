"""Confidence intervals: Wilson's of a proportion, Newcombe's of an area under the ROC curve, bootstrap resamples."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist

import numpy as np

# A block of resamples holds about this many counts: small enough for the cache, and memory does not grow with the set.
_COUNTS_PER_BLOCK = 50_000


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion (Wilson 1927, JASA 22:209).

    Raises:
        ValueError: `trials` is not positive, or `successes` is outside `0..trials`.
    """
    from scipy.stats import binomtest  # imported here: it takes a second, which the metrics of every epoch do not need

    interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def area_interval(area: float, negatives: int, positives: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the score interval of an area under the ROC curve (Newcombe 2006, Statist. Med. 25:559, method 5).

    The limits are the areas `t` at which `(t - area)^2 = z^2 V(t)`, with

        V(t) = t (1 - t) / (m n) * (1 + N (1 - t) / (2 - t) + N t / (1 + t)),    N = (m + n) / 2 - 1.

    It has a width at an area of exactly 0 or 1, where every bootstrap resample gives the same area.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)  # 1.960 for a confidence of 0.95
    pairs = negatives * positives
    excess = (negatives + positives) / 2 - 1

    def outside(t: float) -> bool:
        variance = t * (1 - t) / pairs * (1 + excess * (1 - t) / (2 - t) + excess * t / (1 + t))
        return (t - area) ** 2 > z * z * variance

    def limit(far: float) -> float:
        near = area
        for _ in range(60):
            middle = (near + far) / 2
            near, far = (near, middle) if outside(middle) else (middle, far)
        return near

    return limit(0.0), limit(1.0)


def resample_counts(labels: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Draw stratified bootstrap resamples, in blocks.

    Each resample draws as many videos of each class, with replacement, as the set holds, so class sizes never vary.

    Args:
        labels: class of each video, int `[videos]`.
        resamples: how many to draw in all.
        seed: of the random generator; the same seed gives the same resamples.

    Yields:
        How often each video was drawn, float64 `[block, videos]`; the blocks add up to `resamples` rows.
    """
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == value) for value in np.unique(labels)]
    block = max(1, _COUNTS_PER_BLOCK // max(1, len(labels)))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        counts = np.zeros((rows, len(labels)))
        for member in members:
            drawn = generator.integers(0, len(member), size=(rows, len(member)))
            flat = (drawn + len(member) * np.arange(rows)[:, None]).ravel()
            counts[:, member] = np.bincount(flat, minlength=rows * len(member)).reshape(rows, len(member))
        yield counts
