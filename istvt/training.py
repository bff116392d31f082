"""Training, top to bottom: data, model, optimizer, epochs, validation by video, best checkpoint by validation AUC.

A run's directory holds
    best.safetensors   the weights of the epoch with the best validation AUC, and what they mean
    last.pt            all that is needed to go on after the last finished epoch
    history.csv        one line an epoch
    tensorboard/       the same, for TensorBoard
"""

from __future__ import annotations

import csv
import json
import math
import os
import random
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.nn import functional

from dataloading import Video
from dataloading.errors import InputError
from dataloading.loader import ClipLoader
from dataloading.sampling import Clip, TrainingClips, evaluation_clips

from .attention import resolve_backend
from .backbone import load_backbone_weights
from .checkpoint import CheckpointInfo, load_run_state, save_model, save_run_state
from .config import ISTVTConfig
from .cost import total_cost
from .data import only_class, open_dataset, split_videos
from .metrics import epoch_metrics
from .model import ISTVT
from .precision import autocast, pick_device, resolve_precision
from .scoring import score_clips
from .settings import DataSettings, TrainingSettings
from .versions import versions

# This many steps in a row whose loss or gradient is not finite mean that the run has diverged.
NON_FINITE_STEPS_TO_STOP = 10


@dataclass
class TrainingResult:
    """What a finished run leaves.

    Attributes:
        checkpoint: the model file of the best epoch.
        history: one dict an epoch: epoch, losses, validation figures, learning rate, seconds, skipped steps.
        best_epoch: the epoch of the checkpoint, from 1.
        skipped: (video name, reason) of every video or clip that could not be used.
        decoder: which decoder made the clips.
    """

    checkpoint: Path
    history: list[dict[str, Any]]
    best_epoch: int
    skipped: list[tuple[str, str]]
    decoder: str


@dataclass
class _Run:
    """The moving parts of a run."""

    model: ISTVT
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    device: torch.device
    dtype: torch.dtype
    history: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    decoder: str = ""
    non_finite_in_a_row: int = 0


