"""Metrics in the mean over models of several seeds, or over several strengths, with intervals over videos.

Each resample of videos is scored by all models, so that what they have in common stays in the interval. The interval is
of these models on other videos; how models of other seeds differ is what the values seed by seed say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from istvt.evaluation.intervals import resample_counts
from istvt.evaluation.metrics import CONFIDENCE, Samples, estimate, proportion_estimate
from istvt.evaluation.results import Estimate
from istvt.inference.video_score import DEFAULT_THRESHOLD, VideoScore

AVERAGED = ("accuracy", "auc")
_LIMITS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class MeanMetric:
    """A metric of several sets of scores of the same videos.

    Attributes:
        mean: over the sets, with its interval over videos.
        values: of each set; None where undefined.
        change: of the mean to that of other sets of the same videos; None where there are none.
    """

    mean: Estimate
    values: list[float | None]
    change: Estimate | None = None

    @property
    def spread(self) -> float | None:
        """Standard deviation over the sets; None for one, or where a value is undefined."""
        if len(self.values) < 2 or None in self.values:
            return None
        return float(np.std(self.values, ddof=1))


def common_scores(sets: Sequence[Sequence[VideoScore]]) -> list[list[VideoScore]]:
    """Return the scores of the videos that are in every set, in the order of the first."""
    by_name = [{score.name: score for score in scores} for scores in sets]
    names = [name for name in by_name[0] if all(name in other for other in by_name)]
    return [[scores[name] for name in names] for scores in by_name]


def mean_metrics(
    sets: Sequence[Sequence[VideoScore]],
    before: Sequence[Sequence[VideoScore]] = (),
    *,
    bootstrap: int = 2000,
    seed: int = 0,
) -> dict[str, MeanMetric]:
    """Return accuracy and AUC by video in the mean over sets of scores.

    Of one set they have the estimates of `compute_metrics`: Wilson's interval of the accuracy, the bootstrap's of the
    AUC. Of several both are the bootstrap's; an accuracy that no resample changes has the mean limits of Wilson's.

    Args:
        sets: scores of the same videos in the same order (`common_scores`).
        before: other sets of these videos, to whose mean the change is.
        bootstrap: resamples.
        seed: of the bootstrap.
    """
    if not sets[0]:
        nothing = Estimate(None, reason="No video has all of these scores")
        empty = MeanMetric(nothing, [None] * len(sets), nothing if before else None)
        return dict.fromkeys(AVERAGED, empty)
    samples = [Samples("video", scores, DEFAULT_THRESHOLD) for scores in (*sets, *before)]
    blocks: list[list[np.ndarray]] = [[] for _ in AVERAGED]
    for counts in resample_counts(samples[0].video_labels, bootstrap, seed):
        found = [of.metrics(counts)[0] for of in samples]
        for block, name in zip(blocks, AVERAGED, strict=True):
            block.append(np.stack([values[name] for values in found]))
    points = [of.point_metrics() for of in samples]
    own, result = len(sets), {}
    for block, name in zip(blocks, AVERAGED, strict=True):
        drawn = np.concatenate(block, axis=1)  # [sets, resamples]
        values = [point[name] for point in points]
        mean = None if None in values[:own] else float(np.mean(values[:own]))
        shown = estimate(name, mean, drawn[:own].mean(axis=0), samples[0])
        if name == "accuracy" and (own == 1 or shown.low is None):
            of_set = [_wilson(of) for of in samples[:own]]
            limits = (float(np.mean([getattr(item, side) for item in of_set])) for side in ("low", "high"))
            shown = of_set[0] if own == 1 else Estimate(mean, *limits, "wilson")
        change = None
        if before:
            change = _change(values[:own], values[own:], drawn[:own].mean(axis=0) - drawn[own:].mean(axis=0))
        result[name] = MeanMetric(shown, values[:own], change)
    return result


def _wilson(samples: Samples) -> Estimate:
    return proportion_estimate(samples.confusion.true_negatives + samples.confusion.true_positives, len(samples.labels))


def _change(after: Sequence[float | None], before: Sequence[float | None], drawn: np.ndarray) -> Estimate:
    if None in (*after, *before):
        return Estimate(None, reason="The metric is undefined")
    low, high = np.quantile(drawn, _LIMITS)
    return Estimate(float(np.mean(after) - np.mean(before)), float(low), float(high), "bootstrap")
