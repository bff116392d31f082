"""Training: data, model, optimizer, steps, validation by video, the checkpoint with the best validation AUC.

A run's directory holds
    best.safetensors   the weights (or their average) of the epoch with the best validation AUC, and their metadata
    checkpoints/       the latest checkpoints, from which the run resumes
    history.csv, steps.csv, tensorboard/ (or files of another tracker), and run.lock, which excludes a second run

Started by torchrun, every process runs this file on its own share of the clips; the processes meet in the steps, in the
validation's metrics and in the checkpoints. Process 0 prints and writes the other files.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from dataloading import Video
from dataloading.clips.loader import ClipLoader, decoder_of
from dataloading.clips.sampling import RehearsedClips, TrainingClips
from dataloading.dataset import FAKE
from dataloading.errors import InputError, as_input_error
from dataloading.layouts import open_dataset
from istvt.config import (
    Adaptation,
    DataSettings,
    DetectorConfig,
    ISTVTConfig,
    TrainingSettings,
    entry_flow_sizes,
)
from istvt.device import (
    allow_tf32,
    is_out_of_memory,
    keep_freed_memory,
    memory_of,
    pick_device,
    resolve_precision,
    versions,
)
from istvt.inference.calibration import fit_calibration, validation_clips
from istvt.model.architectures import build
from istvt.model.attention import resolve_backend
from istvt.model.checkpoint import CheckpointInfo, load_pretrained, load_same_model, save_model
from istvt.model.flops import total_cost
from istvt.run_dir import MODEL_FILE, only_run
from istvt.training.checkpoint import EpochRow, RunState, load_checkpoint, newest_checkpoint, save_checkpoint
from istvt.training.compile import accelerate, resolve_execution
from istvt.training.distributed import Processes, distribute, joined_processes
from istvt.training.logging import RunLog, epoch_line, log_run, log_skipped, logger, write_history
from istvt.training.optim import build_optimizer, warmup_cosine
from istvt.training.step import Counts, Distillation, TrainingStep, batches_by_position
from istvt.training.trackers import require_tracker
from istvt.training.validate import validate, whole_model

# The run has diverged after this many consecutive steps with a gradient that is not finite.
NON_FINITE_STEPS_TO_STOP = 10


@dataclass
class TrainingResult:
    """Result of a finished run.

    Attributes:
        checkpoint: the model file of the best epoch.
        best_epoch: the epoch of the checkpoint, from 1.
        history: a row an epoch: losses, validation metrics, learning rate, seconds, skipped steps.
    """

    checkpoint: Path
    best_epoch: int
    history: list[EpochRow]


def train(
    data: DataSettings,
    model: DetectorConfig,
    training: TrainingSettings,
    output: str | Path,
    *,
    adaptation: Adaptation | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> TrainingResult:
    """Train a model, or resume the run in `output`; return the path of its best checkpoint and its history.

    Args:
        data: which videos and how clips are taken from them.
        model: the model's configuration, which names its architecture.
        training: optimizer, schedule, precision.
        output: the run's directory.
        adaptation: the network that it starts from, and the data sets that this network learned, whose clips are mixed
            with those of `data`; None starts from random weights.
        device: "auto", "cpu", "cuda" or "cuda:N"; under torchrun "cuda" is one GPU a process.
        console: for the live progress line of the first process; None shows none. Lines go to `logging`.

    Raises:
        InputError: the data cannot be trained on, `output` holds a run with other settings or is being written to by
            another one, an option is not for this machine, memory is too small, or training diverged.
    """
    with joined_processes(pick_device(device)) as (processes, chosen), _out_of_memory_as_input_error(training, chosen):
        # The trainer is not bound to a name: its model must be freed before the process group (`joined_processes`).
        console = console or Console(quiet=True)
        return Trainer(data, model, training, Path(output), processes, chosen, console, adaptation).fit()


def check_run(
    data: DataSettings,
    model: DetectorConfig,
    training: TrainingSettings,
    output: str | Path,
    *,
    adaptation: Adaptation | None = None,
    device: str = "auto",
) -> bool:
    """Return whether the run in `output` is complete, after everything that `train` checks before its first step.

    Args:
        data, model, training, output, adaptation, device: as of `train`.

    Raises:
        InputError: as `train`, but for what only shows in training.
    """
    with joined_processes(pick_device(device)) as (processes, chosen), _out_of_memory_as_input_error(training, chosen):
        quiet = Console(quiet=True)
        written = Trainer(data, model, training, Path(output), processes, chosen, quiet, adaptation).newest()
        complete = written is not None and written[1].epoch >= training.epochs
        return complete and (Path(output) / MODEL_FILE).is_file()


class Trainer:
    """A run in this process, from its seed or from its newest checkpoint to its last epoch; the arguments of `train`.

    Attributes:
        sampler: the training clips of any epoch that are this process's share.
        val_clips: the validation clips of all processes.
        val_sets: paths of the validation videos of each data set, where there are several.
        notes: sentences on the data set: how it was split, and what of it is in a crop store.
        model: the model; under FSDP this process's share of it.
        step: makes a step.
        state: state of the run besides its tensors.
        log: of the run, while it trains.
    """

    def __init__(
        self,
        data: DataSettings,
        config: DetectorConfig,
        training: TrainingSettings,
        output: Path,
        processes: Processes,
        device: torch.device,
        console: Console,
        adaptation: Adaptation | None = None,
    ) -> None:
        require_tracker(training.tracker)
        if training.execution == "cuda_graphs" and device.type != "cuda":
            raise InputError(f"training.execution is cuda_graphs, which needs a GPU, and the device is {device}")
        if isinstance(config, ISTVTConfig):
            _require_grid_of_clips(config)
        self.output, self.processes, self.console = output, processes, console
        console.quiet = console.quiet or not processes.is_main

        sets = [data, *(adaptation.old if adaptation and adaptation.settings.rehearsal else ())]
        opened = [open_dataset(**each.source) for each in sets]
        self.synthetic = all(dataset.synthetic for dataset, _ in opened)
        self.notes = list(dict.fromkeys(note for dataset, _ in opened for note in dataset.notes))
        train_videos, val_videos = ([of.split_videos(split) for of, _ in opened] for split in ("train", "val"))
        self.videos = {"train": train_videos[0], "val": val_videos[0]}
        if config.makes_masks:
            roots = " and ".join(str(each.root) for each in sets)
            self.notes += _require_masks([*itertools.chain(*train_videos)], config, roots)
        self.unmasked: dict[str, str] = {}  # why masks of videos could not be used, by the video's name
        indices, share = [index for _, index in opened], (processes.rank, processes.world_size)
        drawn = (config.frames, data.train_clips, training.seed, *share)
        if len(sets) == 1:
            self.sampler = TrainingClips(train_videos[0], indices[0], *drawn)
        else:
            found = list(zip(train_videos, indices, strict=True))
            self.sampler = RehearsedClips(found, adaptation.settings.rehearsal, *drawn)
        self.val_clips, self.val_sets = validation_clips(sets, val_videos, indices, config.frames)
        skipped = {item.video.name: item.reason for item in (*self.sampler.skipped, *self.val_clips.skipped)}
        videos = [[*train, *val] for train, val in zip(train_videos, val_videos, strict=True)]
        usable = [[video for video in of_set if video.name not in skipped] for of_set in videos]
        decoder = _one_decoder(data.decoder, list(itertools.chain(*usable)), processes, device)
        named = zip(indices, usable, strict=True)
        detectors = sorted({name for index, of in named for name in index.detectors(video.name for video in of)})
        settings = {"data": asdict(data), "model": config.to_dict(), "training": asdict(training)}
        settings |= {"adaptation": adaptation.to_dict()} if adaptation else {}
        settings = json.loads(json.dumps(settings, default=str))
        self.state = RunState(
            settings, processes.world_size, skipped=skipped, decoder=decoder, detectors=detectors, csv_size=0
        )
        self.data = replace(data, decoder=decoder)

        torch.manual_seed(training.seed)  # the same weights in every process
        allow_tf32(training.tf32)
        with as_input_error():
            self.backend = resolve_backend(training.backend, device)
            self.training = training = replace(training, execution=resolve_execution(training, device))
        _require_memory(config, training, processes, device)
        self.model = build(config)
        if training.backbone_weights:
            load_pretrained(self.model, training.backbone_weights)
        distillation = self.start_from(adaptation, device) if adaptation else None
        keep_freed_memory(device)
        # After the move: whether a backend runs is decided by the device of the parameters.
        self.model.to(device).train().set_backend(training.backend)
        accelerate(self.model, training, sharded=processes.is_distributed and training.parallel == "fsdp")
        forward = distribute(self.model, training.parallel, processes, device)
        optimizer, dtype = build_optimizer(self.model, training), resolve_precision(training.precision, device)
        self.step = TrainingStep(self.model, forward, optimizer, dtype, training, processes, distillation)

    def start_from(self, adaptation: Adaptation, device: torch.device) -> Distillation | None:
        """Give the model the weights of the network that is adapted; return the loss that keeps to it, if asked for."""
        old, settings = load_same_model(adaptation.checkpoint, adaptation.checksum, device), adaptation.settings
        self.model.load_state_dict(old.state_dict())
        rehearsed = getattr(self.sampler, "rehearsed_in_all", 0)
        roots = " and ".join(str(each.root) for each in adaptation.old)
        self.notes.append(
            f"starting from {adaptation.checkpoint}; {rehearsed} of the clips of an epoch are rehearsed, of {roots}"
            if rehearsed
            else f"starting from {adaptation.checkpoint}, without rehearsal"
        )
        if not settings.distillation:
            return None
        old.set_backend(self.training.backend)
        return Distillation(old, settings.distillation, settings.temperature)

    def newest(self) -> tuple[Path, RunState] | None:
        """Return the newest checkpoint of the run in `output`, which is one of this run; None for a new run."""
        newest = newest_checkpoint(self.output, self.processes)
        if newest is not None:
            newest[1].require_same_run(self.state, self.output)
        return newest

    def resume(self) -> None:
        """Resume the run in `output` from its newest checkpoint, if there is one, on any number of processes."""
        newest = self.newest()
        if newest is None:
            return
        fresh, (checkpoint, written) = self.state, newest
        load_checkpoint(checkpoint, self.step, self.processes)
        self.state = replace(
            written,
            settings=fresh.settings,
            world_size=fresh.world_size,
            skipped=fresh.skipped | written.skipped,
            decoder=fresh.decoder,
            detectors=fresh.detectors,
        )
        stands = f"{written.epoch} finished epoch{'s' * (written.epoch != 1)}"
        if written.clips:
            stands += f" and {self.clips_used} of {len(self.sampler)} clips"
        if written.world_size != fresh.world_size:
            stands += f" (written by {written.world_size} process{'es' * (written.world_size != 1)})"
        then = "it is complete" if written.epoch >= self.training.epochs else "resuming from there"
        if self.processes.is_main:
            logger.info(f"{self.output} has {stands}; {then}", extra={"style": "dim"})

    def fit(self) -> TrainingResult:
        """Train and validate epoch by epoch, from the state of the run to its last epoch."""
        main, epochs = self.processes.is_main, self.training.epochs
        with only_run(self.output) if main else contextlib.nullcontext():
            self.resume()
            state, skipped_before = self.state, dict(self.state.skipped)
            if main:
                log_run(self)
                log_skipped(skipped_before, "no clip from {}:")
            self.saved_at, steps = time.monotonic(), state.step + self.steps_left
            stands = (state.step, steps, state.csv_size, state.settings)
            with RunLog(self.output, self.console, main, *stands) as self.log:
                for epoch in range(state.epoch + 1, epochs + 1):
                    self.log.start_epoch(epoch, epochs)
                    row = self.validate(self.train_epoch())
                    state.epoch, state.clips, state.seconds = epoch, 0, 0.0
                    self.step.start_epoch()
                    self.save()
                    self.log.epoch(row)
                    if main:
                        logger.info(epoch_line(row, epochs, best=self.best == row))
            skipped_in_run = {name: reason for name, reason in state.skipped.items() if name not in skipped_before}
            if main:
                log_skipped(skipped_in_run, "{} skipped:")
        return TrainingResult(self.output / MODEL_FILE, self.best["epoch"], state.history)

    def train_epoch(self) -> dict[str, Any]:
        """Make the steps that are left of the current epoch; return its mean loss, speed and skipped steps."""
        training, state, begun = self.training, self.state, self.clips_used
        loader = self.epoch_loader()
        left = -(-(len(self.sampler) - begun) // training.batch_size)  # the same in every process
        batches = batches_by_position(loader, left)
        row = {"epoch": state.epoch + 1, "learning_rate": self.learning_rate(0)}
        counts, seconds_before = self.step.counts(), state.seconds
        self.began = began_at, _ = time.perf_counter(), counts.clips
        for number, first in enumerate(range(0, left, training.accumulation), start=1):
            learning_rate = self.learning_rate(self.clips_used)
            self.step(batches, min(training.accumulation, left - first), learning_rate)
            used = min(begun + number * self.clips_per_step, len(self.sampler)) * self.processes.world_size
            state.step, state.clips = state.step + 1, min(used, self.sampler.clips_in_all)
            state.seconds = seconds_before + time.perf_counter() - began_at
            self.log.advance(state.step)
            last, due = first + training.accumulation >= left, False
            if last or state.step % training.log_steps == 0:
                counts = self.log_steps(counts, learning_rate)
                due = self.checkpoint_is_due()
            if last:
                next(batches, None)  # the loader's list of skipped clips is complete
                for skipped in self.processes.all_gather({c.video.name: reason for c, reason in loader.skipped}):
                    state.skipped |= skipped
                self.note_unmasked(loader, whole=begun == 0)
            # The last one is written before validation, which may take long: a run killed in it repeats no step.
            if last or due or (training.checkpoint_steps and state.step % training.checkpoint_steps == 0):
                self.save()
        if not counts.clips:
            first_reason = next((f"; the first reason: {reason}" for reason in state.skipped.values()), "")
            raise InputError(f"not one training clip of epoch {state.epoch + 1} could be used{first_reason}")
        row["train_loss"] = counts.loss_sum / counts.clips
        row["clips_per_second"] = round(counts.clips / state.seconds, 2)
        return row | {"skipped_steps": counts.skipped_steps}

    def note_unmasked(self, loader: ClipLoader, whole: bool) -> None:
        """Log the videos whose masks an epoch could not use and that were not named before.

        Args:
            loader: of the epoch, which has ended.
            whole: it had all clips of the epoch.

        Raises:
            InputError: not one mask of the epoch's fakes could be used.
        """
        if not self.model.config.makes_masks:
            return
        fakes = sum(clip.label == FAKE for clip in loader.clips)
        unmasked = [(clip.video.name, clip.video.mask is None, reason) for clip, reason in loader.unmasked]
        shares = self.processes.all_gather((fakes, unmasked))
        found = [item for _, unmasked in shares for item in unmasked]
        if whole and found and len(found) == sum(fakes for fakes, _ in shares):
            first = found[0][2]
            raise InputError(f"not one mask of the fakes of {self.data.root} can be used; the first reason: {first}")
        # Those without a mask video are counted in the notes.
        new = {name: reason for name, missing, reason in found if not missing and name not in self.unmasked}
        self.unmasked |= new
        if self.processes.is_main:
            log_skipped(new, "{} left out of the mask's loss:")

    def validate(self, row: dict[str, Any]) -> dict[str, Any]:
        """Validate; add the metrics to the epoch's row and the row to the history; save the model if it is the best."""
        started, state = time.perf_counter(), self.state
        model = whole_model(self.model, self.training.backend, self.step.average)
        metrics, skipped, scores = validate(
            model, self.val_clips, self.training, self.data, self.step.dtype, self.processes, self.log, self.val_sets
        )
        state.skipped |= skipped
        row = row | metrics | {"seconds": round(state.seconds + time.perf_counter() - started, 2)}
        state.history.append(row)
        if self.processes.is_main and self.best == row:
            info = CheckpointInfo(
                model.config,
                decoder=state.decoder,
                settings=state.settings,
                versions=versions(),
                metrics=row,
                detectors=state.detectors,
                synthetic=self.synthetic,
                calibration=fit_calibration(scores),
            )
            save_model(self.output / MODEL_FILE, model, info)
        if self.processes.is_main:
            # Before the checkpoint: if the run is killed between the two, resuming writes this file again.
            write_history(self.output / "history.csv", state.history)
        return row

    def save(self) -> None:
        """Write a checkpoint, from which `resume` continues."""
        self.state.csv_size = self.log.csv_size
        save_checkpoint(self.output, self.state, self.step, self.processes)
        self.saved_at = time.monotonic()

    def epoch_loader(self) -> ClipLoader:
        """Return the loader of the current epoch's clips that this process has not used yet."""
        return ClipLoader(
            self.sampler.epoch(self.state.epoch, self.clips_used),
            self.training.batch_size,
            self.model.config.image_size,
            augment=self.training.augment,
            device=self.step.device,
            decoder=self.data.decoder,
            seed=self.training.seed * 100_003 + self.state.epoch,
            workers=self.data.workers,
            masks=self.model.config.makes_masks,
        )

    def log_steps(self, previous: Counts, learning_rate: float) -> Counts:
        """Read the counters, log the steps since they were read before and return them; stop a run that diverged."""
        state, counts, (began_at, clips_before) = self.state, self.step.counts(), self.began
        clips = counts.clips - previous.clips
        row = {
            "step": state.step,
            "epoch": state.epoch + 1,
            "loss": (counts.loss_sum - previous.loss_sum) / clips if clips else float("nan"),
            "learning_rate": learning_rate,
            "clips_per_second": round((counts.clips - clips_before) / (time.perf_counter() - began_at), 2),
            "skipped_steps": counts.skipped_steps,
        }
        self.log.steps(row)
        if counts.longest_row >= NON_FINITE_STEPS_TO_STOP:
            raise InputError(
                f"the gradient was not finite in {counts.longest_row} steps in a row: training has diverged; "
                "lower training.learning_rate or use training.precision float32"
            )
        return counts

    def checkpoint_is_due(self) -> bool:
        """Return whether a checkpoint is due by the clock of process 0."""
        minutes = self.training.checkpoint_minutes
        return bool(minutes) and self.processes.broadcast(time.monotonic() - self.saved_at >= 60 * minutes)

    def learning_rate(self, clips_used: int) -> float:
        """Return the learning rate at a point of the current epoch; it depends on nothing else and needs no state."""
        per_epoch = self.steps_per_epoch
        step = self.state.epoch * per_epoch + clips_used / self.clips_per_step
        share = warmup_cosine(step, self.training.warmup_epochs * per_epoch, self.training.epochs * per_epoch)
        return self.training.learning_rate * share

    @property
    def best(self) -> dict[str, Any]:
        """The epoch with the best validation AUC (by loss where AUC is undefined or equal); the earliest of equals."""
        return max(self.state.history, key=lambda row: (row["val_auc"] or 0.0, -row["val_loss"]))

    @property
    def clips_per_step(self) -> int:
        """Clips of a step in this process."""
        return self.training.batch_size * self.training.accumulation

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch from its beginning."""
        return -(-len(self.sampler) // self.clips_per_step)

    @property
    def steps_left(self) -> int:
        """Steps to the end of the last epoch."""
        left = max(0, self.training.epochs - self.state.epoch) * self.steps_per_epoch
        return left - self.clips_used // self.clips_per_step

    @property
    def clips_used(self) -> int:
        """Clips of the current epoch that this process has used; fewer than that where another number shared them."""
        if self.state.clips >= self.sampler.clips_in_all:
            return len(self.sampler)
        return min(len(self.sampler), self.state.clips // self.processes.world_size)


@contextlib.contextmanager
def _out_of_memory_as_input_error(training: TrainingSettings, device: torch.device) -> Iterator[None]:
    """Turn an out-of-memory error into an InputError that names the batch size."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        others = "" if training.activation_checkpointing else ", or training.activation_checkpointing true"
        raise InputError(
            f"training.batch_size is {training.batch_size}, which does not fit into the memory of {device}; "
            f"expected a smaller one (a larger training.accumulation gives a step as many clips){others}"
        ) from error


