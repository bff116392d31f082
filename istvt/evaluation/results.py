"""Results of an evaluation: every metric with its interval, by video, by manipulation and by clip.

An undefined metric (AUC with one class only) is None, with one sentence as its reason: no value is NaN.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from istvt.inference.video_score import EvaluatedSet

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


@dataclass(frozen=True)
class Estimate:
    """Value of a metric and its interval.

    Attributes:
        value: None where the metric is undefined.
        low: lower limit of the interval, None where there is no interval.
        high: upper limit of the interval.
        method: of the interval: `"wilson"`, `"bootstrap"`, `"newcombe"`, or `"none"`.
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
        return f"{self.value:.3f}" if self.low is None else f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


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

    The band gives, at each false positive rate in `band_rate`, the interval of the true positive rate; its lists are
    empty where no band was asked for.
    """

    false_positive_rate: list[float]
    true_positive_rate: list[float]
    band_rate: list[float] = field(default_factory=list)
    band_low: list[float] = field(default_factory=list)
    band_high: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class ReportRow:
    """One row of scikit-learn's classification report; a value is None where it is undefined."""

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True)
class Metrics:
    """Every metric of one group of videos, or of their clips (`unit` says which)."""

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
        """Return the metrics by the names they are printed with, in the order they are printed in."""
        return {name: getattr(self, key) for key, name in METRIC_NAMES.items()}


@dataclass(frozen=True)
class ReliabilityBin:
    """Videos of neighboring scores: their mean probability of "fake", and the share of them that is fake."""

    probability: float
    fakes: Estimate
    count: int


@dataclass(frozen=True)
class Reliability:
    """Whether videos are fake as often as their probabilities say.

    Attributes:
        bins: of as many videos each, by rising probability.
        error: expected calibration error over these bins.
        if_calibrated: mean of that error where the probabilities are right and labels are drawn by chance.
        if_calibrated_high: exceeded by chance in 2.5 % of such sets.
        debiased: root of the mean squared difference over the bins, without what chance adds.
    """

    bins: list[ReliabilityBin]
    error: Estimate
    if_calibrated: float
    if_calibrated_high: float
    debiased: float


@dataclass(frozen=True)
class BandCheck:
    """What an error rate that is asked for means on the evaluated videos.

    Attributes:
        max_error: the error rate.
        sure: scores between one minus this and this have no verdict; None where validation does not support the rate.
        validation_withheld: share of the validation videos without a verdict.
        withheld, real_withheld, fake_withheld: share of the evaluated videos, and of those of a class, without one.
        wrong: share of the others whose verdict is wrong.
        reason: why there is no band.
    """

    max_error: float
    sure: float | None
    validation_withheld: Estimate | None = None
    withheld: Estimate | None = None
    real_withheld: Estimate | None = None
    fake_withheld: Estimate | None = None
    wrong: Estimate | None = None
    reason: str = ""


@dataclass(frozen=True)
class CalibrationResult:
    """What the calibration of a model does on the evaluated videos.

    Attributes:
        temperature: of the model, with its interval `low` to `high` by resampling the validation videos.
        real, fake: how many validation videos there are of each class.
        scaled: reliability of the scores scaled by the temperature.
        bands: for some error rates.
    """

    temperature: float
    low: float
    high: float
    real: int
    fake: int
    scaled: Reliability
    bands: list[BandCheck]


@dataclass(frozen=True)
class MaskCounts:
    """Pixels of the masks of one video: of the model's, and of the mean mask where there is one."""

    model: ConfusionMatrix
    mean: ConfusionMatrix | None

    @property
    def nothing(self) -> ConfusionMatrix:
        """Pixels of a mask that calls nothing forged."""
        of = self.model
        forged, bare = of.true_positives + of.false_negatives, of.true_negatives + of.false_positives
        return ConfusionMatrix(bare, 0, forged, 0)


