"""Training logs of process 0: lines of `logging`, a live progress line, CSV files and a tracker.

history.csv        one line an epoch
steps.csv          one line every `log_steps` steps
tensorboard/       both, for TensorBoard, or in another tracker

Lines go to the logger `istvt.training`; the command line shows them, a program that calls `train` handles them as it
likes. `extra={"style": ...}` says how the command line prints one.
"""

from __future__ import annotations

import csv
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dataloading.dataset import only_class
from dataloading.errors import writing
from dataloading.face_index import crop_name
from dataloading.io import replacing
from istvt.config import ISTVTConfig
from istvt.evaluation.results import skipped_line
from istvt.model.flops import total_cost
from istvt.training.trackers import open_tracker

logger = logging.getLogger("istvt.training")

# On a coarser feature grid than this spatial attention and heatmaps are of little use.
LEAST_GRID = 3


class RunLog:
    """Log of a run for as long as the context lasts: live on the console, in steps.csv and in the tracker.

    Args:
        output: the run's directory.
        console: of the live line.
        active: whether this is the process that logs.
        step: finished steps of the run; later steps in TensorBoard, of a run that was stopped, are dropped.
        steps: steps of the whole run.
        csv_size: bytes of steps.csv at that step; later bytes are dropped. None keeps all.
        settings: of the run, by group; `training` names the tracker.
    """

    def __init__(
        self,
        output: Path,
        console: Console,
        active: bool,
        step: int,
        steps: int,
        csv_size: int | None,
        settings: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.active = active
        self._steps_file = output / "steps.csv"
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not active,
        )
        self._steps = self._progress.add_task("training", total=steps, completed=step, note="")
        self._validation = self._progress.add_task("validation", total=None, visible=False, note="")
        self._tracker = None
        if active:
            self._tracker = open_tracker(settings["training"]["tracker"], output, settings, step)
            if csv_size is not None and self.csv_size > csv_size:
                os.truncate(self._steps_file, csv_size)

    def __enter__(self) -> RunLog:
        self._progress.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._progress.stop()
        if self._tracker:
            self._tracker.close(failed=kind is not None)

    def _track(self, values: Mapping[str, Any], step: int, axis: str) -> None:
        numbers = {name: v for name, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}
        if self._tracker:
            self._tracker.log(numbers, step, axis)

    @property
    def csv_size(self) -> int:
        """Bytes of steps.csv."""
        return self._steps_file.stat().st_size if self._steps_file.is_file() else 0

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Name the epoch (from 1) in the live line."""
        self._progress.update(self._steps, description=f"epoch {epoch}/{epochs}, step")

    def advance(self, step: int) -> None:
        """Advance the live line; nothing is read from the device."""
        self._progress.update(self._steps, completed=step)

    def steps(self, row: dict[str, Any]) -> None:
        """Show and write the metrics of a step: its number, epoch, loss, learning rate, speed, skipped steps."""
        note = f"loss {row['loss']:.3f}  {row['clips_per_second']:.1f} clips/s"
        if row["skipped_steps"]:
            note += f"  {row['skipped_steps']} skipped"
        self._progress.update(self._steps, note=note)
        if not self.active:
            return
        with writing(self._steps_file), self._steps_file.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if not file.tell():
                writer.writeheader()
            writer.writerow(row)
        names = ("loss", "learning_rate", "clips_per_second", "skipped_steps")
        self._track({f"step/{name}": row[name] for name in names}, row["step"], "step")

    def start_validation(self, clips: int) -> None:
        """Start the progress line of validation."""
        self._progress.reset(self._validation, total=clips, visible=True)

    def advance_validation(self, clips: int) -> None:
        """Advance the progress line of validation by a number of clips."""
        self._progress.advance(self._validation, clips)

    def epoch(self, row: dict[str, Any]) -> None:
        """Give an epoch's metrics to the tracker."""
        self._progress.update(self._validation, visible=False)
        named = {name.replace("val_", "validation/").replace("train_", "training/"): v for name, v in row.items()}
        self._track({name: value for name, value in named.items() if name != "epoch"}, row["epoch"], "epoch")


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """Write one line an epoch, whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def epoch_line(row: dict[str, Any], epochs: int, best: bool) -> str:
    """Return an epoch's metrics in a line."""
    auc = "undefined" if row["val_auc"] is None else f"{row['val_auc']:.3f}"
    return (
        f"epoch {row['epoch']:>3}/{epochs}  loss {row['train_loss']:.3f}  validation loss {row['val_loss']:.3f}  "
        f"accuracy {row['val_accuracy']:.3f}  AUC {auc}  {row['clips_per_second']:.1f} clips/s  "
        f"{row['seconds']:.0f} s{'  best so far' if best else ''}"
    )


def log_run(run: Any) -> None:
    """Log what a `Trainer` is about to use: model, cost, device, precision, backend, processes, data, warnings."""
    config, training, processes, videos = run.model.config, run.training, run.processes, run.videos
    cost, device = total_cost(config), run.step.device
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    how = [str(run.step.dtype).removeprefix("torch.") + " with TF32" * training.tf32, training.execution]
    how += ["activation checkpointing"] * training.activation_checkpointing + [f"attention by {run.backend}"]
    step = f"{training.batch_size} clips" + f" x {training.accumulation} batches" * (training.accumulation > 1)
    if processes.is_distributed:
        where = f"{processes.world_size} processes ({training.parallel}), each on {where}"
        step += f" x {processes.world_size} processes"
    name = config.attention if config.architecture == "istvt" else config.architecture
    logger.info(
        f"{name} model of {cost.parameters / 1e6:.2f} M parameters, "
        f"{cost.layer_macs / 1e9:.2f} G multiply-accumulates a clip of {config.frames} frames at "
        f"{config.image_size} pixels, attention products not counted\n"
        f"on {where}, {', '.join(how)}\n"
        f"{len(videos['train'])} training and {len(videos['val'])} validation videos of "
        f"{run.data.root}, {crop_name(run.state.detectors)}; "
        f"{run.sampler.clips_in_all} clips an epoch in steps of {step}, "
        f"{training.epochs} epoch{'s' * (training.epochs != 1)}"
    )
    warnings = []
    height, width = config.feature_grid if isinstance(config, ISTVTConfig) else (LEAST_GRID, LEAST_GRID)
    if min(height, width) < LEAST_GRID:
        larger = "a larger model.image_size gives finer heatmaps"
        warnings.append(f"the feature grid is only {height}x{width}: {larger}")
    if training.parallel == "fsdp" and not processes.is_distributed:
        warnings.append("training.parallel fsdp has no effect with one process; torchrun starts several")
    if (only := only_class(videos["val"])) is not None:
        chosen = "AUC is undefined, the best epoch is chosen by loss"
        warnings.append(f"the validation split holds only {only} videos: {chosen}")
    for warning in warnings:
        logger.warning(warning)
    for note in run.notes:
        logger.info(note, extra={"style": "dim"})


def log_skipped(skipped: Mapping[str, str], title: str) -> None:
    """Log the videos that are not used, each with its reason; `{}` in the title is replaced by their number."""
    if skipped:
        logger.warning(title.format(f"{len(skipped)} video" + "s" * (len(skipped) != 1)))
        for name, reason in sorted(skipped.items()):
            logger.warning(f"  {skipped_line(name, reason)}", extra={"style": None})
        if any("; a clip needs " in reason for reason in skipped.values()):
            logger.warning("  (--model.frames says how many frames a clip has)", extra={"style": None})
