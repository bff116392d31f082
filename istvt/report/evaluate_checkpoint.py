"""Evaluation of a checkpoint on one split of a data set, written as metrics, scores and an HTML report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dataloading.dataset import Dataset
from dataloading.errors import InputError
from dataloading.face_index import FaceIndex
from dataloading.layouts import open_dataset
from istvt.config import DataSettings, FaithfulnessSettings
from istvt.device import pick_device, resolve_precision, versions
from istvt.evaluation.evaluate import evaluate_split
from istvt.explain.faithfulness.evaluate import evaluate_explanations
from istvt.explain.faithfulness.report import read_faithfulness, write_faithfulness
from istvt.explain.faithfulness.results import Faithfulness
from istvt.inference.video_score import VideoScore
from istvt.model.architectures import architecture
from istvt.model.checkpoint import load_model, read_info
from istvt.report.evaluation_files import (
    EXPLANATIONS,
    METRICS,
    REPORT,
    StoredEvaluation,
    evaluated_set,
    foreign_explanations,
    read_evaluation,
    read_history,
    write_evaluation,
)
from istvt.report.examples import load_examples
from istvt.report.report import write_report
from istvt.run_dir import model_file, output_directory


@dataclass
class EvaluationResult:
    """An evaluation, every video's score, and the report, an HTML file."""

    evaluation: StoredEvaluation
    scores: list[VideoScore]
    report: Path


def evaluate_checkpoint(
    checkpoint: str | Path,
    data: DataSettings,
    output: str | Path,
    *,
    split: str = "test",
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 16,
    bootstrap: int = 2000,
    advance: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Score the videos of a split and write `evaluation.json`, `scores.csv` and `report.html` to `output`.

    Where `output` holds a measurement of the explanations, the report shows it, or states that it is of another model
    or other videos.

    Args:
        checkpoint: a model file of `istvt train`, or the directory of a run.
        data: which videos; clips are taken evenly from the first 270 frames of each, as the paper does.
        output: directory of the three files.
        split: train, val or test.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "auto", "float32", "bfloat16" or "float16".
        batch_size: clips a forward pass.
        bootstrap: resamples behind the intervals.
        advance: called with (clips done, clips in all).

    Raises:
        InputError: the checkpoint or the data cannot be used.
    """
    chosen = pick_device(device)
    model, info = load_model(checkpoint, chosen)
    dataset, index = open_dataset(**data.source)
    output = output_directory(output)
    evaluation, scores = evaluate_split(
        model,
        info,
        dataset,
        index,
        data,
        split=split,
        batch_size=batch_size,
        dtype=resolve_precision(precision, chosen),
        bootstrap=bootstrap,
        advance=advance,
    )
    used = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(data).items()}
    del used["train_clips"]
    name = architecture(info.config.architecture).title
    stored = StoredEvaluation(
        **vars(evaluation),
        checkpoint=str(model_file(checkpoint).resolve()),
        evaluated=evaluated_set(info, data, split),
        title=f"{name} on {'the synthetic set in ' if dataset.synthetic else ''}{data.root}, {split} split",
        settings={**info.settings, "evaluation": {"checkpoint": str(checkpoint), "split": split, **used}},
        versions=versions(),
    )
    write_evaluation(output, stored, scores)
    return EvaluationResult(stored, scores, _render(checkpoint, output, stored, scores, dataset, index))


def render_report(checkpoint: str | Path, data: DataSettings, output: str | Path) -> Path:
    """Write the report of the evaluation in `output` again, with the explanations that were measured since.

    Args:
        checkpoint: that was evaluated.
        data: its videos, whose frames are examples.
        output: with `evaluation.json` and `scores.csv`.

    Raises:
        InputError: a file is not that of an evaluation, or the checkpoint or the data cannot be used.
    """
    output = Path(output)
    stored, scores = read_evaluation(output)
    if stored.evaluated is None or not stored.settings:
        raise InputError(f"{output / METRICS}: settings: missing, as an earlier version wrote it; evaluate again")
    return _render(checkpoint, output, stored, scores, *open_dataset(**data.source))


def _render(
    checkpoint: str | Path,
    output: Path,
    stored: StoredEvaluation,
    scores: Sequence[VideoScore],
    dataset: Dataset,
    index: FaceIndex,
) -> Path:
    info, foreign = read_info(checkpoint), foreign_explanations(output, stored.evaluated)
    return write_report(
        output / REPORT,
        stored,
        scores,
        history=read_history(checkpoint),
        best_epoch=info.metrics.get("epoch"),
        examples=load_examples(scores, dataset, index, info.config.image_size),
        explanations=f"{foreign}." if foreign else read_faithfulness(output / EXPLANATIONS),
    )


def evaluate_checkpoint_explanations(
    checkpoint: str | Path,
    data: DataSettings,
    output: str | Path,
    settings: FaithfulnessSettings | None = None,
    *,
    split: str = "test",
    device: str = "auto",
    advance: Callable[[int, int], None] | None = None,
) -> tuple[Faithfulness, dict[str, Path]]:
    """Measure how faithful each explanation of a checkpoint is, and write it as `write_faithfulness` does.

    Args:
        checkpoint, data, split, device: as for `evaluate_checkpoint`.
        output: directory of what is written.
        settings: what is measured; the defaults if None.
        advance: called with (clips done, clips in all).

    Returns:
        The measurement, and its files by kind: data, table, plot.

    Raises:
        InputError: the checkpoint, the data or an argument cannot be used.
    """
    model, info = load_model(checkpoint, pick_device(device))
    dataset, index = open_dataset(**data.source)
    measured = evaluate_explanations(
        model,
        dataset,
        index,
        settings,
        split=split,
        decoder=data.decoder,
        workers=data.workers,
        advance=advance,
    )
    measured.evaluated = evaluated_set(info, data, split)
    return measured, write_faithfulness(measured, output)
