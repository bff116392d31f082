"""Metrics of video scores: accuracy, precision, recall, F1, loss, AUC, average precision, equal error rate.

Every metric counts videos unless it says clips. Labels are 0 for real and 1 for fake; fake is the positive class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataloading.dataset import CLASSES, FAKE, REAL
from dataloading.errors import InputError
from istvt.evaluation.intervals import area_interval, resample_counts, wilson_interval
from istvt.evaluation.results import METRIC_NAMES, ConfusionMatrix, Estimate, Evaluation, Metrics, ReportRow, RocCurve
from istvt.evaluation.roc import Ranking, RankingCurve, without_collinear_points
from istvt.inference.video_score import DEFAULT_THRESHOLD, VideoScore

CONFIDENCE = 0.95
_LIMITS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
_FEW_VIDEOS = 20
_BAND_RATES = np.linspace(0, 1, 101)


def epoch_metrics(scores: Sequence[VideoScore]) -> dict[str, float | None]:
    """Compute metrics by video without intervals, cheap enough for every epoch.

    Returns:
        accuracy, precision, recall, f1, loss and auc; None where one is undefined (`compute_metrics` says why).
    """
    values = _values(_video_samples(_checked(scores)), DEFAULT_THRESHOLD)
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

    def measure(samples: _Samples, band: bool = False) -> Metrics:
        return _measure(samples, threshold, bootstrap, seed, band)

    return Evaluation(
        threshold=float(threshold),
        confidence=CONFIDENCE,
        resamples=bootstrap,
        seed=seed,
        videos=measure(_video_samples(scores), band=True),
        manipulations={name: measure(_video_samples(reals + fakes[name])) for name in sorted(fakes)},
        clips=measure(_clip_samples(scores)),
    )


@dataclass(frozen=True)
class _Samples:
    """What is counted: videos, or clips with the video each belongs to."""

    unit: str
    labels: np.ndarray  # [samples]
    probabilities: np.ndarray  # [samples]
    video: np.ndarray  # [samples], position in video_labels
    video_labels: np.ndarray  # [videos]

    @property
    def only_class(self) -> str | None:
        """Name of the class when there is one only."""
        present = np.unique(self.labels)
        return CLASSES[int(present[0])] if len(present) == 1 else None

    @property
    def losses(self) -> np.ndarray:
        """Binary cross-entropy of each sample, with probabilities kept off 0 and 1 by float64's epsilon."""
        of_label = np.where(self.labels == FAKE, self.probabilities, 1 - self.probabilities)
        return -np.log(np.clip(of_label, np.finfo(np.float64).eps, 1.0))


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


def _video_samples(scores: Sequence[VideoScore]) -> _Samples:
    labels = np.array([score.label for score in scores])
    probabilities = np.array([score.probability for score in scores], dtype=np.float64)
    return _Samples("video", labels, probabilities, np.arange(len(scores)), labels)


def _clip_samples(scores: Sequence[VideoScore]) -> _Samples:
    labels = np.array([score.label for score in scores])
    video = np.repeat(np.arange(len(scores)), [len(score.clip_probabilities) for score in scores])
    probabilities = np.array([value for score in scores for value in score.clip_probabilities], dtype=np.float64)
    return _Samples("clip", labels[video], probabilities, video, labels)


def _values(samples: _Samples, threshold: float) -> dict[str, float | None]:
    """Return every metric without an interval; None where it is undefined."""
    once = np.ones((1, len(samples.labels)))
    values = dict.fromkeys(METRIC_NAMES, (np.nan,)) | _Verdicts(samples, threshold).metrics(once)
    if samples.only_class is None:
        values |= _ranking_metrics(Ranking(samples.labels, samples.probabilities).curve())
    return {name: float(value) if np.isfinite(value) else None for name, [value] in values.items()}


def _ranking_metrics(curve: RankingCurve) -> dict[str, np.ndarray]:
    return {
        "auc": curve.area(),
        "average_precision": curve.average_precision(),
        "equal_error_rate": curve.equal_error_rate(),
    }


