"""Evaluation of a checkpoint on one split of a data set: figures by video, the scores themselves, and a report."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dataloading.clips.loader import ClipLoader
from dataloading.clips.sampling import Clip, evaluation_clips
from dataloading.dataset import SYNTHETIC_NOTE, Dataset
from dataloading.errors import InputError
from dataloading.io import replacing, write_json
from dataloading.layouts import open_dataset
from istvt.config import DEFAULT_STABILIZER, DataSettings, Fill
from istvt.device import pick_device, resolve_precision, versions
from istvt.evaluation.metrics import evaluate
from istvt.evaluation.results import Evaluation
from istvt.explain.faithfulness.evaluate import Faithfulness, evaluate_explanations
from istvt.explain.faithfulness.report import PLOT, read_faithfulness, write_faithfulness
from istvt.inference.crop import crop_difference
from istvt.inference.score import ScoredClips, score_clips
from istvt.inference.video_score import VideoScore
from istvt.model.checkpoint import CheckpointInfo, load_model
from istvt.report.report import Example, add_explanations, choose_examples, say_of_explanations, write_report
from istvt.run_dir import MODEL_FILE, model_file, output_directory

FIGURES, SCORES, REPORT = "evaluation.json", "scores.csv", "report.html"
EXPLANATIONS = "explanations"  # the directory beside them


@dataclass
class EvaluationResult:
    """What an evaluation found and where it is written.

    Attributes:
        evaluation: every figure with its interval.
        scores: every video's score.
        skipped: (video name, reason) of every video or clip that could not be scored.
        report: the HTML file.
        notes: what a reader should know, such as that training used another decoder.
    """

    evaluation: Evaluation
    scores: list[VideoScore]
    skipped: list[tuple[str, str]]
    report: Path
    notes: list[str]


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

    Where `output` holds a measurement of the explanations, the report shows it, or says that it is of something else.

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
    clips = evaluation_clips(dataset.split_videos(split), index, model.config.frames, data.evaluation_clips)
    output, done = output_directory(output), 0

    def count(scored: int) -> None:
        nonlocal done
        done += scored
        if advance:
            advance(done, len(clips))

    scored = score_clips(
        model,
        clips,
        batch_size=batch_size,
        decoder=data.decoder,
        workers=data.workers,
        dtype=resolve_precision(precision, chosen),
        advance=count,
    )
    skipped = [(item.video.name, item.reason) for item in clips.skipped]
    skipped += [(clip.video.name, reason) for clip, reason in scored.skipped]
    if not scored.clips:
        _, first = skipped[0]
        raise InputError(f"{data.root}: no video of the {split} split could be scored; the first reason: {first}")
    scores = scored.videos()
    evaluation = evaluate(scores, bootstrap=bootstrap)
    notes = _notes(info, scored, dataset, index.detectors({clip.video.name for clip in scored.clips}))
    evaluated = evaluated_set(info, data, split)
    said = {"checkpoint": str(model_file(checkpoint).resolve()), "evaluated": evaluated}
    said |= {"skipped": skipped, "notes": notes}
    write_json(output / FIGURES, {**evaluation.to_dict(), **said})
    write_scores(output / SCORES, scores)
    report = write_report(
        output / REPORT,
        evaluation=evaluation,
        scores=scores,
        history=read_history(checkpoint),
        settings={**info.settings, "evaluation": {"checkpoint": str(checkpoint), "split": split, **_used(data)}},
        versions=versions(),
        examples=_examples(scored, scores, model.config.image_size),
        skipped=skipped,
        title=f"ISTVT on {'the synthetic set in ' if dataset.synthetic else ''}{data.root}, {split} split",
        notes=notes,
        best_epoch=info.metrics.get("epoch"),
    )
    if foreign := foreign_explanations(output, evaluated):
        say_of_explanations(report, f"{foreign}.")
    elif measured := read_faithfulness(output / EXPLANATIONS):
        add_explanations(report, measured, output / EXPLANATIONS / PLOT)
    return EvaluationResult(evaluation, scores, skipped, report, notes)


def evaluate_checkpoint_explanations(
    checkpoint: str | Path,
    data: DataSettings,
    output: str | Path,
    *,
    split: str = "test",
    device: str = "auto",
    stabilizers: Sequence[float | str] = (DEFAULT_STABILIZER,),
    fill: Fill = "surroundings",
    clips_per_video: int | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> tuple[Faithfulness, dict[str, Path]]:
    """Measure how faithful each explanation of a checkpoint is, and write it as `write_faithfulness` does.

    Args:
        checkpoint, data, split, device: as for `evaluate_checkpoint`.
        output: directory of what is written.
        stabilizers, fill: of `istvt.explain.faithfulness.evaluate.evaluate_explanations`.
        clips_per_video: as many as `data` has evaluated, if None.
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
        split=split,
        stabilizers=stabilizers,
        fill=fill,
        clips_per_video=clips_per_video or data.evaluation_clips,
        decoder=data.decoder,
        workers=data.workers,
        advance=advance,
    )
    measured.evaluated = evaluated_set(info, data, split)
    return measured, write_faithfulness(measured, output)


def evaluated_set(info: CheckpointInfo, data: DataSettings, split: str) -> dict[str, Any]:
    """What tells one evaluation from another: which model judges (if its file has a checksum), and which videos."""
    videos = {"root": str(Path(data.root).resolve()), "compression": data.compression}
    return {"checksum": info.checksum} | videos | {"manipulations": data.manipulations, "split": split}


