"""Where the model file of a run is; found out without PyTorch, whose import takes seconds."""

from __future__ import annotations

from pathlib import Path

from dataloading.errors import InputError

FILE_NAME = "best.safetensors"
TRAINING_STATES = "checkpoints"


def model_file(checkpoint: str | Path) -> Path:
    """The model file that is meant: the file itself, or that of the run whose directory it is.

    Raises:
        InputError: there is no such file, or it is one of those from which training goes on.
    """
    path = Path(checkpoint)
    if path.is_dir() and not (path / FILE_NAME).is_file():
        states = next((place for place in (path, path.parent) if place.name == TRAINING_STATES), None)
        if states is not None:
            raise InputError(
                f"checkpoint {path}: holds what training needs to go on, which is no model file; give the run's "
                f"directory, {states.parent}"
            )
    if path.is_dir():
        path = path / FILE_NAME
    if not path.is_file():
        raise InputError(f"checkpoint {path}: no such file; expected the {FILE_NAME} of a training run")
    return path
