"""Checkpoints of a run: model, optimizer, loss scale, random state and run state, written whole or not at all.

    checkpoints/epoch-0002-step-00000310/    *.distcp and .metadata of torch.distributed.checkpoint; run.json

The name counts finished epochs and steps. A checkpoint is written under another name, every file is flushed to the
disk, and only then is it renamed: a process that dies while writing leaves the one before. Tensors are stored under
their public names and read whole, however they were sharded, so that any number of processes can read them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from typing_extensions import TypedDict  # before Python 3.12 pydantic takes no other

from dataloading.errors import InputError, writing
from dataloading.face_index import crop_name
from dataloading.io import read_bytes, read_json, shown
from istvt.config import DataSettings, TrainingSettings
from istvt.model.architectures import ARCHITECTURES, DEFAULT
from istvt.run_dir import TRAINING_STATES
from istvt.training.distributed import Processes
from istvt.training.step import TrainingStep

KEEP = 2
# A run may be resumed with other values of these: they do not change what is learned.
FREE_SETTINGS = {
    "data": {"workers"},
    "training": {"parallel", "execution", "activation_checkpointing", "backend", "log_steps", "tracker"}
    | {"checkpoint_steps", "checkpoint_minutes"},
    "adaptation": {"checkpoint"},  # the path; the file is known by its checksum
}
# A run's state names every skipped video.
MAX_RUN_STATE_BYTES = 256 << 20
# A few hundred bytes a tensor and process.
MAX_METADATA_BYTES = 64 << 20
_RUN_STATE = "run.json"
_PARTIAL = ".partial"


class EpochRow(TypedDict):
    """Metrics of a finished epoch, by the names of history.csv; None where one is undefined."""

    epoch: int
    learning_rate: float
    train_loss: float
    clips_per_second: float
    skipped_steps: int
    val_accuracy: float
    val_precision: float | None
    val_recall: float | None
    val_f1: float | None
    val_loss: float
    val_auc: float | None
    seconds: float


@dataclass
class RunState:
    """State of a run besides its tensors, stored in run.json.

    Attributes:
        settings: all settings as JSON values, by group: data, model, training, and adaptation where it is one.
        world_size: number of processes that wrote it.
        epoch: finished epochs.
        clips: clips of the current epoch that steps have used, over all processes.
        step: steps so far.
        seconds: time spent in the current epoch.
        history: a row a finished epoch.
        skipped: reason by name of each video that could not be used.
        decoder: decoder of the clips.
        detectors: face detectors of the index, by which the clips are cropped.
        csv_size: bytes of steps.csv; None in checkpoints of earlier versions.
    """

    settings: dict[str, dict[str, Any]]
    world_size: int = 1
    epoch: int = 0
    clips: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list[EpochRow] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    decoder: str = ""
    detectors: list[str] = field(default_factory=list)
    csv_size: int | None = None

    def __post_init__(self) -> None:
        for name, least in {"world_size": 1, "epoch": 0, "clips": 0, "step": 0, "seconds": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")
        if [row["epoch"] for row in self.history] != [*range(1, self.epoch + 1)]:
            rows = f"{len(self.history)} row{'s' * (len(self.history) != 1)}"
            raise ValueError(f"history has {rows}; expected one for each of the {self.epoch} finished epochs, in order")
        if self.clips and self.seconds < 1e-6:
            raise ValueError(f"seconds is {self.seconds} and clips {self.clips}; expected the time that they took")
        if self.csv_size is not None and self.csv_size < 0:
            raise ValueError(f"csv_size is {self.csv_size}; expected at least 0")

    def require_same_run(self, now: RunState, output: Path) -> None:
        """Refuse to resume the run of this state with that of `now`, unless both train the same model on the same data.

        Raises:
            InputError: settings that decide what is learned, or the faces that clips are cropped to, have changed.
        """
        name, new_name = (state.settings.get("model", {}).get("architecture", DEFAULT) for state in (self, now))
        if name != new_name:
            raise InputError(f"{output} holds a run of {name}, and this one trains {new_name}; choose another output")
        adapts, now_adapts = ("adaptation" in state.settings for state in (self, now))
        if adapts != now_adapts:
            kinds = {True: "an adapted run", False: "a run that was trained from its beginning"}
            raise InputError(f"{output} holds {kinds[adapts]}, and this is {kinds[now_adapts]}; choose another output")
        # A setting that an earlier version did not have counts as its present default.
        config = ARCHITECTURES[new_name].config()
        defaults = {"data": DataSettings(), "model": config, "training": TrainingSettings()}
        known = {group: json.loads(json.dumps(asdict(values), default=str)) for group, values in defaults.items()}
        changed = [
            f"{group}.{name} {shown(old)}, now {now.settings.get(group, {}).get(name)!r}"
            for group, values in self.settings.items()
            for name, old in (known.get(group, {}) | values).items()
            if now.settings.get(group, {}).get(name) != old and name not in FREE_SETTINGS.get(group, ())
        ]
        if changed:
            raise InputError(f"{output} holds a run with other settings ({'; '.join(changed)}); choose another output")
        if self.detectors and self.detectors != now.detectors:
            raise InputError(
                f"{output} holds a run on {crop_name(self.detectors)}, and the face index of "
                f"{now.settings['data']['root']} now gives {crop_name(now.detectors)}; choose another output"
            )


def save_checkpoint(output: Path, state: RunState, step: TrainingStep, processes: Processes) -> None:
    """Write a checkpoint of the run in `output`, and remove all but the `KEEP` newest; all processes together.

    Raises:
        InputError: the disk is full, or the directory of checkpoints is not writable.
    """
    final = output / TRAINING_STATES / f"epoch-{state.epoch:04d}-step-{state.step:08d}"
    partial = final.with_name(final.name + _PARTIAL)
    if processes.is_main:
        for left_over in final.parent.glob("*" + _PARTIAL):
            _delete(left_over)
        partial.mkdir(parents=True)
    processes.barrier()
    tensors = _run_tensors(step) | _random_state(step.device, processes)
    with _as_input_error(OSError, f"checkpoint {final}: cannot be written", "earlier checkpoints are kept"):
        dcp.save(tensors, storage_writer=dcp.FileSystemWriter(partial), no_dist=not processes.is_distributed)
    if processes.is_main:
        _write(partial / _RUN_STATE, json.dumps(asdict(state), indent=1))
        if final.exists():  # from a run that was resumed from an older checkpoint
            _remove(final)
        os.replace(partial, final)
        _flush(final.parent)
        for outdated in _checkpoints(output)[:-KEEP]:
            _remove(outdated)
    processes.barrier()


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint after renaming it, so that a half-deleted one never looks complete."""
    outdated = checkpoint.with_name(checkpoint.name + ".outdated" + _PARTIAL)
    os.replace(checkpoint, outdated)
    _delete(outdated)


