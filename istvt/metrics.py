"""From clip logits to video scores, and from video scores to figures with intervals.

A video's score is the mean of its clips' probabilities, and every figure counts videos unless it says clips. Labels are
0 for real and 1 for fake; fake is the positive class. A figure that does not exist (AUC with one class only) is None
and carries the sentence that says why: nothing here is ever NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dataloading.errors import InputError
from dataloading.video import CLASSES, FAKE, REAL
from istvt.intervals import area_interval, resample_counts, wilson_interval
from istvt.ranking import Ranking, without_collinear_points
from istvt.verdict import DEFAULT_THRESHOLD, probability_of, verdict_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from dataloading.sampling import Clip

CONFIDENCE = 0.95
METRIC_NAMES = {
    "accuracy": "Accuracy",
    "auc": "AUC",
    "average_precision": "Average precision",
    "equal_error_rate": "Equal error rate",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "loss": "Loss",
}
_FEW_VIDEOS = 20
_BAND_RATES = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class VideoScore:
    """What the detector says about one video.

    Attributes:
        name: unique in its data set (the path below the set's root, without suffix).
        path: the file.
        label: 0 real, 1 fake, None where nobody knows.
        manipulation: the method that made the fake, ``"original"`` for a real video.
        probability: that the video is fake: the mean of ``clip_probabilities``.
        clip_probabilities: one for each clip, in the order of the clips' first frames.
        clip_frames: frame numbers of each clip.
    """

    name: str
    path: str
    label: int | None
    manipulation: str
    probability: float
    clip_probabilities: list[float]
    clip_frames: list[list[int]]

    @property
    def verdict(self) -> str:
        """``"fake"`` where the probability is above one half, as a positive logit means fake; ``"real"`` elsewhere."""
        return verdict_of(self.probability)

    def verdict_at(self, threshold: float) -> str:
        """``"fake"`` where the probability is above ``threshold``, ``"real"`` elsewhere."""
        return verdict_of(self.probability, threshold)

    def is_right(self, threshold: float = DEFAULT_THRESHOLD) -> bool:
        """Whether the verdict agrees with the label."""
        return int(self.probability > threshold) == self.label


@dataclass(frozen=True)
class Estimate:
    """One figure and its interval.

    Attributes:
        value: None where the figure is undefined.
        low: lower limit of the interval, None where there is no interval.
        high: upper limit of the interval.
        method: of the interval: ``"wilson"``, ``"bootstrap"``, ``"newcombe"``, or ``"none"``.
        reason: why the value or the interval is missing: one sentence without its full stop, or "".
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    method: str = "none"
    reason: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return self.reason
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class ConfusionMatrix:
    """Counts of verdicts by class, with fake as the positive class."""

    true_negatives: int
    false_positives: int
    false_negatives: int
    true_positives: int


@dataclass(frozen=True)
class RocCurve:
    """Points of the ROC curve, from (0, 0) to (1, 1), and a pointwise band of the bootstrap.

    The band gives, at each false positive rate in ``band_rate``, the interval of the true positive rate; its lists are
    empty where no band was asked for.
    """

    false_positive_rate: list[float]
    true_positive_rate: list[float]
    band_rate: list[float] = field(default_factory=list)
    band_low: list[float] = field(default_factory=list)
    band_high: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class ReportRow:
    """One row of scikit-learn's classification report; a figure is None where it is undefined."""

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True)
class Metrics:
    """Every figure of one group of videos, or of their clips (``unit`` says which)."""

    unit: str
    count: int
    real: int
    fake: int
    accuracy: Estimate
    auc: Estimate
    average_precision: Estimate
    equal_error_rate: Estimate
    precision: Estimate
    recall: Estimate
    f1: Estimate
    loss: Estimate
    confusion: ConfusionMatrix
    roc: RocCurve | None
    classification_report: str
    classification_rows: list[ReportRow]
    notes: list[str]

    def estimates(self) -> dict[str, Estimate]:
        """The figures under the names they are printed with, in the order they are printed in."""
        return {name: getattr(self, key) for key, name in METRIC_NAMES.items()}


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one set of videos.

    Attributes:
        threshold: a video is called fake where its probability is above this.
        confidence: of every interval.
        resamples: of the bootstrap; each draws videos within each class, with replacement.
        seed: of the bootstrap.
        videos: all figures by video. These are the result.
        manipulations: the same for each manipulation, against all the real videos.
        clips: the same by clip. Clips of one video are alike, so their intervals resample videos.
    """

    threshold: float
    confidence: float
    resamples: int
    seed: int
    videos: Metrics
    manipulations: dict[str, Metrics]
    clips: Metrics

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, fit for JSON."""
        return asdict(self)


