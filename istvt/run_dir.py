"""Files of a run: model file, checkpoints, lock. Imports no PyTorch, which takes seconds."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from dataloading.errors import InputError
from dataloading.io import locked

MODEL_FILE = "best.safetensors"
HUB_MODEL_FILE = "model.safetensors"  # of a model repository, and of a copy of one on the disk
TRAINING_STATES = "checkpoints"
_LOCK_FILE = "run.lock"


def model_file(checkpoint: str | Path) -> Path:
    """Return the model file of a path: the file itself, or that of the run whose directory it is.

    Raises:
        InputError: there is no such file, or it is a checkpoint of training.
    """
    path = Path(checkpoint)
    if (path / HUB_MODEL_FILE).is_file() and not (path / MODEL_FILE).exists():
        return path / HUB_MODEL_FILE
    if path.is_dir() and not (path / MODEL_FILE).is_file():
        states = next((place for place in (path, path.parent) if place.name == TRAINING_STATES), None)
        if states is not None:
            raise InputError(
                f"checkpoint {path}: is a training checkpoint, not a model file; give the run's "
                f"directory, {states.parent}"
            )
    if path.is_dir():
        path = path / MODEL_FILE
        if not path.is_file():
            raise InputError(
                f"checkpoint {checkpoint}: holds no {MODEL_FILE}; expected the directory of a training run"
            )
    if not path.is_file():
        raise InputError(f"checkpoint {path}: no such file; expected a training run, or its {MODEL_FILE}")
    return path


def output_directory(path: str | Path) -> Path:
    """Return the directory, created if it does not exist.

    Raises:
        InputError: it cannot be created, or is not writable.
    """
    path = Path(path)
    if path.is_file():
        raise InputError(f"{path} is a file; expected a directory")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be created ({error.strerror}); expected a writable directory") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"{path} is not writable (Permission denied); expected a writable directory")
    return path


def only_run(output: Path) -> AbstractContextManager[None]:
    """Lock `output`, created if it does not exist, against other runs for as long as the context lasts.

    Raises:
        InputError: another process has the lock.
    """
    return locked(
        output_directory(output) / _LOCK_FILE, f"writing to {output}; wait for it, or choose another --output"
    )
