"""Count the work of compiled kernels without a GPU: instructions, sectors, bank conflicts, tensor-core products.

Of each launch of a forward and a backward pass: warp instructions by class; multiply-adds that tensor cores are given,
over those that the mathematics asks for; sectors (32 bytes of global memory) and wavefronts (128 bytes of shared
memory) over the least that hold the bytes; bytes that are loaded, over the distinct ones; registers of the machine code
and the warps that a multiprocessor then holds. With -v the lines of Python that cost most. A count is not a time: see
docs/ptx.md.

What is executed is one head of the paper's size (362 positions, 7 frame rows), of one frame row where attention is over
positions: programs of other heads, frame rows and clips do the same. `instructions` are of that, and the text and the
document multiply them to one clip, as they do with bytes.

`--document FILE BEFORE AFTER` writes the table of two runs (folders of `--output`), and executes nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest.mock import patch

from bench.checks.cases import OPERATIONS
from bench.checks.sass import compile_launches
from bench.common.record import Row, add_output, read_run, write_as_measured
from bench.ptx.execute import add_selection, select
from bench.ptx.machine import ARCHITECTURES, Machine, Options, Report
from dataloading.errors import InputError

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
HEADS, FRAME_ROWS = 8, 7  # of the paper's model, in one clip
# Of a multiprocessor: warps, programs, registers and bytes of shared memory; a program takes 1 KiB more of these than
# it asks for (CUDA C programming guide, compute capabilities).
_HOLDS = {80: (64, 32, 65_536, 164 << 10), 90: (64, 32, 65_536, 228 << 10)}
# Warp instructions and bytes a second, by the data sheets of A100 (80 GB, SXM) and H200: four schedulers a
# multiprocessor that issue one instruction a cycle, at the boost clock.
_RATES = {80: (108 * 4 * 1.41e9, 2.039e12), 90: (132 * 4 * 1.98e9, 4.8e12)}
_SHARED = ("LDS", "LDMATRIX", "STS", "STMATRIX")
_GLOBAL = ("LDG", "STG", "CP_ASYNC")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which cases, and how much is said of each."""
    add_selection(parser)
    parser.add_argument("--operation", action="append", choices=OPERATIONS, help="only this one (repeatable)")
    parser.add_argument("--kernel", default="", help="only kernels whose name contains this")
    parser.add_argument("-v", "--verbose", action="store_true", help="the lines of Python that cost most")
    parser.add_argument(
        "--document", nargs=3, type=Path, metavar=("FILE", "BEFORE", "AFTER"), help="write the table of two runs"
    )
    add_output(parser, "none, counts are only printed")


def run(arguments: argparse.Namespace) -> int:
    """Print and write the counts of each kind of launch.

    Raises:
        InputError: no launch is chosen.
    """
    if arguments.document:
        file, *folders = arguments.document
        file.write_text(document(*(read_run(folder).tables["count"] for folder in folders)))
        return 0
    if not write_as_measured(arguments, "count", _measure(arguments)):
        raise InputError("no launch is left by --operation, --dtype, --match and --kernel; expected others, or none")
    return 0


def _measure(arguments: argparse.Namespace) -> Iterator[Row]:
    for architecture in arguments.sm or ARCHITECTURES:
        for operation in arguments.operation or OPERATIONS:
            dtypes = arguments.dtype or ("bfloat16", "float32")
            for case in select("counted", operation, dtypes, arguments.match, captures=()).values():
                dtype = str(case.dtype).removeprefix("torch.")
                if not _is_counted(operation, case.mode, dtype, case.shape):
                    continue
                for name, report in _reports(case, architecture):
                    if arguments.kernel in name:
                        row = {"sm": architecture, "kernel": name, "dtype": dtype, "shape": case.shape} | counts(
                            name, report, architecture
                        )
                        row["times"] = _times(case.shape)
                        print(described(row, report, arguments.verbose), flush=True)
                        yield row


