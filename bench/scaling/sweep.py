"""The sizes of a sweep over T and HW, and what each method takes at each of them."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from bench.common.record import NOT_MEASURED, Row, failure

PASSES = ("forward", "forward and backward")


@dataclass(frozen=True)
class Sweep:
    """The sizes of one run: each of `frames` at `fixed_cells`, each of `cells` at `fixed_frames`."""

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
    from bench.scaling.methods import METHODS

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

    from bench.scaling.methods import counted_multiply_accumulates, multiply_accumulates

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


def compile_kernels(sweep: Sweep, seconds: float) -> None:
    """Compile this project's kernels for every size of the sweep; frames are constants of a kernel."""
    from bench.common.ahead import compile_ahead
    from bench.scaling.methods import METHODS

    def there_and_back(method, frames: int, cells: int) -> object:
        shape = (sweep.clips, frames + 1, cells + 1, 3, sweep.heads, sweep.head_dim)
        return _call(method.attend, shape, sweep.dtype, "cuda", PASSES[1])()

    ours = [method for method in METHODS if method.needs_gpu]
    calls = (partial(there_and_back, method, *size) for _, *size in sweep.sizes() for method in ours)
    compile_ahead(calls, seconds)


def _time_and_memory(attend, shape: tuple[int, ...], dtype: str, device: str, which: str, milliseconds: int) -> Row:
    from bench.common.timing import peak_bytes, time_call

    call = _call(attend, shape, dtype, device, which)
    timed = time_call(call, milliseconds=milliseconds, device=device)
    return {
        "time_us": timed.median,
        "time_us_p20": timed.low,
        "time_us_p80": timed.high,
        "peak_bytes": peak_bytes(call, device),
    }
