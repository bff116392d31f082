"""One model of a comparison: what is missing of its training, its evaluations and its curves on perturbed videos."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from dataloading.engines import ModelEngine
from dataloading.engines.journal import unfinished
from dataloading.perturbations import Sweep
from istvt.comparison.check import CheckedPlan
from istvt.comparison.settings import ComparisonSettings, PlannedModel
from istvt.config import DataSettings
from istvt.evaluation.results import Robustness
from istvt.inference.video_score import VideoScore
from istvt.report.evaluate_checkpoint import evaluate_checkpoint, is_evaluated
from istvt.report.evaluate_robustness import evaluate_checkpoint_robustness
from istvt.report.evaluation_files import (
    ROBUSTNESS,
    PerturbedRow,
    StoredEvaluation,
    read_evaluation,
    read_perturbed_scores,
    read_robustness,
)
from istvt.training.trainer import train

Advance = Callable[[int, int, str], None]


@dataclass(frozen=True)
class EvaluatedModel:
    """What a model gives on one test set.

    Attributes:
        model, test: which.
        evaluation, scores: as `istvt evaluate` writes them.
        robustness: its curves; None without perturbations.
        perturbed: scores behind the curves.
    """

    model: PlannedModel
    test: str
    evaluation: StoredEvaluation
    scores: list[VideoScore]
    robustness: Robustness | None
    perturbed: list[PerturbedRow]


# Gives a function of (done, total, what is done) for as long as the context lasts: a progress bar.
Bars = Callable[[str], AbstractContextManager[Callable[..., None]]]


@contextlib.contextmanager
def no_bars(_: str) -> Iterator[Callable[..., None]]:
    """Show nothing."""
    yield lambda *_: None


def finish_model(
    ready: CheckedPlan,
    model: PlannedModel,
    *,
    device: str = "auto",
    engine: ModelEngine | None = None,
    console: Console | None = None,
    bars: Bars = no_bars,
) -> None:
    """Train a model of a comparison, unless it is, and evaluate it on each test set.

    Args:
        ready: the comparison, checked.
        model: of it.
        device: "auto", "cpu", "cuda" or "cuda:N".
        engine: scores videos on other machines.
        console: for the progress of training; None for none.
        bars: shows that of evaluations.
    """
    plan = ready.plan
    if model.checkpoint not in ready.trained:
        console = console or Console(quiet=True)
        console.rule(escape(f"training {model}"))
        train_model(model, plan.data[model.trained_on], device, console)
    with bars(f"{model}") as update:
        for test in plan.settings.test:
            how = {"device": device, "engine": engine}
            evaluate_model(model, test, plan.data[test], plan.settings, plan.sweeps, **how, advance=update)


def train_model(model: PlannedModel, data: DataSettings, device: str = "auto", console: Console | None = None) -> None:
    """Train a model, or go on with its run; one of a checkpoint stays as it is.

    Args:
        model: with its settings.
        data: its training set.
        device: as of `istvt.training.trainer.train`.
        console: for progress.
    """
    if model.config is not None:
        data = replace(data, region=model.region)
        train(data, model.config, model.training, model.checkpoint, device=device, console=console)


def evaluate_model(
    model: PlannedModel,
    test: str,
    data: DataSettings,
    settings: ComparisonSettings,
    sweeps: Sequence[Sweep],
    *,
    device: str = "auto",
    engine: ModelEngine | None = None,
    advance: Advance | None = None,
) -> None:
    """Evaluate a trained model on one test set, and under perturbations, unless its files hold that already.

    Args:
        model: trained.
        test: name of the test set, the directory of its evaluation.
        data: settings of the test set.
        settings: of the comparison: split, precision, resamples.
        sweeps: the perturbations.
        device: of the model.
        engine: scores videos on other machines.
        advance: called with (clips done, clips in all, what is done).
    """
    split, output = settings.data[test].split, model.output / test

    def report(what: str) -> Callable[[int, int], None] | None:
        return advance and (lambda done, total: advance(done, total, what))

    how = {"split": split, "precision": settings.precision, "bootstrap": settings.bootstrap}
    more = {"device": device, "batch_size": settings.batch_size}
    if not is_evaluated(model.checkpoint, data, output, **how):
        what = f"{model}: scoring {test}"
        evaluate_checkpoint(
            model.checkpoint, data, output, **how, **more, engine=engine, resumable=True, advance=report(what)
        )
    if missing := _missing_sweeps(output, sweeps, data, settings):
        texts = [f"{sweep.name}:{','.join(map(repr, sweep.strengths))}" for sweep in missing]
        what = f"{model}: scoring {test}, perturbed"
        how |= more | {"engine": engine, "renew": True, "advance": report(what)}
        evaluate_checkpoint_robustness(model.checkpoint, data, output, texts, **how)


def read_model(model: PlannedModel, test: str, sweeps: Sequence[Sweep]) -> EvaluatedModel:
    """Read what `evaluate_model` has written."""
    output = model.output / test
    evaluation, scores = read_evaluation(output)
    perturbed = read_perturbed_scores(output) if sweeps else []
    return EvaluatedModel(model, test, evaluation, scores, read_robustness(output) if sweeps else None, perturbed)


def _missing_sweeps(
    output: Path, sweeps: Sequence[Sweep], data: DataSettings, settings: ComparisonSettings
) -> list[Sweep]:
    """Return the perturbations that the robustness.json of this evaluation lacks at some strength.

    All of them where it is of another evaluation, or its job was stopped, as before the report had the curves.
    """
    held = read_robustness(output) if sweeps else None
    evaluated = read_evaluation(output)[0].evaluated if held else None
    if (
        held is None
        or unfinished(output / ROBUSTNESS).exists()
        or held.evaluated != evaluated
        or (held.clips_per_video, held.resamples) != (data.evaluation_clips, settings.bootstrap)
    ):
        return list(sweeps)
    strengths = {
        curve.perturbation: {point.strength for point in curve.points if point.strength is not None}
        for curve in held.curves
    }
    return [sweep for sweep in sweeps if not set(sweep.strengths) <= strengths.get(sweep.name, set())]
