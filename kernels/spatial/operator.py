"""Spatial attention as PyTorch operators: kernel launches, registration, autograd."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch.autograd.function import once_differentiable
from triton import Config

from kernels.common.capture import AttentionCapture
from kernels.common.launch import architecture, choose, launch, split_head_dim
from kernels.common.registry import register
from kernels.common.strides import (
    LOG2_E,
    contiguous_rows,
    empty_like_contiguous,
    float32_precision,
    needs_int64_positions,
    with_strides,
)
from kernels.spatial import configs
from kernels.spatial.kernels import (
    spatial_backward,
    spatial_backward_keys,
    spatial_backward_queries,
    spatial_forward,
)

Tensor = torch.Tensor


def split_columns(head_dim: int, precision: str, halves: bool = False) -> tuple[int, int]:
    """Return two powers of two that cover `head_dim`; with `halves`, and as `"tf32x3"`, the second is never 0.

    The sums of two float32 parts are added in float32.
    """
    first, second = split_head_dim(head_dim)
    halves = (halves and first >= 32) or precision == "tf32x3"
    return (first // 2, first // 2) if halves and second == 0 else (first, second)


def _sizes(q: Tensor, k: Tensor, halves: bool = False) -> dict[str, Any]:
    precision = "ieee" if configs.sums_few_keys(k) else float32_precision(q)
    block_d0, block_d1 = split_columns(k.shape[-1], precision, halves)
    return {
        "queries": q.shape[2],
        "positions": k.shape[2],
        "heads": k.shape[3],
        "frames": k.shape[1],
        "HEAD_DIM": k.shape[-1],
        "BLOCK_D0": block_d0,
        "BLOCK_D1": block_d1,
        "PRECISION": precision,
    }


def _programs(x: Tensor, config: Config) -> int:
    clips, frames, positions, heads, _ = x.shape
    return clips * frames * heads * triton.cdiv(positions, config.kwargs["BLOCK_M"])


def _stats(row_stats: Tensor) -> dict[str, Tensor | None]:
    """Return the row stats as arguments of a kernel: lse, or in float32 row_max and inv_row_sum."""
    lse, row_max, inv_row_sum = (row_stats[0], None, None) if len(row_stats) == 1 else (None, *row_stats)
    return {"lse": lse, "row_max": row_max, "inv_row_sum": inv_row_sum}


def with_positive_scale(q: Tensor, scale: float) -> tuple[Tensor, float]:
    """Return q and scale with the same scores, scale above 0: the kernels take the largest score before scaling it."""
    return (q, scale) if scale > 0 else (q * math.copysign(float(scale != 0), scale), abs(scale) or 1.0)


def launch_forward(
    q: Tensor, k: Tensor, v: Tensor | None, scale: float, out: Tensor | None, row_stats: Tensor,
    attention: Tensor | None,
) -> None:  # fmt: skip
    """Write `row_stats`, `out` where there are values, and `attention` where given, all contiguous."""
    capture = attention is not None
    config = configs.forward(q, k, architecture(q), capture)
    if v is None:
        config = choose(configs.ROW_STATS, architecture(q), q.shape[-1])
    launch(
        spatial_forward,
        _programs(q, config),
        config,
        q.device,
        o=out,
        attention=attention,
        scale_log2=scale * LOG2_E,
        **_stats(row_stats),
        **with_strides(q=q, k=k, v=v),
        **_sizes(q, k, configs.halves_head(q, architecture(q), capture)),
        INT64_OFFSETS=needs_int64_positions(attention, q, k, v, out),
    )


def launch_backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, row_stats: Tensor, grad_out: Tensor, scale: float,
    grad_q: Tensor, grad_k: Tensor, grad_v: Tensor, grad_attention: Tensor | None,
) -> None:  # fmt: skip
    """Write the three gradients (any strides, those of `grad_k` and `grad_v` equal), and d loss / d attention."""
    grad_out = contiguous_rows(grad_out)
    config = configs.backward(q, k, architecture(q)) if grad_attention is None else None
    if config is None:
        launch_two_passes(q, k, v, out, row_stats, grad_out, scale, grad_q, grad_k, grad_v, grad_attention)
    else:
        launch_one_pass(config, q, k, v, out, row_stats, grad_out, scale, grad_q, grad_k, grad_v)


def launch_two_passes(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, row_stats: Tensor, grad_out: Tensor, scale: float,
    grad_q: Tensor, grad_k: Tensor, grad_v: Tensor, grad_attention: Tensor | None,
) -> None:  # fmt: skip
    """Write what `launch_backward` does, dq by one kernel and dk and dv by another; `grad_out` has contiguous rows."""
    shared = {
        "delta": torch.empty_like(row_stats[0]),
        "scale": scale,
        "scale_log2": scale * LOG2_E,
        **_stats(row_stats),
        **with_strides(q=q, k=k, v=v, do=grad_out),
        **_sizes(q, k),
    }
    config = configs.backward_queries(q, k, architecture(q), grad_attention is not None)
    launch(
        spatial_backward_queries,
        _programs(q, config),
        config,
        q.device,
        **shared,
        grad_attention=grad_attention,
        **with_strides(o=out, dq=grad_q),
        INT64_OFFSETS=needs_int64_positions(grad_attention, q, k, v, out, grad_out, grad_q),
    )
    config = configs.backward_keys(q, k, architecture(q))
    for dk, dv in [(grad_k, None), (None, grad_v)] if configs.splits_keys(k) else [(grad_k, grad_v)]:
        launch(
            spatial_backward_keys,
            _programs(k, config),
            config,
            q.device,
            **shared,
            **with_strides(dk=grad_k) | {"dk": dk, "dv": dv},
            INT64_OFFSETS=needs_int64_positions(None, q, k, v, grad_out, grad_k),
        )


def launch_one_pass(
    config: Config, q: Tensor, k: Tensor, v: Tensor, out: Tensor, row_stats: Tensor, grad_out: Tensor, scale: float,
    grad_q: Tensor, grad_k: Tensor, grad_v: Tensor,
) -> None:  # fmt: skip
    """Write the three gradients of 16-bit attention, a program a head of a frame row; `grad_out` as above.

    Of wide heads dv comes from `spatial_backward_keys`.
    """
    clips, frames, queries, heads, head_dim = q.shape
    groups = clips * frames * heads
    block_n, warps = config.kwargs["BLOCK_N"], config.num_warps
    wgmma = architecture(q) == 90
    # How the compiler deals out the warps over a product [BLOCK_N, D]: 64 rows to a warp group, or 16 to a warp.
    warps_m = 4 if wgmma else block_n // 16
    block_d0, block_d1 = split_head_dim(head_dim)
    rows = triton.cdiv(queries, block_n) * block_n
    launch(
        spatial_backward,
        groups,
        config,
        q.device,
        lse=row_stats[0],
        row_sums=torch.empty((groups, 2, queries), dtype=torch.float32, device=q.device),
        dq_sum=torch.empty((groups, rows * (block_d0 + block_d1)), dtype=torch.float32, device=q.device),
        dv=None if configs.leaves_values(k) else grad_v,
        scale=scale,
        scale_log2=scale * LOG2_E,
        queries=queries,
        positions=k.shape[2],
        heads=heads,
        frames=frames,
        HEAD_DIM=head_dim,
        BLOCK_D0=block_d0,
        BLOCK_D1=block_d1,
        BLOCK_DELTA=128,
        STAGES=config.num_stages,
        WARPS_M=warps_m,
        WARPS_N=warps // warps_m,
        WGMMA=wgmma,
        INT64_OFFSETS=needs_int64_positions(None, q, k, v, out, grad_out, grad_q, grad_k),
        **with_strides(q=q, k=k, v=v, o=out, do=grad_out, dq=grad_q, dk=grad_k),
    )
    if configs.leaves_values(k):
        config = configs.backward_values(k, architecture(q))
        launch(
            spatial_backward_keys,
            _programs(k, config),
            config,
            q.device,
            delta=None,
            scale=scale,
            scale_log2=scale * LOG2_E,
            **_stats(row_stats),
            **with_strides(q=q, k=k, v=v, do=grad_out, dk=grad_v) | {"dk": None, "dv": grad_v},
            **_sizes(q, k),
            INT64_OFFSETS=needs_int64_positions(None, q, k, v, grad_out, grad_v),
        )


def empty_row_stats(q: Tensor) -> Tensor:
    """Return an empty buffer for lse (in float32: row_max and inv_row_sum) `[1 or 2, B, F, N, S_q]`, float32."""
    clips, frames, queries, heads, _ = q.shape
    shape = (2 if q.dtype == torch.float32 else 1, clips, frames, heads, queries)
    return torch.empty(shape, dtype=torch.float32, device=q.device)


def empty_attention(q: Tensor, k: Tensor, capture: bool = True) -> Tensor:
    """Return an uninitialized attention matrix `[B, F, N, S_q, S]`, float32; `[0]` without a capture."""
    clips, frames, positions, heads, _ = k.shape
    shape = (clips, frames, heads, q.shape[2], positions) if capture else (0,)
    return torch.empty(shape, dtype=torch.float32, device=q.device)


def _fake_forward(q: Tensor, k: Tensor, v: Tensor, scale: float, capture: bool) -> tuple[Tensor, Tensor, Tensor]:
    return empty_like_contiguous(q), empty_row_stats(q), empty_attention(q, k, capture)


def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float, capture: bool) -> tuple[Tensor, Tensor, Tensor]:
    out, row_stats, attention = _fake_forward(q, k, v, scale, capture)
    launch_forward(q, k, v, scale, out, row_stats, attention if capture else None)
    return out, row_stats, attention


def _fake_backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, row_stats: Tensor, grad_out: Tensor, scale: float, capture: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return *(empty_like_contiguous(x) for x in (q, k, v)), empty_attention(q, k, capture)


def _backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, row_stats: Tensor, grad_out: Tensor, scale: float, capture: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *gradients, grad_attention = _fake_backward(q, k, v, out, row_stats, grad_out, scale, capture)
    launch_backward(q, k, v, out, row_stats, grad_out, scale, *gradients, grad_attention if capture else None)
    return *gradients, grad_attention


def _fake_packed_backward(
    qkv: Tensor, out: Tensor, row_stats: Tensor, grad_out: Tensor, scale: float, capture: bool
) -> tuple[Tensor, Tensor]:
    q, k, _ = qkv.unbind(3)
    return empty_like_contiguous(qkv), empty_attention(q, k, capture)


def _packed_backward(
    qkv: Tensor, out: Tensor, row_stats: Tensor, grad_out: Tensor, scale: float, capture: bool
) -> tuple[Tensor, Tensor]:
    gradient, grad_attention = _fake_packed_backward(qkv, out, row_stats, grad_out, scale, capture)
    q, k, v = qkv.unbind(3)
    emitted = grad_attention if capture else None
    launch_backward(q, k, v, out, row_stats, grad_out, scale, *gradient.unbind(3), emitted)
    return gradient, grad_attention


forward = register(
    "spatial_attention(Tensor q, Tensor k, Tensor v, float scale, bool capture) -> (Tensor, Tensor, Tensor)",
    kernel=_forward,
    fake=_fake_forward,
)
backward = register(
    "spatial_attention_backward"
    "(Tensor q, Tensor k, Tensor v, Tensor out, Tensor row_stats, Tensor grad_out, float scale, bool capture)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    kernel=_backward,
    fake=_fake_backward,
)
packed_backward = register(
    "spatial_attention_packed_backward"
    "(Tensor qkv, Tensor out, Tensor row_stats, Tensor grad_out, float scale, bool capture) -> (Tensor, Tensor)",
    kernel=_packed_backward,
    fake=_fake_packed_backward,
)


class SpatialAttention(torch.autograd.Function):
    """Autograd of attention: of q, k and v, read in place by strides, or of one packed `[B, F, S, 3, N, D]`.

    The gradient of a packed product is written packed too, with no stacking copy.
    """

    @staticmethod
    def forward(ctx: Any, scale: float, capture: AttentionCapture | None, *tensors: Tensor) -> Tensor:
        """Save the tensors, the output and the row stats; fill the capture's attention."""
        q, k, v = tensors if len(tensors) == 3 else tensors[0].unbind(3)
        out, row_stats, attention = forward(q, k, v, scale, capture is not None)
        if capture is not None:
            capture.record(attention)
        ctx.save_for_backward(*tensors, out, row_stats)
        ctx.scale, ctx.capture = scale, capture
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the tensors; fill the capture's gradient."""
        saved = ctx.saved_tensors
        gradients_of = backward if len(saved) == 5 else packed_backward
        *gradients, grad_attention = gradients_of(*saved, grad_out, ctx.scale, ctx.capture is not None)
        if ctx.capture is not None:
            ctx.capture.gradient = grad_attention
        return None, None, *gradients