def train(
    data: DataSettings,
    model: ISTVTConfig,
    training: TrainingSettings,
    output: str | Path,
    *,
    device: str = "auto",
    console: Console | None = None,
) -> TrainingResult:
    """Train a model, or go on with the run that `output` holds, and return where its best checkpoint is.

    Args:
        data: which videos and how clips are taken from them.
        model: the model's configuration.
        training: optimizer, schedule, precision.
        output: the run's directory.
        device: "auto", "cpu", "cuda" or "cuda:N".
        console: where progress goes.

    Raises:
        InputError: the data cannot be trained on, `output` holds a run with other settings, or training diverged.
    """
    console = console or Console()
    output, chosen = Path(output), pick_device(device)
    dataset, index = open_dataset(data)
    train_videos, val_videos = split_videos(dataset, "train"), split_videos(dataset, "val")
    sampler = TrainingClips(train_videos, index, model.frames, data.train_clips, training.seed)
    val_clips = evaluation_clips(val_videos, index, model.frames, data.evaluation_clips)
    if not val_clips:
        raise InputError(f"{data.root}: none of the {len(val_videos)} validation videos gives a clip")

    run = _start(model, training, steps_per_epoch=-(-len(sampler) // training.batch_size), device=chosen)
    run.skipped |= {item.video.name: item.reason for item in (*sampler.skipped, *val_clips.skipped)}
    settings = _settings(data, model, training)
    output.mkdir(parents=True, exist_ok=True)
    _resume(run, output, settings, console)
    _announce(run, console, data, training, train_videos, val_videos, sampler)
    writer = _tensorboard(output)
    for epoch in range(len(run.history), training.epochs):
        started = time.perf_counter()
        row = {"epoch": epoch + 1, "learning_rate": run.optimizer.param_groups[0]["lr"]}
        row |= _train_epoch(run, sampler.epoch(epoch), training, data, epoch, console)
        row |= _validate(run, val_clips, training, data, console)
        row["seconds"] = round(time.perf_counter() - started, 2)
        run.history.append(row)
        if _best(run.history) == row:
            info = CheckpointInfo(model, run.decoder, settings, versions(), row)
            save_model(output / "best.safetensors", run.model, info)
        save_run_state(output / "last.pt", _state(run, settings))
        _write_history(output / "history.csv", run.history)
        _log(writer, row)
        console.print(_epoch_line(row, training.epochs, best=_best(run.history) == row))
    writer.close()
    return TrainingResult(
        output / "best.safetensors",
        run.history,
        _best(run.history)["epoch"],
        sorted(run.skipped.items()),
        run.decoder,
    )


def _start(config: ISTVTConfig, training: TrainingSettings, steps_per_epoch: int, device: torch.device) -> _Run:
    """A fresh model, optimizer and schedule, from the seed."""
    torch.manual_seed(training.seed)
    random.seed(training.seed)
    dtype = resolve_precision(training.precision, device)
    model = ISTVT(config)
    if training.backbone_weights:
        load_backbone_weights(model.backbone, training.backbone_weights)
    model.to(device, memory_format=torch.channels_last).train()
    model.set_backend(training.backend)
    # Biases, norms and tokens are not decayed: decay is for the matrices that multiply features.
    decayed = [p for n, p in model.named_parameters() if p.dim() > 1 and "embedding" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() <= 1 or "embedding" in n]
    groups = [{"params": decayed, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if training.optimizer == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)
    else:
        optimizer = torch.optim.SGD(groups, lr=training.learning_rate, momentum=training.momentum, fused=True)
    warmup, total = training.warmup_epochs * steps_per_epoch, training.epochs * steps_per_epoch
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup, total))
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    return _Run(model, optimizer, scheduler, scaler, device, dtype)


def warmup_cosine(step: int, warmup: float, total: int) -> float:
    """Share of the peak learning rate at `step`: linear over `warmup` steps, then a cosine to zero at `total`."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1.0, total - warmup))))


def _train_epoch(
    run: _Run, clips: list[Clip], training: TrainingSettings, data: DataSettings, epoch: int, console: Console
) -> dict[str, Any]:
    """One pass over the epoch's clips; returns its mean loss, speed and skipped steps."""
    model = run.model.train()
    loader = ClipLoader(
        clips,
        training.batch_size,
        model.config.image_size,
        augment=training.augment,
        device=run.device.type,
        decoder=data.decoder,
        seed=training.seed * 100_003 + epoch,
        workers=data.workers,
    )
    losses: list[torch.Tensor] = []
    seen = skipped_steps = 0
    started = time.perf_counter()
    with _progress(console) as progress:
        task = progress.add_task(f"epoch {epoch + 1}/{training.epochs}", total=len(loader), note="")
        for batch in loader:
            labels = batch.labels.to(run.device)
            with autocast(run.device, run.dtype):
                logits = model(batch.clips)
            loss = functional.binary_cross_entropy_with_logits(logits.float(), labels)
            skipped_steps += not _step(run, loss, training.gradient_clip)
            losses.append(loss.detach() * len(labels))
            seen += len(labels)
            speed = seen / (time.perf_counter() - started)
            progress.update(task, advance=1, note=f"loss {loss.item():.3f}  {speed:.1f} clips/s")
    run.decoder = loader.decoder
    run.skipped |= {clip.video.name: reason for clip, reason in loader.skipped}
    if not seen:
        raise InputError("not one training clip could be decoded; the first reason: " + loader.skipped[0][1])
    return {
        "train_loss": float(torch.stack(losses).sum() / seen),
        "clips_per_second": round(seen / (time.perf_counter() - started), 2),
        "skipped_steps": skipped_steps,
    }


def _step(run: _Run, loss: torch.Tensor, gradient_clip: float) -> bool:
    """One optimizer step; a step whose gradient is not finite changes nothing and returns False."""
    run.optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(loss).backward()
    run.scaler.unscale_(run.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), gradient_clip or math.inf)
    finite = bool(norm.isfinite())
    if finite or run.scaler.is_enabled():  # the scaler itself skips, and lowers its scale
        run.scaler.step(run.optimizer)
    run.scaler.update()
    run.scheduler.step()
    run.non_finite_in_a_row = 0 if finite else run.non_finite_in_a_row + 1
    if run.non_finite_in_a_row >= NON_FINITE_STEPS_TO_STOP:
        raise InputError(
            f"the gradient was not finite in {NON_FINITE_STEPS_TO_STOP} steps in a row: training has diverged; "
            "lower training.learning_rate or use training.precision float32"
        )
    return finite


def _validate(
    run: _Run, clips: list[Clip], training: TrainingSettings, data: DataSettings, console: Console
) -> dict[str, Any]:
    """Figures of the validation split, by video."""
    with _progress(console) as progress:
        task = progress.add_task("validation", total=len(clips), note="")
        scored = score_clips(
            run.model,
            clips,
            batch_size=training.batch_size,
            decoder=data.decoder,
            workers=data.workers,
            dtype=run.dtype,
            advance=lambda done: progress.advance(task, done),
        )
    run.skipped |= dict(scored.skipped)
    return {f"val_{name}": value for name, value in epoch_metrics(scored.videos()).items()}