def _require_masks(videos: Sequence[Video], config: DetectorConfig, roots: str) -> list[str]:
    """Return a note on the training fakes without a mask.

    Raises:
        InputError: not one has a mask.
    """
    fakes = [video for video in videos if video.label == FAKE]
    without = sum(video.mask is None for video in fakes)
    if fakes and without == len(fakes):
        asked = "model.mask_head" if isinstance(config, ISTVTConfig) else f"model.architecture {config.architecture}"
        raise InputError(
            f"{asked} learns from mask videos, and not one of the {len(fakes)} training fakes of {roots} has one; "
            "expected a data set with masks, such as FaceForensics++ with its masks or the synthetic set"
        )
    if not without:
        return []
    have, are = ("has", "is") if without == 1 else ("have", "are")
    return [f"{without} of the {len(fakes)} training fakes {have} no mask video and {are} left out of the mask's loss."]


def _require_grid_of_clips(config: ISTVTConfig) -> None:
    """Refuse a feature grid that clips do not give."""
    side = entry_flow_sizes(config.image_size)[-1]
    if config.feature_grid != (side, side):
        raise InputError(
            f"model.grid is {config.grid}, but clips of model.image_size {config.image_size} give {side}x{side} "
            "feature cells; leave model.grid out, or give tokens from Python"
        )


