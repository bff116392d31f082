"""What a run shows and writes down: a live line, a line an epoch, CSV files and TensorBoard. Process 0 alone does.

history.csv        one line an epoch
steps.csv          one line every `log_steps` steps
tensorboard/       both, for TensorBoard
"""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dataloading.errors import writing
from dataloading.io import replacing

STEP_FIELDS = ("step", "epoch", "loss", "learning_rate", "clips_per_second", "skipped_steps")


class RunLog:
    """Open for as long as the run goes on.

    Args:
        output: the run's directory.
        console: where the live line goes.
        active: whether this is the process that logs.
        step: steps the run has made; lines of later ones, which a stopped run left, are dropped.
        steps: steps of the whole run.
    """

    def __init__(self, output: Path, console: Console, active: bool, step: int, steps: int) -> None:
        self.active = active
        self._output = output
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
        self._writer: Any = None
        if active:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(output / "tensorboard", purge_step=step + 1)
            _keep_rows(output / "steps.csv", step)

    def __enter__(self) -> RunLog:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        if self._writer:
            self._writer.close()

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Name the epoch (from 1) in the live line."""
        self._progress.update(self._steps, description=f"epoch {epoch}/{epochs}, step")

    def advance(self, step: int) -> None:
        """Move the live line; nothing is read from the device."""
        self._progress.update(self._steps, completed=step)

    def steps(self, row: dict[str, Any]) -> None:
        """Show and write what was read from the device: `STEP_FIELDS`."""
        note = f"loss {row['loss']:.3f}  {row['clips_per_second']:.1f} clips/s"
        if row["skipped_steps"]:
            note += f"  {row['skipped_steps']} skipped"
        self._progress.update(self._steps, note=note)
        if not self.active:
            return
        path = self._output / "steps.csv"
        fresh = not path.is_file()
        with writing(path), path.open("a", newline="") as file:
            writer = csv.DictWriter(file, STEP_FIELDS)
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        for name in ("loss", "learning_rate", "clips_per_second", "skipped_steps"):
            if math.isfinite(row[name]):
                self._writer.add_scalar(f"step/{name}", row[name], row["step"])

    def validation(self, done: int, total: int) -> None:
        """Show the validation's own line until all is done."""
        self._progress.update(self._validation, completed=done, total=total, visible=done < total)

    def epoch(self, row: dict[str, Any]) -> None:
        """Write an epoch's figures to TensorBoard."""
        if not self.active:
            return
        for name, value in row.items():
            if name != "epoch" and isinstance(value, int | float) and math.isfinite(value):
                tag = name.replace("val_", "validation/").replace("train_", "training/")
                self._writer.add_scalar(tag, value, row["epoch"])
        self._writer.flush()


def epoch_line(row: dict[str, Any], epochs: int, best: bool) -> str:
    """One epoch's figures for the console."""
    auc = "undefined" if row["val_auc"] is None else f"{row['val_auc']:.3f}"
    return (
        f"epoch {row['epoch']:>3}/{epochs}  loss {row['train_loss']:.3f}  validation loss {row['val_loss']:.3f}  "
        f"accuracy {row['val_accuracy']:.3f}  AUC {auc}  {row['clips_per_second']:.1f} clips/s  "
        f"{row['seconds']:.0f} s{'  [green]best so far[/]' if best else ''}"
    )


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """Write one line an epoch, whole or not at all."""
    _write_rows(path, list(history[0]), history)


def _keep_rows(path: Path, last_step: int) -> None:
    """Drop the lines of steps that will be made again."""
    if not path.is_file():
        return
    with path.open(newline="") as file:
        # A line that was being written when the run was killed is short of fields.
        rows = [row for row in csv.reader(file) if len(row) == len(STEP_FIELDS) and row[0].isdigit()]
    kept = [dict(zip(STEP_FIELDS, row, strict=True)) for row in rows if int(row[0]) <= last_step]
    _write_rows(path, list(STEP_FIELDS), kept)


def _write_rows(path: Path, fields: list[str], rows: list[dict[str, Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=fields)
        writer.writeheader()
        writer.writerows(rows)
