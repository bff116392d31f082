"""The loop of every benchmark: one record after another, each written and printed as it comes.

A module that measures has `tasks(arguments)`, which yields a `Task` a record; `add_arguments(parser)` where it has
options of its own; `MILLISECONDS` where it times calls, the default of that time; and `conclude(tables, folder)`, the
exit status, where that is more than whether something was measured.
"""

import argparse
import contextlib
import math
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import triton

from bench.common import timing
from bench.common.record import (
    NOT_MEASURED,
    Row,
    add_output,
    at_least_one,
    failure,
    output_folder,
    record_table,
    write_table,
)
from kernels.common.launch import architecture, launch_options, recorded

STOPPED = f"{NOT_MEASURED}: the run was stopped before"
LATE = f"{NOT_MEASURED}: the time was used up"
OTHERS = "others"  # key under which what is measured holds records of other tables
NOT_RUN = "not run"  # verdict on a case that the time did not suffice for
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
    """Add the options that every module that measures has."""
    if milliseconds := getattr(module, "MILLISECONDS", None):
        parser.add_argument(
            "--milliseconds", type=at_least_one, default=milliseconds, help="time of a record (default: %(default)s)"
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
    return 0 if any(is_measured(row) for rows in tables.values() for row in rows) else 1


def is_measured(row: Row) -> bool:
    """Return whether a record holds a measurement; one of a method that refused or failed does not."""
    return not row.get("note", "").startswith(NOT_MEASURED) and row.get("verdict") != NOT_RUN


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
        count = compile_ahead((task.prepare for task, _ in records if task.prepare), budget / 2)
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


def compile_ahead(calls: Iterable[Callable[[], object]], seconds: float = math.inf) -> int:
    """Compile the kernels that `calls` launch, without launching one, and return how many these are.

    Each call runs once on tensors of the current GPU, and nothing may depend on its results. A call or kernel that
    fails, or is not begun within `seconds`, is left to the call that will need it, whose error says more.
    """
    deadline, cores = time.monotonic() + seconds, os.cpu_count() or 1
    free = BoundedSemaphore(cores)  # what waits for its turn could not be taken back

    def submit(compile_kernel: Callable[[], Any]) -> Future:
        free.acquire()
        future = pool.submit(compile_kernel)
        future.add_done_callback(lambda _: free.release())
        return future

    with ThreadPoolExecutor(cores) as pool:  # Triton and ptxas let other threads run meanwhile
        with triton.AsyncCompileMode(SimpleNamespace(submit=submit), ignore_errors=True) as mode:
            for call in calls:
                if time.monotonic() > deadline:
                    break
                with contextlib.suppress(Exception), recorded(architecture(torch.empty(0, device="cuda"))) as found:
                    call()
                    for launch in found:
                        launch.kernel.warmup(grid=(1,), **launch.arguments, **launch_options(launch.config))
        return len(mode.raw_futures)
