"""Spatial attention: softmax attention over the positions of each frame row."""

from __future__ import annotations

import torch

from kernels.common.capture import AttentionCapture
from kernels.common.launch import runs_kernels
from kernels.common.validation import (
    attention_scale,
    check_attention,
    check_kernel_attention,
    check_last_dimension,
    check_packed,
    to_autocast_dtype,
)
from kernels.spatial import reference
from kernels.spatial.operator import SpatialAttention, with_positive_scale

__all__ = ["spatial_attention", "spatial_attention_packed"]


def spatial_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    capture: AttentionCapture | None = None,
) -> torch.Tensor:
    """Attend over the positions of each frame row: `softmax(scale q k^T) v` (ISTVT, section III-C).

    CUDA tensors take the Triton kernels (flash attention: nothing of size S x S exists without a capture), CPU and
    float64 tensors the reference. The kernels read q, k and v in place through any strides (last dimension
    contiguous); their backward repeats bit for bit. float32 products run as three tf32 products (float32 accuracy;
    plain multiply-adds where D or the keys are below 64), as one where
    `torch.backends.cuda.matmul.fp32_precision` is `"tf32"`.

    Args:
        q: `[B, F, S_q, N, D]`; the leading `S_q <= S` positions.
        k: `[B, F, S, N, D]`, `D` up to 128 on a GPU.
        v: the same shape; q, k and v share dtype (float32, float16, bfloat16, float64) and device. Under autocast all
            three are cast to its dtype, as PyTorch's own attention does.
        scale: `D ** -0.5` when not given. Give the unpadded one where `D` is padded.
        capture: receives attention and its gradient `[B, F, N, S_q, S]`.

    Returns:
        `[B, F, S_q, N, D]` in the dtype of q; contiguous on a GPU.

    Raises:
        TypeError: an argument is no floating-point tensor, or dtypes differ.
        ValueError: shapes or devices do not fit, the scale is not finite, or (on a GPU) D is over 128 or a last
            dimension is not contiguous.
    """
    q, k, v = to_autocast_dtype(q, k, v)
    check_attention(q, k, v, fewer_queries_in=2)
    scale = attention_scale(scale, q.shape[-1])
    if not runs_kernels(q):
        return reference.spatial_attention(q, k, v, scale=scale, capture=capture)
    check_kernel_attention(q, k, v)
    q, scale = with_positive_scale(q, scale)
    return SpatialAttention.apply(scale, capture, q, k, v)


def spatial_attention_packed(
    qkv: torch.Tensor, *, scale: float | None = None, capture: AttentionCapture | None = None
) -> torch.Tensor:
    """Attend as `spatial_attention` does, of a packed product; its gradient is written packed, with no stacking copy.

    Args:
        qkv: `[B, F, S, 3, N, D]`: queries, keys and values of one projection.
        scale: as for `spatial_attention`.
        capture: as for `spatial_attention`.

    Returns:
        `[B, F, S, N, D]`.

    Raises:
        TypeError: as for `spatial_attention`.
        ValueError: as for `spatial_attention`, or dimension 3 of `qkv` is not 3.
    """
    (qkv,) = to_autocast_dtype(qkv)
    check_packed(qkv)
    scale = attention_scale(scale, qkv.shape[-1])
    q, k, v = qkv.unbind(3)
    if scale <= 0 or not runs_kernels(qkv):
        return spatial_attention(q, k, v, scale=scale, capture=capture)
    check_last_dimension("qkv", qkv)
    check_kernel_attention(q, k, v)
    return SpatialAttention.apply(scale, capture, qkv)
