"""Sizes of a sweep over T and HW, and the work, time and memory of each method at each of them."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from bench.common.ahead import compile_ahead
from bench.common.record import NOT_MEASURED, Row
from bench.common.timing import attempt, peak_bytes, time_call
from bench.scaling.methods import METHODS, Method, counted_multiply_accumulates

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

    def shape(self, frames: int, cells: int) -> tuple[int, ...]:
        """Return [B, F, S, 3, N, D] of queries, keys and values."""
        return self.clips, frames + 1, cells + 1, 3, self.heads, self.head_dim

    def sizes(self) -> Iterator[tuple[str, int, int]]:
        """Yield (axis, T, HW), the largest of both axes last: they take longest, and say least if time runs out."""
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


def measure(sweep: Sweep, milliseconds: int = 50, budget: float = math.inf) -> Iterator[Row]:
    """Yield a record for each size, method and pass; one that cannot run has empty cells and says why.

    Args:
        sweep: the sizes.
        milliseconds: measuring time of each call.
        budget: seconds after which sizes are counted but not measured.
    """
    started = time.perf_counter()
    for (axis, frames, cells), method in itertools.product(sweep.sizes(), METHODS):
        late = time.perf_counter() - started > budget
        shape = sweep.shape(frames, cells)
        counted, refused = attempt(partial(counted_multiply_accumulates, method.attend, shape, sweep.dtype))
        for which, macs in zip(PASSES, counted or (None, None), strict=True):
            products = method.products(which != PASSES[0]) * method.pairs(frames, cells)
            row: Row = {
                "axis": axis, "T": frames, "HW": cells, "method": method.name, "pass": which, "dtype": sweep.dtype,
                "clips": sweep.clips, "heads": sweep.heads, "head_dim": sweep.head_dim, "macs_counted": macs,
                "macs_formula": products * sweep.clips * sweep.heads * sweep.head_dim,
                "time_us": None, "time_us_p20": None, "time_us_p80": None, "peak_bytes": None,
                "note": refused and f"not counted: {refused}",
            }  # fmt: skip
            if late:
                row["note"] = f"{NOT_MEASURED}: the time was used up"
            elif method.needs_gpu and not torch.cuda.is_available():
                row["note"] = f"{NOT_MEASURED}: Triton kernels need a GPU"
            else:
                found, note = attempt(partial(_time_and_memory, method, shape, sweep.dtype, which, milliseconds))
                row |= found or {"note": note}
            yield row


def _call(method: Method, shape: tuple[int, ...], dtype: str, which: str, device: str) -> Callable[[], object]:
    qkv = torch.randn(shape, generator=torch.Generator(device).manual_seed(0), device=device)
    qkv = qkv.to(getattr(torch, dtype)).requires_grad_(which != PASSES[0])
    grad_out = torch.ones_like(qkv[:, :, :, 0])

    def call() -> object:
        out = method.attend(*qkv.unbind(3))
        return torch.autograd.grad(out, qkv, grad_out) if qkv.requires_grad else out

    return call


def _time_and_memory(method: Method, shape: tuple[int, ...], dtype: str, which: str, milliseconds: int) -> Row:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    call = _call(method, shape, dtype, which, device)
    timed = time_call(call, milliseconds=milliseconds, device=device)
    times = {"time_us": timed.median, "time_us_p20": timed.low, "time_us_p80": timed.high}
    return times | {"peak_bytes": peak_bytes(call, device)}


def compile_kernels(sweep: Sweep, seconds: float) -> None:
    """Compile this project's kernels for every size of the sweep; frames are constants of a kernel."""
    calls = (
        lambda method=method, size=size: _call(method, sweep.shape(*size), sweep.dtype, PASSES[1], "cuda")()
        for (_, *size), method in itertools.product(sweep.sizes(), METHODS)
        if method.needs_gpu
    )
    compile_ahead(calls, seconds)