def score_videos(clips: Sequence[Clip], logits: ArrayLike) -> list[VideoScore]:
    """Gather clip logits into one score a video: the mean of its clips' probabilities.

    Clips belong together when their video's name and path are equal, so two videos with the same file name in different
    folders stay apart.

    Args:
        clips: in any order, those of one video need not follow each other.
        logits: one for each clip, positive for fake, ``[clips]``.

    Returns:
        One score a video, in the order in which videos first appear.

    Raises:
        InputError: the numbers of clips and logits differ, or a logit is not finite.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if logits.shape != (len(clips),):
        raise InputError(f"logits must hold one number for each of the {len(clips)} clips, got shape {logits.shape}")
    check_finite(clips, logits)
    probabilities = probability_of(logits)
    gathered: dict[tuple[str, str], list[int]] = {}
    for position, clip in enumerate(clips):
        gathered.setdefault((clip.video.name, str(clip.video.path)), []).append(position)
    scores = []
    for positions in gathered.values():
        positions.sort(key=lambda position: int(clips[position].frames[0]))
        video = clips[positions[0]].video
        clip_probabilities = [float(probabilities[position]) for position in positions]
        scores.append(
            VideoScore(
                name=video.name,
                path=str(video.path),
                label=video.label,
                manipulation=video.manipulation,
                probability=float(np.mean(clip_probabilities)),
                clip_probabilities=clip_probabilities,
                clip_frames=[[int(frame) for frame in clips[position].frames] for position in positions],
            )
        )
    return scores


def check_finite(clips: Sequence[Clip], logits: np.ndarray) -> None:
    """Raises InputError, which names the video, where one of the clips' logits [clips] is not a finite number."""
    if not np.isfinite(logits).all():
        worst = int(np.flatnonzero(~np.isfinite(logits))[0])
        raise InputError(
            f"The model gave {logits[worst]} for a clip of {clips[worst].video.name}: its weights or its training have "
            "diverged, so there is no score"
        )


def epoch_metrics(scores: Sequence[VideoScore]) -> dict[str, float | None]:
    """Figures by video without intervals, cheap enough for every epoch.

    Returns:
        accuracy, precision, recall, f1, loss and auc; None where a figure is undefined (``evaluate`` says why).
    """
    samples = _video_samples(_checked(scores))
    figures = _point_figures(samples, DEFAULT_THRESHOLD)
    return {name: figures[name] for name in ("accuracy", "precision", "recall", "f1", "loss", "auc")}


def evaluate(
    scores: Sequence[VideoScore], threshold: float = DEFAULT_THRESHOLD, bootstrap: int = 2000, seed: int = 0
) -> Evaluation:
    """Compute every figure by video, per manipulation and by clip, each with a 95 % interval.

    Accuracy, precision and recall by video are proportions and have Wilson's interval; the others have the percentile
    interval of a bootstrap that draws videos within each class. Where every resample gives the same figure, the
    bootstrap says nothing: an AUC then has Newcombe's interval, any other figure has none and says so.

    Args:
        scores: of labelled videos, each once.
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
    manipulations: dict[str, list[VideoScore]] = {}
    for score in scores:
        if score.label == FAKE:
            manipulations.setdefault(score.manipulation, []).append(score)

    def measure(samples: _Samples, band: bool = False) -> Metrics:
        return _measure(samples, threshold, bootstrap, seed, band)

    return Evaluation(
        threshold=float(threshold),
        confidence=CONFIDENCE,
        resamples=bootstrap,
        seed=seed,
        videos=measure(_video_samples(scores), band=True),
        manipulations={name: measure(_video_samples(reals + manipulations[name])) for name in sorted(manipulations)},
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

    def undefined(self, figure: str) -> Estimate:
        holds = f"{self.only_class} videos" if self.unit == "video" else f"clips of {self.only_class} videos"
        return Estimate(None, reason=f"{figure} is undefined: the split holds only {holds}")

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
        if score.label not in (REAL, FAKE):
            raise InputError(
                f"{score.name} cannot be evaluated: its label is {score.label}, expected 0 (real) or 1 (fake)"
            )
        if not 0 <= score.probability <= 1:
            raise InputError(
                f"{score.name} cannot be evaluated: its probability is {score.probability}, expected 0 to 1"
            )
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


def _point_figures(samples: _Samples, threshold: float) -> dict[str, float | None]:
    """Every figure without an interval; None where it is undefined."""
    verdicts = _Verdicts(samples, threshold)
    resampled = verdicts.figures(np.ones((1, len(samples.labels))))
    figures = {name: _finite(values[0]) for name, values in resampled.items()}
    ranked = dict.fromkeys(("auc", "average_precision", "equal_error_rate"))
    if samples.only_class is None:
        curve = Ranking(samples.labels, samples.probabilities).curve()
        ranked = {name: float(values[0]) for name, values in _ranked_figures(curve).items()}
    return figures | ranked


def _ranked_figures(curve: Any) -> dict[str, np.ndarray]:
    return {
        "auc": curve.area(),
        "average_precision": curve.average_precision(),
        "equal_error_rate": curve.equal_error_rate(),
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


class _Verdicts:
    """Indicators of the four cells of the confusion matrix, and the figures made from their weighted sums."""

    def __init__(self, samples: _Samples, threshold: float):
        called_fake = samples.probabilities > threshold
        fake = samples.labels == FAKE
        cells = (~fake & ~called_fake, ~fake & called_fake, fake & ~called_fake, fake & called_fake)
        self._columns = np.stack([*cells, samples.losses], axis=1).astype(np.float64)
        self.confusion = ConfusionMatrix(*(int(cell.sum()) for cell in cells))

    def figures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Figures under each row of ``weights [resamples, samples]``; NaN where a denominator is zero."""
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
    figures = _point_figures(samples, threshold)
    estimates = {name: _estimate(name, value, resampled.get(name), samples) for name, value in figures.items()}
    if samples.unit == "video":
        estimates |= _proportions(verdicts.confusion, samples, figures)
    report, rows = _classification_report(samples, threshold)
    real = int((samples.labels == REAL).sum())
    return Metrics(
        unit=samples.unit,
        count=len(samples.labels),
        real=real,
        fake=len(samples.labels) - real,
        **estimates,
        confusion=verdicts.confusion,
        roc=_roc(ranking, bands) if ranking else None,
        classification_report=report,
        classification_rows=rows,
        notes=_notes(samples, rows),
    )


