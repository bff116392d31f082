"""Training, top to bottom: data, model, optimizer, steps, validation by video, best checkpoint by validation AUC.

A run's directory holds
    best.safetensors   the weights of the epoch with the best validation AUC, and what they mean
    checkpoints/       all that is needed to go on: the latest moments of the run, whole
    history.csv, steps.csv, tensorboard/, and run.lock, which keeps a second run out

Started by torchrun, every process runs this file from top to bottom on its own share of the clips; they meet in the
steps, in the validation's figures and in the checkpoints. Process 0 prints and writes the other files.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from dataloading import Video
from dataloading.clips.loader import Batch, ClipLoader
from dataloading.clips.sampling import Clip, TrainingClips, evaluation_clips
from dataloading.errors import InputError, as_input_error
from dataloading.face_index import crop_name
from dataloading.layouts import open_dataset
from dataloading.video.decoder import choose_decoder
from istvt.config import DataSettings, ISTVTConfig, TrainingSettings
from istvt.device import allow_tf32, is_out_of_memory, pick_device, resolve_precision, versions
from istvt.model.checkpoint import CheckpointInfo, load_backbone_weights, save_model
from istvt.model.istvt import ISTVT
from istvt.run_dir import MODEL_FILE, only_run
from istvt.training.banner import announce, list_skipped
from istvt.training.checkpoint import RunRecord, load_checkpoint, newest_checkpoint, read_record, save_checkpoint
from istvt.training.compile import accelerate, resolve_execution
from istvt.training.distributed import Processes, distribute, full_state, joined_processes
from istvt.training.logging import RunLog, epoch_line, write_history
from istvt.training.optim import build_optimizer, warmup_cosine
from istvt.training.step import Counts, TrainingStep, every_batch
from istvt.training.validate import validate, whole_model

# This many steps in a row whose gradient is not finite mean that the run has diverged.
NON_FINITE_STEPS_TO_STOP = 10
# A run may go on with other values of these: they do not decide what is learned.
FREE_SETTINGS = {
    "data": {"workers"},
    "training": {"parallel", "execution", "activation_checkpointing", "backend", "log_steps"}
    | {"checkpoint_steps", "checkpoint_minutes"},
}


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
    """The parts of a run, in this process."""

    data: DataSettings
    training: TrainingSettings
    output: Path
    processes: Processes
    sampler: TrainingClips
    val_clips: list[Clip]
    videos: dict[str, list[Video]]
    model: ISTVT
    step: TrainingStep
    record: RunRecord
    synthetic: bool
    saved_at: float = 0.0

    @property
    def clips_per_step(self) -> int:
        """Clips of a step in this process."""
        return self.training.batch_size * self.training.accumulation

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch from its beginning."""
        return -(-len(self.sampler) // self.clips_per_step)

    @property
    def clips_begun(self) -> int:
        """Clips of the current epoch that this process has used; fewer than that where another number shared them."""
        if self.record.clips >= self.sampler.clips_in_all:
            return len(self.sampler)
        return min(len(self.sampler), self.record.clips // self.processes.world_size)

    def learning_rate(self, clips_begun: int) -> float:
        """At a point of the current epoch: it depends on nothing else, so that it needs no state."""
        per_epoch = self.steps_per_epoch
        step = self.record.epoch * per_epoch + clips_begun / self.clips_per_step
        share = warmup_cosine(step, self.training.warmup_epochs * per_epoch, self.training.epochs * per_epoch)
        return self.training.learning_rate * share

    def save(self) -> None:
        """Write a checkpoint."""
        save_checkpoint(self.output, self.record, self.step, self.processes)
        self.saved_at = time.monotonic()


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
        device: "auto", "cpu", "cuda" or "cuda:N"; under torchrun "cuda" is one GPU a process.
        console: where progress goes; it is silenced in all processes but the first.

    Raises:
        InputError: the data cannot be trained on, `output` holds a run with other settings or is being written to by
            another one, an option is not for this machine, memory does not suffice, or training diverged.
    """
    console = console or Console()
    with joined_processes(pick_device(device)) as (processes, chosen):
        console.quiet = console.quiet or not processes.is_main
        if training.execution == "cuda_graphs" and chosen.type != "cuda":
            raise InputError(f"training.execution is cuda_graphs, which needs a GPU, and the device is {chosen}")
        # Nothing here holds the run: it has to end before the processes part (`joined_processes`).
        with _memory_suffices(training, chosen):
            return _train(_start(data, model, training, Path(output), processes, chosen), console)


@contextlib.contextmanager
def _memory_suffices(training: TrainingSettings, device: torch.device) -> Iterator[None]:
    """Within it an error of an allocator names the batch size."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        others = "" if training.activation_checkpointing else ", or training.activation_checkpointing true"
        raise InputError(
            f"training.batch_size is {training.batch_size}, for which the memory of {device} does not suffice; "
            f"expected a smaller one (a larger training.accumulation gives a step as many clips){others}"
        ) from error


def _train(run: _Run, console: Console) -> TrainingResult:
    """All epochs that are left of a run."""
    data, epochs, processes = run.data, run.training.epochs, run.processes
    with only_run(run.output) if processes.is_main else contextlib.nullcontext():
        _resume(run, console)
        detectors, listed = run.record.detectors, dict(run.record.skipped)
        announce(run.model.config, run.training, data, run.videos, detectors, run.sampler, run.step, processes, console)
        list_skipped(listed, "no clip from {}:", console)
        steps = run.record.step + _steps_left(run)
        with RunLog(run.output, console, processes.is_main, run.record.step, steps) as log:
            for epoch in range(run.record.epoch + 1, epochs + 1):
                log.start_epoch(epoch, epochs)
                row = _train_epoch(run, log)
                row |= _finish_epoch(run, row, log)
                line = epoch_line(row, epochs, best=_best(run.record.history) == row)
                console.print(line, soft_wrap=True)
        found_later = {name: reason for name, reason in run.record.skipped.items() if name not in listed}
        list_skipped(found_later, "{} skipped:", console)
    history = run.record.history
    return TrainingResult(
        run.output / MODEL_FILE,
        history,
        _best(history)["epoch"],
        sorted(run.record.skipped.items()),
        run.record.decoder,
    )


def _start(
    data: DataSettings,
    config: ISTVTConfig,
    training: TrainingSettings,
    output: Path,
    processes: Processes,
    device: torch.device,
) -> _Run:
    """A fresh run, from the seed: the same weights in every process."""
    dataset, index = open_dataset(**data.source)
    videos = {split: dataset.split_videos(split) for split in ("train", "val")}
    rank, world_size = processes.rank, processes.world_size
    sampler = TrainingClips(videos["train"], index, config.frames, data.train_clips, training.seed, rank, world_size)
    val_clips = evaluation_clips(videos["val"], index, config.frames, data.evaluation_clips)
    if not val_clips:
        raise InputError(f"{data.root}: none of the {len(videos['val'])} validation videos gives a clip")
    skipped = {item.video.name: item.reason for item in (*sampler.skipped, *val_clips.skipped)}
    usable = [video for both in videos.values() for video in both if video.name not in skipped]
    decoder = _one_decoder(data.decoder, usable, processes, device)

    record = RunRecord(_settings(data, config, training), processes.world_size)
    training = replace(training, execution=resolve_execution(training, device))
    torch.manual_seed(training.seed)
    allow_tf32(training.tf32)
    dtype = resolve_precision(training.precision, device)
    with as_input_error():
        model = ISTVT(config).set_backend(training.backend)
    if training.backbone_weights:
        load_backbone_weights(model.backbone, training.backbone_weights)
    model.to(device).train()
    accelerate(model, training, shared_out=processes.is_distributed and training.parallel == "fsdp")
    forward = distribute(model, training.parallel, processes, device)
    step = TrainingStep(model, forward, build_optimizer(model, training), dtype, training, processes)
    record.skipped, record.decoder = skipped, decoder
    record.detectors = index.detectors(video.name for video in usable)
    data = replace(data, decoder=decoder)
    return _Run(data, training, output, processes, sampler, val_clips, videos, model, step, record, dataset.synthetic)


def _one_decoder(decoder: str, videos: list[Video], processes: Processes, device: torch.device) -> str:
    """The decoder of the whole run, alike in every process and epoch; each process looks at a share of the videos."""
    share = [video.path for video in videos[processes.rank :: processes.world_size]]
    return "pyav" if "pyav" in processes.all_gather(choose_decoder(decoder, share, device)) else "dali"


def _train_epoch(run: _Run, log: RunLog) -> dict[str, Any]:
    """What is left of the current epoch, step by step; returns the epoch's mean loss, speed and skipped steps."""
    training, record, begun = run.training, run.record, run.clips_begun
    loader = _loader(run)
    count = -(-(len(run.sampler) - begun) // training.batch_size)  # in every process, also where it has a clip less
    batches: Iterator[Batch | None] = every_batch(loader, count)
    started, seconds_before, counts = time.perf_counter(), record.seconds, run.step.counts()
    steps = -(-count // training.accumulation)
    row = {"epoch": record.epoch + 1, "learning_rate": run.learning_rate(0)}
    seen_before = counts.clips
    for number in range(steps):
        learning_rate = run.learning_rate(run.clips_begun)
        run.step(batches, min(training.accumulation, count - number * training.accumulation), learning_rate)
        record.step += 1
        used = min(begun + (number + 1) * run.clips_per_step, len(run.sampler)) * run.processes.world_size
        record.clips = min(used, run.sampler.clips_in_all)
        record.seconds = seconds_before + time.perf_counter() - started
        log.advance(record.step)
        last, due = number == steps - 1, False
        if last or record.step % training.log_steps == 0:
            counts, previous = run.step.counts(), counts
            speed = (counts.clips - seen_before) / (time.perf_counter() - started)
            log.steps(_step_row(record, previous, counts, learning_rate, speed))
            _stop_if_diverged(counts)
            due = _minutes_have_passed(run)
        if last:
            next(batches, None)  # the loader has finished its list of what it skipped
            _note_skipped(run, loader)
        # The last one is written before validation, which may take long and must not cost steps that it is killed in.
        if last or due or (training.checkpoint_steps and record.step % training.checkpoint_steps == 0):
            run.save()
    if not counts.clips:
        first = next((f"; the first reason: {reason}" for reason in record.skipped.values()), "")
        raise InputError(f"not one training clip of epoch {record.epoch + 1} could be used{first}")
    row["train_loss"] = counts.loss_sum / counts.clips
    row["clips_per_second"] = round(counts.clips / record.seconds, 2)
    row["skipped_steps"] = counts.skipped_steps
    return row


def _loader(run: _Run) -> ClipLoader:
    """The clips of the current epoch that this process has not used yet."""
    training, epoch = run.training, run.record.epoch
    return ClipLoader(
        run.sampler.epoch(epoch, run.clips_begun),
        training.batch_size,
        run.model.config.image_size,
        augment=training.augment,
        device=run.step.device,
        decoder=run.data.decoder,
        seed=training.seed * 100_003 + epoch,
        workers=run.data.workers,
    )


def _finish_epoch(run: _Run, row: dict[str, Any], log: RunLog) -> dict[str, Any]:
    """Validate, keep the weights if they are the best yet, write a checkpoint; returns the validation's figures."""
    started, record = time.perf_counter(), run.record
    state = full_state(run.model)
    share, done = -(-len(run.val_clips) // run.processes.world_size), 0

    def advance(clips: int) -> None:
        nonlocal done
        done += clips
        log.validation(done, share)

    model = whole_model(run.model, state, run.training.backend)
    figures, skipped = validate(model, run.val_clips, run.training, run.data, run.step.dtype, run.processes, advance)
    record.skipped |= skipped
    figures["seconds"] = round(record.seconds + time.perf_counter() - started, 2)
    row = row | figures
    record.history.append(row)
    if run.processes.is_main and _best(record.history) == row:
        info = CheckpointInfo(
            run.model.config,
            decoder=record.decoder,
            settings=record.settings,
            versions=versions(),
            metrics=row,
            detectors=record.detectors,
            synthetic=run.synthetic,
        )
        save_model(run.output / MODEL_FILE, run.model, info, state)
    if run.processes.is_main:
        # Before the checkpoint: a run killed between the two writes it again, and after the last epoch nothing would.
        write_history(run.output / "history.csv", record.history)
    record.epoch, record.clips, record.seconds = record.epoch + 1, 0, 0.0
    run.step.start_epoch()
    run.save()
    log.epoch(row)
    return figures


def _best(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The epoch with the best validation AUC (by loss where AUC is undefined or equal); the earliest of equals."""
    return max(history, key=lambda row: (row["val_auc"] or 0.0, -row["val_loss"]))


def _step_row(
    record: RunRecord, previous: Counts, counts: Counts, learning_rate: float, speed: float
) -> dict[str, Any]:
    """What the log shows of the steps since the counters were read before."""
    clips = counts.clips - previous.clips
    return {
        "step": record.step,
        "epoch": record.epoch + 1,
        "loss": (counts.loss_sum - previous.loss_sum) / clips if clips else float("nan"),
        "learning_rate": learning_rate,
        "clips_per_second": round(speed, 2),
        "skipped_steps": counts.skipped_steps,
    }


def _stop_if_diverged(counts: Counts) -> None:
    if counts.most_in_a_row >= NON_FINITE_STEPS_TO_STOP:
        raise InputError(
            f"the gradient was not finite in {counts.most_in_a_row} steps in a row: training has diverged; "
            "lower training.learning_rate or use training.precision float32"
        )


def _minutes_have_passed(run: _Run) -> bool:
    """Whether a checkpoint is due by the clock of process 0."""
    minutes = run.training.checkpoint_minutes
    return bool(minutes) and run.processes.broadcast(time.monotonic() - run.saved_at >= 60 * minutes)


def _note_skipped(run: _Run, loader: ClipLoader) -> None:
    """Add what any process could not decode to the record of all of them."""
    for skipped in run.processes.all_gather({clip.video.name: reason for clip, reason in loader.skipped}):
        run.record.skipped |= skipped


def _steps_left(run: _Run) -> int:
    left = max(0, run.training.epochs - run.record.epoch) * run.steps_per_epoch
    return left - run.clips_begun // run.clips_per_step


def _settings(data: DataSettings, model: ISTVTConfig, training: TrainingSettings) -> dict[str, Any]:
    """All settings as JSON values, for the checkpoint, the run state and the report."""
    settings = {"data": asdict(data), "model": model.to_dict(), "training": asdict(training)}
    return json.loads(json.dumps(settings, default=str))


def _resume(run: _Run, console: Console) -> None:
    """Go on where the run in `output` stopped, if there is one with these settings, on any number of processes."""
    run.saved_at = time.monotonic()
    checkpoint = newest_checkpoint(run.output, run.processes)
    if checkpoint is None:
        return
    record, settings = read_record(checkpoint), run.record.settings
    changed = [
        f"{section}.{name} {old!r}, now {settings[section].get(name)!r}"
        for section, values in record.settings.items()
        for name, old in values.items()
        if settings[section].get(name) != old and name not in FREE_SETTINGS.get(section, ())
    ]
    if changed:
        raise InputError(f"{run.output} holds a run with other settings ({'; '.join(changed)}); choose another output")
    if record.detectors and record.detectors != run.record.detectors:
        raise InputError(
            f"{run.output} holds a run on {crop_name(record.detectors)}, and the face index of {run.data.root} now "
            f"gives {crop_name(run.record.detectors)}; choose another output"
        )
    load_checkpoint(checkpoint, run.step, run.processes)
    record.settings, record.skipped = settings, run.record.skipped | record.skipped
    record.decoder, record.detectors = run.record.decoder, run.record.detectors
    written_by, record.world_size = record.world_size, run.processes.world_size
    run.record = record
    within = f" and {run.clips_begun} of {len(run.sampler)} clips" if record.clips else ""
    plural = "" if written_by == 1 else "es"
    others = f" (written by {written_by} process{plural})" if written_by != record.world_size else ""
    complete = record.epoch >= run.training.epochs
    then = "it is already complete" if complete else "going on from there"
    epochs = f"{record.epoch} finished epoch{'s' * (record.epoch != 1)}"
    console.print(f"[dim]{escape(str(run.output))} has {epochs}{within}{others}; {then}[/]", soft_wrap=True)
