"""Where measurements lie: a folder with ``environment.json`` and one CSV a table.

An empty cell is a number that was not measured; the row says why in its ``note``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.environment import environment, slug

RESULTS = Path(__file__).resolve().parent / "results"
ENVIRONMENT = "environment.json"

Row = dict[str, Any]


@dataclass(frozen=True)
class Recording:
    """One folder of measurements as it was read: what they were made on, and the rows of each table by its name."""

    folder: Path
    environment: dict[str, Any]
    tables: dict[str, list[dict[str, str]]]

    @property
    def is_gpu(self) -> bool:
        """Whether a GPU was measured."""
        return self.environment["kind"] == "GPU"


def new_folder(name: str, root: Path = RESULTS, commit: str | None = None) -> Path:
    """Make ``<root>/<device>/<date>-<name>`` with its environment.json and return it."""
    found = environment(commit)
    stamp = found["date"].replace(":", "").replace("-", "").replace("+0000", "").lower()
    return prepare_folder(root / slug(found["device"]) / f"{stamp}-{slug(name)}", found)


def prepare_folder(folder: Path, found: dict[str, Any]) -> Path:
    """Make a folder that holds what was measured in ``found``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ENVIRONMENT).write_text(json.dumps(found, indent=1) + "\n")
    return folder


def write_table(folder: Path, name: str, rows: Iterable[Row]) -> Path:
    """Write ``<folder>/<name>.csv``; columns are the keys in the order in which they first appear."""
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    path = folder / f"{name}.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _text(value) for key, value in row.items()} for row in rows)
    return path


def read_folder(folder: Path) -> Recording:
    """Read what :func:`write_table` left.

    Raises:
        FileNotFoundError: the folder holds no environment.json: one would not know what was measured.
    """
    path = folder / ENVIRONMENT
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {ENVIRONMENT}; it is not a folder of measurements.")
    tables = {}
    for table in sorted(folder.glob("*.csv")):
        with table.open(newline="") as file:
            tables[table.stem] = list(csv.DictReader(file))
    return Recording(folder, json.loads(path.read_text()), tables)


def recordings(folders: Sequence[Path]) -> list[Recording]:
    """Every folder of measurements in or below ``folders``, the newest last."""
    found = {path.parent for folder in folders for path in [*folder.glob(ENVIRONMENT), *folder.rglob(ENVIRONMENT)]}
    return sorted((read_folder(folder) for folder in found), key=lambda one: one.environment["date"])


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
