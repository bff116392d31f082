"""One process at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from dataloading.errors import InputError


@contextlib.contextmanager
def locked(file: Path, doing: str) -> Iterator[None]:
    """Keeps other processes out for as long as the context lasts.

    The lock is the system's, on an open file: however this process ends, the lock ends with it. The file stays.

    Args:
        file: The file of the lock, in a directory that is there.
        doing: What the one that has the lock does, for the sentence that refuses others.

    Raises:
        InputError: Another process has the lock.
    """
    with file.open("a+") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            opened.seek(0)
            process = opened.read().strip() or "unknown"
            raise InputError(f"another run (process {process}) is {doing}") from error
        except OSError:
            pass  # a file system without locks: two runs are not noticed there, and one works
        else:
            opened.truncate(0)
            opened.write(f"{os.getpid()}\n")
            opened.flush()
        yield
