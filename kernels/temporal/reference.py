"""Temporal attention in plain PyTorch: the specification of the kernels, and the path of CPU tensors."""

from __future__ import annotations

import torch

from kernels.common.capture import AttentionCapture
from kernels.frame_difference import difference_rows, integrate_rows


def temporal_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    self_subtract: str = "off",
    capture: AttentionCapture | None = None,
) -> torch.Tensor:
    """Return `softmax(scale q k^T) v` over the frame rows, at each position of each clip and head.

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
