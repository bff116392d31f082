"""The time and memory of relevance through attention, and of its stored form: on what tensors, over which floor."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from kernels.common.launch import padded_head_dim

if TYPE_CHECKING:
    import torch

    from bench.common.record import Row

HEADS, POSITIONS = 8, 362
# Clips and frames; the paper's first.
SHAPES = [(8, 6), (1, 6), (32, 6), (8, 16)]
QUICK_SHAPES = [(8, 6)]
HEAD_DIMS = (64, 91)
KINDS = ("temporal", "spatial")
PASSES = ("relevance", "map", "rollout step")
# Products of length x length x D that a pass cannot do without.
PRODUCTS = {"relevance": 6, "map": 3, "rollout step": 3}
Tensors = dict[str, "torch.Tensor"]


def ours(kind: str, which: str, tensors: Tensors, scale: float) -> object:
    """The kernels (on a CPU their reference)."""
    import kernels

    q, k, v, u, grad_out, row = (tensors[name] for name in ("q", "k", "v", "u", "grad_out", "row"))
    if which == "relevance":
        return getattr(kernels, f"{kind}_relevance")(q, k, v, u, scale=scale)
    if which == "map":
        return getattr(kernels, f"{kind}_relevance_map")(q, k, v, u, grad_out, scale=scale)
    return getattr(kernels, f"{kind}_rollout_step")(row, q, k, v, u, grad_out, scale=scale)


def stored(kind: str, which: str, tensors: Tensors, scale: float) -> object:
    """What a user would write: every matrix of every head in memory."""
    from bench.kernels import stored_relevance as plain

    q, k, v, u, grad_out, row = (tensors[name] for name in ("q", "k", "v", "u", "grad_out", "row"))
    if which == "relevance":
        return plain.stored_relevance(kind, q, k, v, u, scale=scale)
    if which == "map":
        return plain.stored_relevance_map(kind, q, k, v, u, grad_out, scale=scale)
    return plain.stored_rollout_step(kind, row, q, k, v, u, grad_out, scale=scale)


CONTENDERS: dict[str, Callable[[str, str, Tensors, float], object]] = {"ours": ours, "stored": stored}


def inputs(kind: str, clips: int, frames: int, head_dim: int, width: int, device: str) -> Tensors:
    """Random q, k and v (views of one packed product), u, grad_out and a row; zeros from `head_dim` to `width`."""
    import torch

    generator = torch.Generator(device).manual_seed(0)
    size = (clips, frames + 1, POSITIONS)
    qkv = torch.randn(*size, 3, HEADS, head_dim, generator=generator, device=device)
    u, grad_out = torch.randn(2, *size, HEADS, head_dim, generator=generator, device=device)
    groups_and_length = size[1:] if kind == "spatial" else (size[2], size[1])
    row = torch.rand(clips, *groups_and_length, generator=generator, device=device)
    qkv, u, grad_out = (torch.nn.functional.pad(x, (0, width - head_dim)) for x in (qkv, u, grad_out))
    return dict(zip("qkv", qkv.unbind(3), strict=True)) | {"u": u, "grad_out": grad_out, "row": row}


def floors(kind: str, which: str, clips: int, frames: int, width: int) -> tuple[int, int]:
    """Bytes that must move, and those of the stored form: attention, its gradient (or weight) and relevance too."""
    rows = frames + 1
    tensor = 4 * clips * rows * POSITIONS * HEADS * width
    groups, length = (rows, POSITIONS) if kind == "spatial" else (POSITIONS, rows)
    matrix, row = 4 * clips * groups * length**2, 4 * clips * groups * length
    needed = {"relevance": 7 * tensor, "map": 5 * tensor + matrix, "rollout step": 5 * tensor + 2 * row}[which]
    return needed, needed + 2 * 3 * HEADS * matrix


def useful_operations(kind: str, which: str, clips: int, frames: int, head_dim: int) -> int:
    """Floating-point operations of the products that a pass cannot do without."""
    groups, length = (frames + 1, POSITIONS) if kind == "spatial" else (POSITIONS, frames + 1)
    return PRODUCTS[which] * 2 * clips * groups * HEADS * length**2 * head_dim


def measure(
    kind: str, clips: int, frames: int, head_dim: int, bandwidth: float, milliseconds: int, *, device: str = "cuda"
) -> Iterator[Row]:
    """One row a contender and pass."""
    from bench.common.timing import peak_bytes, time_call
    from bench.kernels.peers import reason

    for name, function in CONTENDERS.items():
        width = padded_head_dim(head_dim) if name == "ours" else head_dim
        tensors = inputs(kind, clips, frames, head_dim, width, device)
        for which in PASSES:
            row = {
                "contender": name, "mode": kind, "dtype": "float32", "clips": clips, "frames": frames,
                "positions": POSITIONS, "heads": HEADS, "head_dim": head_dim, "pass": which,
            }  # fmt: skip
            call = partial(function, kind, which, tensors, head_dim**-0.5)
            refused = reason(call)
            if refused:
                yield row | {"note": refused}
                continue
            time = time_call(call, milliseconds=milliseconds)
            floor, stored_floor = (1e6 * x / bandwidth for x in floors(kind, which, clips, frames, width))
            operations = useful_operations(kind, which, clips, frames, head_dim)
            yield row | {
                "microseconds": time.median, "p20": time.low, "p80": time.high,
                "floor_microseconds": floor, "share_of_floor": floor / time.median,
                "stored_floor_microseconds": stored_floor, "teraflops": 1e-6 * operations / time.median,
                "peak_bytes": peak_bytes(call),
            }  # fmt: skip


def kernel_calls(device: str = "cuda") -> Iterator[Callable[[], object]]:
    """Calls that launch what the paper's shape needs."""
    clips, frames = QUICK_SHAPES[0]
    for kind, head_dim in itertools.product(KINDS, HEAD_DIMS):
        tensors = inputs(kind, clips, frames, head_dim, padded_head_dim(head_dim), device)
        yield from (partial(ours, kind, which, tensors, head_dim**-0.5) for which in PASSES)
