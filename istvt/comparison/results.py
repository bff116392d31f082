"""Results of a comparison: metrics of each detector on each test set over its seeds, paired tests, robustness.

Everything is by video. A value of several seeds is their mean, with an interval over videos; the values seed by seed
and their standard deviation stand beside it. Nothing in it depends on the time or the place of the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from dataloading.dataset import FAKE, REAL, SYNTHETIC_NOTE
from dataloading.perturbations import Sweep
from istvt.comparison.check import CheckedPlan
from istvt.comparison.models import EvaluatedModel
from istvt.comparison.settings import ELSEWHERE
from istvt.config import DetectorConfig
from istvt.evaluation.paired import PairedTest, holm, paired_test
from istvt.evaluation.results import Estimate, RocCurve
from istvt.evaluation.seeds import MeanMetric, common_scores, mean_metrics
from istvt.inference.video_score import VideoScore
from istvt.model.architectures import architecture
from istvt.model.flops import total_cost
from istvt.report.evaluation_files import PerturbedRow

ALL = "all"  # manipulations together
_ROC_RATES = np.linspace(0, 1, 201)


@dataclass(frozen=True)
class Cell:
    """A detector, trained on one set, on the videos of a test set that are real or of one manipulation.

    Attributes:
        manipulation: `ALL`, or the only one whose fakes count.
        seeds: of its models; of checkpoints their places.
        real, fake: videos that every model has scored.
        accuracy, auc: in the mean over seeds.
    """

    detector: str
    trained_on: str
    test: str
    manipulation: str
    seeds: list[int]
    real: int
    fake: int
    accuracy: MeanMetric
    auc: MeanMetric

    @property
    def within(self) -> bool:
        """Whether it is tested on the set that it was trained on."""
        return self.trained_on == self.test

    @property
    def majority(self) -> float:
        """Accuracy of calling every video what most are."""
        return max(self.real, self.fake) / (self.real + self.fake)


@dataclass(frozen=True)
class Pair:
    """Two detectors on the same videos.

    Attributes:
        trained_on: of both, or of the first where the second is a checkpoint from elsewhere.
        first, second: the detectors; differences are the first minus the second.
        test: data set.
        result: of all manipulations together.
        p_corrected: by Holm over all pairs of the comparison; None where there is no p.
    """

    trained_on: str
    test: str
    first: str
    second: str
    result: PairedTest
    p_corrected: float | None = None


@dataclass(frozen=True)
class StrengthPoint:
    """Metrics at one strength of a perturbation; None for the videos as they are."""

    strength: float | None
    real: int
    fake: int
    accuracy: MeanMetric
    auc: MeanMetric


@dataclass(frozen=True)
class PerturbedCell:
    """A detector on the videos of a test set under one perturbation.

    Attributes:
        points: by strength, as in the curve of `istvt evaluate --perturb`.
        accuracy, auc: in the mean over strengths and seeds, of the videos that have a score at every strength, with the
            change from the same videos as they are; their values are those of each seed, in the mean over strengths.
        lost: how many videos have no score at some strength.
    """

    detector: str
    trained_on: str
    test: str
    perturbation: str
    unit: str
    points: list[StrengthPoint]
    accuracy: MeanMetric
    auc: MeanMetric
    lost: int


@dataclass(frozen=True)
class Roc:
    """ROC curve of a detector; of several seeds the mean true positive rate at each false positive rate."""

    detector: str
    trained_on: str
    test: str
    curve: RocCurve


@dataclass(frozen=True)
class DetectorFacts:
    """What a detector is.

    Attributes:
        frames, image_size: of its clips.
        parameters: of the network.
        macs: multiply-accumulates of a clip, those of attention included.
        config: all fields of its configuration.
        differs: those that are not those of the preset.
        variant_of: as of the settings.
    """

    architecture: str
    preset: str
    frames: int
    image_size: int
    parameters: int
    macs: int
    config: dict[str, Any]
    differs: dict[str, str]
    variant_of: str | None


@dataclass(frozen=True)
class TestSet:
    """What a test set is, by which published numbers are found; `manipulations` are those of its fakes."""

    __test__ = False  # not a test of pytest

    layout: str
    compression: str
    split: str
    manipulations: list[str]


@dataclass(frozen=True)
class Results:
    """All results; `comparison.json` holds them."""

    title: str
    seeds: list[int]
    bootstrap: int
    clips: int
    detectors: dict[str, DetectorFacts]
    tests: dict[str, TestSet]
    cells: list[Cell]
    pairs: list[Pair]
    perturbed: list[PerturbedCell]
    rocs: list[Roc]
    notes: list[str] = field(default_factory=list)


def gather(
    checked: CheckedPlan, evaluated: Sequence[EvaluatedModel], advance: Callable[[int, int], None] | None = None
) -> Results:
    """Return the results of all evaluated models.

    Args:
        checked: the comparison.
        evaluated: every model on every test set.
        advance: called with (steps done, steps in all).
    """
    plan = checked.plan
    settings = plan.settings
    groups: dict[tuple[str, str, str], list[EvaluatedModel]] = {}
    for item in evaluated:
        groups.setdefault((item.model.detector, item.model.trained_on, item.test), []).append(item)
    pairs = list(_pairs(groups, settings.test, settings.against))
    done, total = 0, len(groups) * (2 if plan.sweeps else 1) + len(pairs)

    def step() -> None:
        nonlocal done
        done += 1
        if advance:
            advance(done, total)

    cells, rocs, perturbed = [], [], []
    for key, models in groups.items():
        cells += _cells(key, models, settings.bootstrap)
        if (curve := _mean_roc(models)) is not None:
            rocs.append(Roc(*key, curve))
        step()
        if plan.sweeps:
            perturbed += [_perturbed(key, models, sweep, settings.bootstrap) for sweep in plan.sweeps]
            step()
    tested = []
    for pair, first, second in pairs:
        tested.append(replace(pair, result=_tested(first, second, settings.bootstrap)))
        step()
    corrected = holm([pair.result.p for pair in tested])
    return Results(
        title=settings.title,
        seeds=list(settings.seeds),
        bootstrap=settings.bootstrap,
        clips=settings.clips,
        detectors={name: _facts(checked, name, config) for name, config in checked.configs.items()},
        tests={name: _test_set(checked, name, evaluated) for name in settings.test},
        cells=cells,
        pairs=[replace(pair, p_corrected=p) for pair, p in zip(tested, corrected, strict=True)],
        perturbed=perturbed,
        rocs=rocs,
        notes=_notes(evaluated, groups),
    )


def _test_set(checked: CheckedPlan, name: str, evaluated: Sequence[EvaluatedModel]) -> TestSet:
    scores = [score for item in evaluated if item.test == name for score in item.scores]
    manipulations = sorted({score.manipulation for score in scores if score.label == FAKE})
    settings = checked.plan.settings.data[name]
    return TestSet(checked.layouts[name], settings.compression, settings.split, manipulations)


def _facts(checked: CheckedPlan, name: str, config: DetectorConfig) -> DetectorFacts:
    settings, cost = checked.plan.settings.detectors[name], total_cost(config)
    values, presets = config.to_dict(), architecture(config.architecture).presets

    def difference(preset: str) -> dict[str, str]:
        base = presets[preset].to_dict()
        return {key: str(value) for key, value in values.items() if value != base[key]}

    # A checkpoint does not know its preset: the one that it differs least from.
    nearest = min(presets, key=lambda preset: len(difference(preset)))
    preset = settings.preset or (nearest if settings.checkpoints else "small")
    differs = difference(preset)
    macs = cost.layer_macs + cost.attention_macs
    facts = (config.frames, config.image_size, cost.parameters, macs, values)
    return DetectorFacts(config.architecture, preset, *facts, differs, settings.variant_of)


def _cells(key: tuple[str, str, str], models: Sequence[EvaluatedModel], bootstrap: int) -> Iterator[Cell]:
    sets = common_scores([model.scores for model in models])
    seeds = [model.model.seed for model in models]
    fakes = sorted({score.manipulation for score in sets[0] if score.label == FAKE})
    for manipulation in (ALL, *(fakes if len(fakes) > 1 else ())):
        own = sets
        if manipulation != ALL:
            own = [
                # Real videos first, as in `compute_metrics`: the same resamples.
                [s for s in scores if s.label == REAL] + [s for s in scores if s.manipulation == manipulation]
                for scores in sets
            ]
        fake = sum(score.label == FAKE for score in own[0])
        metrics = mean_metrics(own, bootstrap=bootstrap)
        yield Cell(*key, manipulation, seeds, len(own[0]) - fake, fake, metrics["accuracy"], metrics["auc"])


def _mean_roc(models: Sequence[EvaluatedModel]) -> RocCurve | None:
    curves = [model.evaluation.videos.roc for model in models]
    if None in curves:
        return None
    if len(curves) == 1:
        return replace(curves[0], band_rate=[], band_low=[], band_high=[])
    rates = [np.interp(_ROC_RATES, roc.false_positive_rate, roc.true_positive_rate) for roc in curves]
    return RocCurve(_ROC_RATES.tolist(), np.mean(rates, axis=0).tolist())


def _pairs(
    groups: dict[tuple[str, str, str], list[EvaluatedModel]], tests: Sequence[str], against: str | None
) -> Iterator[tuple[Pair, list[EvaluatedModel], list[EvaluatedModel]]]:
    """Yield pairs of detectors that are trained on the same set, or of which one is a checkpoint from elsewhere."""
    nothing = PairedTest(0, 0, Estimate(None), Estimate(None), None, None)
    sets = dict.fromkeys(trained_on for _, trained_on, _ in groups)
    if len(sets) > 1:  # detectors from elsewhere are beside those of each training set
        sets.pop(ELSEWHERE, None)
    for test in tests:
        for trained_on in sets:
            own = [key for key in groups if key[2] == test and key[1] in (trained_on, ELSEWHERE)]
            for one, other in combinations(own, 2):
                if against is not None and against not in (one[0], other[0]):
                    continue
                first, second = (other, one) if against == other[0] else (one, other)
                if first[1] == second[1] == ELSEWHERE and trained_on != next(iter(sets)):
                    continue  # once, and not with each training set
                pair = Pair(trained_on, test, first[0], second[0], nothing)
                yield pair, groups[first], groups[second]


def _tested(first: Sequence[EvaluatedModel], second: Sequence[EvaluatedModel], bootstrap: int) -> PairedTest:
    sets = common_scores([model.scores for model in (*first, *second)])
    labels = np.array([score.label for score in sets[0]], dtype=np.int64)
    values = np.array([[score.probability for score in scores] for scores in sets]).reshape(len(sets), -1)
    if not len(labels):
        reason = "no video has a score of both"
        return PairedTest(0, 0, Estimate(None, reason=reason), Estimate(None, reason=reason), None, None, reason)
    return paired_test(labels, values[: len(first)], values[len(first) :], bootstrap=bootstrap)


def _perturbed(
    key: tuple[str, str, str], models: Sequence[EvaluatedModel], sweep: Sweep, bootstrap: int
) -> PerturbedCell:
    plain = common_scores([model.scores for model in models])
    by_strength = []
    for strength in sweep.strengths:
        sets = [
            [
                _score_of(row)
                for row in model.perturbed
                if (row.perturbation, row.strength) == (sweep.name, strength)
            ]
            for model in models
        ]  # fmt: skip
        # In the order of the unperturbed videos, as in `robustness_point`: the same resamples.
        by_strength.append(common_scores([*plain, *sets])[len(plain) :])
    points = [_point(None, plain, bootstrap)]
    points += [_point(strength, sets, bootstrap) for strength, sets in zip(sweep.strengths, by_strength, strict=True)]
    if sweep.perturbation.order == "both":
        points.insert(sum(strength < 1 for strength in sweep.strengths), points.pop(0))
    everywhere = common_scores([*plain, *(scores for sets in by_strength for scores in sets)])
    after, before = everywhere[len(plain) :], everywhere[: len(plain)]
    means = {
        name: replace(metric, values=_by_seed(metric.values, len(models)))
        for name, metric in mean_metrics(after, before, bootstrap=bootstrap).items()
    }
    lost = len(plain[0]) - len(before[0])
    how = (sweep.name, sweep.perturbation.unit, points, means["accuracy"], means["auc"], lost)
    return PerturbedCell(*key, *how)


def _by_seed(values: Sequence[float | None], seeds: int) -> list[float | None]:
    """Return the mean over strengths of each seed, from values that are strength by strength."""
    of_seeds = [values[seed::seeds] for seed in range(seeds)]
    return [None if None in of_seed else float(np.mean(of_seed)) for of_seed in of_seeds]


def _score_of(row: PerturbedRow) -> VideoScore:
    """Return a video's score without its clips, which metrics by video do not need."""
    probability = row.probability_fake
    return VideoScore(row.video, "", row.label, row.manipulation, probability, [probability], [[0]])


