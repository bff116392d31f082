"""Joint attention over all tokens, and factorized attention over frames and then over positions, at sizes of T and HW.

Each method takes q, k and v `[B, F, S, N, D]` and returns `[B, F, S, N, D]`. The factorized ones attend over
frames first and give the result to attention over positions as its values, with the same queries and keys: the two
attentions of a block without the projections between them.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bench.common.record import Row
from bench.common.tasks import Task
from bench.common.timing import time_and_memory
from bench.kernels import peers
from bench.kernels.peers import over_frames, over_positions
from bench.training.baseline_model import naive_attention
from bench.training.flops import BACKWARD, FORWARD, counting
from kernels import spatial_attention, temporal_attention

PASSES = ("forward", "forward and backward")
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def counted_multiply_accumulates(attend: Attend, shape: Sequence[int], dtype: str) -> tuple[int, int]:
    """Return what torch's FLOP counter finds in `attend` of [B, F, S, 3, N, D]: forward, and forward and backward."""
    with counting() as counter:
        qkv = torch.empty(tuple(shape), dtype=getattr(torch, dtype), requires_grad=True)
        out = attend(*qkv.unbind(3))
        forward = counter.get_total_flops() // 2
        torch.autograd.grad(out, qkv, torch.empty_like(out))
        return forward, counter.get_total_flops() // 2


def joint(spatial: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend over all F * S tokens of a clip, as `spatial` attends over the positions of a frame."""
    return spatial(*(x.flatten(1, 2).unsqueeze(1) for x in (q, k, v))).squeeze(1).unflatten(1, q.shape[1:3])


def factorized(temporal: Attend, spatial: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend over frames, then over positions."""
    return spatial(q, k, temporal(q, k, v))


class Method(NamedTuple):
    """One line of every plot: a way to attend, over frames and positions apart or over all tokens.

    `fused` stores no scores, so that the way back computes them again. Triton kernels, which `needs_gpu` says, run on a
    CPU only in the interpreter, which is no measure of time.
    """

    name: str
    attend: Attend
    factorized: bool
    fused: bool
    needs_gpu: bool = False

    def pairs(self, frames: int, cells: int) -> int:
        """Return the query-key pairs by formula: `R^2 S + R S^2` or `(R S)^2` for R = T + 1 and S = HW + 1."""
        rows, positions = frames + 1, cells + 1
        return rows * positions * (rows + positions if self.factorized else rows * positions)

    def products(self, backward: bool) -> int:
        """Return the products over all pairs: 2 forward, 4 backward, and of fused attention the scores once more."""
        return FORWARD + (BACKWARD if self.fused else 2 * FORWARD) * backward


_NAIVE, _SDPA = partial(over_positions, naive_attention), partial(over_positions, scaled_dot_product_attention)
METHODS = (
    Method("naive joint", partial(joint, _NAIVE), factorized=False, fused=False),
    # PyTorch's: flash on a CPU, whichever it picks on a GPU.
    Method("SDPA joint", partial(joint, _SDPA), factorized=False, fused=True),
    Method("joint flash kernel", partial(joint, spatial_attention), factorized=False, fused=True, needs_gpu=True),
    Method(
        "naive factorized", partial(factorized, partial(over_frames, naive_attention), _NAIVE), factorized=True,
        fused=False,
    ),
    Method(
        "factorized kernels", partial(factorized, temporal_attention, spatial_attention), factorized=True, fused=True,
        needs_gpu=True,
    ),
)  # fmt: skip


class Sweep(NamedTuple):
    """Sizes (T, HW) along each axis, and q, k and v at each of them `[clips, T + 1, HW + 1, heads, head_dim]`."""

    frames: tuple[int, ...]
    fixed_cells: int
    cells: tuple[int, ...]
    fixed_frames: int
    clips: int
    heads: int
    head_dim: int
    dtype: str

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


def tasks(sweep: Sweep, milliseconds: int) -> Iterator[Task]:
    """Yield the work of each method and pass at each size, counted already, and its time and memory to be measured."""
    for (axis, frames, cells), method in itertools.product(sweep.sizes(), METHODS):
        shape, counted = (sweep.clips, frames + 1, cells + 1, 3, sweep.heads, sweep.head_dim), (None, None)
        with suppress(Exception):  # what refuses to be counted says so when it is measured
            counted = counted_multiply_accumulates(method.attend, shape, sweep.dtype)
        for which, macs in zip(PASSES, counted, strict=True):
            products = method.products(which != PASSES[0]) * method.pairs(frames, cells)
            row: Row = {
                "axis": axis, "T": frames, "HW": cells, "method": method.name, "pass": which, "dtype": sweep.dtype,
                "clips": sweep.clips, "heads": sweep.heads, "head_dim": sweep.head_dim, "macs_counted": macs,
                "macs_formula": products * sweep.clips * sweep.heads * sweep.head_dim,
            }  # fmt: skip
            call = partial(_call, method.attend, shape, sweep.dtype, which)
            prepare = (lambda call=call: call("cuda")()) if method.needs_gpu else None
            yield Task("scaling", row, partial(_measured, method, call, milliseconds), prepare)


def _call(attend: Attend, shape: Sequence[int], dtype: str, which: str, device: str) -> Callable[[], object]:
    both = peers.calls(lambda qkv: attend(*qkv.unbind(3)), shape, getattr(torch, dtype), device)
    return both["forward" if which == PASSES[0] else "both"]


def _measured(method: Method, call: Callable[[str], Callable[[], object]], milliseconds: int) -> Row:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if method.needs_gpu and device == "cpu":
        raise NotImplementedError("Triton kernels need a GPU")
    found = time_and_memory(call(device), milliseconds, device)
    names = {"microseconds": "time_us", "p20": "time_us_p20", "p80": "time_us_p80"}
    return {names.get(key, key): value for key, value in found.items()}
