"""One run writes to a directory at a time."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from dataloading.lock import locked
from istvt.output import output_directory

FILE_NAME = "run.lock"


def only_run(output: Path) -> AbstractContextManager[None]:
    """Keep other runs out of `output`, which is made where it is not there, for as long as the context lasts.

    Raises:
        InputError: another process has the lock.
    """
    return locked(output_directory(output) / FILE_NAME, f"writing to {output}; wait for it, or choose another --output")
