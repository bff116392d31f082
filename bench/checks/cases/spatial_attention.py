"""Cases of spatial attention."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch.nn import functional

from bench.checks.cases import CompileCase
from bench.checks.error_bound import DTYPES, NumericsCase, Results, with_gradients
from kernels import AttentionCapture, spatial_attention
from kernels.common.launch import Launch
from kernels.common.strides import empty_like_contiguous
from kernels.spatial import operator
from kernels.spatial.reference import spatial_attention as reference

Tensor = torch.Tensor

# Clips, frames, query positions, positions, heads, head_dim.
SMALL = ((1, 1, 150, 150, 1, 24), (8, 2, 1, 40, 1, 91), (1, 2, 33, 65, 2, 64), (1, 3, 1, 1, 1, 16))
LARGE = (
    (2, 7, 362, 362, 8, 96), (2, 7, 362, 362, 8, 64), (1, 7, 362, 362, 8, 91), (1, 7, 362, 362, 4, 128),
    (8, 1, 1, 362, 8, 96), (1, 2, 50, 50, 3, 8), (1, 3, 1, 1, 2, 16), (1, 1, 129, 257, 2, 40),
    (1, 1, 4096, 4096, 2, 64),
)  # fmt: skip

FEWEST_ROWS = 16  # of a product on tensor cores


def eager(q: Tensor, k: Tensor, v: Tensor, *, capture: AttentionCapture | None = None) -> Tensor:
    """What a user would write: transpose, two products and a softmax, every step in the inputs' dtype.

    Few queries are multiplied among others: BLAS sums the product of a single row in another, more exact order than
    that of many, by as much as two thirds, and differently on each processor.
    """
    scale = q.shape[-1] ** -0.5
    queries = q.shape[2]
    if queries < FEWEST_ROWS:
        q = functional.pad(q, (0, 0, 0, 0, 0, FEWEST_ROWS - queries))
    q, k, v = (x.transpose(2, 3) for x in (q, k, v))
    attention = torch.softmax((q @ k.transpose(-1, -2))[..., :queries, :] * scale, -1)
    if capture is not None:
        capture.record(attention)
    return (attention @ v).transpose(2, 3)


def numerics(device: torch.device, small: bool) -> list[NumericsCase]:
    """All dtypes, some shapes with a capture."""
    return [
        _case(device, shape, dtype, capture=index in (0, 4))
        for index, shape in enumerate(SMALL if small else LARGE)
        for dtype in DTYPES
    ]


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int = 0
) -> tuple[dict[str, Tensor], Tensor]:
    """Queries, keys and values as views of one packed product (the leading queries where fewer), and a gradient."""
    clips, frames, queries, positions, heads, head_dim = shape
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(clips, frames, positions, 3, heads, head_dim, generator=generator).to(device, dtype)
    q, k, v = qkv.unbind(3)
    grad_out = torch.randn(clips, frames, queries, heads, head_dim, generator=generator).to(device, dtype)
    return {"q": q[:, :, :queries], "k": k, "v": v}, grad_out


def _case(device: torch.device, shape: tuple[int, ...], dtype: torch.dtype, *, capture: bool) -> NumericsCase:
    def run(function, working: torch.dtype | None = None) -> Results:
        tensors, grad_out = inputs(shape, dtype, device)
        return with_gradients(function, tensors, grad_out, dtype=working, capture=capture)

    clips, frames, queries, positions, heads, head_dim = shape
    rows = f"S={positions}" if queries == positions else f"S={queries}/{positions}"
    return NumericsCase(
        "spatial_attention", "capture" if capture else "", dtype, f"B={clips} F={frames} {rows} N={heads} D={head_dim}",
        kernel=partial(run, spatial_attention),
        eager=partial(run, eager),
        oracle=partial(run, reference, torch.float64),
    )  # fmt: skip


def compiled() -> list[CompileCase]:
    """Every kernel and every row of its tables of settings (float16 takes the rows and the code of bfloat16)."""
    half, single = torch.bfloat16, torch.float32
    everywhere = [_compiled(dtype, head_dim) for dtype in (half, single) for head_dim in (64, 96, 128)]
    everywhere.append(_compiled(half, 96, queries=1))
    variants = [
        _compiled(half, 96, capture=True),
        _compiled(single, 96, capture=True),
        _compiled(single, 96, queries=1),
    ]
    variants.append(_compiled(single, 56))  # no tensor cores in narrow heads of float32
    variants += [_compiled(dtype, 96, positions=10**6) for dtype in (half, single)]  # offsets beyond 32 bits
    return [*everywhere, *(replace(case, architectures=(90,)) for case in variants)]


def _compiled(
    dtype: torch.dtype, head_dim: int, *, positions: int = 362, queries: int | None = None, capture: bool = False
) -> CompileCase:
    def start() -> None:
        frames = 1 if queries else 7
        qkv = torch.empty(8, frames, positions, 3, 8, head_dim, dtype=dtype, device="meta")
        q, k, v = qkv.unbind(3)
        q = q[:, :, :queries]
        out, row_stats = empty_like_contiguous(q), operator.empty_row_stats(q)
        attention = operator.empty_attention(q, k) if capture else None
        scale = head_dim**-0.5
        operator.launch_forward(q, k, v, scale, out, row_stats, attention)
        gradients = map(empty_like_contiguous, (q, k, v)) if queries else torch.empty_like(qkv).unbind(3)
        grad_out = torch.empty_like(out)
        operator.launch_backward(q, k, v, out, row_stats, grad_out, scale, *gradients, attention)

    name = f"{str(dtype)[6:]} S={positions} D={head_dim}"
    name += (f" queries={queries}" if queries else "") + (" capture" if capture else "")
    return CompileCase(
        "spatial_attention", name, start, needs_tensor_cores=_needs_tensor_cores, allowed_spill=_allowed_spill
    )


def _needs_tensor_cores(launch: Launch) -> bool:
    return launch.arguments["q"].dtype != torch.float32 or launch.arguments["PRECISION"] != "ieee"


def _allowed_spill(launch: Launch, architecture: int) -> int:
    """Bytes that are worth it, to the first cache.

    Wide float32 heads, whose operands are two tf32 parts each, may spill 16 registers; a config that caps registers
    so that two programs share a processor may spill 4.
    """
    if launch.arguments["PRECISION"] == "tf32x3" and launch.arguments["HEAD_DIM"] > 64:
        return 64
    return 16 if launch.config.maxnreg else 0
