"""Compile every kernel and launch config ahead of time and print what the machine code uses.

No GPU is needed. For each architecture: registers, spilled bytes, shared memory, the width of loads and stores,
tensor-core instructions, and for kernels without loops the bytes that the load and store instructions of a program
move, over the bytes of its tile (1.00 means that each element is moved once). Exit status 1 if anything spills more
than its case allows, loads fewer than 4 bytes at a time, passes the shared memory of the chip or misses tensor cores
where they are due, or if a compiler crashes or hangs, which costs that case alone.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator

from bench.checks.cases import ARCHITECTURES, OPERATIONS, CompileCase, compiled
from bench.checks.sass import SHARED_MEMORY, Resources, compile_launch
from bench.common.process_pool import run_tasks
from bench.common.record import Row
from bench.common.table import Column, row_table
from kernels.common.launch import Launch, recorded

SECONDS_A_CASE = 300.0
NARROWEST_LOAD = 32  # bits
OK = "ok"
COLUMNS = tuple(map(Column, (
    "kernel", "case", "sm", "rows", "warps", "registers", "spill B", "shared B", "loads bits:n", "stores bits:n",
    "tensor core", "load/tile", "store/tile", "verdict",
)))  # fmt: skip

Task = tuple[str, int, int]  # operation, number of its case, architecture


def tasks(
    operations: Iterable[str] = OPERATIONS, architectures: Iterable[int] = ARCHITECTURES, everything: bool = False
) -> list[Task]:
    """Return the cases of `operations`, each for those of `architectures` that it names, or for all (`everything`)."""
    return [
        (operation, index, architecture)
        for operation in operations
        for index, case in enumerate(compiled(operation))
        for architecture in architectures
        if architecture in case.architectures or (everything and architecture not in case.beyond)
    ]


def compile_all(tasks: list[Task], processes: int | None = None) -> Iterator[tuple[Task, list[Row]]]:
    """Compile in `processes` processes (one a core, at most 8); yield each task as it ends, with a record a launch."""
    processes = processes or min(os.cpu_count() or 1, 8)
    for outcome in run_tasks(compile_case, tasks, processes, SECONDS_A_CASE, math.inf):
        operation, index, architecture = outcome.task
        failed = {"kernel": "-", "case": compiled(operation)[index].name, "sm": architecture}
        yield outcome.task, outcome.result or [failed | {"verdict": outcome.failure}]


def compile_case(task: Task) -> list[Row]:
    """Compile and judge every launch of one case."""
    operation, index, architecture = task
    case = compiled(operation)[index]
    return [judge(case, launch, architecture) for launch in launches_of(case, architecture)]


def launches_of(case: CompileCase, architecture: int) -> list[Launch]:
    """Return what the case starts on that architecture."""
    with recorded(architecture) as launches:
        case.start()
    return launches


def judge(case: CompileCase, launch: Launch, architecture: int) -> Row:
    """Compile one launch of the case; return what its machine code uses, and the verdict."""
    resources = compile_launch(launch, architecture)
    expected = case.expected(launch)
    verdict = faults(resources, expected.spill)
    if expected.tensor_cores and not resources.matrix_instructions:
        verdict.append("no tensor-core instruction")
    loaded, stored = None, None
    if tile := expected.tile_bytes:
        loaded, stored = (
            32 * launch.config.num_warps * sum(bits // 8 * count for bits, count in instructions.items()) / of_tile
            for instructions, of_tile in zip((resources.loads, resources.stores), tile, strict=True)
        )
        if max(loaded, stored) > 1:
            verdict.append(f"moves its tile {max(loaded, stored):.2f} times")
    return {
        "kernel": launch.kernel.fn.__name__, "case": case.name, "sm": architecture,
        "rows": launch.config.kwargs.get("BLOCK_M", 1), "warps": launch.config.num_warps,
        "registers": resources.registers, "spill B": resources.spilled_bytes, "shared B": resources.shared_bytes,
        "loads bits:n": _counts(resources.loads), "stores bits:n": _counts(resources.stores),
        "tensor core": resources.matrix_instructions,
        "load/tile": loaded, "store/tile": stored, "verdict": "; ".join(verdict) or OK,
    }  # fmt: skip


def _counts(instructions: Counter[int]) -> str:
    return " ".join(f"{bits}:{count}" for bits, count in sorted(instructions.items()))


def faults(resources: Resources, allowed_spill: int, narrowest_load: int = NARROWEST_LOAD) -> list[str]:
    """Return what is wrong with compiled code on its chip, in words."""
    found = []
    if resources.spilled_bytes > allowed_spill:
        found.append(f"spills {resources.spilled_bytes} bytes, {allowed_spill} allowed")
    if min(resources.loads, default=0) < narrowest_load:
        found.append(f"loads {min(resources.loads, default=0)} bits at a time")
    limit = SHARED_MEMORY[resources.architecture]
    if resources.shared_bytes > limit:
        found.append(f"asks for {resources.shared_bytes} bytes of shared memory, the chip has {limit}")
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which operations, for which chips."""
    parser.add_argument("--operation", action="append", choices=OPERATIONS, help="only this one (repeatable)")
    parser.add_argument(
        "--sm", action="append", type=int, choices=ARCHITECTURES, help="only this architecture (repeatable)"
    )
    parser.add_argument("--everything", action="store_true", help="every case for every architecture (minutes)")
    parser.add_argument("--workers", type=int, help="processes (default: one a core, at most 8)")


def run(arguments: argparse.Namespace) -> int:
    """Print the table; 1 if a launch has a fault."""
    wanted = tasks(arguments.operation or OPERATIONS, arguments.sm or ARCHITECTURES, arguments.everything)
    done: dict[Task, list[Row]] = {}
    for task, rows in compile_all(wanted, arguments.workers):
        done[task] = rows
        print(f"{len(done)}/{len(wanted)} cases", file=sys.stderr, flush=True)
    rows = [row for task in wanted for row in done[task]]
    print(row_table(COLUMNS, rows))
    faulty = sum(row["verdict"] != OK for row in rows)
    print(f"\n{len(rows)} compiled launches, {faulty} with a fault.")
    return 1 if faulty else 0