def _require_memory(
    config: DetectorConfig, training: TrainingSettings, processes: Processes, device: torch.device
) -> None:
    """Refuse a run whose weights and clips alone are larger than the memory, before any of it is taken.

    Raises:
        InputError: float32 weights, gradients and optimizer state, and the clips of a batch, do not fit.
    """
    parameters = total_cost(config).parameters
    sharded = processes.is_distributed and training.parallel == "fsdp"
    copies = 1 if sharded else 2 + (2 if training.optimizer == "adamw" else 1) + (training.ema_decay > 0)
    batch = training.batch_size * config.frames * 3 * config.image_size**2
    needed, available = 4 * (copies * parameters + batch), memory_of(device)
    if needed > available:
        raise InputError(
            f"a model of {parameters:,} parameters and batches of {training.batch_size} clips need at least "
            f"{needed / 2**30:,.0f} GiB, and {device} has {available / 2**30:,.0f} GiB; expected a smaller model "
            "(model.depth, model.dim, model.mlp_dim) or training.batch_size"
        )


def _one_decoder(decoder: str, videos: list[Video], processes: Processes, device: torch.device) -> str:
    """Return the decoder of the run, the same in all processes, each of which checks a share of the videos."""
    found = processes.all_gather(decoder_of(videos[processes.rank :: processes.world_size], decoder, device))
    return next((name for name in ("jpeg", "pyav") if name in found), "dali")
