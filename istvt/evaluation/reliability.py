"""Reliability of probabilities: how often videos of a score are fake, and the expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from dataloading.dataset import FAKE, REAL
from dataloading.errors import InputError
from istvt.evaluation.intervals import resample_counts
from istvt.evaluation.metrics import CONFIDENCE, proportion_estimate
from istvt.evaluation.results import BandCheck, CalibrationResult, Estimate, Evaluation, Reliability, ReliabilityBin
from istvt.inference.calibration import NOT_SURE, band_of, calibrated, temperature_interval
from istvt.inference.video_score import DEFAULT_THRESHOLD, VideoScore
from istvt.model.checkpoint import Calibration

BINS = 10
LEAST_IN_BIN = 5
MAX_ERRORS = (0.01, 0.02, 0.05, 0.1, 0.2)
_LIMITS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)


def with_reliability(
    evaluation: Evaluation, scores: Sequence[VideoScore], calibration: Calibration | None
) -> Evaluation:
    """Return an evaluation with the reliability of its scores and, where there is a calibration, what it does.

    Args:
        evaluation: of the scores.
        scores: of labeled videos.
        calibration: of the model; None leaves it out.
    """
    labels = np.array([score.label for score in scores])
    if len(set(labels.tolist())) < 2:
        return evaluation
    raw = np.array([score.probability for score in scores])
    how = {"resamples": evaluation.resamples, "seed": evaluation.seed}
    result = None
    if calibration is not None:
        low, high = temperature_interval(calibration, NormalDist().inv_cdf(_LIMITS[1]))
        result = CalibrationResult(
            temperature=calibration.temperature,
            low=low,
            high=high,
            real=len(calibration.real),
            fake=len(calibration.fake),
            scaled=reliability(labels, calibrated(raw, calibration.temperature), **how),
            bands=[_check_band(calibration, max_error, raw, labels) for max_error in MAX_ERRORS],
        )
    return replace(evaluation, reliability=reliability(labels, raw, **how), calibration=result)


def reliability(labels: np.ndarray, probabilities: np.ndarray, resamples: int = 2000, seed: int = 0) -> Reliability:
    """Return the bins of a reliability diagram and the expected calibration error.

    Bins hold equally many videos. With n videos, y 1 for a fake, the error is

        ECE = 1/n sum over bins of | sum in the bin of (y - p) |

    which chance alone makes larger than 0: `if_calibrated` is its mean where each label is drawn with its probability.
    `debiased` is the root of the mean squared error without that of chance (Kumar et al. 2019, arXiv 1909.10155).

    Args:
        labels: 1 for a fake, int [videos].
        probabilities: of "fake", float64 [videos].
        resamples: of the bootstrap, and drawn sets of labels.
        seed: of both.
    """
    count = len(labels)
    bins = max(min(BINS, count // LEAST_IN_BIN), 1)
    order = np.argsort(probabilities, kind="stable")
    members = np.array_split(order, bins)
    inside = np.zeros((count, bins))  # [videos, bins]
    for number, member in enumerate(members):
        inside[member, number] = 1
    off = (labels - probabilities)[:, None] * inside
    point = float(np.abs(off.sum(axis=0)).sum() / count)
    drawn = np.concatenate(
        [np.abs(counts @ off).sum(axis=1) / count for counts in resample_counts(labels, resamples, seed)]
    )
    generator = np.random.default_rng(seed)
    by_chance = [
        float(np.abs(((generator.random(count) < probabilities) - probabilities) @ inside).sum() / count)
        for _ in range(resamples)
    ]
    squared, found = 0.0, []
    for member in members:
        share, mean = float(labels[member].mean()), float(probabilities[member].mean())
        squared += len(member) / count * ((share - mean) ** 2 - share * (1 - share) / max(len(member) - 1, 1))
        fakes = proportion_estimate(int(labels[member].sum()), len(member))
        found.append(ReliabilityBin(mean, fakes, len(member)))
    # Resamples add chance to the error once more: their mean is moved to the error.
    low, high = np.clip(point + np.quantile(drawn, _LIMITS) - drawn.mean(), 0, 1)
    return Reliability(
        bins=found,
        error=Estimate(point, float(low), float(high), "bootstrap"),
        if_calibrated=float(np.mean(by_chance)),
        if_calibrated_high=float(np.quantile(by_chance, _LIMITS[1])),
        debiased=float(np.sqrt(max(squared, 0.0))),
    )


def _check_band(calibration: Calibration, max_error: float, scores: np.ndarray, labels: np.ndarray) -> BandCheck:
    """Return what `predict --max-error` would have said of these videos."""
    try:
        band = band_of(calibration, max_error)
    except InputError as error:
        return BandCheck(max_error, None, reason=str(error))
    withheld = np.array([band.verdict(score) == NOT_SURE for score in scores])
    wrong = int(((scores > DEFAULT_THRESHOLD) != (labels == FAKE))[~withheld].sum())
    answered = int((~withheld).sum())
    return BandCheck(
        max_error=max_error,
        sure=band.sure,
        validation_withheld=proportion_estimate(band.real_withheld + band.fake_withheld, band.real + band.fake),
        withheld=proportion_estimate(int(withheld.sum()), len(scores)),
        real_withheld=proportion_estimate(int(withheld[labels == REAL].sum()), int((labels == REAL).sum())),
        fake_withheld=proportion_estimate(int(withheld[labels == FAKE].sum()), int((labels == FAKE).sum())),
        wrong=proportion_estimate(wrong, answered) if answered else Estimate(None, reason="No video has a verdict"),
    )