class _Verdicts:
    """Indicators of the four cells of the confusion matrix, and the metrics made from their weighted sums."""

    def __init__(self, samples: _Samples, threshold: float):
        called_fake = samples.probabilities > threshold
        fake = samples.labels == FAKE
        cells = (~fake & ~called_fake, ~fake & called_fake, fake & ~called_fake, fake & called_fake)
        self._columns = np.stack([*cells, samples.losses], axis=1).astype(np.float64)
        self.confusion = ConfusionMatrix(*(int(cell.sum()) for cell in cells))

    def metrics(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return metrics under each row of `weights [resamples, samples]`; NaN where a denominator is zero."""
        negatives, false_alarms, misses, hits, loss = (weights @ self._columns).T
        total = negatives + false_alarms + misses + hits
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "accuracy": (negatives + hits) / total,
                "precision": np.where(misses + hits > 0, hits / (hits + false_alarms), np.nan),
                "recall": hits / (hits + misses),
                "f1": np.where(misses + hits > 0, 2 * hits / (2 * hits + false_alarms + misses), np.nan),
                "loss": loss / total,
            }


def _measure(samples: _Samples, threshold: float, bootstrap: int, seed: int, band: bool) -> Metrics:
    verdicts = _Verdicts(samples, threshold)
    ranking = Ranking(samples.labels, samples.probabilities) if samples.only_class is None else None
    resampled, bands = _bootstrap(samples, verdicts, ranking, bootstrap, seed, band)
    values, counts = _values(samples, threshold), verdicts.confusion
    estimates = {name: _estimate(name, value, resampled.get(name), samples) for name, value in values.items()}
    if samples.unit == "video":
        # Each of these is a count of independent videos: (successes, trials).
        found = counts.true_positives
        proportions = {
            "accuracy": (counts.true_negatives + found, len(samples.labels)),
            "precision": (found, found + counts.false_positives),
            "recall": (found, found + counts.false_negatives),
        }
        for name, proportion in proportions.items():
            if values[name] is not None:
                estimates[name] = Estimate(values[name], *wilson_interval(*proportion, CONFIDENCE), "wilson")
    report, rows = _classification_report(samples, threshold)
    real = int((samples.labels == REAL).sum())
    return Metrics(
        unit=samples.unit,
        count=len(samples.labels),
        real=real,
        fake=len(samples.labels) - real,
        **estimates,
        confusion=counts,
        roc=_roc(ranking, bands) if ranking else None,
        classification_report=report,
        classification_rows=rows,
        notes=_notes(samples, rows),
    )


def _bootstrap(
    samples: _Samples, verdicts: _Verdicts, ranking: Ranking | None, resamples: int, seed: int, band: bool
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Return the metrics of every resample, each `[resamples]`, and the band's true positive rates where asked for."""
    blocks: list[dict[str, np.ndarray]] = []
    bands: list[np.ndarray] = []
    for counts in resample_counts(samples.video_labels, resamples, seed):
        weights = counts if samples.unit == "video" else counts[:, samples.video]
        values = verdicts.metrics(weights)
        if ranking is not None:
            curve = ranking.curve(weights)
            values |= _ranking_metrics(curve)
            if band:
                rates = zip(curve.false_positive_rate, curve.true_positive_rate, strict=True)
                bands.extend(np.interp(_BAND_RATES, x, y) for x, y in rates)
        blocks.append(values)
    resampled = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    return resampled, np.array(bands) if bands else None


def _estimate(name: str, value: float | None, resampled: np.ndarray | None, samples: _Samples) -> Estimate:
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


def _classification_report(samples: _Samples, threshold: float) -> tuple[str, list[ReportRow]]:
    from sklearn.metrics import classification_report

    names = [name.capitalize() for name in CLASSES]
    called = (samples.probabilities > threshold).astype(int)
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


def _notes(samples: _Samples, rows: list[ReportRow]) -> list[str]:
    notes = []
    for label, name in enumerate(CLASSES):
        videos = int((samples.video_labels == label).sum())
        if 0 < videos < _FEW_VIDEOS:
            noun = "video" if videos == 1 else "videos"
            notes.append(f"Only {videos} {name} {noun}: at this size the bootstrap's intervals are rather too narrow.")
    if any(value is None for row in rows for value in (row.precision, row.recall, row.f1)):
        notes.append("scikit-learn's report prints 0 where a metric is undefined, and its averages count it as 0.")
    return notes
