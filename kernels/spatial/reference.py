"""Spatial attention in plain PyTorch: the specification of the kernels, and the path of CPU tensors."""

from __future__ import annotations

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
    """Return `softmax(scale q k^T) v` over the positions, in each frame row of each clip and head.

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
