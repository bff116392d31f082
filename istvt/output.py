"""Where a command writes, made and looked at before the work whose result would be lost there."""

from __future__ import annotations

import os
from pathlib import Path

from dataloading.errors import InputError


def output_directory(path: str | Path) -> Path:
    """The directory, made where it is not there.

    Raises:
        InputError: it cannot be made, or nothing can be written in it.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be made ({error.strerror}); expected a directory to write in") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written in (Permission denied); expected a directory that can")
    return path
