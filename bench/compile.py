"""Compile every kernel and launch setting ahead of time and print what the machine code uses.

No GPU is needed. For each architecture: registers, spilled bytes, shared memory, the width of loads and stores,
tensor-core instructions, and for kernels without loops the bytes that the load and store instructions of a program
move, over the bytes of its tile (1.00 means that each element is moved once). Exit status 1 if anything spills more
than its case allows, loads fewer than 4 bytes at a time, passes the shared memory of the chip or misses tensor cores
where they are due.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bench.cases import ARCHITECTURES, OPERATIONS, module
from bench.resources import SHARED_MEMORY, Resources, compile_launch
from bench.table import format_table
from kernels.launch import Setting, recorded


@dataclass(frozen=True)
class Report:
    """One launch compiled for one architecture, and what is wrong with it (nothing, one hopes)."""

    operation: str
    case: str
    kernel: str
    setting: Setting
    resources: Resources
    traffic: tuple[float, float] | None
    faults: list[str] = field(default_factory=list)


def reports(
    operations: Iterable[str] = OPERATIONS,
    architectures: Iterable[int] = ARCHITECTURES,
    workers: int | None = None,
    everything: bool = False,
) -> Iterator[Report]:
    """Compile the cases of ``operations`` in ``workers`` processes, for those of ``architectures`` that each names.

    ``everything`` compiles each case for all ``architectures``.
    """
    tasks = [
        (operation, index, architecture)
        for operation in operations
        for index, case in enumerate(module(operation).compiled())
        for architecture in architectures
        if architecture in case.architectures or (everything and architecture not in case.beyond)
    ]
    with multiprocessing.get_context("spawn").Pool(workers or min(os.cpu_count() or 1, 8)) as pool:
        for done in pool.imap(_compile, tasks):
            yield from done


def _compile(task: tuple[str, int, int]) -> list[Report]:
    operation, index, architecture = task
    case = module(operation).compiled()[index]
    with recorded(architecture) as launches:
        case.start()
    found = []
    for launch in launches:
        resources = compile_launch(launch, architecture)
        tile = case.tile_bytes(launch)
        traffic = tile and (resources.loaded_bytes / tile[0], resources.stored_bytes / tile[1])
        faults = _faults(resources, case.allowed_spill(launch, architecture), case.narrowest_load)
        if case.needs_tensor_cores(launch) and not resources.matrix_instructions:
            faults.append("no tensor-core instruction")
        if traffic and max(traffic) > 1:
            faults.append(f"moves its tile {max(traffic):.2f} times")
        name = launch.kernel.fn.__name__
        found.append(Report(operation, case.name, name, launch.setting, resources, traffic, faults))
    return found


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
    resources = report.resources
    traffic = ["-", "-"] if report.traffic is None else [f"{x:.2f}" for x in report.traffic]
    return (
        report.kernel,
        report.case,
        resources.architecture,
        report.setting.rows,
        report.setting.num_warps,
        resources.registers,
        resources.spilled_bytes,
        resources.shared_bytes,
        " ".join(f"{bits}:{count}" for bits, count in sorted(resources.loads.items())),
        " ".join(f"{bits}:{count}" for bits, count in sorted(resources.stores.items())),
        resources.matrix_instructions,
        *traffic,
        "; ".join(report.faults) or "ok",
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
    done = list(
        reports(
            arguments.operation or OPERATIONS, arguments.sm or ARCHITECTURES, arguments.workers, arguments.everything
        )
    )
    print(format_table(HEADER, [row(report) for report in done]))
    faulty = sum(bool(report.faults) for report in done)
    print(f"\n{len(done)} compiled launches, {faulty} with a fault.")
    return 1 if faulty else 0
