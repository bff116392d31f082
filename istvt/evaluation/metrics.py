"""Metrics of video scores (accuracy, precision, recall, F1, loss, AUC, average precision, EER), and of masks.

Every metric counts videos unless it says clips. Labels are 0 for real and 1 for fake; fake is the positive class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple

import numpy as np

from dataloading.dataset import CLASSES, FAKE, REAL
from dataloading.errors import InputError
from istvt.evaluation.intervals import area_interval, resample_counts, wilson_interval
from istvt.evaluation.results import (
    METRIC_NAMES,
    ConfusionMatrix,
    Estimate,
    Evaluation,
    MaskCounts,
    MaskResult,
    MaskRow,
    Metrics,
    ReportRow,
    RocCurve,
)
from istvt.evaluation.roc import Ranking, RankingCurve, without_collinear_points
from istvt.inference.video_score import DEFAULT_THRESHOLD, VideoScore

CONFIDENCE = 0.95
_LIMITS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
_FEW_VIDEOS = 20
_MASKS = {"model": "this model", "mean": "mean mask of the training fakes", "nothing": "nothing forged"}
_BAND_RATES = np.linspace(0, 1, 101)


def epoch_metrics(scores: Sequence[VideoScore]) -> dict[str, float | None]:
    """Compute metrics by video without intervals, cheap enough for every epoch.

    Returns:
        accuracy, precision, recall, f1, loss and auc; None where one is undefined (`compute_metrics` says why).
    """
    values = Samples("video", _checked(scores), DEFAULT_THRESHOLD).point_metrics()
    return {name: values[name] for name in ("accuracy", "precision", "recall", "f1", "loss", "auc")}


def compute_metrics(
    scores: Sequence[VideoScore], threshold: float = DEFAULT_THRESHOLD, bootstrap: int = 2000, seed: int = 0
) -> Evaluation:
    """Compute every metric by video, per manipulation and by clip, each with a 95 % interval.

    Accuracy, precision and recall by video are proportions and have Wilson's interval; the others have the percentile
    interval of a bootstrap that draws videos within each class. Where every resample gives the same value, the
    bootstrap says nothing: an AUC then has Newcombe's interval, any other metric has none and says so.

    Args:
        scores: of labeled videos, each once.
        threshold: a video is called fake where its probability is above this, 0 to 1.
        bootstrap: number of resamples.
        seed: of the bootstrap.

    Raises:
        InputError: there are no scores, a video has no label or comes twice, or an argument is out of range.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold must lie between 0 and 1, got {threshold}")
    if bootstrap < 1:
        raise InputError(f"bootstrap must be at least 1 resample, got {bootstrap}")
    scores = _checked(scores)
    reals = [score for score in scores if score.label == REAL]
    fakes: dict[str, list[VideoScore]] = {}
    for score in scores:
        if score.label == FAKE:
            fakes.setdefault(score.manipulation, []).append(score)

    def measure(unit: str, of: Sequence[VideoScore], band: bool = False) -> Metrics:
        return _measure(Samples(unit, of, threshold), bootstrap, seed, band)

    return Evaluation(
        threshold=float(threshold),
        confidence=CONFIDENCE,
        resamples=bootstrap,
        seed=seed,
        videos=measure("video", scores, band=True),
        manipulations={name: measure("video", reals + fakes[name]) for name in sorted(fakes)},
        clips=measure("clip", scores),
    )


