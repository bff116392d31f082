"""Deletion and insertion curves: what becomes of a logit when the hottest pixels of a clip are taken away or kept.

The same pixels change in all frames: other pixels in each frame would be flicker, which is a forged trace itself. What
stands in their place must not be evidence either. Without an original they take the color of what is left around them,
as in Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods" (ICML 2022), here by a
pyramid of averages, which needs no linear system. Where the original of a fake is known, they are its pixels: the true
counterfactual, of which nothing can look forged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_NOTHING = 1e-12


def hottest_first(where: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return pixels from hottest to coldest, int64 [B, H_i * W_i], of where [B, H_i, W_i]; chance orders equal heat."""
    flat = where.reshape(len(where), -1)
    chance = random.random(flat.shape)
    return np.stack([np.lexsort((tie, -heat)) for heat, tie in zip(flat, chance, strict=True)])


def changed_pixels(order: np.ndarray, fraction: float, height: int, width: int) -> Tensor:
    """Return the first `fraction` of pixels in `order`, bool [B, 1, H_i, W_i]: one mask for all frames."""
    changed = np.zeros(order.shape, bool)
    np.put_along_axis(changed, order[:, : round(fraction * order.shape[1])], True, axis=1)
    return torch.from_numpy(changed.reshape(len(order), 1, height, width))


def curve(
    logits_of: Callable[[Tensor], np.ndarray],
    clips: Tensor,
    order: np.ndarray,
    fractions: Sequence[float],
    first: np.ndarray,
    *,
    insert: bool = False,
    originals: Tensor | None = None,
) -> np.ndarray:
    """Return logits, float64 [B, fractions], of clips whose hottest pixels are taken away, or are all that is left.

    Args:
        logits_of: of clips [B, T, 3, H_i, W_i].
        clips: the same.
        order: of `hottest_first`.
        fractions: of the pixels of a frame, the first being 0.
        first: [B], logits at 0, the same for every order: of the whole clips or, of insertion, of what it begins with.
        insert: keep the hottest and change all others.
        originals: clips before they were forged, whose pixels stand in place of what is changed; otherwise it is
            filled from the surroundings.
    """
    found = [first]
    for fraction in fractions[1:]:
        changed = changed_pixels(order, fraction, *clips.shape[-2:]).to(clips.device)
        changed = (~changed if insert else changed).expand(-1, clips.shape[1], -1, -1)
        if originals is None:
            found.append(logits_of(remove(clips, changed)))
        else:
            found.append(logits_of(torch.where(changed.unsqueeze(2), originals, clips)))
    return np.stack(found, axis=1)


def remove(clips: Tensor, removed: Tensor) -> Tensor:
    """Return clips without some of their pixels, which are filled smoothly from those of the same frame that are left.

    Args:
        clips: [B, T, 3, H_i, W_i] in [-1, 1].
        removed: bool [B, T, H_i, W_i].

    Returns:
        [B, T, 3, H_i, W_i]; where nothing was removed as before, bit for bit; a frame of which nothing is left is 0,
        mid-gray.
    """
    known = (~removed).unsqueeze(2).to(clips.dtype)
    values = torch.where(removed.unsqueeze(2), 0.0, clips)
    filled = _filled(values.flatten(0, 1), known.flatten(0, 1)).view_as(clips)
    return torch.where(removed.unsqueeze(2), filled, clips)


def _filled(values: Tensor, known: Tensor) -> Tensor:
    """Fill each pixel by the finest average that knows any of its surroundings.

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