def _point(strength: float | None, sets: Sequence[Sequence[VideoScore]], bootstrap: int) -> StrengthPoint:
    metrics = mean_metrics(sets, bootstrap=bootstrap)
    fake = sum(score.label == FAKE for score in sets[0])
    return StrengthPoint(strength, len(sets[0]) - fake, fake, metrics["accuracy"], metrics["auc"])


def _notes(evaluated: Sequence[EvaluatedModel], groups: dict[tuple[str, str, str], list[EvaluatedModel]]) -> list[str]:
    """Return caveats of all evaluations, each once, and which detectors have scored fewer videos than others."""
    notes = list(dict.fromkeys(note for item in evaluated for note in item.evaluation.notes))
    if SYNTHETIC_NOTE in notes:
        notes = [SYNTHETIC_NOTE, *(note for note in notes if note != SYNTHETIC_NOTE)]
    most: dict[str, int] = {}
    for item in evaluated:
        most[item.test] = max(most.get(item.test, 0), len(item.scores))
    for (detector, trained_on, test), models in groups.items():
        fewest = min(len(model.scores) for model in models)
        if fewest < most[test]:
            first = next((f": {reason}" for model in models for _, reason in model.evaluation.skipped), "")
            notes.append(
                f"{detector}, trained on {trained_on}, has scores of {fewest} of the {most[test]} videos of {test} "
                f"that other detectors have{first}; pairs are compared on the videos that both have."
            )
    return notes
