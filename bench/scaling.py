"""How attention grows with the number of frames T and of feature cells HW: work, time and memory.

Compares attention over all (T+1)(HW+1) tokens at once with attention over frames and then over positions, naive and
fused. Work is counted by torch's FLOP counter (bench/operator_flops.py tells it what fused attention does) and by
formula; exponents are fitted on log-log axes over the sizes of the sweep (time and memory over its larger half, where
fixed costs weigh least), in T + 1 and HW + 1. Writes scaling.csv, from which a report fits again, and at the end
scaling_exponents.csv, scaling_verdicts.csv and one picture. On a CPU the sizes are small and the run takes under 2
minutes; what it says is then about that CPU, and time is processor time.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from bench.record import NOT_MEASURED, Row, add_output, failure, output_folder, write_table
from bench.table import format_table

PASSES = ("forward", "forward and backward")


@dataclass(frozen=True)
class Sweep:
    """The sizes of one run: each of ``frames`` at ``fixed_cells``, each of ``cells`` at ``fixed_frames``."""

    frames: tuple[int, ...]
    fixed_cells: int
    cells: tuple[int, ...]
    fixed_frames: int
    clips: int
    heads: int
    head_dim: int
    dtype: str

    def sizes(self) -> Iterator[tuple[str, int, int]]:
        """(axis, T, HW), the largest of both axes last: they take longest, and say least if time runs out."""
        for frames, cells in itertools.zip_longest(self.frames, self.cells):
            if frames is not None:
                yield "T", frames, self.fixed_cells
            if cells is not None:
                yield "HW", self.fixed_frames, cells


ON_CPU = Sweep(
    frames=(1, 2, 3, 5, 7, 11, 15, 23, 31, 47, 63), fixed_cells=36,
    cells=(9, 16, 25, 36, 49, 81, 121, 169, 225, 289, 361), fixed_frames=6,
    clips=1, heads=2, head_dim=32, dtype="float32",
)  # fmt: skip
ON_GPU = Sweep(
    frames=(1, 3, 6, 11, 15, 23, 31, 47, 63, 95, 127), fixed_cells=361,
    cells=(100, 196, 361, 576, 784, 1156, 1600, 2304, 3136, 4624, 6400), fixed_frames=6,
    clips=1, heads=8, head_dim=64, dtype="bfloat16",
)  # fmt: skip


def measure(
    sweep: Sweep,
    milliseconds: int = 50,
    progress: Callable[[str, list[Row]], None] = lambda line, rows: None,
    budget: float = math.inf,
) -> list[Row]:
    """One row for each size, method and pass; a method that cannot run leaves its measured cells empty and says why.

    Args:
        sweep: the sizes.
        milliseconds: measuring time of each call.
        progress: told after each size, with all rows so far.
        budget: seconds after which sizes are counted but not measured.
    """
    from bench.scaling_methods import METHODS

    rows: list[Row] = []
    started = time.perf_counter()
    for axis, frames, cells in sweep.sizes():
        for method in METHODS:
            late = time.perf_counter() - started > budget
            rows += _measure_method(sweep, method, axis, frames, cells, 0 if late else milliseconds)
        progress(f"T={frames} HW={cells}", rows)
    return rows


def _measure_method(sweep: Sweep, method, axis: str, frames: int, cells: int, milliseconds: int) -> list[Row]:
    import torch

    from bench.scaling_methods import counted_multiply_accumulates, multiply_accumulates

    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = (sweep.clips, frames + 1, cells + 1, 3, sweep.heads, sweep.head_dim)
    counted, refused = (None, None), ""
    try:
        counted = counted_multiply_accumulates(method.attend, shape, sweep.dtype, device)
    except Exception as error:  # a peer that refuses a size is a result; the sweep goes on
        refused = f"not counted: {failure(error)}"
    rows: list[Row] = []
    for name, macs in zip(PASSES, counted, strict=True):
        sizes = method.pairs(frames, cells), sweep.clips, sweep.heads, sweep.head_dim
        row: Row = {
            "axis": axis, "T": frames, "HW": cells, "method": method.name, "pass": name, "dtype": sweep.dtype,
            "clips": sweep.clips, "heads": sweep.heads, "head_dim": sweep.head_dim,
            "macs_counted": macs, "macs_formula": multiply_accumulates(method.products(name != PASSES[0]), *sizes),
            "time_us": None, "time_us_p20": None, "time_us_p80": None, "peak_bytes": None, "note": refused,
        }  # fmt: skip
        if not milliseconds:
            row["note"] = f"{NOT_MEASURED}: the time was used up"
        elif method.needs_gpu and device == "cpu":
            row["note"] = f"{NOT_MEASURED}: Triton kernels need a GPU"
        else:
            try:
                row |= _time_and_memory(method.attend, shape, sweep.dtype, device, name, milliseconds)
            except torch.OutOfMemoryError:
                row["note"] = f"{NOT_MEASURED}: more memory than this GPU has"
            except Exception as error:
                row["note"] = failure(error)
        rows.append(row)
    return rows


def _call(attend, shape: tuple[int, ...], dtype: str, device: str, which: str) -> Callable[[], object]:
    import torch

    generator = torch.Generator(device).manual_seed(0)
    qkv = torch.randn(shape, generator=generator, device=device).to(getattr(torch, dtype))
    grad_out = torch.ones_like(qkv[:, :, :, 0])
    backward = which != PASSES[0]
    qkv.requires_grad_(backward)

    def call() -> object:
        with torch.set_grad_enabled(backward):
            out = attend(*qkv.unbind(3))
        return torch.autograd.grad(out, qkv, grad_out) if backward else out

    return call


def _compile_ahead(sweep: Sweep, seconds: float) -> None:
    """Compile this project's kernels for every size of the sweep; frames are constants of a kernel."""
    from bench.ahead import compile_ahead
    from bench.scaling_methods import METHODS

    def there_and_back(method, frames: int, cells: int) -> object:
        shape = (sweep.clips, frames + 1, cells + 1, 3, sweep.heads, sweep.head_dim)
        return _call(method.attend, shape, sweep.dtype, "cuda", PASSES[1])()

    ours = [method for method in METHODS if method.needs_gpu]
    calls = (partial(there_and_back, method, *size) for _, *size in sweep.sizes() for method in ours)
    compile_ahead(calls, seconds)


