"""Spatial attention in plain PyTorch: the specification of the kernel, and what CPU tensors use."""

from __future__ import annotations

import math

import torch

from kernels.attention_tape import AttentionTape


def spatial_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    tape: AttentionTape | None = None,
) -> torch.Tensor:
    """``softmax(scale q k^T) v`` over the positions, in each frame row of each clip and head.

    Arithmetic in float32 (float64 for float64 inputs), one rounding at the end. Differentiable any number of times.
    """
    dtype = q.dtype
    working = torch.float64 if dtype == torch.float64 else torch.float32
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    with torch.autocast(q.device.type, enabled=False):
        # [B, F, S, N, D] -> [B, F, N, S, D]
        q, k, v = (x.to(working).transpose(2, 3) for x in (q, k, v))
        attention = torch.softmax((q * scale) @ k.transpose(-1, -2), -1)
        if tape is not None:
            tape.record(attention)
        return (attention @ v).transpose(2, 3).to(dtype)


def log_sum_exp(q: torch.Tensor, k: torch.Tensor, *, scale: float) -> torch.Tensor:
    """``log2(sum exp(scale q k^T))`` over the keys, ``[B, F, N, S_q]`` float32: what the kernel keeps for backward."""
    with torch.autocast(q.device.type, enabled=False):
        q, k = (x.double().transpose(2, 3) for x in (q, k))
        return (torch.logsumexp((q * scale) @ k.transpose(-1, -2), -1) / math.log(2)).float()
