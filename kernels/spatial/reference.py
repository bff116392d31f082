"""Spatial attention in plain PyTorch: the specification of the kernel, and what CPU tensors use."""

from __future__ import annotations

import math

import torch

from kernels.common.capture import AttentionCapture


def spatial_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    capture: AttentionCapture | None = None,
) -> torch.Tensor:
    """`softmax(scale q k^T) v` over the positions, in each frame row of each clip and head.

    Arithmetic in float32 (float64 for float64 inputs), one rounding at the end. Differentiable any number of times.
    """
    dtype = q.dtype
    working = torch.float64 if dtype == torch.float64 else torch.float32
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    with torch.autocast(q.device.type, enabled=False):
        # [B, F, S, N, D] -> [B, F, N, S, D]
        q, k, v = (x.to(working).transpose(2, 3) for x in (q, k, v))
        attention = torch.softmax((q * scale) @ k.transpose(-1, -2), -1)
        if capture is not None:
            capture.record(attention)
        return (attention @ v).transpose(2, 3).to(dtype)


def spatial_attention_backward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grad_out: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v (contiguous) and of the attention `[B, F, N, S_q, S]`, written out without autograd.

    `dA = dO v^T, dS = scale A (dA - rowsum(A dA)), dq = dS k, dk = dS^T q, dv = A^T dO`.
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


def normalizer(q: torch.Tensor, k: torch.Tensor, *, scale: float) -> torch.Tensor:
    """Offset (and factor) of each softmax row, `[1 or 2, B, F, N, S_q]` float32: what the kernel keeps for backward.

    `attention = exp2(log2(e) scale q k^T - offset) * factor`. In 16 bits the offset is the log-sum-exp and there is
    no factor; in float32 they are the largest score and one over the sum.
    """
    exact = q.dtype == torch.float32
    with torch.autocast(q.device.type, enabled=False):
        q, k = (x.double().transpose(2, 3) for x in (q, k))
        scores = (q * (scale / math.log(2))) @ k.transpose(-1, -2)
        largest = scores.amax(-1)
        total = torch.exp2(scores - largest[..., None]).sum(-1)
        return torch.stack([largest, 1 / total] if exact else [largest + total.log2()]).float()
