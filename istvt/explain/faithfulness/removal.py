"""Removing pixels from clips, so that what a model says without them can be compared.

What stands where pixels were must not be evidence itself. A constant gray draws the removed shape into the face: a
detector of forgeries takes it for one, whatever was under it. So by default a removed pixel takes the color of what
is left around it, as in Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods"
(ICML 2022), here by a pyramid of averages, which needs no linear system.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from istvt.config import Fill

_NOTHING = 1e-12


def remove(clips: Tensor, removed: Tensor, fill: Fill = "surroundings") -> Tensor:
    """Clips without some of their pixels.

    Args:
        clips: [B, T, 3, H_i, W_i] in [-1, 1].
        removed: bool [B, T, H_i, W_i].
        fill: "surroundings": smoothly from the pixels of the same frame that are left (mid-gray if there is none);
            "gray": 0, mid-gray.

    Returns:
        [B, T, 3, H_i, W_i]; where nothing was removed as before, bit for bit.
    """
    known = (~removed).unsqueeze(2).to(clips.dtype)
    if fill == "gray":
        return clips * known
    values = torch.where(removed.unsqueeze(2), 0.0, clips)
    filled = _filled(values.flatten(0, 1), known.flatten(0, 1)).view_as(clips)
    return torch.where(removed.unsqueeze(2), filled, clips)


def _filled(values: Tensor, known: Tensor) -> Tensor:
    """Each pixel by the finest average that knows any of its surroundings.

    Args:
        values: [frames, 3, h, w], times `known`.
        known: [frames, 1, h, w] in 0..1, how much of each pixel is known.
    """
    if min(values.shape[-2:]) == 1:
        total = known.sum((-2, -1), keepdim=True)
        return (values.sum((-2, -1), keepdim=True) / total.clamp(min=_NOTHING)).expand_as(values)
    halved, weight = (functional.avg_pool2d(x, 4, 2, padding=1) for x in (values, known))
    # A quarter of the window known is enough to trust its average; less is mixed with a coarser one.
    trust = (4 * weight).clamp(max=1)
    coarse = _filled(halved / weight.clamp(min=_NOTHING) * trust, trust)
    coarse = functional.interpolate(coarse, values.shape[-2:], mode="bilinear", align_corners=False)
    return values + (1 - known) * coarse
