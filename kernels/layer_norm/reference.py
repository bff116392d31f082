"""LayerNorm followed by self-subtract in plain PyTorch: the specification of the kernel."""

from __future__ import annotations

import torch
import torch.nn.functional as functional

from kernels.frame_difference import difference_rows


def layer_norm_difference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float = 1e-6, out_dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Return `self_subtract(layer_norm(x))`: arithmetic in float32 (float64 for float64), one rounding at the end."""
    working = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        normalized = functional.layer_norm(x.to(working), (x.shape[-1],), weight.to(working), bias.to(working), eps)
        return difference_rows(normalized, 1).to(out_dtype or x.dtype)
