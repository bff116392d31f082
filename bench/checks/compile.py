"""Compile every kernel and launch config ahead of time and print what the machine code uses.

No GPU is needed. For each architecture: registers, spilled bytes, shared memory, the width of loads and stores,
tensor-core instructions, and for kernels without loops the bytes that the load and store instructions of a program
move, over the bytes of its tile (1.00 means that each element is moved once). Exit status 1 if anything spills more
than its case allows, loads fewer than 4 bytes at a time, passes the shared memory of the chip or misses tensor cores
where they are due, or if a compiler crashes or hangs, which costs that case alone.
"""

import argparse

from bench.checks import numerics
from bench.checks.cases import ARCHITECTURES, OPERATIONS, CompileCase, compiled
from bench.checks.error_bound import HOLDS
from bench.checks.sass import SHARED_MEMORY, compile_launches
from bench.common.record import Row
from kernels.common.launch import Launch, recorded

SECONDS_A_CASE = 300.0

Task = tuple[str, int, int]  # operation, number of its case, architecture


def described(task: Task) -> Row:
    """Return what a record says of a task whose compiler crashed or hung."""
    operation, index, architecture = task
    return {"kernel": "-", "case": compiled(operation)[index].name, "sm": architecture}


def compile_case(task: Task) -> list[Row]:
    """Compile and judge every launch of one case."""
    operation, index, architecture = task
    case = compiled(operation)[index]
    with recorded(architecture) as launches:
        case.start()
    found = compile_launches(launches, architecture)
    return [judge(case, launch, used, architecture) for launch, used in zip(launches, found, strict=True)]


def judge(case: CompileCase, launch: Launch, used: Row, architecture: int) -> Row:
    """Return what the machine code of a launch of the case uses, and the verdict."""
    expected = case.expected(launch)
    verdict, moved = faults(used, architecture, expected.spill), {}
    if expected.tensor_cores and not used["tensor core"]:
        verdict.append("no tensor-core instruction")
    for which, of_tile in zip(("loads", "stores"), expected.tile_bytes or (), strict=False):
        count = sum(bits // 8 * count for bits, count in used[which].items())
        moved[f"{which}/tile"] = 32 * launch.config.num_warps * count / of_tile
    if max(moved.values(), default=0) > 1:
        verdict.append(f"moves its tile {max(moved.values()):.2f} times")
    instructions = {
        which: " ".join(f"{bits}:{count}" for bits, count in sorted(used[which].items()))
        for which in ("loads", "stores")
    }
    return {
        "kernel": launch.kernel.fn.__name__, "case": case.name, "sm": architecture,
        "rows": launch.config.kwargs.get("BLOCK_M", 1), "warps": launch.config.num_warps,
        **used, **instructions, **moved, "verdict": "; ".join(verdict) or HOLDS,
    }  # fmt: skip


def faults(used: Row, architecture: int, allowed_spill: int, narrowest_load: int = 32) -> list[str]:
    """Return what is wrong with what compiled code uses of its chip, in words; `narrowest_load` in bits."""
    found, narrowest = [], min(used["loads"], default=0)
    if used["spill B"] > allowed_spill:
        found.append(f"spills {used['spill B']} bytes, {allowed_spill} allowed")
    if narrowest < narrowest_load:
        found.append(f"loads {narrowest} bits at a time")
    if used["shared B"] > SHARED_MEMORY[architecture]:
        found.append(f"asks for {used['shared B']} bytes of shared memory, the chip has {SHARED_MEMORY[architecture]}")
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which operations, for which chips."""
    choices = {"action": "append", "type": int, "choices": ARCHITECTURES}
    parser.add_argument("--sm", **choices, help="only this architecture (repeatable)")
    numerics.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print and write the records; 1 if a launch has a fault."""
    tasks = [
        (operation, index, architecture)
        for operation in arguments.operation or OPERATIONS
        for index, case in enumerate(compiled(operation))
        for architecture in case.architectures
        if architecture in (arguments.sm or ARCHITECTURES)
    ]
    given = compile_case, tasks, described, arguments, SECONDS_A_CASE
    return numerics.run_checks("compile", "compiled launches", *given)