def _bootstrap(
    samples: _Samples, verdicts: _Verdicts, ranking: Ranking | None, resamples: int, seed: int, band: bool
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Figures of every resample, each ``[resamples]``, and true positive rates at ``_BAND_RATES`` where asked for."""
    blocks: list[dict[str, np.ndarray]] = []
    bands: list[np.ndarray] = []
    for counts in resample_counts(samples.video_labels, resamples, seed):
        weights = counts if samples.unit == "video" else counts[:, samples.video]
        figures = verdicts.figures(weights)
        if ranking is not None:
            curve = ranking.curve(weights)
            figures |= _ranked_figures(curve)
            if band:
                rates = zip(curve.false_positive_rate, curve.true_positive_rate, strict=True)
                bands.extend(np.interp(_BAND_RATES, x, y) for x, y in rates)
        blocks.append(figures)
    resampled = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    return resampled, np.array(bands) if bands else None


def _estimate(name: str, value: float | None, resampled: np.ndarray | None, samples: _Samples) -> Estimate:
    if value is None:
        return _missing(name, samples)
    defined = resampled[np.isfinite(resampled)]
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    if high - low > 1e-12:
        return Estimate(value, float(low), float(high), "bootstrap")
    if name == "auc" and samples.unit == "video":
        fake = int(samples.labels.sum())
        return Estimate(value, *area_interval(value, len(samples.labels) - fake, fake, CONFIDENCE), "newcombe")
    return Estimate(value, reason="No interval: every bootstrap resample gives the same figure")


def _missing(name: str, samples: _Samples) -> Estimate:
    figure = METRIC_NAMES[name]
    if name == "precision" and samples.only_class != CLASSES[REAL]:
        return Estimate(None, reason=f"{figure} is undefined: no {samples.unit} was called fake")
    return samples.undefined(figure)


def _proportions(
    confusion: ConfusionMatrix, samples: _Samples, figures: dict[str, float | None]
) -> dict[str, Estimate]:
    """Accuracy, precision and recall by video with Wilson's interval: each is a count of independent videos."""
    right = confusion.true_negatives + confusion.true_positives
    counts = {
        "accuracy": (right, len(samples.labels)),
        "precision": (confusion.true_positives, confusion.true_positives + confusion.false_positives),
        "recall": (confusion.true_positives, confusion.true_positives + confusion.false_negatives),
    }
    return {
        name: Estimate(figures[name], *wilson_interval(*counts[name], CONFIDENCE), "wilson")
        for name in counts
        if figures[name] is not None
    }


def _roc(ranking: Ranking, bands: np.ndarray | None) -> RocCurve:
    curve = ranking.curve()
    x, y = without_collinear_points(curve.false_positive_rate[0], curve.true_positive_rate[0])
    if bands is None:
        return RocCurve(x.tolist(), y.tolist())
    low, high = np.quantile(bands, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return RocCurve(x.tolist(), y.tolist(), _BAND_RATES.tolist(), low.tolist(), high.tolist())


def _classification_report(samples: _Samples, threshold: float) -> tuple[str, list[ReportRow]]:
    from sklearn.metrics import classification_report

    names = [name.capitalize() for name in CLASSES]
    called = (samples.probabilities > threshold).astype(int)
    arguments = {"labels": [REAL, FAKE], "target_names": names, "zero_division": 0}
    table = classification_report(samples.labels, called, output_dict=True, **arguments)
    rows = []
    for label, name in enumerate(names):
        figures, support, verdicts = table[name], int((samples.labels == label).sum()), int((called == label).sum())
        rows.append(
            ReportRow(
                name,
                precision=figures["precision"] if verdicts else None,
                recall=figures["recall"] if support else None,
                f1=figures["f1-score"] if support or verdicts else None,
                support=support,
            )
        )
    for name in ("macro avg", "weighted avg"):
        figures = table[name]
        rows.append(
            ReportRow(name, figures["precision"], figures["recall"], figures["f1-score"], int(figures["support"]))
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
        notes.append("scikit-learn's report prints 0 where a figure is undefined, and its averages count it as 0.")
    return notes