def _delete(path: Path) -> None:
    """Delete a directory, a file or a link; what a link names stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def newest_checkpoint(output: Path, processes: Processes) -> tuple[Path, RunState] | None:
    """Return the newest complete checkpoint of the run in `output`, the same in all processes; None for a new run.

    Raises:
        InputError: its run.json cannot be read, or is not a run's state.
    """
    found = _checkpoints(output)
    checkpoint = processes.broadcast(found[-1] if found else None)
    if checkpoint is None:
        return None
    try:
        return checkpoint, read_json(checkpoint / _RUN_STATE, RunState, max_bytes=MAX_RUN_STATE_BYTES)
    except InputError as error:
        raise InputError(f"{error}; delete {checkpoint} to use the one before it") from error


def load_checkpoint(checkpoint: Path, step: TrainingStep, processes: Processes) -> None:
    """Read a checkpoint into the model, the optimizer, the loss scale, the counters and the random state.

    Raises:
        InputError: it cannot be read.
    """
    tensors = _run_tensors(step)
    random = _random_state(step.device, processes)
    with _as_input_error(Exception, f"checkpoint {checkpoint}: cannot be read", "delete it to use the one before it"):
        reader = _TensorReader(checkpoint)
        # A checkpoint of fewer processes has no random state of this one: it keeps that of its seed.
        stored = reader.read_metadata().state_dict_metadata
        random = {name: tensor for name, tensor in random.items() if name in stored}
        dcp.load(tensors | random, storage_reader=reader, no_dist=not processes.is_distributed)
    for name, state in random.items():
        if name.startswith("random.cuda"):
            torch.cuda.set_rng_state(state, step.device)
        else:
            torch.set_rng_state(state)


class _TensorReader(dcp.FileSystemReader):
    """A reader of tensors alone, by which no code in a checkpoint is run.

    DCP keeps its metadata as a pickle and reads whatever it lists as another object than a tensor by torch.load without
    `weights_only`: each would run the code of a file.
    """

    def read_metadata(self, *arguments: Any, **options: Any) -> Metadata:
        """Return the metadata.

        Raises:
            InputError: it is larger than that of a checkpoint.
            pickle.UnpicklingError: it holds something else than the metadata of tensors.
        """
        # The superclass sets what depends on the reader.
        found = _MetadataUnpickler(io.BytesIO(read_bytes(Path(self.path, ".metadata"), MAX_METADATA_BYTES))).load()
        if not isinstance(found, Metadata) or not isinstance(found.state_dict_metadata, dict):
            raise pickle.UnpicklingError(f"{type(found).__name__} instead of the metadata of tensors")
        for name, item in found.state_dict_metadata.items():
            if not isinstance(item, TensorStorageMetadata):
                raise pickle.UnpicklingError(f"{name} is {type(item).__name__} instead of a tensor")
        for stored in found.storage_data.values():
            if Path(stored.relative_path).name != stored.relative_path:
                raise pickle.UnpicklingError(f"{stored.relative_path!r} is no file of the checkpoint")
        found.storage_meta = dcp.metadata.StorageMeta(load_id=self.load_id)
        return found


# By module: what the metadata of tensors consists of.
_METADATA_CLASSES = {
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))},
    "pathlib": {"PosixPath"},
}


class _MetadataUnpickler(pickle.Unpickler):
    """An unpickler that knows the classes of DCP's metadata and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class of the metadata."""
        if name not in _METADATA_CLASSES.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a checkpoint")
        return super().find_class(module, name)


