"""Temporal attention in plain PyTorch: the specification of the kernel, and what CPU tensors use."""

from __future__ import annotations

import torch

from kernels.common.capture import AttentionCapture
from kernels.self_subtract import (
    difference_rows,
    difference_rows_adjoint,
    integrate_rows,
    integrate_rows_adjoint,
)


def temporal_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    self_subtract: str = "off",
    capture: AttentionCapture | None = None,
) -> torch.Tensor:
    """`softmax(scale q k^T) v` over the frame rows, at each position of each clip and head.

    Arithmetic in float32 (float64 for float64 inputs), one rounding at the end. Differentiable any number of times.
    """
    dtype = q.dtype
    working = torch.float64 if dtype == torch.float64 else torch.float32
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    with torch.autocast(q.device.type, enabled=False):
        # [B, F, S, N, D] -> [B, S, N, F, D]
        q, k, v = (x.to(working).permute(0, 2, 3, 1, 4).contiguous() for x in (q, k, v))
        if self_subtract == "fused":
            q, k = difference_rows(q, 3), difference_rows(k, 3)
        elif self_subtract == "telescoped":
            v = integrate_rows(v, 3)
        attention = torch.softmax((q * scale) @ k.transpose(-1, -2), -1)
        if capture is not None:
            capture.record(attention)
        return (attention @ v).permute(0, 3, 1, 2, 4).to(dtype)


def temporal_attention_backward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grad_out: torch.Tensor, scale: float, self_subtract: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v (contiguous) and of the attention `[B, S, N, F_q, F]`, written out without autograd.

    `dA = dO v^T, dS = scale A (dA - rowsum(A dA)), dq = dS k, dk = dS^T q, dv = A^T dO`.
    """
    dtype = q.dtype
    working = torch.float64 if dtype == torch.float64 else torch.float32
    # [B, F, S, N, D] -> [B, S, N, F, D]
    q, k, v, grad_out = (x.to(working).permute(0, 2, 3, 1, 4) for x in (q, k, v, grad_out))
    if self_subtract == "fused":
        q, k = difference_rows(q, 3), difference_rows(k, 3)
    elif self_subtract == "telescoped":
        v = integrate_rows(v, 3)
    attention = torch.softmax((q * scale) @ k.transpose(-1, -2), -1)
    grad_attention = grad_out @ v.transpose(-1, -2)
    grad_scores = scale * attention * (grad_attention - (attention * grad_attention).sum(-1, keepdim=True))
    grad_q, grad_k, grad_v = grad_scores @ k, grad_scores.mT @ q, attention.mT @ grad_out
    if self_subtract == "fused":
        grad_q, grad_k = difference_rows_adjoint(grad_q, 3), difference_rows_adjoint(grad_k, 3)
    elif self_subtract == "telescoped":
        grad_v = integrate_rows_adjoint(grad_v, 3)
    grad_q, grad_k, grad_v = (x.permute(0, 3, 1, 2, 4).to(dtype).contiguous() for x in (grad_q, grad_k, grad_v))
    return grad_q, grad_k, grad_v, grad_attention