def _is_counted(operation: str, mode: str, dtype: str, shape: str) -> bool:
    """Return whether a case is counted: the models' self-subtract; relevance over positions of one frame row."""
    if operation == "temporal_attention":
        return mode == MODES[dtype]
    kind, _, clamp = mode.partition(" ")
    return operation != "relevance" or (clamp == "after_mean" and (kind == "spatial") == ("F=1 " in shape))


def _times(shape: str) -> int:
    """Return how many times what is executed is in one clip of the paper's size."""
    return (HEADS if "N=1 " in shape else 1) * (FRAME_ROWS if "F=1 " in shape else 1)


def _reports(case, architecture: int) -> Iterator[tuple[str, Report]]:
    """Yield the launches of a case, one of each kind."""
    machine = Machine(Options(architecture=architecture))
    # As for a batch, whose programs are more than a GPU has multiprocessors.
    with machine.takes_launches(), patch("kernels.spatial.configs.MULTIPROCESSORS", {}):
        case.kernel()
    seen = set()
    for report in machine.reports:
        name = " ".join(filter(None, (report.name, report.arguments.get("OF"))))
        if name == "spatial_forward" and report.arguments["v"] is None:
            name = "spatial_row_stats"
        kind = (name, tuple(str(value) for key, value in sorted(report.arguments.items())))
        if kind not in seen:
            yield name, report
        seen.add(kind)


def counts(name: str, report: Report, architecture: int) -> Row:
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
    if report.launch is None:
        return row
    [used] = compile_launches([report.launch], architecture)
    held = warps_held(architecture, report.warps, used["registers"], used["shared B"])
    return row | {"registers": used["registers"], "spill_bytes": used["spill B"], "warps_held": held}