class Samples:
    """Samples of a metric: videos, or clips of videos.

    Args:
        unit: `"video"` or `"clip"`.
        scores: of the videos.
        threshold: a sample is called fake where its probability is above this.
    """

    def __init__(self, unit: str, scores: Sequence[VideoScore], threshold: float):
        self.unit = unit
        values = [score.clip_probabilities if unit == "clip" else [score.probability] for score in scores]
        self.video_labels = np.array([score.label for score in scores])  # [videos]
        self.video = np.repeat(np.arange(len(scores)), [len(of_video) for of_video in values])  # [samples]
        self.labels = self.video_labels[self.video]  # [samples]
        probabilities = np.concatenate(values).astype(np.float64)  # [samples]
        self.called_fake, fake = probabilities > threshold, self.labels == FAKE
        present = np.unique(self.labels)
        self.only_class = CLASSES[int(present[0])] if len(present) == 1 else None
        self.ranking = Ranking(self.labels, probabilities) if self.only_class is None else None
        cells = (~fake & ~self.called_fake, ~fake & self.called_fake, fake & ~self.called_fake, fake & self.called_fake)
        self.confusion = ConfusionMatrix(*(int(cell.sum()) for cell in cells))
        # Cross-entropy with probabilities kept off 0 by float64's epsilon.
        of_label = np.where(fake, probabilities, 1 - probabilities)
        losses = -np.log(np.clip(of_label, np.finfo(np.float64).eps, 1.0))
        self._columns = np.stack([*cells, losses], axis=1).astype(np.float64)  # [samples, 5]

    def metrics(self, weights: np.ndarray) -> tuple[dict[str, np.ndarray], RankingCurve | None]:
        """Return metrics under each row of `weights [resamples, samples]`, NaN where undefined, and the ROC curves."""
        negatives, false_alarms, misses, hits, loss = (weights @ self._columns).T
        total = negatives + false_alarms + misses + hits
        undefined = np.full(len(weights), np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = dict.fromkeys(METRIC_NAMES, undefined) | {
                "accuracy": (negatives + hits) / total,
                "precision": np.where(misses + hits > 0, hits / (hits + false_alarms), np.nan),
                "recall": hits / (hits + misses),
                "f1": np.where(misses + hits > 0, 2 * hits / (2 * hits + false_alarms + misses), np.nan),
                "loss": loss / total,
            }
        curve = self.ranking.curve(weights) if self.ranking else None
        if curve is not None:
            values["auc"], values["average_precision"] = curve.area(), curve.average_precision()
            values["equal_error_rate"] = curve.equal_error_rate()
        return values, curve

    def point_metrics(self) -> dict[str, float | None]:
        """Return every metric without an interval; None where it is undefined."""
        values, _ = self.metrics(np.ones((1, len(self.labels))))
        return {name: float(value) if np.isfinite(value) else None for name, [value] in values.items()}


def _checked(scores: Sequence[VideoScore]) -> list[VideoScore]:
    if not scores:
        raise InputError("There is no video to evaluate: the list of scores is empty")
    seen = set()
    for score in scores:
        refused = f"{score.name} cannot be evaluated: its"
        if score.label not in (REAL, FAKE):
            raise InputError(f"{refused} label is {score.label}, expected 0 (real) or 1 (fake)")
        if not 0 <= score.probability <= 1:
            raise InputError(f"{refused} probability is {score.probability}, expected 0 to 1")
        if (score.name, score.path) in seen:
            raise InputError(f"{score.name} is scored twice: each video counts once")
        seen.add((score.name, score.path))
    return list(scores)


def _measure(samples: Samples, bootstrap: int, seed: int, band: bool) -> Metrics:
    resampled, bands = _bootstrap(samples, bootstrap, seed, band)
    values, counts = samples.point_metrics(), samples.confusion
    estimates = {name: estimate(name, value, resampled[name], samples) for name, value in values.items()}
    if samples.unit == "video":
        # Each of these is a count of independent videos: (successes, trials).
        found = counts.true_positives
        proportions = {
            "accuracy": (counts.true_negatives + found, len(samples.labels)),
            "precision": (found, found + counts.false_positives),
            "recall": (found, found + counts.false_negatives),
        }
        estimates |= {name: proportion_estimate(*of) for name, of in proportions.items() if values[name] is not None}
    report, rows = _classification_report(samples)
    real = int((samples.labels == REAL).sum())
    return Metrics(
        unit=samples.unit,
        count=len(samples.labels),
        real=real,
        fake=len(samples.labels) - real,
        **estimates,
        confusion=counts,
        roc=_roc(samples.ranking, bands) if samples.ranking else None,
        classification_report=report,
        classification_rows=rows,
        notes=_notes(samples, rows),
    )


def _bootstrap(
    samples: Samples, resamples: int, seed: int, band: bool
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Return the metrics of every resample, each `[resamples]`, and the band's true positive rates where asked for."""
    blocks: list[dict[str, np.ndarray]] = []
    bands: list[np.ndarray] = []
    for counts in resample_counts(samples.video_labels, resamples, seed):
        values, curve = samples.metrics(counts[:, samples.video])
        blocks.append(values)
        if band and curve is not None:
            rates = zip(curve.false_positive_rate, curve.true_positive_rate, strict=True)
            bands.extend(np.interp(_BAND_RATES, x, y) for x, y in rates)
    resampled = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    return resampled, np.array(bands) if bands else None


def proportion_estimate(successes: int, trials: int) -> Estimate:
    """Return a share of independent videos with Wilson's interval; `trials` are one or more."""
    return Estimate(successes / trials, *wilson_interval(successes, trials, CONFIDENCE), "wilson")


def estimate(name: str, value: float | None, resampled: np.ndarray, samples: Samples) -> Estimate:
    """Return a metric with the interval of its resamples, float64 [resamples], or with the reason why it has none."""
    if value is None:
        if name == "precision" and samples.only_class != CLASSES[REAL]:
            why = f"no {samples.unit} was called fake"
        else:
            videos = f"{samples.only_class} videos"
            why = f"the split holds only {videos if samples.unit == 'video' else f'clips of {videos}'}"
        return Estimate(None, reason=f"{METRIC_NAMES[name]} is undefined: {why}")
    low, high = np.quantile(resampled[np.isfinite(resampled)], _LIMITS)
    if high - low > 1e-12:
        return Estimate(value, float(low), float(high), "bootstrap")
    if name == "auc" and samples.unit == "video":
        fake = int(samples.labels.sum())
        return Estimate(value, *area_interval(value, len(samples.labels) - fake, fake, CONFIDENCE), "newcombe")
    return Estimate(value, reason="No interval: every bootstrap resample gives the same value")


def _roc(ranking: Ranking, bands: np.ndarray | None) -> RocCurve:
    curve = ranking.curve()
    x, y = without_collinear_points(curve.false_positive_rate[0], curve.true_positive_rate[0])
    if bands is None:
        return RocCurve(x.tolist(), y.tolist())
    low, high = np.quantile(bands, _LIMITS, axis=0)
    return RocCurve(x.tolist(), y.tolist(), _BAND_RATES.tolist(), low.tolist(), high.tolist())


def _classification_report(samples: Samples) -> tuple[str, list[ReportRow]]:
    from sklearn.metrics import classification_report

    names = [name.capitalize() for name in CLASSES]
    called = samples.called_fake.astype(int)
    arguments = {"labels": [REAL, FAKE], "target_names": names, "zero_division": 0}
    table = classification_report(samples.labels, called, output_dict=True, **arguments)
    rows = []
    for name in (*names, "macro avg", "weighted avg"):
        row = table[name]
        rows.append(ReportRow(name, row["precision"], row["recall"], row["f1-score"], int(row["support"])))
    for label in (REAL, FAKE):  # scikit-learn prints 0 where there is no value
        row, verdicts = rows[label], (called == label).any()
        rows[label] = ReportRow(
            row.name,
            precision=row.precision if verdicts else None,
            recall=row.recall if row.support else None,
            f1=row.f1 if row.support or verdicts else None,
            support=row.support,
        )
    return classification_report(samples.labels, called, digits=3, **arguments), rows


def _notes(samples: Samples, rows: list[ReportRow]) -> list[str]:
    notes = []
    for label, name in enumerate(CLASSES):
        videos = int((samples.video_labels == label).sum())
        if 0 < videos < _FEW_VIDEOS:
            noun = "video" if videos == 1 else "videos"
            notes.append(f"Only {videos} {name} {noun}: at this size bootstrap intervals tend to be too narrow.")
    if any(value is None for row in rows for value in (row.precision, row.recall, row.f1)):
        notes.append("scikit-learn's report prints 0 where a metric is undefined, and its averages count it as 0.")
    return notes


def mask_metrics(
    labels: Sequence[int], counts: Sequence[MaskCounts | None], resamples: int = 2000, seed: int = 0
) -> MaskResult | None:
    """Return how well masks fit, with 95 % intervals of a bootstrap that draws videos within each class.

        pixel accuracy = (TP + TN) / all pixels        IoU = TP / (TP + FP + FN), with forged as the positive class

    All pixels of all frames of a video's clips count together. Accuracy, and the IoU of the fakes, are means over
    videos; the pooled IoU has the pixels of all videos, so that what is called forged in a real one counts against it.
    Where forged pixels are few, calling nothing forged has a high accuracy and an IoU of 0; where forgeries are in one
    place, the mean mask of the training fakes has a high IoU of fakes without looking, and a low pooled one.

    Args:
        labels: of the videos.
        counts: of each; None of a video whose mask is not known.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        None where the mask of no fake is known.
    """
    known = [(label, count) for label, count in zip(labels, counts, strict=True) if count is not None]
    is_fake = np.array([label == FAKE for label, _ in known], bool)
    if not is_fake.any():
        return None
    found = {}
    for name in _MASKS:
        cells = [getattr(count, name) for _, count in known]
        if all(cell is not None for cell in cells):
            found[name] = _MaskPixels(*np.array([astuple(cell) for cell in cells], float).T, is_fake)
    model = found["model"]

    def estimate(statistic: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        value = float(statistic(np.ones((1, len(known))))[0])
        drawn = np.concatenate([statistic(weights) for weights in resample_counts(is_fake, resamples, seed)])
        drawn = drawn[np.isfinite(drawn)]
        if not np.isfinite(value):
            return Estimate(None, reason="no frame of a fake is forged")
        if not len(drawn) or np.ptp(drawn) < 1e-12:
            return Estimate(value, reason="every resample has the same value")
        return Estimate(value, *np.quantile(drawn, _LIMITS).tolist(), "bootstrap")

    rows = []
    for name, of in found.items():
        fakes = pooled = None
        if name != "model":
            fakes = estimate(lambda w, of=of: model.iou_of_fakes(w) - of.iou_of_fakes(w))
            pooled = estimate(lambda w, of=of: model.pooled_iou(w) - of.pooled_iou(w))
        values = (estimate(of.accuracy), estimate(of.accuracy_of_fakes), estimate(of.iou_of_fakes))
        rows.append(MaskRow(_MASKS[name], *values, estimate(of.pooled_iou), fakes, pooled))
    unknown, shows = sum(count is None for count in counts), model.shows
    return MaskResult(int((~is_fake).sum()), int(is_fake.sum()), unknown, int(shows.sum()), model.forged_share, rows)


class _MaskPixels:
    """Pixels of some masks by video, float64 [videos] each, and metrics under weights [resamples, videos]."""

    def __init__(self, tn: np.ndarray, fp: np.ndarray, fn: np.ndarray, tp: np.ndarray, is_fake: np.ndarray) -> None:
        self.hits, self.union, self.is_fake = tp, tp + fp + fn, is_fake
        pixels = tn + self.union
        self.right = (tn + tp) / pixels
        self.shows = is_fake & (tp + fn > 0)  # a forged pixel, so that there is an IoU
        self.iou = np.divide(tp, self.union, out=np.zeros_like(tp), where=self.shows)
        self.forged_share = float(((tp + fn) / pixels)[is_fake].mean())

    def accuracy(self, weights: np.ndarray) -> np.ndarray:
        return weights @ self.right / weights.sum(1)

    def accuracy_of_fakes(self, weights: np.ndarray) -> np.ndarray:
        return weights @ (self.right * self.is_fake) / (weights @ self.is_fake)

    def iou_of_fakes(self, weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return weights @ self.iou / (weights @ self.shows)

    def pooled_iou(self, weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return weights @ self.hits / (weights @ self.union)
