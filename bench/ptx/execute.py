"""Compare every compiled kernel with float64 and with eager PyTorch in the same dtype, without a GPU.

The cases, the criterion and the records of `bench numerics`, on what Triton compiles for sm_80 and sm_90: tensor cores,
asynchronous copies and barriers, executed on a CPU with every access checked. A case fails where its error is more than
1.5 times that of eager PyTorch, where an access is out of bounds, unordered or uninitialized, and with --repeat where
another order of programs and warps gives other bits. Exit status 1 if one fails or could not run. See docs/ptx.md.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from bench.checks import cases, numerics
from bench.checks.cases import OPERATIONS
from bench.checks.error_bound import FAILS, NumericsCase, compare
from bench.checks.numerics import interleaved, run_checks
from bench.common.record import Row, pattern
from bench.ptx.library import library
from bench.ptx.machine import ARCHITECTURES, Machine, Options
from dataloading.errors import InputError

DTYPES = ("float32", "float16", "bfloat16")
# Shapes by set and operation; sizes as the modules of `bench/checks/cases` list them.
SHAPES: dict[str, dict[str, cases.Shapes]] = {
    # One odd shape an operation: every kernel in every dtype and mode, in a minute.
    "small": {
        "layer_norm_difference": [(1, 3, 5, 91)],
        "temporal_attention": [(1, 5, 11, 2, 40)],
        "spatial_attention": [(1, 2, 37, 2, 40)],
        "relevance": [(1, 3, 19, 2, 24)],
    },
    # The paper's size, in as few clips (of spatial attention: frame rows) as show the same code, and others like it.
    "paper": {
        "layer_norm_difference": [
            (1, 7, 362, 728), (2, 7, 101, 91), (1, 2, 50, 512), (1, 65, 26, 2912), (3, 17, 401, 64),
        ],
        "temporal_attention": [
            (1, 7, 362, 8, 96), (1, 7, 362, 8, 64), (1, 7, 362, 8, 91), (1, 7, 362, 8, 96, 1), (2, 2, 50, 3, 8),
            (1, 17, 101, 2, 128), (1, 33, 26, 2, 40), (1, 65, 10, 2, 64), (1, 128, 5, 2, 96),
        ],
        "spatial_attention": [
            (1, 2, 362, 8, 96), (1, 2, 362, 8, 64), (1, 2, 362, 8, 91), (1, 2, 362, 4, 128), (2, 1, 362, 8, 96, 1),
            (1, 2, 50, 3, 8), (1, 3, 1, 2, 16), (1, 1, 257, 2, 40, 129), (1, 1, 1024, 1, 64),
            (1, 6, 362, 8, 64),  # as many programs as make one backward pass of two
        ],
        "relevance": [
            (1, 2, 362, 8, 96), (1, 2, 362, 8, 64), (1, 2, 362, 8, 91), (1, 3, 50, 4, 128), (1, 2, 1, 2, 16),
            (1, 33, 26, 2, 40), (1, 7, 362, 2, 96),
        ],
    },
    # Sizes of 1, prime sizes, many frames, many positions, few queries.
    "odd": {
        "layer_norm_difference": [(1, 2, 1, 728), (1, 7, 700, 728), (1, 128, 49, 91), (1, 17, 49, 8192)],
        "temporal_attention": [
            (1, 2, 1, 8, 91), (1, 7, 49, 8, 91), (1, 7, 700, 2, 128), (1, 17, 49, 2, 96), (1, 128, 49, 1, 64),
            (1, 128, 3, 2, 96, 1), (1, 17, 1, 3, 8), (1, 2, 1, 1, 1, 1), (1, 7, 49, 3, 33), (1, 64, 9, 2, 128),
        ],
        "spatial_attention": [
            (1, 2, 1, 8, 91), (1, 7, 49, 8, 96), (1, 2, 700, 2, 91), (1, 1, 700, 2, 128), (1, 2, 49, 3, 8),
            (1, 1, 700, 2, 64, 1), (1, 17, 49, 1, 128, 16), (1, 1, 33, 1, 91, 17), (1, 2, 49, 3, 33), (1, 1, 128, 1, 1),
        ],
        "relevance": [(1, 7, 49, 2, 91), (1, 2, 700, 1, 96), (1, 17, 49, 1, 128), (1, 2, 1, 1, 8), (1, 3, 49, 2, 33)],
    },
    # One head of one frame row or of one position's frames, of the paper's size: see `bench.ptx.count`.
    "counted": {
        "layer_norm_difference": [(1, 7, 362, 728)],
        "temporal_attention": [(1, 7, 362, 1, 96), (1, 7, 362, 1, 64)],
        "spatial_attention": [(1, 1, 362, 1, 96), (1, 1, 362, 1, 64)],
        "relevance": [(1, 7, 362, 1, 96), (1, 1, 362, 1, 96), (1, 7, 362, 1, 64), (1, 1, 362, 1, 64)],
    },
}  # fmt: skip
_SECONDS_A_CASE = 900.0
NOT_THE_SAME = "not the same bits in another order of programs and warps"


@dataclass(frozen=True)
class Task:
    """One case: its number among those of a set and operation, on some architectures."""

    which: str
    operation: str
    number: int
    architectures: tuple[int, ...]
    repeat: bool
    threads: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which cases, and how they are run."""
    add_selection(parser)
    parser.add_argument("--which", default="paper", choices=("small", "paper", "odd"), help="shapes (default: paper)")
    parser.add_argument("--repeat", action="store_true", help="run again in another order of programs and warps")
    parser.add_argument(
        "--shape", type=pattern, default="", metavar="REGEX", help="of the shape, as the table prints it"
    )
    numerics.add_arguments(parser)


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the options that `execute` and `count` choose cases by."""
    choices = {"action": "append", "type": int, "choices": ARCHITECTURES}
    parser.add_argument("--sm", **choices, help="only this architecture (repeatable)")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="only this one (repeatable)")
    parser.add_argument("--match", type=pattern, default="", metavar="REGEX", help="of 'mode dtype shape'")


def run(arguments: argparse.Namespace) -> int:
    """Print and write the records; 1 if a case fails or did not run."""
    tasks = _tasks(arguments)
    library()  # compiled once, and not by several processes at a time
    what = "comparisons of compiled kernels"
    return run_checks("execute", what, execute_task, tasks, _described, arguments, _SECONDS_A_CASE)


def select(
    which: str, operation: str, dtypes: Sequence[str] | None = None, match: str = "", captures: Sequence[int] = (0, 4)
) -> dict[int, NumericsCase]:
    """Return the cases of a set, by number, whose dtype is among `dtypes` and whose 'mode dtype shape' matches."""
    found = cases.numerics(operation, torch.device("cpu"), True, SHAPES[which][operation], captures)
    return {
        number: case
        for number, case in enumerate(found)
        if _dtype(case) in (dtypes or DTYPES) and re.search(match, f"{case.mode} {_dtype(case)} {case.shape}")
    }


def _dtype(case: NumericsCase) -> str:
    return str(case.dtype).removeprefix("torch.")


def _tasks(arguments: argparse.Namespace) -> list[Task]:
    """Return the first case of every operation, then every second one, and so on."""
    columns = []
    for operation in arguments.operation or OPERATIONS:
        selected = select(arguments.which, operation, arguments.dtype, arguments.match)
        columns.append(
            [
                Task(arguments.which, operation, number, tuple(arguments.sm or ARCHITECTURES), arguments.repeat, 1)
                for number, case in selected.items()
                if re.search(arguments.shape, case.shape)
            ]
        )
    tasks = interleaved(columns)
    if not tasks:
        raise InputError(
            f"no case of --which {arguments.which} is left by --operation, --dtype, --match and --shape; expected one "
            "that `python -m bench execute` runs without them"
        )
    at_once = max(1, min(arguments.processes, len(tasks)))
    return [replace(task, threads=max(1, (os.cpu_count() or 1) // at_once)) for task in tasks]


def _described(task: Task) -> Row:
    case = select(task.which, task.operation)[task.number]
    sm = " ".join(map(str, task.architectures))
    return {"sm": sm, "kernel": case.operation, "mode": case.mode, "dtype": _dtype(case), "shape": case.shape}


def execute_task(task: Task) -> list[Row]:
    """Return the records of a case: a row for each quantity and architecture."""
    torch.set_num_threads(task.threads)
    case = select(task.which, task.operation)[task.number]
    # Neither depends on the architecture.
    case = replace(case, eager=functools.cache(case.eager), oracle=functools.cache(case.oracle))
    rows = []
    for architecture in task.architectures:
        machine = Machine(Options(architecture=architecture, threads=task.threads))
        described = _described(replace(task, architectures=(architecture,)))
        rows += [described | row for row in execute_case(case, machine, repeat=task.repeat)]
    return rows


def execute_case(case: NumericsCase, machine: Machine, *, repeat: bool) -> list[Row]:
    """Compare a case on compiled kernels; return its records, a fault or other bits among the failures.

    Args:
        case: its `kernel` is run on CPU tensors.
        machine: that executes it; its reports are those of this case afterwards.
        repeat: run it again in another order of programs and warps.
    """
    machine.reports.clear()
    results, run_kernel = [], case.kernel

    def kernel() -> dict[str, torch.Tensor]:
        with machine.takes_launches():
            results.append(run_kernel())
        return results[-1]

    case = replace(case, kernel=kernel, eager=functools.cache(case.eager), oracle=functools.cache(case.oracle))
    rows = compare(case)
    notes = []
    if repeat:
        machine.options.reverse = True
        compare(case)
        machine.options.reverse = False
        first, second = results
        if not all(torch.equal(torch.nan_to_num(first[name]), torch.nan_to_num(second[name])) for name in first):
            notes.append(NOT_THE_SAME)
    notes += dict.fromkeys(str(fault) for report in machine.reports for fault in report.faults)
    if not notes:
        return rows
    return [row | {"verdict": FAILS, "note": "; ".join(notes)[:500]} for row in rows]