@dataclass(frozen=True)
class MaskRow:
    """How well the masks of a model, or masks made without one, fit: means over videos (`mask_metrics`).

    Attributes:
        name: whose masks.
        accuracy: share of the pixels that are right.
        accuracy_of_fakes: the same in fakes alone.
        iou: intersection over union of the forged pixels, of the fakes that have any.
        pooled_iou: the same of the pixels of all videos together, real ones too.
        model_above: the model's `iou` minus this one; None in the model's own row.
        model_above_pooled: its `pooled_iou` minus this one.
    """

    name: str
    accuracy: Estimate
    accuracy_of_fakes: Estimate
    iou: Estimate
    pooled_iou: Estimate
    model_above: Estimate | None = None
    model_above_pooled: Estimate | None = None


@dataclass(frozen=True)
class MaskResult:
    """How well the masks of a model fit.

    Attributes:
        real, fake: videos whose mask is known.
        unknown: evaluated videos whose mask is not.
        forged: fakes with a forged pixel in the frames that were looked at, which have an IoU.
        forged_share: of the pixels of a fake.
        rows: the model's first.
    """

    real: int
    fake: int
    unknown: int
    forged: int
    forged_share: float
    rows: list[MaskRow]


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one set of videos.

    Attributes:
        threshold: a video is called fake where its probability is above this.
        confidence: of every interval.
        resamples: of the bootstrap; each draws videos within each class, with replacement.
        seed: of the bootstrap.
        videos: all metrics by video. These are the result.
        manipulations: the same for each manipulation, against all the real videos.
        clips: the same by clip. Clips of one video are alike, so their intervals resample videos.
        skipped: (video name, reason) of every video or clip that could not be scored.
        notes: caveats, such as that training used another decoder.
        reliability: of the scores; None where one class only is there, or in files of earlier versions.
        calibration: what the model's calibration does; None also where the model has none.
        masks: how well the model's masks fit; None where it makes none, or no mask is known.
    """

    threshold: float
    confidence: float
    resamples: int
    seed: int
    videos: Metrics
    manipulations: dict[str, Metrics]
    clips: Metrics
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reliability: Reliability | None = None
    calibration: CalibrationResult | None = None
    masks: MaskResult | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers, fit for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class RobustnessPoint:
    """Metrics by video at one strength of a perturbation.

    Attributes:
        strength: in the perturbation's unit; None for the unperturbed videos.
        real, fake: how many videos of each class are scored.
        auc, accuracy: of them.
        fakes_found: share of the fakes that are called fake.
        reals_suspected: share of the real videos that are called fake.
        auc_change, accuracy_change: to the same videos unperturbed; their intervals resample videos with both of their
            scores, so they are narrower than those of the two.
        lost: how many of the unperturbed videos have no score, as they are too short for the perturbation.
    """

    strength: float | None
    real: int
    fake: int
    auc: Estimate
    accuracy: Estimate
    fakes_found: Estimate
    reals_suspected: Estimate
    auc_change: Estimate
    accuracy_change: Estimate
    lost: int = 0


@dataclass(frozen=True)
class RobustnessCurve:
    """Metrics against the strength of a perturbation.

    Attributes:
        perturbation: its name.
        what: it does, in a sentence without its full stop.
        unit: of the strengths.
        points: the strengths that change least first, the unperturbed videos before them; or, where strengths rise
            and 1 changes nothing, at their place.
        notes: caveats, such as clips that could not be made.
    """

    perturbation: str
    what: str
    unit: str
    points: list[RobustnessPoint]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Robustness:
    """Curves of one model on one set of videos.

    Attributes:
        evaluated: the model and the videos.
        clips_per_video: clips of each video, evenly spread over its first 270 frames.
        seed: of what perturbations draw, and of the bootstrap.
        resamples: of the bootstrap.
        curves: one for each perturbation.
    """

    evaluated: EvaluatedSet
    clips_per_video: int
    seed: int
    resamples: int
    curves: list[RobustnessCurve]


def skipped_line(name: str, reason: str) -> str:
    """Return the line of a video or clip that is not used; most reasons name the file themselves."""
    return reason if name in reason else f"{name}: {reason}"
