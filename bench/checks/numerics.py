"""Compare every kernel with float64 and with eager PyTorch in the same dtype.

In float32, float16 and bfloat16, on a GPU where there is one (real shapes) and in Triton's interpreter otherwise (tiny
shapes; its products are exact, so tf32 is not seen there). A kernel holds when its relative Frobenius error against
float64 is at most 1.5 times that of eager PyTorch, forward and every gradient. Nearly all of the time is compilation,
so cases run in several processes; records are printed and written as they come, those of the shapes that matter most
first. Exit status 1 if a comparison does not hold or a case could not run. Needs torch, triton and numpy.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import time
from collections.abc import Iterator

import torch

from bench.checks import cases
from bench.checks.cases import OPERATIONS
from bench.checks.error_bound import FAILS, HOLDS, NumericsCase, compare
from bench.common.environment import gpu_or_interpreter
from bench.common.process_pool import run_tasks
from bench.common.record import Row, add_output, output_folder, write_as_measured
from bench.common.table import Column, cells
from kernels.common import launch

COLUMNS = (
    *map(Column, ("kernel", "mode", "dtype", "shape", "quantity")),
    Column("error", form=".1e"), Column("eager", form=".1e"), Column("ratio"), Column("verdict"),
)  # fmt: skip
_LINE = "{:<21}  {:<18}  {:<8}  {:<32}  {:<14}  {:>7}  {:>7}  {:>6}  {}"
NOT_RUN = "not run"
SECONDS_A_CASE = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which operations, for how long."""
    parser.add_argument("--operation", action="append", choices=OPERATIONS, help="only this one (repeatable)")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds after which nothing more is awaited")
    parser.add_argument("--processes", type=int, help="how many cases at once (default: one a core, at most 12)")
    add_output(parser, "none, rows are only printed")


def run(arguments: argparse.Namespace) -> int:
    """Print and write the records; 1 if a comparison does not hold or a case did not run."""
    where = torch.cuda.get_device_name() if gpu_or_interpreter() == "cuda" else "Triton's interpreter"
    if arguments.output:
        output_folder(arguments.output, "numerics", arguments.commit)
    print(_LINE.format(*(column.title for column in COLUMNS)), flush=True)
    rows = write_as_measured(arguments.output, "numerics", _measure(arguments))
    count = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in (HOLDS, FAILS, NOT_RUN)}
    omitted = f", {count[NOT_RUN]} cases not run" if count[NOT_RUN] else ""
    print(f"\n{count[HOLDS] + count[FAILS]} comparisons on {where}, {count[FAILS]} failed{omitted}.")
    return 0 if count[HOLDS] == len(rows) else 1


def _measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Print and yield the records of all cases as they end: the first case of every operation, then the second, ..."""
    columns = ([(name, number) for number in range(len(_cases(name)))] for name in arguments.operation or OPERATIONS)
    tasks = [task for line in itertools.zip_longest(*columns) for task in line if task is not None]
    processes = arguments.processes or min(os.cpu_count() or 1, 12)
    started = time.monotonic()
    outcomes = run_tasks(compare_case, tasks, processes, SECONDS_A_CASE, arguments.budget)
    for number, outcome in enumerate(outcomes, 1):
        failed = {"verdict": FAILS if outcome.in_time else NOT_RUN, "note": outcome.failure}
        for row in [_described(outcome.task) | failed] if outcome.failure else outcome.result:
            print(_LINE.format(*cells(COLUMNS, row)), row.get("note", ""), flush=True)
            yield row
        spent = time.monotonic() - started
        left = spent / number * (len(tasks) - number)
        print(f"{number}/{len(tasks)} cases, {spent:.0f} s, about {left:.0f} s left", file=sys.stderr, flush=True)


def _cases(operation: str) -> list[NumericsCase]:
    small = launch.interpreted()
    return cases.numerics(operation, torch.device("cpu" if small else "cuda"), small)


def _described(task: tuple[str, int]) -> Row:
    case = _cases(task[0])[task[1]]
    dtype = str(case.dtype).removeprefix("torch.")
    return {"kernel": case.operation, "mode": case.mode, "dtype": dtype, "shape": case.shape}


def compare_case(task: tuple[str, int]) -> list[Row]:
    """Return the records of a case: (operation, number of its case)."""
    return [_described(task) | row for row in compare(_cases(task[0])[task[1]])]
