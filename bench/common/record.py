"""Records of measurements: a run is a folder with `environment.json` and one CSV file a table.

An empty cell is a number that was not measured; the record says why in its `note`. Files are replaced as a whole: a
benchmark that is killed while it writes leaves the table as it was before.
"""

import argparse
import csv
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.common.environment import environment
from bench.common.process_pool import one_line
from dataloading.errors import InputError
from dataloading.io import replacing, write_json

RESULTS = Path(__file__).resolve().parents[1] / "results"
ENVIRONMENT = "environment.json"
# How the note of a record begins that holds no measurement, and what a table shows in its place.
NOT_MEASURED = "not measured"
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Run:
    """One folder of measurements as it was read: what they were made on, and the rows of each table by its name."""

    folder: Path
    environment: dict[str, Any]
    tables: dict[str, list[dict[str, str]]]


def add_output(
    parser: argparse.ArgumentParser, default: str = "bench/results/<device>/...", *, budget: bool = False
) -> None:
    """Add the options of commands that write records: where to, of which code, and with a `budget` for how long."""
    parser.add_argument("--output", type=Path, help=f"folder to write into (default: {default})")
    parser.add_argument("--commit", help="of the code, where this is a copy without its repository")
    if budget:
        parser.add_argument(
            "--budget", type=duration, default=math.inf, help="time after which nothing is begun, as 90s or 8m"
        )


def duration(text: str) -> float:
    """Return the seconds of a duration: `480`, `90s`, `8m` or `1h`.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; expected for example 480, 90s, 8m or 1h")
    return float(found[1]) * _UNITS[found[2]]


def at_least_one(text: str) -> int:
    """Return a whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not re.fullmatch(r"\d+", text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no count; expected a whole number of at least 1")
    return int(text)


def pattern(text: str) -> str:
    """Return a regular expression that compiles.

    Raises:
        argparse.ArgumentTypeError: it does not.
    """
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression ({error})") from error
    return text


def output_folder(output: Path | None, name: str, commit: str | None = None) -> Path:
    """Return the folder a command writes into, with its environment.json.

    Without `output` it is `bench/results/<device>/<date>-<name>`; `commit` is that of a copy without its repository.

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


def write_as_measured(arguments: argparse.Namespace, name: str, rows: Iterable[Row]) -> list[Row]:
    """Return all records of an iterator that measures; where there is an output, write `<name>.csv` after each."""
    folder = arguments.output and output_folder(arguments.output, name, arguments.commit)
    measured: list[Row] = []
    for row in rows:
        measured.append(row)
        if folder:
            write_table(folder, name, measured)
    return measured


def failure(error: Exception) -> str:
    """Return the note, one line, of a record whose measurement failed."""
    if isinstance(error, torch.OutOfMemoryError):
        return f"{NOT_MEASURED}: more memory than this GPU has"
    return f"{NOT_MEASURED}: {one_line(error)}"[:200]


def read_run(folder: Path) -> Run:
    """Read what `write_table` left.

    Raises:
        InputError: environment.json or a table is not there or broken, so that what was measured is not known.
    """
    found, tables = _read_environment(folder / ENVIRONMENT), {}
    for table in sorted(folder.glob("*.csv")):
        try:
            tables[table.stem] = list(csv.DictReader(table.read_text().splitlines()))
        except (OSError, UnicodeError, csv.Error) as error:
            raise InputError(f"{table}: cannot be read ({error}).") from error
        if any(None in row or None in row.values() for row in tables[table.stem]):
            raise InputError(f"{table}: rows have other numbers of cells than its header; copy it again.")
    return Run(folder, found, tables)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read every run in or below `folders`, the newest last; one that cannot be read is left out in a sentence."""
    runs = []
    for path in sorted({path for folder in folders for path in folder.rglob(ENVIRONMENT)}):
        try:
            runs.append(read_run(path.parent))
        except InputError as error:
            print(f"{error} It is left out.")
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


def record_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what records have in common, and a table of what differs."""
    keys = dict.fromkeys(key for row in rows for key in row)
    columns = {key: [cell(row.get(key)) for row in rows] for key in keys}
    common = {key for key, column in columns.items() if len(rows) > 1 and len(set(column)) == 1}
    caption = ", ".join(f"{key} {columns[key][0]}" for key in keys if key in common and columns[key][0])
    different = [key for key in keys if key not in common]
    return f"{caption}\n\n" + format_table(different, zip(*(columns[key] for key in different), strict=True))


def cell(value: Any) -> str:
    """Return a number with four digits, anything else as it is, nothing for None."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def format_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return columns as wide as their widest cell."""
    padded = []
    for title, *column in zip(header, *rows, strict=True):
        texts = [title, *map(str, column)]
        width = max(map(len, texts))
        padded.append([text.ljust(width) for text in (title, "-" * width, *texts[1:])])
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))
