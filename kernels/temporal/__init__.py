"""Temporal attention: softmax attention over the frame rows of each position, self-subtract included.

Neighboring frames are nearly equal, and the difference of two rounded numbers keeps the rounding and loses the signal.
`self_subtract="telescoped"` takes tokens that were subtracted in float32 (`kernels.layer_norm_difference`), projects
the differences once and integrates the values over frames in registers: full precision in 16-bit types. `"fused"` takes
projections of the tokens and subtracts queries and keys in registers: right for float32.
`tests/kernels/test_nearly_static_video.py` shows both, and what plain project-then-subtract does in bfloat16.

- 16-bit types pack positions into block-diagonal products on tensor cores, so NaN or infinity in one position reaches
  the up to 63 others of its tile.
- float32 takes plain multiply-adds: exact, no tf32. Beyond 64 frames its backward kernel spills up to 1 KiB of
  registers a thread.
- With `E` bytes in a tensor of the size of q, forward must read 3 E and write E; backward must read 4 E (q, k, v and
  the output's gradient; no output, no log-sum-exp) and write 3 E. The machine code of a 64-row tile moves 1.00 of it,
  16 bytes at a time (`python -m bench compile`, for D of 64 and 96 in bfloat16 and float16).
"""

from __future__ import annotations

import torch

from kernels.common.capture import AttentionCapture
from kernels.common.launch import runs_kernels
from kernels.common.validation import (
    LARGEST_FRAMES,
    attention_scale,
    check_attention,
    check_kernel_attention,
    check_last_dimension,
    check_packed,
    to_autocast_dtype,
)
from kernels.temporal import reference
from kernels.temporal.operator import TemporalAttention

__all__ = ["temporal_attention", "temporal_attention_packed"]

SELF_SUBTRACT = ("off", "fused", "telescoped")


def temporal_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    self_subtract: str = "off",
    capture: AttentionCapture | None = None,
) -> torch.Tensor:
    """Attend over the frame rows at each position: `softmax(scale q k^T) v` (ISTVT, section III-B).

    CUDA tensors take the Triton kernels, CPU and float64 tensors the reference. The kernels read q, k and v in place
    through any strides (last dimension contiguous). Several positions share a tile, so a non-finite value in one
    position may reach up to 63 neighboring positions of the same head in 16-bit types.

    Args:
        q: `[B, F_q, S, N, D]`; the leading `F_q <= F` frame rows.
        k: `[B, F, S, N, D]`, `F` up to 128 and `D` up to 128 on a GPU.
        v: the same shape; q, k and v share dtype (float32, float16, bfloat16, float64) and device. Under autocast all
            three are cast to its dtype, as PyTorch's own attention does.
        scale: `D ** -0.5` when not given. Give the unpadded one where `D` is padded.
        self_subtract: `"off"`; `"fused"`: q and k are projections of the tokens and are differenced over frames
            before the product (`kernels.self_subtract`): the choice for float32; `"telescoped"`: q, k and v are
            projections of the *differenced* tokens, and v is integrated back over frames: the choice for 16-bit
            types, with full precision. Every mode takes every dtype; in 16 bits `"fused"` runs in the float32 kernels,
            exactly and without tensor cores, but the rounding of the projections has lost the signal before.
        capture: receives attention and its gradient `[B, S, N, F_q, F]`.

    Returns:
        `[B, F_q, S, N, D]` in the dtype of q; contiguous on a GPU.

    Raises:
        TypeError: an argument is no floating-point tensor, or dtypes differ.
        ValueError: shapes or devices do not fit, the scale is not finite, `self_subtract` is unknown or has fewer
            than 2 frame rows, or (on a GPU) D or F is over 128 or a last dimension is not contiguous.
    """
    q, k, v = to_autocast_dtype(q, k, v)
    check_attention(q, k, v, fewer_queries_in=1)
    _check_frames(k, self_subtract)
    scale = attention_scale(scale, q.shape[-1])
    if not runs_kernels(q):
        return reference.temporal_attention(q, k, v, scale=scale, self_subtract=self_subtract, capture=capture)
    check_kernel_attention(q, k, v)
    _check_kernel_frames(k)
    return TemporalAttention.apply(scale, self_subtract, capture, q, k, v)


def temporal_attention_packed(
    qkv: torch.Tensor,
    *,
    scale: float | None = None,
    self_subtract: str = "off",
    capture: AttentionCapture | None = None,
) -> torch.Tensor:
    """Attend as `temporal_attention` does, of a packed product; its gradient is written packed, with no stacking copy.

    Args:
        qkv: `[B, F, S, 3, N, D]`: queries, keys and values of one projection.
        scale: as for `temporal_attention`.
        self_subtract: as for `temporal_attention`.
        capture: as for `temporal_attention`.

    Returns:
        `[B, F, S, N, D]`.

    Raises:
        TypeError: as for `temporal_attention`.
        ValueError: as for `temporal_attention`, or dimension 3 of `qkv` is not 3.
    """
    (qkv,) = to_autocast_dtype(qkv)
    check_packed(qkv)
    q, k, v = qkv.unbind(3)
    if not runs_kernels(qkv):
        return temporal_attention(q, k, v, scale=scale, self_subtract=self_subtract, capture=capture)
    _check_frames(k, self_subtract)
    check_last_dimension("qkv", qkv)
    check_kernel_attention(q, k, v)
    _check_kernel_frames(k)
    return TemporalAttention.apply(attention_scale(scale, qkv.shape[-1]), self_subtract, capture, qkv)


def _check_frames(k: torch.Tensor, self_subtract: str) -> None:
    if self_subtract not in SELF_SUBTRACT:
        raise ValueError(f"self_subtract is {self_subtract!r}; it takes 'off', 'fused' or 'telescoped'.")
    if self_subtract != "off" and k.shape[1] < 2:
        raise ValueError(f"k has {k.shape[1]} frame rows; self_subtract={self_subtract!r} takes 2 or more.")


def _check_kernel_frames(k: torch.Tensor) -> None:
    if not 1 <= k.shape[1] <= LARGEST_FRAMES:
        raise ValueError(f"k has {k.shape[1]} frame rows; the kernels take 1 to {LARGEST_FRAMES}.")
