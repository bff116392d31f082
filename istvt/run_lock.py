"""One run writes to a directory at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from dataloading.errors import InputError

from .output import output_directory

FILE_NAME = "run.lock"


@contextlib.contextmanager
def only_run(output: Path) -> Iterator[None]:
    """Keep other runs out of `output`, which is made where it is not there, for as long as the context lasts.

    The lock is the system's, on an open file: however this process ends, the lock ends with it. The file stays.

    Raises:
        InputError: another process has the lock.
    """
    with (output_directory(output) / FILE_NAME).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            process = file.read().strip() or "unknown"
            raise InputError(
                f"another run (process {process}) is writing to {output}; wait for it, or choose another --output"
            ) from error
        except OSError:
            pass  # a file system without locks: two runs are not noticed there, and one works
        else:
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        yield
