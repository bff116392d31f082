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


def spatial_attention_backward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grad_out: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v (contiguous) and of the attention ``[B, F, N, S_q, S]``, written out without autograd.

    ``dA = dO v^T, dS = scale A (dA - rowsum(A dA)), dq = dS k, dk = dS^T q, dv = A^T dO``.
    """
    dtype = q.dtype
    working = torch.float64 if dtype == torch.float64 else torch.float32
    # [B, F, S, N, D] -> [B, F, N, S, D]
    q, k, v, grad_out = (x.to(working).transpose(2, 3) for x in (q, k, v, grad_out))
    attention = torch.softmax((q * scale) @ k.mT, -1)
    grad_attention = grad_out @ v.mT
    grad_scores = scale * attention * (grad_attention - (attention * grad_attention).sum(-1, keepdim=True))
    gradients = (grad_scores @ k, grad_scores.mT @ q, attention.mT @ grad_out)
    grad_q, grad_k, grad_v = (x.transpose(2, 3).to(dtype).contiguous() for x in gradients)
    return grad_q, grad_k, grad_v, grad_attention


def log_sum_exp(q: torch.Tensor, k: torch.Tensor, *, scale: float) -> torch.Tensor:
    """``log2(sum exp(scale q k^T))`` over the keys, ``[B, F, N, S_q]`` float32: what the kernel keeps for backward."""
    with torch.autocast(q.device.type, enabled=False):
        q, k = (x.double().transpose(2, 3) for x in (q, k))
        return (torch.logsumexp((q * scale) @ k.transpose(-1, -2), -1) / math.log(2)).float()