def _time_and_memory(attend, shape: tuple[int, ...], dtype: str, device: str, which: str, milliseconds: int) -> Row:
    from bench import processor_timing, timing

    call = _call(attend, shape, dtype, device, which)
    module = timing if device == "cuda" else processor_timing
    timed = module.time_call(call, milliseconds=milliseconds)
    return {
        "time_us": timed.median,
        "time_us_p20": timed.low,
        "time_us_p80": timed.high,
        "peak_bytes": module.peak_bytes(call),
    }


def numbers(rows: list[dict[str, str]]) -> list[Row]:
    """Rows of scaling.csv as they were before they were written."""
    whole = ("T", "HW", "macs_counted", "macs_formula")
    columns = dict.fromkeys(whole, int) | dict.fromkeys(("time_us", "peak_bytes"), float)
    return [row | {name: kind(row[name]) if row[name] else None for name, kind in columns.items()} for row in rows]


def exponents(rows: list[Row]) -> list[Row]:
    """Fitted exponents of work, time and memory in T + 1 and HW + 1, for each method and pass that was measured."""
    from bench.exponent import fit_exponent

    fitted = []
    for axis, method, name in dict.fromkeys((row["axis"], row["method"], row["pass"]) for row in rows):
        points = [row for row in rows if (row["axis"], row["method"], row["pass"]) == (axis, method, name)]
        points = sorted(points, key=lambda row: row[axis])
        measured = [row for row in points if row["time_us"] is not None] or points
        larger_half = measured[len(measured) // 2 :]
        for quantity, column, over in (
            ("multiply-accumulates, all sizes", "macs_counted", points),
            ("multiply-accumulates", "macs_counted", larger_half),
            ("time", "time_us", larger_half),
            ("peak memory", "peak_bytes", larger_half),
        ):
            there = [row for row in over if row[column] is not None]
            fit = fit_exponent([row[axis] + 1 for row in there], [row[column] for row in there])
            fitted.append(
                {
                    "axis": axis, "method": method, "pass": name, "quantity": quantity,
                    "exponent": fit and fit.value, "low": fit and fit.low, "high": fit and fit.high,
                    "sizes": " ".join(str(row[axis]) for row in there),
                    "note": "" if fit else "not measured at three sizes",
                }
            )  # fmt: skip
    return fitted


def verdicts(rows: list[Row], fitted: list[Row], device: str) -> list[Row]:
    """Which claims hold, in sentences made of what was counted and measured."""
    wrong = sum(map(_miscounted, rows))
    work = (
        "Work: at every size the FLOP counter finds exactly ((T+1)(HW+1))^2 query-key pairs in joint attention and "
        "(HW+1)(T+1)^2 + (T+1)(HW+1)^2 in factorised attention: T^2 a position and (HW)^2 a frame. That is how "
        '"O(T^2 + H^2W^2) instead of O(T^2H^2W^2)" has to be read, and so read it holds.'
    )
    if wrong:
        work = f"Work: counted and predicted multiply-accumulates differ in {wrong} of {len(rows)} rows."
    judged: list[Row] = [{"pass": "", "verdict": work}]
    pairs = [("naive joint", "naive factorised"), ("joint flash kernel", "factorised kernels")]
    for name in PASSES:
        for axis in ("T", "HW"):
            judged += [{"pass": name, "verdict": _verdict(fitted, axis, name, *pair, device)} for pair in pairs]
        judged += [{"pass": name, "verdict": _ratio(rows, name, *pair, device)} for pair in pairs]
    return [row for row in judged if row["verdict"]]


def _miscounted(row: Row) -> bool:
    return row["macs_counted"] is not None and row["macs_counted"] != row["macs_formula"]


def _verdict(fitted: list[Row], axis: str, name: str, joint: str, factorised: str, device: str) -> str:
    from bench.exponent import Exponent

    def find(method: str, quantity: str) -> Exponent | None:
        key = (axis, method, name, quantity)
        rows = [row for row in fitted if (row["axis"], row["method"], row["pass"], row["quantity"]) == key]
        measured = [row for row in rows if row["exponent"] is not None]
        return Exponent(measured[0]["exponent"], measured[0]["low"], measured[0]["high"]) if measured else None

    times = [find(method, "time") for method in (joint, factorised)]
    if None in times:
        return ""
    work = [find(method, "multiply-accumulates").value for method in (joint, factorised)]
    if work[0] - work[1] < 0.25:
        judged = "the work predicts nearly the same growth of both here: the saving is a factor, not an exponent"
    elif times[1].high < times[0].low:
        judged = "the intervals are apart: that factorised attention grows more slowly holds"
    elif times[1].low > times[0].high:
        judged = "the intervals are apart the other way: that factorised attention grows more slowly does not hold"
    else:
        judged = "the intervals overlap: these sizes do not decide whether factorised attention grows more slowly"
    return (
        f"Time on {device}, {name}, growth with {axis}: {joint} {times[0]} (work {work[0]:.2f}), "
        f"{factorised} {times[1]} (work {work[1]:.2f}); {judged}."
    )


def _ratio(rows: list[Row], name: str, joint: str, factorised: str, device: str) -> str:
    found = {
        (row["T"], row["HW"], row["method"]): row
        for row in rows
        if row["pass"] == name and row["method"] in (joint, factorised) and row["time_us"] is not None
    }
    both = [size for *size, method in found if method == joint and (*size, factorised) in found]
    if not both:
        return ""
    frames, cells = max(both, key=lambda size: (size[0] + 1) * (size[1] + 1))
    slow, fast = found[frames, cells, joint], found[frames, cells, factorised]
    macs, spent, held = (slow[key] / fast[key] for key in ("macs_counted", "time_us", "peak_bytes"))
    return (
        f"At T={frames}, HW={cells} on {device}, {name}: {joint} does {macs:.1f} times the multiply-accumulates of "
        f"{factorised}, in {spent:.1f} times its time and {held:.1f} times its memory."
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to write, how long to measure."""
    add_output(parser)
    parser.add_argument("--milliseconds", type=int, default=50, help="measuring time of each call (default 50)")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds after which no size is measured")


def run(arguments: argparse.Namespace) -> int:
    """Measure, fit, judge, draw, write; 1 if counted and predicted work differ anywhere."""
    import torch

    from bench.environment import device_name
    from bench.scaling_picture import draw

    sweep = ON_GPU if torch.cuda.is_available() else ON_CPU
    device = device_name()
    count, started = len(list(sweep.sizes())), time.perf_counter()

    folder = output_folder(arguments.output, "scaling", arguments.commit)
    done = itertools.count(1)

    def progress(line: str, rows: list[Row]) -> None:
        write_table(folder, "scaling", rows)  # what is measured is kept if the run is cut short
        print(f"{next(done)}/{count} {line} {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)

    if torch.cuda.is_available():
        _compile_ahead(sweep, arguments.budget / 2)
    spent = time.perf_counter() - started
    rows = measure(sweep, arguments.milliseconds, progress, arguments.budget - spent)
    fitted = exponents(rows)
    judged = verdicts(rows, fitted, device)
    write_table(folder, "scaling_exponents", fitted)
    write_table(folder, "scaling_verdicts", judged)
    draw(rows, device, folder / "scaling.png")
    _print(rows, fitted, judged)
    print(f"\n{folder}")
    return 1 if any(map(_miscounted, rows)) else 0


def _print(rows: list[Row], fitted: list[Row], judged: list[Row]) -> None:
    def cell(value: object, form: str) -> str:
        return "" if value is None else format(value, form)

    header = ("T", "HW", "method", "pass", "Mmac counted", "Mmac formula", "ms", "peak MB", "note")
    body = [
        (
            row["T"], row["HW"], row["method"], row["pass"],
            cell(row["macs_counted"] and row["macs_counted"] / 1e6, ".3f"), f"{row['macs_formula'] / 1e6:.3f}",
            cell(row["time_us"] and row["time_us"] / 1e3, ".3f"),
            cell(row["peak_bytes"] and row["peak_bytes"] / 1e6, ".2f"),
            row["note"],
        )
        for row in rows
    ]  # fmt: skip
    print(format_table(header, body), end="\n\n")
    header = ("axis", "method", "pass", "quantity", "exponent", "low", "high", "sizes", "note")
    body = [tuple(cell(row[name], ".3f" if isinstance(row[name], float) else "") for name in header) for row in fitted]
    print(format_table(header, body), end="\n\n")
    print("\n".join(row["verdict"] for row in judged))
