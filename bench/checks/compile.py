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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from triton import Config

from bench.checks.cases import ARCHITECTURES, OPERATIONS, CompileCase, module
from bench.checks.sass import SHARED_MEMORY, Resources, compile_launch
from bench.common.process_pool import Outcome, run_tasks
from bench.common.table import format_table
from kernels.common.launch import Launch, recorded

SECONDS_A_CASE = 300.0

Task = tuple[str, int, int]  # operation, number of its case, architecture


@dataclass(frozen=True)
class Report:
    """One launch compiled for one architecture, and what is wrong with it (nothing, one hopes).

    Of a case that was not compiled there is one without a kernel, and why.
    """

    case: str
    architecture: int
    kernel: str = "-"
    config: Config | None = None
    resources: Resources | None = None
    traffic: tuple[float, float] | None = None
    faults: list[str] = field(default_factory=list)


def tasks(
    operations: Iterable[str] = OPERATIONS, architectures: Iterable[int] = ARCHITECTURES, everything: bool = False
) -> list[Task]:
    """The cases of `operations`, each for those of `architectures` that it names.

    `everything` takes each case for all `architectures`.
    """
    return [
        (operation, index, architecture)
        for operation in operations
        for index, case in enumerate(module(operation).compiled())
        for architecture in architectures
        if architecture in case.architectures or (everything and architecture not in case.beyond)
    ]


def compile_all(
    tasks: list[Task], processes: int | None = None, seconds_each: float = SECONDS_A_CASE
) -> Iterator[tuple[Task, list[Report]]]:
    """Compile in `processes` processes (one a core, at most 8); yields each task as it ends, with its launches."""
    processes = processes or min(os.cpu_count() or 1, 8)
    for outcome in run_tasks(compile_case, tasks, processes, seconds_each, math.inf):
        yield outcome.task, outcome.result or [_not_compiled(outcome)]


def _not_compiled(outcome: Outcome) -> Report:
    operation, index, architecture = outcome.task
    return Report(module(operation).compiled()[index].name, architecture, faults=[outcome.failure])


def compile_case(task: Task) -> list[Report]:
    """Every launch of one case, compiled and judged."""
    operation, index, architecture = task
    case = module(operation).compiled()[index]
    return [judge(case, launch, architecture) for launch in launches_of(case, architecture)]


def launches_of(case: CompileCase, architecture: int) -> list[Launch]:
    """What the case starts on that architecture."""
    with recorded(architecture) as launches:
        case.start()
    return launches


def judge(case: CompileCase, launch: Launch, architecture: int) -> Report:
    """One launch of the case, compiled and judged."""
    resources = compile_launch(launch, architecture)
    tile = case.tile_bytes(launch)
    traffic = tile and (resources.loaded_bytes / tile[0], resources.stored_bytes / tile[1])
    faults = _faults(resources, case.allowed_spill(launch, architecture), case.narrowest_load)
    if case.needs_tensor_cores(launch) and not resources.matrix_instructions:
        faults.append("no tensor-core instruction")
    if traffic and max(traffic) > 1:
        faults.append(f"moves its tile {max(traffic):.2f} times")
    return Report(case.name, architecture, launch.kernel.fn.__name__, launch.config, resources, traffic, faults)


def _faults(resources: Resources, allowed_spill: int, narrowest_load: int) -> list[str]:
    faults = []
    if resources.spilled_bytes > allowed_spill:
        faults.append(f"spills {resources.spilled_bytes} bytes, {allowed_spill} allowed")
    if resources.narrowest_load < narrowest_load:
        faults.append(f"loads {resources.narrowest_load} bits at a time")
    limit = SHARED_MEMORY[resources.architecture]
    if resources.shared_bytes > limit:
        faults.append(f"asks for {resources.shared_bytes} bytes of shared memory, the chip has {limit}")
    return faults


HEADER = (
    "kernel", "case", "sm", "rows", "warps", "registers", "spill B", "shared B", "loads bits:n", "stores bits:n",
    "tensor core", "load/tile", "store/tile", "verdict",
)  # fmt: skip


def row(report: Report) -> tuple[object, ...]:
    """One line of the table."""
    verdict = "; ".join(report.faults) or "ok"
    resources, config = report.resources, report.config
    if resources is None or config is None:
        return (report.kernel, report.case, report.architecture, *["-"] * (len(HEADER) - 4), verdict)
    traffic = ["-", "-"] if report.traffic is None else [f"{x:.2f}" for x in report.traffic]
    return (
        report.kernel,
        report.case,
        report.architecture,
        config.kwargs.get("BLOCK_M", 1),
        config.num_warps,
        resources.registers,
        resources.spilled_bytes,
        resources.shared_bytes,
        " ".join(f"{bits}:{count}" for bits, count in sorted(resources.loads.items())),
        " ".join(f"{bits}:{count}" for bits, count in sorted(resources.stores.items())),
        resources.matrix_instructions,
        *traffic,
        verdict,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which operations, for which chips."""
    parser.add_argument("--operation", action="append", choices=OPERATIONS, help="only this one (repeatable)")
    parser.add_argument(
        "--sm", action="append", type=int, choices=ARCHITECTURES, help="only this architecture (repeatable)"
    )
    parser.add_argument("--everything", action="store_true", help="every case for every architecture (minutes)")
    parser.add_argument("--workers", type=int, help="processes (default: one a core, at most 8)")


def run(arguments: argparse.Namespace) -> int:
    """Print the table; 1 if a report has a fault."""
    wanted = tasks(arguments.operation or OPERATIONS, arguments.sm or ARCHITECTURES, arguments.everything)
    done: dict[Task, list[Report]] = {}
    for task, reports in compile_all(wanted, arguments.workers):
        done[task] = reports
        print(f"{len(done)}/{len(wanted)} cases", file=sys.stderr, flush=True)
    found = [report for task in wanted for report in done[task]]
    print(format_table(HEADER, [row(report) for report in found]))
    faulty = sum(bool(report.faults) for report in found)
    print(f"\n{len(found)} compiled launches, {faulty} with a fault.")
    return 1 if faulty else 0
