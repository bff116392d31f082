"""What the attention kernels have in common before a launch: strides, widths of offsets, precision, empty results."""

from __future__ import annotations

import math

import torch

import kernels.common.launch

LOG2_E = math.log2(math.e)

# Tensor cores cut their sums off towards zero. With that, the error of tf32x3 in q k^T is 1.0 to 1.2 times that of
# float32 where the head comes as two parts of 32 or 64 columns, 1.6 times where 64 and 2.1 times where 128 columns come
# as one, and up to 2.3 times below 64 (computed, not measured).
NARROW_HEAD = 64


def strides(**tensors: torch.Tensor | None) -> dict[str, int]:
    """The strides of tensors `[B, F, S, N, D]` as arguments of a kernel; zeros for one that is not there."""
    found = {}
    for name, x in tensors.items():
        clip, frame, position, head = (0, 0, 0, 0) if x is None else x.stride()[:4]
        found |= {f"{name}_clip": clip, f"{name}_frame": frame, f"{name}_position": position, f"{name}_head": head}
    return found


def wide_positions(matrix: int, *tensors: torch.Tensor) -> bool:
    """Whether a position is too far from the first of its own frame row for a 32-bit offset.

    Clips, frames and heads are always reached by 64-bit offsets; only positions stay 32-bit where they can. `matrix`
    is the number of queries times keys where a matrix of them is written, and 0 otherwise.
    """
    furthest = max((x.shape[2] - 1) * x.stride(2) + (x.shape[4] - 1) * x.stride(4) for x in tensors)
    return max(furthest, matrix) > kernels.common.launch.LARGEST_32_BIT_OFFSET


def float32_precision(x: torch.Tensor) -> str:
    """How products of `x`, whose last dimension is a head, are computed.

    `"tf32"` only where torch allows it. `"tf32x3"` is float32 on tensor cores; each product of a sum is off by a
    little more than float32's own rounding, and sums over few columns do not hide that: heads narrower than
    `NARROW_HEAD` take plain multiply-adds, `"ieee"`. 16-bit operands are exact either way.
    """
    if x.dtype != torch.float32:
        return "ieee"
    if torch.backends.cuda.matmul.fp32_precision == "tf32":
        return "tf32"
    return "tf32x3" if x.shape[-1] >= NARROW_HEAD else "ieee"


def empty_out(q: torch.Tensor) -> torch.Tensor:
    """An uninitialized output of the shape of q, contiguous: the layout the output projection reads."""
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


def empty_gradients(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Uninitialized gradients of q, k and v, contiguous."""
    return empty_out(q), empty_out(k), empty_out(k)
