"""Files that are there whole or not at all, whenever a run is killed or the disk is full."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataloading.errors import writing


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives the temporary path under which to write a file; after the context it stands at `path`.

    The temporary file is hidden and beside the place: of a set's videos it is none, and a killed run's is overwritten.
    Where `path` is a link, the file that it names is replaced. Where the context ends in an error, the temporary file
    is removed and what was at `path` stays.

    Raises:
        OSError: the file cannot be written; it names `path`.
    """
    path = Path(path)
    final = path.resolve()
    temporary = final.with_name(f".{final.name}.partial")
    try:
        with writing(path):
            yield temporary
            os.replace(temporary, final)
    except OSError as error:
        if error.filename == str(temporary):
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):  # the error of the context says more
            temporary.unlink(missing_ok=True)


def write_json(path: str | Path, values: Any) -> None:
    """Write values as indented JSON in UTF-8, whole or not at all; a number that is not finite is a ValueError."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
