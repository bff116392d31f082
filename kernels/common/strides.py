"""Strides, offset width and float32 precision of the operands of a kernel launch."""

from __future__ import annotations

import math

import torch

import kernels.common.launch

LOG2_E = math.log2(math.e)

# Tensor cores truncate their sums toward zero. The error of tf32x3 in q k^T is 1.0 to 1.2 times that of
# float32 where the head comes as two parts of 32 or 64 columns, 1.6 times where 64 and 2.1 times where 128 columns come
# as one, and up to 2.3 times below 64 (computed, not measured).
NARROW_HEAD = 64


def with_strides(**tensors: torch.Tensor | None) -> dict[str, torch.Tensor | int | None]:
    """Return tensors `[B, F, S, N, D]` and their strides as kernel arguments: `stride_qb` and so on; 0 for None."""
    strides = {
        f"stride_{name}{axis}": 0 if x is None else x.stride(dim)
        for name, x in tensors.items()
        for dim, axis in enumerate("bfsh")
    }
    return tensors | strides


def needs_int64_positions(matrix: torch.Tensor | None, *tensors: torch.Tensor | None) -> bool:
    """Return whether a position is too far from the first of its own frame row for a 32-bit offset.

    Clips, frames and heads are always reached by 64-bit offsets; only positions stay 32-bit where they can. `matrix`
    is `[..., S_q, S]` where one is written.
    """
    furthest = max((x.shape[2] - 1) * x.stride(2) + (x.shape[4] - 1) * x.stride(4) for x in tensors if x is not None)
    if matrix is not None:
        furthest = max(furthest, matrix.shape[-1] * matrix.shape[-2])
    return furthest > kernels.common.launch.LARGEST_32_BIT_OFFSET


def float32_precision(x: torch.Tensor) -> str:
    """Return how products of `x`, whose last dimension is a head, are computed.

    `"tf32"` only where torch allows it. `"tf32x3"` is float32 on tensor cores; each product of a sum is off by a
    little more than float32's own rounding, and sums over few columns do not hide that: heads narrower than
    `NARROW_HEAD` take plain multiply-adds, `"ieee"`. 16-bit operands are exact either way.
    """
    if x.dtype != torch.float32:
        return "ieee"
    if torch.backends.cuda.matmul.fp32_precision == "tf32":
        return "tf32"
    return "tf32x3" if x.shape[-1] >= NARROW_HEAD else "ieee"


def empty_like_contiguous(x: torch.Tensor) -> torch.Tensor:
    """Return an uninitialized contiguous tensor of the shape of `x`: the layout the output projection reads."""
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def contiguous_rows(grad_out: torch.Tensor) -> torch.Tensor:
    """Return `grad_out` with a contiguous last dimension: the gradient of a sum arrives expanded."""
    return grad_out if grad_out.stride(-1) == 1 else grad_out.contiguous()
