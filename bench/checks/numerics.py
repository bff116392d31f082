"""Compare every kernel with float64 and with eager PyTorch in the same dtype.

In float32, float16 and bfloat16, on a GPU where there is one (real shapes) and in Triton's interpreter otherwise (tiny
shapes; its products are exact, so tf32 is not seen there). A kernel holds when its relative Frobenius error against
float64 is at most 1.5 times that of eager PyTorch, forward and every gradient. Nearly all of the time is compilation,
so cases run in several processes; records are printed and written as they come, those of the shapes that matter most
first. Exit status 1 if a comparison does not hold or a case could not run. Needs torch, triton and numpy.
"""

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from bench.checks import cases
from bench.checks.cases import OPERATIONS
from bench.checks.error_bound import FAILS, HOLDS, NumericsCase, compare
from bench.common.environment import gpu_or_interpreter
from bench.common.process_pool import run_tasks
from bench.common.record import Row, add_output, cell, output_folder, write_as_measured
from kernels.common import launch

# What is printed of a record, and how wide.
WIDTHS = {
    "kernel": 21, "mode": 20, "dtype": 8, "shape": 32, "quantity": 14, "error": 9, "eager": 9, "ratio": 7, "verdict": 7,
    "note": 0,
}  # fmt: skip
NOT_RUN = "not run"
SECONDS_A_CASE = 120.0


def add_checking(parser: argparse.ArgumentParser) -> None:
    """Add which operations, for how long."""
    processes = min(os.cpu_count() or 1, 12)
    parser.add_argument("--operation", action="append", choices=OPERATIONS, help="only this one (repeatable)")
    parser.add_argument(
        "--processes", type=int, default=processes, help="how many cases at once (default: %(default)s)"
    )
    add_output(parser, "none, rows are only printed", budget=True)


add_arguments = add_checking


def run(arguments: argparse.Namespace) -> int:
    """Print and write the records; 1 if a comparison does not hold or a case did not run."""
    where = torch.cuda.get_device_name() if gpu_or_interpreter() == "cuda" else "Triton's interpreter"
    operations = arguments.operation or OPERATIONS
    tasks = interleaved([(name, number) for number in range(len(_cases(name)))] for name in operations)
    given = _described, WIDTHS, arguments, SECONDS_A_CASE
    return run_checks("numerics", f"comparisons on {where}", compare_case, tasks, *given)


def interleaved(columns: Iterable[Sequence[Any]]) -> list[Any]:
    """Return the first of every column, then every second one, and so on."""
    return [task for line in itertools.zip_longest(*columns) for task in line if task is not None]


def run_checks(
    name: str, what: str, work: Callable[[Any], list[Row]], tasks: Sequence[Any], described: Callable[[Any], Row],
    widths: Mapping[str, int], arguments: argparse.Namespace, seconds_a_case: float,
) -> int:  # fmt: skip
    """Check tasks in processes of their own, print and write their records as they end; return the exit status.

    `work` returns the records of a task, and `described` what one says of it where its process failed; `widths` are the
    columns that are printed. A task that takes more than `seconds_a_case` has failed. `what` the records are stands in
    the last line.
    """
    if arguments.output:
        output_folder(arguments.output, name, arguments.commit)

    def print_line(row: Row) -> None:
        print("  ".join(cell(row.get(key)).ljust(width) for key, width in widths.items()).rstrip(), flush=True)

    def checked() -> Iterator[Row]:
        started = time.monotonic()
        outcomes = run_tasks(work, tasks, arguments.processes, seconds_a_case, arguments.budget)
        for number, outcome in enumerate(outcomes, 1):
            failed = {"verdict": FAILS if outcome.in_time else NOT_RUN, "note": outcome.failure}
            for row in [described(outcome.task) | failed] if outcome.failure else outcome.result:
                print_line(row)
                yield row
            spent = time.monotonic() - started
            left = spent / number * (len(tasks) - number)
            print(f"{number}/{len(tasks)} cases, {spent:.0f} s, about {left:.0f} s left", file=sys.stderr, flush=True)

    print_line({key: key for key in widths})
    rows = write_as_measured(arguments.output, name, checked())
    held, omitted = (sum(row["verdict"] == verdict for row in rows) for verdict in (HOLDS, NOT_RUN))
    failed = len(rows) - held - omitted
    print(f"\n{held + failed} {what}, {failed} failed{f', {omitted} cases not run' if omitted else ''}.")
    return 0 if rows and held == len(rows) else 1


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
