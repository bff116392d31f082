"""`InputError`, the error of invalid input, and context managers that turn other errors into one."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class InputError(ValueError):
    """Invalid input, in one sentence that names the file or argument and what was expected.

    The command line prints the sentence and exits with status 2; nothing is lost and no traceback is shown.
    """


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name this file in an OSError of the context that names none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None and not isinstance(error, BrokenPipeError):  # which is of stdout
            error.filename = str(path)
        raise


@contextlib.contextmanager
def as_input_error() -> Iterator[None]:
    """Turn a ValueError of the context into an InputError; for building settings and models, and nothing else."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from error
