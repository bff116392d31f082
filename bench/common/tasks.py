"""The loop of every benchmark: one record after another, each written and printed as it comes.

A module that measures has `tasks(arguments)`, which yields a `Task` a record; `add_arguments(parser)` where it has
options of its own; `MILLISECONDS` where it times calls, the default of that time; and `conclude(tables, folder)`, the
exit status, where that is more than whether something was measured.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from bench.common import ahead, timing
from bench.common.record import NOT_MEASURED, Row, add_output, failure, output_folder, record_table, write_table

STOPPED = f"{NOT_MEASURED}: the run was stopped before"
LATE = f"{NOT_MEASURED}: the time was used up"
OTHERS = "others"  # key under which what is measured holds records of other tables
BROKEN = f"{NOT_MEASURED}: an earlier error broke the GPU's context"


@dataclass(frozen=True)
class Task:
    """One record that is to be measured.

    Attributes:
        table: name of its CSV file.
        row: what is known of it before.
        measure: returns what is measured; what it raises becomes the record's note.
        prepare: launches kernels that are to be compiled ahead, several at a time.
    """

    table: str
    row: Row
    measure: Callable[[], Row]
    prepare: Callable[[], object] | None = None


def add_measuring(parser: argparse.ArgumentParser, module: ModuleType) -> None:
    """Add the options of a module that measures."""
    if hasattr(module, "add_arguments"):
        module.add_arguments(parser)
    if milliseconds := getattr(module, "MILLISECONDS", None):
        parser.add_argument(
            "--milliseconds", type=int, default=milliseconds, help="time of a record (default: %(default)s)"
        )
    add_output(parser, budget=True)


def run(name: str, module: ModuleType, arguments: argparse.Namespace) -> int:
    """Measure, write and print all records of the command `name`; return 1 if none was measured."""
    tasks = list(module.tasks(arguments))
    folder = output_folder(arguments.output, name, arguments.commit)
    tables = measure(folder, tasks, arguments.budget)
    print(f"\nwritten to {folder}")
    if hasattr(module, "conclude"):
        return module.conclude(tables, folder)
    return 1 if all(row.get("note", "").startswith(NOT_MEASURED) for rows in tables.values() for row in rows) else 0


def measure(folder: Path, tasks: Iterable[Task], budget: float = math.inf) -> dict[str, list[Row]]:
    """Measure, write and print the records of `tasks` in this order; return them by table.

    All are in their tables from the start, and one that is never reached says so: of a run that is killed as of one
    whose `budget` of seconds is used up, or whose GPU is broken by an error.
    """
    started, stop = time.monotonic(), ""
    tables: dict[str, list[Row]] = {}
    records = [(task, task.row | {"note": STOPPED}) for task in tasks]
    for task, row in records:
        tables.setdefault(task.table, []).append(row)
    for table, rows in tables.items():
        write_table(folder, table, rows)
    if torch.cuda.is_available():
        count = ahead.compile_ahead((task.prepare for task, _ in records if task.prepare), budget / 2)
        print(f"{count} kernels compiled in {time.monotonic() - started:.0f} s", flush=True)
    for number, (task, row) in enumerate(records, 1):
        stop = stop or (LATE if time.monotonic() - started > budget else "")
        if stop:
            row["note"] = stop
            continue
        try:
            found, note = task.measure(), ""
        except Exception as error:
            found, note = {}, failure(error)
        stop = "" if timing.let_go() else BROKEN
        del row["note"]
        row.update(found, note=found.get("note", note))
        others = row.pop(OTHERS, {})
        for table in (task.table, *others):
            tables.setdefault(table, []).extend(others.get(table, []))
            write_table(folder, table, tables[table])
        print(f"{number}/{len(records)} {task.table}:", *(x for x in row.values() if x is not None), flush=True)
    for table, rows in tables.items():
        write_table(folder, table, rows)
        print(f"\n{table}: {record_table(rows)}")
    return tables
