"""Count the work of compiled kernels without a GPU: instructions, sectors, bank conflicts, tensor-core products.

Of each launch of a forward and a backward pass of one clip of the paper's size: warp instructions by class;
multiply-adds that tensor cores are given, over those that the mathematics asks for; sectors (32 bytes of global memory)
and wavefronts (128 bytes of shared memory) over the least that hold the bytes; bytes that are loaded, over the distinct
ones. With -v the lines of Python that cost most. A count is not a time: see docs/ptx.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from bench.checks.cases import OPERATIONS
from bench.common.record import Row, add_output, output_folder, write_as_measured
from bench.ptx.execute import add_selection, select
from bench.ptx.machine import ARCHITECTURES, Machine, Options, Report

# Of a kernel, or of a variant of it: products of queries, keys and head dimension that its mathematics asks for, and
# whether they are over frames (of a position) or over positions (of a frame).
PRODUCTS = {
    "tensor_core_forward": (2, "frames"), "tensor_core_backward": (5, "frames"),
    "spatial_forward": (2, "positions"), "spatial_backward": (5, "positions"),
    "spatial_backward_queries": (3, "positions"), "spatial_backward_keys": (4, "positions"),
    "spatial_row_stats": (1, "positions"),
    "spatial_relevance q": (4, "positions"), "spatial_relevance k": (4, "positions"),
    "spatial_relevance v": (2, "positions"), "spatial_map": (3, "positions"),
    "temporal_relevance": (6, "frames"), "temporal_map": (3, "frames"),
}  # fmt: skip
MODES = {"float32": "fused", "float16": "telescoped", "bfloat16": "telescoped"}  # the models' self-subtract
SECTOR_BYTES = 32
_SHARED = ("LDS", "LDMATRIX", "STS", "STMATRIX")
_GLOBAL = ("LDG", "STG", "CP_ASYNC")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which cases, and how much is said of each."""
    add_selection(parser)
    parser.add_argument("--operation", action="append", choices=OPERATIONS, help="only this one (repeatable)")
    parser.add_argument("--kernel", default="", help="only kernels whose name contains this")
    parser.add_argument("-v", "--verbose", action="store_true", help="the lines of Python that cost most")
    add_output(parser, "none, counts are only printed")


def run(arguments: argparse.Namespace) -> int:
    """Print and write the counts of each kind of launch; 1 if there is none."""
    if arguments.output:
        output_folder(arguments.output, "count", arguments.commit)
    return 0 if write_as_measured(arguments.output, "count", _measure(arguments)) else 1


def _measure(arguments: argparse.Namespace) -> Iterator[Row]:
    for architecture in arguments.sm or ARCHITECTURES:
        for operation in arguments.operation or OPERATIONS:
            dtypes = arguments.dtype or ("bfloat16", "float32")
            for case in select("counted", operation, dtypes, arguments.match, captures=()).values():
                dtype = str(case.dtype).removeprefix("torch.")
                if operation == "temporal_attention" and case.mode != MODES[dtype]:
                    continue
                for name, report in _reports(case, architecture):
                    if arguments.kernel in name:
                        row = {"sm": architecture, "kernel": name, "dtype": dtype, "shape": case.shape} | counts(
                            name, report
                        )
                        print(described(row, report, arguments.verbose), flush=True)
                        yield row


def _reports(case, architecture: int) -> Iterator[tuple[str, Report]]:
    """Yield the launches of a case, one of each kind."""
    machine = Machine(Options(architecture=architecture))
    with machine.takes_launches():
        case.kernel()
    seen = set()
    for report in machine.reports:
        name = " ".join(filter(None, (report.name, report.arguments.get("OF"))))
        kind = (name, tuple(str(value) for key, value in sorted(report.arguments.items())))
        if kind not in seen:
            yield name, report
        seen.add(kind)


def counts(name: str, report: Report) -> Row:
    """Return the counts of a launch as a record."""
    moves = report.moves()
    loaded = sum(moves.get(kind, (0, 0))[0] for kind in ("global load", "global async"))
    row = {
        "tile": "x".join(str(size) for size in report.meta.values()), "warps": report.warps,
        "programs": report.programs, "shared_bytes": report.shared_bytes, "instructions": report.instructions(),
        "multiply_adds": report.multiply_adds(), "needed_multiply_adds": needed_multiply_adds(name, report),
        "loaded_sectors": loaded, "distinct_loaded_sectors": report.sectors_read,
        "stored_sectors": moves.get("global store", (0, 0))[0], "distinct_stored_sectors": report.sectors_written,
        "faults": len(report.faults),
    }  # fmt: skip
    for kind, (moved, least) in moves.items():
        row |= {f"{kind} units": moved, f"{kind} least": least}
    return row


def needed_multiply_adds(name: str, report: Report) -> int:
    """Return the multiply-adds of the products that the mathematics of a kernel asks for; 0 where it is not known."""
    products, axis = PRODUCTS.get(name, (0, ""))
    tensors = [value[0] for value in report.arguments.values() if isinstance(value, tuple) and len(value[0]) == 5]
    if not products or not tensors:
        return 0
    clips, frames, positions, heads, head_dim = tensors[0]
    pairs = positions * frames**2 if axis == "frames" else frames * positions**2
    return products * clips * heads * pairs * head_dim


def described(row: Row, report: Report, verbose: bool) -> str:
    """Return the counts of a launch as text."""
    total = report.instructions()
    share = ", ".join(f"{name} {100 * count / total:.1f}%" for name, count in report.by_class().most_common())
    lines = [
        f"\nsm_{row['sm']} {row['kernel']} {row['dtype']} {row['shape']}: tile {row['tile'] or '-'}, "
        f"{report.warps} warps, {report.programs} programs, {report.shared_bytes} B shared: "
        f"{total / 1e6:.2f} M warp instructions",
        f"  {share}",
    ]
    given, needed = row["multiply_adds"], row["needed_multiply_adds"]
    if given and needed:
        lines.append(
            f"  tensor cores: {given / 1e9:.3f} G multiply-adds given, {needed / 1e9:.3f} G asked for by the "
            f"mathematics: x{given / needed:.2f}"
        )
    moved = "; ".join(
        f"{kind} {units / 1e6:.3f} M / {least / 1e6:.3f} M = {units / max(least, 1):.2f}"
        for kind, (units, least) in report.moves().items()
    )
    lines.append(f"  sectors or wavefronts over the least: {moved}")
    for verb, word in (("loads ask for", "loaded"), ("stores write", "stored")):
        moved, distinct = row[f"{word}_sectors"], row[f"distinct_{word}_sectors"]
        lines.append(
            f"  global {verb} {_megabytes(moved)} MB, distinct {_megabytes(distinct)} MB: "
            f"x{moved / max(distinct, 1):.2f}"
        )
    lines += [f"  FAULT {fault}" for fault in report.faults]
    lines += _costly_lines(report) if verbose else []
    return "\n".join(lines)


def _megabytes(sectors: int) -> str:
    return f"{sectors * SECTOR_BYTES / 1e6:.1f}"


def _costly_lines(report: Report) -> list[str]:
    lines = []
    kinds = (("instructions", None, 0), ("shared wavefronts", _SHARED, 2), ("sectors", _GLOBAL, 2))
    for title, operations, column in kinds:
        for where, count, least in report.by_line(operations, column)[:4]:
            share = f"{100 * count / report.instructions():.0f}%" if column == 0 else f"least {least / 1e6:.3f} M"
            lines.append(f"    {title}: {count / 1e6:.3f} M, {share}, at {where}")
    return lines