def warps_held(architecture: int, warps: int, registers: int, shared_bytes: int) -> int:
    """Return the warps of programs of so many warps, registers a thread and bytes that a multiprocessor holds."""
    most_warps, most_programs, all_registers, all_bytes = _HOLDS[architecture]
    of_program = -(-registers // 8) * 8 * 32 * warps
    programs = min(most_programs, most_warps // warps, all_registers // of_program, all_bytes // (shared_bytes + 1024))
    return programs * warps


def needed_multiply_adds(name: str, report: Report) -> int:
    """Return the multiply-adds of the products that the mathematics of a kernel asks for; 0 where it is not known."""
    products, axis = PRODUCTS.get(name, (0, ""))
    if name in ("spatial_backward", "spatial_backward_keys"):  # one of dk and dv may have a launch of its own
        products -= (report.arguments["dv"] is None) + 2 * (report.arguments["dk"] is None)
    shapes = [value[0] for value in report.arguments.values() if isinstance(value, tuple)]
    whole, parts = ([shape for shape in shapes if len(shape) == dimensions] for dimensions in (5, 6))
    if not products or not (whole or parts):
        return 0
    if whole:
        clips, frames, positions, heads, head_dim = whole[0]
    else:  # [2, B, F, N, S, D], S and D padded (`kernels.relevance`)
        _, clips, frames, heads, _, head_dim = parts[0]
        positions = report.arguments["positions"]
    pairs = positions * frames**2 if axis == "frames" else frames * positions**2
    return products * clips * heads * pairs * head_dim


def described(row: Row, report: Report, verbose: bool) -> str:
    """Return the counts of a launch as text."""
    total, times = report.instructions(), row["times"]
    share = ", ".join(f"{name} {100 * count / total:.1f}%" for name, count in report.by_class().most_common())
    lines = [
        f"\nsm_{row['sm']} {row['kernel']} {row['dtype']} {row['shape']}: tile {row['tile'] or '-'}, "
        f"{report.warps} warps, {report.programs} programs, {report.shared_bytes} B shared: "
        f"{times * total / 1e6:.2f} M warp instructions a clip",
        f"  {share}",
        f"  {row['registers']} registers, {row['spill_bytes']} B spilled, {row['warps_held']} warps a multiprocessor",
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
            f"  global {verb} {_megabytes(times * moved)} MB, distinct {_megabytes(times * distinct)} MB: "
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


COLUMNS = (
    "sm", "kernel", "dtype", "D", "M warp instructions", "tensor work", "shared loads", "shared stores",
    "loads over distinct", "issue over memory", "KiB shared", "registers", "warps held",
)  # fmt: skip
_DOCUMENT = """<!-- Written by `python -m bench count --document docs/counts.md BEFORE AFTER`; do not edit. -->

# Counts of the compiled kernels, before and after

What compiled kernels do for one clip of the paper's size (7 frame rows of 362 positions, 8 heads; LayerNorm: 728
channels), by `python -m bench count`. "a -> b" is before and after, one number is both. A kernel with "(before)" is
launched no longer or was not counted again, one with "(after)" is new.
Instructions are those of all warps; tensor work is multiply-adds given to tensor cores over those that the mathematics
asks for; shared loads and stores are wavefronts over the least that hold the bytes; loads are sectors asked for over
distinct sectors; issue over memory is the time that the instructions take to be issued, with all schedulers of an A100
or H200 busy, over the time in which its memory moves the distinct sectors (below 1 a kernel can be bound by memory; PTX
instructions stand for those of the machine); warps held is how many a multiprocessor has room for, of 64. A count is
not a time: [ptx.md](ptx.md).

"""


def document(before: list[dict[str, str]], after: list[dict[str, str]]) -> str:
    """Return the page that sets the records of two runs side by side, a line a kernel, architecture, dtype and D."""
    found = [_by_name(rows) for rows in (before, after)]
    lines = []
    for name in sorted({**found[0], **found[1]}):
        there = [side[name] for side in found if name in side]
        only = "" if len(there) == 2 else " (before)" if name in found[0] else " (after)"
        cells = zip(there[0], there[-1], strict=True)
        architecture, kernel, *others = map(str, name)
        lines.append([architecture, kernel + only, *others, *(a if a == b else f"{a} -> {b}" for a, b in cells)])
    header = [COLUMNS, ["---"] * len(COLUMNS)]
    return _DOCUMENT + "\n".join("| " + " | ".join(line) + " |" for line in (*header, *lines)) + "\n"


def _by_name(rows: list[dict[str, str]]) -> dict[tuple[int, str, str, int], list[str]]:
    """Return what is shown of each record; a second launch (dv after dk, rollout after map) has a number."""
    found: dict[tuple[int, str, str, int], list[str]] = {}
    for row in rows:
        architecture, kernel, *others = _named(row)
        times = sum((name[0], name[1].partition(" #")[0], *name[2:]) == _named(row) for name in found)
        found[architecture, kernel + (f" #{times + 1}" if times else ""), *others] = _shown(row)
    return found


def _named(row: Mapping[str, str]) -> tuple[int, str, str, int]:
    size = next((part[2:] for part in row["shape"].split() if part[:2] in ("D=", "C=")), "0")
    return int(row["sm"]), row["kernel"], row["dtype"], int(size)


def _shown(row: Mapping[str, str]) -> list[str]:
    def total(*columns: str) -> int:
        return sum(int(row.get(column) or 0) for column in columns)

    def over(moved: int, least: int) -> str:
        return f"{moved / least:.2f}" if least else "-"

    issue_rate, byte_rate = _RATES[total("sm")]
    issued = total("instructions") / issue_rate
    moved = SECTOR_BYTES * total("distinct_loaded_sectors", "distinct_stored_sectors") / byte_rate
    return [
        f"{total('times') * total('instructions') / 1e6:.2f}",
        over(total("multiply_adds"), total("needed_multiply_adds")),
        over(total("shared load units", "ldmatrix units"), total("shared load least", "ldmatrix least")),
        over(total("shared store units", "stmatrix units"), total("shared store least", "stmatrix least")),
        over(total("loaded_sectors"), total("distinct_loaded_sectors")),
        f"{issued / moved:.2f}" if moved else "-",
        f"{total('shared_bytes') / 1024:.0f}",
        row.get("registers", "") + (" and spills" if total("spill_bytes") else ""),
        row.get("warps_held", ""),
    ]
