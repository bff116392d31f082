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
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from bench.checks import cases
from bench.checks.cases import OPERATIONS
from bench.checks.error_bound import FAILS, HOLDS, NumericsCase, compare
from bench.common.environment import gpu_or_interpreter
from bench.common.process_pool import USED_UP, run_tasks
from bench.common.record import Row, add_output, at_least_one, cell, record_table, write_as_measured
from bench.common.tasks import NOT_RUN
from kernels.common import launch

SECONDS_A_CASE = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which operations, for how long."""
    processes = min(os.cpu_count() or 1, 12)
    parser.add_argument("--operation", action="append", choices=OPERATIONS, help="only this one (repeatable)")
    parser.add_argument(
        "--processes", type=at_least_one, default=processes, help="how many cases at once (default: %(default)s)"
    )
    add_output(parser, "none, rows are only printed", budget=True)


def run(arguments: argparse.Namespace) -> int:
    """Print and write the records; 1 if a comparison does not hold or a case did not run."""
    where = torch.cuda.get_device_name() if gpu_or_interpreter() == "cuda" else "Triton's interpreter"
    columns = ([(name, at) for at in range(len(_cases(name)))] for name in arguments.operation or OPERATIONS)
    given = compare_case, interleaved(columns), _described, arguments, SECONDS_A_CASE
    return run_checks("numerics", f"comparisons on {where}", *given)


def interleaved(columns: Iterable[Sequence[Any]]) -> list[Any]:
    """Return the first of every column, then every second one, and so on."""
    return [task for line in itertools.zip_longest(*columns) for task in line if task is not None]


def run_checks(
    name: str, what: str, work: Callable[[Any], list[Row]], tasks: Sequence[Any], described: Callable[[Any], Row],
    arguments: argparse.Namespace, seconds_a_case: float,
) -> int:  # fmt: skip
    """Check tasks in processes of their own, print and write their records as they end; return the exit status.

    `work` returns the records of a task, and `described` what one says of it where its process failed. A task that
    takes more than `seconds_a_case` has failed. `what` the records are stands in the last line.
    """

    def checked() -> Iterator[Row]:
        started = time.monotonic()
        outcomes = run_tasks(work, tasks, arguments.processes, seconds_a_case, arguments.budget)
        for number, outcome in enumerate(outcomes, 1):
            failed = {"verdict": NOT_RUN if outcome.failure == USED_UP else FAILS, "note": outcome.failure}
            for row in [described(outcome.task) | failed] if outcome.failure else outcome.result:
                print(*map(cell, row.values()), flush=True)
                yield row
            spent = time.monotonic() - started
            left = spent / number * (len(tasks) - number)
            print(f"{number}/{len(tasks)} cases, {spent:.0f} s, about {left:.0f} s left", file=sys.stderr, flush=True)

    rows = write_as_measured(arguments, name, checked())
    held, omitted = (sum(row["verdict"] == verdict for row in rows) for verdict in (HOLDS, NOT_RUN))
    failed = len(rows) - held - omitted
    print(f"\n{name}: {record_table(rows)}")
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