def default_output(checkpoint: Path, info: CheckpointInfo, data: DataSettings, split: str) -> Path:
    """Where an evaluation goes that is not told: `evaluation` in the run for the test split of the run's own data.

    The name says in what another one differs: `evaluation-Celeb-DF-v2`, `evaluation-val`, and `evaluation-other` for
    `other.safetensors`.
    """
    trained, here = info.settings.get("data", {}), evaluated_set(info, data, split)
    root = Path(here["root"])
    differs = [checkpoint.stem] if not checkpoint.is_dir() and checkpoint.name != MODEL_FILE else []
    differs += [root.name] if Path(trained.get("root", root)).resolve() != root else []
    differs += [data.compression] if trained.get("compression", data.compression) != data.compression else []
    if trained.get("manipulations", data.manipulations) != data.manipulations:
        differs += data.manipulations or ["all"]
    differs += [split] if split != "test" else []
    return (checkpoint if checkpoint.is_dir() else checkpoint.parent) / "-".join(["evaluation", *differs])


def replaced_evaluation(output: Path, evaluated: dict[str, Any]) -> tuple[str, bool] | None:
    """What `output` holds an evaluation of, if not of what is evaluated; None where nothing is lost.

    In words, and whether it is of the same videos, so by another model alone.
    """
    try:
        held = json.loads((output / FIGURES).read_text())
        # An earlier version did not say with which model.
        before = {"checksum": evaluated["checksum"], **held["evaluated"]}
        if before == evaluated:
            return None
        only = f" ({', '.join(before['manipulations'])})" if before["manipulations"] else ""
        by = f" by {held['checkpoint']} as it was then" if before["checksum"] != evaluated["checksum"] else ""
        words = f"{before['root']}{only}, {before['compression']}, {before['split']} split{by}"
        return words, before | {"checksum": evaluated["checksum"]} == evaluated
    except (OSError, ValueError, KeyError, TypeError):
        return None  # there is none, or an earlier version wrote it and did not say


def foreign_explanations(output: Path, evaluated: dict[str, Any]) -> str | None:
    """The sentence that says that the explanations in `output` are not of what is evaluated; None where they are."""
    if not (output / EXPLANATIONS).exists():
        return None
    measured = read_faithfulness(output / EXPLANATIONS)
    if measured and measured.evaluated == evaluated:
        return None
    return f"{output / EXPLANATIONS} holds explanations that are not known to be of this model and these videos"


def write_scores(path: Path, scores: Sequence[VideoScore]) -> None:
    """Write one line a video: name, label, manipulation, probability, verdict, clip probabilities."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "label", "manipulation", "probability_fake", "verdict", "clip_probabilities"])
        for score in scores:
            clips = " ".join(f"{p:.6f}" for p in score.clip_probabilities)
            label = "" if score.label is None else score.label
            writer.writerow([score.name, label, score.manipulation, f"{score.probability:.6f}", score.verdict, clips])


def read_history(checkpoint: str | Path) -> list[dict[str, Any]]:
    """The epochs of the run that a checkpoint belongs to, from `history.csv` beside it; empty where there is none."""
    path = Path(checkpoint)
    path = (path if path.is_dir() else path.parent) / "history.csv"
    if not path.is_file():
        return []
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [{name: float(value) if value else None for name, value in row.items()} for row in rows]
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: is not the history of a run ({error}); move it away to go without") from error


def _notes(info: CheckpointInfo, scored: ScoredClips, dataset: Dataset, detectors: Sequence[str]) -> list[str]:
    notes = list(dataset.notes)
    if (crops := crop_difference(info.detectors, detectors)) is not None:
        notes.append(crops)
    if info.decoder and scored.decoder and info.decoder != scored.decoder:
        notes.append(
            f"Training decoded with {info.decoder} and this evaluation with {scored.decoder}; "
            "the two differ by a few gray levels."
        )
    return notes + ([SYNTHETIC_NOTE] if dataset.synthetic else info.caveats)


def _used(data: DataSettings) -> dict[str, Any]:
    """The data settings that an evaluation uses."""
    return {name: value for name, value in asdict(data).items() if name != "train_clips"}


def _examples(scored: ScoredClips, scores: Sequence[VideoScore], image_size: int) -> list[Example]:
    """The frames, as the model saw them, of the videos worth showing: each one's most telling clip."""
    probability = {id(clip): logit for clip, logit in zip(scored.clips, scored.logits, strict=True)}
    chosen: list[tuple[VideoScore, Clip]] = []
    for score in choose_examples(scores):
        clips = [clip for clip in scored.clips if clip.video.name == score.name]
        telling = max if score.verdict == "fake" else min
        chosen.append((score, telling(clips, key=lambda clip: probability[id(clip)])))
    examples = []
    loader = ClipLoader([replace(clip, index=i) for i, (_, clip) in enumerate(chosen)], 1, image_size, decoder="pyav")
    for batch in loader:
        score, clip = chosen[int(batch.indices[0])]
        frames = batch.clips[0].permute(0, 2, 3, 1).add(1).mul(127.5).round().clamp(0, 255).numpy().astype(np.uint8)
        examples.append(Example(score, frames, clip.frames.tolist()))
    return examples
