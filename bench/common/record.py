"""Records of measurements: a run is a folder with `environment.json` and one CSV file a table.

An empty cell is a number that was not measured; the record says why in its `note`. Files are replaced as a whole: a
benchmark that is killed while it writes leaves the table as it was before.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.common.environment import environment
from bench.common.table import Column, cells
from dataloading.errors import InputError
from dataloading.io import replacing, write_json

RESULTS = Path(__file__).resolve().parents[1] / "results"
ENVIRONMENT = "environment.json"
# How the note of a record begins that holds no measurement, and what a table shows in its place.
NOT_MEASURED = "not measured"

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Run:
    """One folder of measurements as it was read: what they were made on, and the rows of each table by its name."""

    folder: Path
    environment: dict[str, Any]
    tables: dict[str, list[dict[str, str]]]


def add_output(parser: argparse.ArgumentParser, default: str = "bench/results/<device>/...") -> None:
    """Add the options of every command that measures: where to, and of which code."""
    parser.add_argument("--output", type=Path, help=f"folder to write into (default: {default})")
    parser.add_argument("--commit", help="of the code, where this is a copy without its repository")


def output_folder(output: Path | None, name: str, commit: str | None = None) -> Path:
    """Return the folder a command writes into, with its environment.json.

    Args:
        output: the folder; None for `bench/results/<device>/<date>-<name>`.
        name: of the command.
        commit: of the code, where it is a copy without its repository.

    Raises:
        InputError: it cannot be written in, or holds measurements of another device, commit or version, to which new
            ones would be counted.
    """
    from istvt.run_dir import output_directory

    found = environment(commit)
    if output is None:
        device = re.sub(r"[^a-z0-9]+", "-", found["device"].lower()).strip("-")
        stamp = re.sub(r"[-:]|[+]00:00", "", found["date"]).lower()
        return prepare_folder(RESULTS / device / f"{stamp}-{name}", found)
    output_directory(output)
    if not (output / ENVIRONMENT).is_file():
        return prepare_folder(output, found)
    before = _read_environment(output / ENVIRONMENT)
    for key in ("device", "commit", "versions"):
        if before.get(key) != found[key]:
            raise InputError(
                f"--output {output}: holds measurements with {key} {before.get(key)}, and now it is {found[key]}; "
                "choose another folder" + (", or say --commit" if key == "commit" else "")
            )
    return output


def prepare_folder(folder: Path, found: dict[str, Any]) -> Path:
    """Make a folder that holds what was measured in the environment `found`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / ENVIRONMENT, found)
    return folder


def write_table(folder: Path, name: str, rows: Iterable[Row]) -> None:
    """Write `<folder>/<name>.csv`; columns are the keys in the order in which they first appear."""
    rows = [{key: f"{x:.6g}" if isinstance(x, float) else x for key, x in row.items()} for row in rows]
    columns = dict.fromkeys(key for row in rows for key in row)
    with replacing(folder / f"{name}.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_as_measured(folder: Path | None, name: str, rows: Iterable[Row], columns: Sequence[Column] = ()) -> list[Row]:
    """Write `<folder>/<name>.csv` after every record, so that a run cut short keeps what it measured; return all.

    Args:
        folder: None writes nothing.
        name: of the table.
        rows: records, measured while they are iterated over.
        columns: what is printed of each record as it comes.
    """
    measured: list[Row] = []
    for row in rows:
        measured.append(row)
        if columns:
            print("  ".join(cells(columns, row)), flush=True)
        if folder:
            write_table(folder, name, measured)
    return measured


def failure(error: Exception) -> str:
    """Return the note, one line, of a record whose measurement failed."""
    if isinstance(error, torch.OutOfMemoryError):
        return f"{NOT_MEASURED}: more memory than this GPU has"
    return f"{NOT_MEASURED}: {one_line(error)}"[:200]


def one_line(error: Exception) -> str:
    """Return the kind of an error and the first line of what it says."""
    said, *_ = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {said}"


def read_run(folder: Path, complain: Callable[[str], None] = print) -> Run:
    """Read what `write_table` left.

    Args:
        folder: of one run.
        complain: told in a sentence of each table, or part of one, that cannot be used and is left out.

    Raises:
        InputError: environment.json is not there or broken, so that what was measured is not known.
    """
    found, tables = _read_environment(folder / ENVIRONMENT), {}
    for table in sorted(folder.glob("*.csv")):
        try:
            whole, _, cut = table.read_text().rpartition("\n")  # the last number of a line that was cut may lack digits
            rows = list(csv.DictReader(io.StringIO(whole)))
        except (OSError, UnicodeError, csv.Error) as error:
            complain(f"{table}: cannot be read ({error}) and is left out.")
            continue
        tables[table.stem] = [row for row in rows if None not in row and None not in row.values()]
        if incomplete := len(rows) - len(tables[table.stem]) + bool(cut):
            complain(f"{table}: {incomplete} incomplete rows are left out.")
    return Run(folder, found, tables)


def read_runs(folders: Sequence[Path], complain: Callable[[str], None] = print) -> list[Run]:
    """Read every run in or below `folders`, the newest last; `complain` as in `read_run`."""
    runs = []
    for path in sorted({path for folder in folders for path in folder.rglob(ENVIRONMENT)}):
        try:
            runs.append(read_run(path.parent, complain))
        except InputError as error:
            complain(f"{error} It is left out.")
    return sorted(runs, key=lambda run: run.environment["date"])


def _read_environment(path: Path) -> dict[str, Any]:
    # By hand: a bare GPU machine has no validation library.
    if not path.is_file():
        raise InputError(f"{path.parent} has no {path.name}; it is not a folder of measurements.")
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}).") from error
    if not isinstance(found, dict) or any(not isinstance(found.get(key), str) for key in ("device", "kind", "date")):
        raise InputError(f"{path}: does not say which device was measured, of which kind, and when.")
    return found