@contextlib.contextmanager
def _as_input_error(kind: type[Exception], what: str, advice: str) -> Iterator[None]:
    """Turn an error of a kind, also one that DCP collected from all processes, into an InputError."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # expected with a single process
            yield
    except (Exception, dcp.api.CheckpointException) as error:
        cause: BaseException = error
        if isinstance(error, dcp.api.CheckpointException):
            cause, _ = next(iter(error.failures.values()))
        if isinstance(cause, KeyboardInterrupt):  # DCP reports Ctrl-C and SIGTERM as failures of the checkpoint
            raise cause from error
        if not isinstance(cause, kind):
            raise
        # The first sentence: torch.load goes on with the advice to run the file's code.
        first = [line.split(". ")[0].removesuffix(".") for line in str(cause).splitlines()[:1]]
        reason = " ".join([f"{type(cause).__name__}:", *first]).removesuffix(":")
        raise InputError(f"{what} ({reason}); {advice}") from error


def _run_tensors(step: TrainingStep) -> dict[str, Any]:
    """Return the tensors of the run, not copies: loading a checkpoint fills them in place."""
    optimizer = {name: step.optimizer.state[p] for name, p in step.model.named_parameters()}
    groups = {
        "model": step.model.state_dict(),
        "optimizer": {f"{name}.{key}": value for name, state in optimizer.items() for key, value in state.items()},
        "loss_scale": step.loss_scale.state(),
        "progress": {"counters": step.counters},
        "average": step.average.state() if step.average else {},
    }
    return {f"{group}.{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}


def _random_state(device: torch.device, processes: Processes) -> dict[str, Tensor]:
    state = {f"random.cpu.{processes.rank}": torch.get_rng_state()}
    if device.type == "cuda":
        state[f"random.cuda.{processes.rank}"] = torch.cuda.get_rng_state(device)
    return state


def _checkpoints(output: Path) -> list[Path]:
    """Return the complete checkpoints, oldest first."""
    found = (output / TRAINING_STATES).glob("epoch-*-step-*")
    return sorted(path for path in found if not path.name.endswith(_PARTIAL))


def _write(path: Path, text: str) -> None:
    with writing(path), path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    _flush(path.parent)


def _flush(directory: Path) -> None:
    """Flush a directory entry to the disk (fsync)."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
