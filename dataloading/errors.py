"""`InputError`, a user's mistake in one sentence, and what turns other errors into such sentences."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class InputError(ValueError):
    """A user's mistake, said in one sentence that names the file or argument and what was expected.

    The command line prints the sentence and exits with status 2; nothing is lost and no traceback is shown.
    """


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within it an error of the system that names no file, such as that of a full disk, names this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and not isinstance(error, BrokenPipeError):  # that is the terminal's
            error.filename = str(path)
        raise


@contextlib.contextmanager
def as_input_error() -> Iterator[None]:
    """Within it a ValueError is the user's mistake: put it around building settings and models, and nothing else."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error
