"""Autocast for operators of this package: attention follows PyTorch's own attention and runs in its dtype."""

from __future__ import annotations

import torch


def to_autocast_dtype(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Cast floating-point tensors (but float64) to autocast's dtype where autocast is on for their device."""
    return tuple(
        x.to(torch.get_autocast_dtype(x.device.type))
        if isinstance(x, torch.Tensor)
        and x.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and x.device.type in ("cpu", "cuda")
        and torch.is_autocast_enabled(x.device.type)
        else x
        for x in tensors
    )