def _best(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The epoch with the best validation AUC (by loss where AUC is undefined or equal); the earliest of equals."""
    return max(history, key=lambda row: (row["val_auc"] or 0.0, -row["val_loss"]))


def _settings(data: DataSettings, model: ISTVTConfig, training: TrainingSettings) -> dict[str, Any]:
    """All settings as JSON values, for the checkpoint, the run state and the report."""
    settings = {"data": asdict(data), "model": model.to_dict(), "training": asdict(training)}
    return json.loads(json.dumps(settings, default=str))


def _state(run: _Run, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "settings": settings,
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scheduler": run.scheduler.state_dict(),
        "scaler": run.scaler.state_dict(),
        "torch_random": torch.get_rng_state(),
        "history": run.history,
        "skipped": run.skipped,
        "decoder": run.decoder,
    }


def _resume(run: _Run, output: Path, settings: dict[str, Any], console: Console) -> None:
    """Go on where the run in `output` stopped, if there is one with these settings."""
    path = output / "last.pt"
    if not path.is_file():
        return
    state = load_run_state(path)
    changed = [
        f"{section}.{name} {old!r}, now {settings[section].get(name)!r}"
        for section, values in state["settings"].items()
        for name, old in values.items()
        if settings[section].get(name) != old
    ]
    if changed:
        raise InputError(f"{output} holds a run with other settings ({'; '.join(changed)}); choose another output")
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.scheduler.load_state_dict(state["scheduler"])
    run.scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(state["torch_random"])
    run.history, run.decoder = state["history"], state["decoder"]
    run.skipped |= state["skipped"]
    console.print(f"[dim]{output} has {len(run.history)} finished epochs; going on from there[/]")


def _announce(
    run: _Run,
    console: Console,
    data: DataSettings,
    training: TrainingSettings,
    train_videos: list[Video],
    val_videos: list[Video],
    sampler: TrainingClips,
) -> None:
    """Say what is about to be used."""
    config = run.model.config
    cost = total_cost(config)
    device = (
        torch.cuda.get_device_name(run.device)
        if run.device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    console.print(
        f"[bold]{config.attention}[/] model of {cost.parameters / 1e6:.2f} M parameters, "
        f"{cost.layer_macs / 1e9:.2f} G multiply-accumulates a clip of {config.frames} frames at "
        f"{config.image_size} pixels\n"
        f"on {device}, {str(run.dtype).removeprefix('torch.')}, attention by "
        f"{resolve_backend(training.backend, run.device)}\n"
        f"{len(train_videos)} training and {len(val_videos)} validation videos of {data.root}; "
        f"{len(sampler)} clips an epoch, {training.epochs} epochs"
    )
    if (only := only_class(val_videos)) is not None:
        console.print(
            f"[yellow]the validation split holds only {only} videos: AUC is undefined, "
            "the best epoch is chosen by loss[/]"
        )
    if run.skipped:
        console.print(f"[yellow]{len(run.skipped)} videos give no clip and are left out:[/]")
        for name, reason in sorted(run.skipped.items()):
            console.print(f"  {name}: {reason}", markup=False, highlight=False)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
    )


def _epoch_line(row: dict[str, Any], epochs: int, best: bool) -> str:
    auc = "undefined" if row["val_auc"] is None else f"{row['val_auc']:.3f}"
    return (
        f"epoch {row['epoch']:>3}/{epochs}  loss {row['train_loss']:.3f}  validation loss {row['val_loss']:.3f}  "
        f"accuracy {row['val_accuracy']:.3f}  AUC {auc}  {row['clips_per_second']:.1f} clips/s  "
        f"{row['seconds']:.0f} s{'  [green]best so far[/]' if best else ''}"
    )


def _write_history(path: Path, history: list[dict[str, Any]]) -> None:
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)
    os.replace(temporary, path)


def _tensorboard(output: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(output / "tensorboard")


def _log(writer: Any, row: dict[str, Any]) -> None:
    for name, value in row.items():
        if name != "epoch" and isinstance(value, int | float) and np.isfinite(value):
            writer.add_scalar(name.replace("val_", "validation/").replace("train_", "training/"), value, row["epoch"])
    writer.flush()
