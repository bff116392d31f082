"""Deletion curve: how much a model's accuracy and confidence suffer when the hottest pixels of a clip are removed.

What stands where pixels were must not be evidence itself. A constant gray draws the removed shape into the face: a
detector of forgeries takes it for one, whatever was under it. So by default a removed pixel takes the color of what
is left around it, as in Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods"
(ICML 2022), here by a pyramid of averages, which needs no linear system.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dataloading.clips.sampling import Clip
from istvt.config import Fill
from istvt.explain import heatmap
from istvt.inference.video_score import DEFAULT_THRESHOLD, probability_of

_NOTHING = 1e-12


def delete(
    clips: Tensor, heat: np.ndarray, fractions: Sequence[float], fill: Fill, random: np.random.Generator
) -> Iterator[Tensor]:
    """Give the clips without their hottest pixels, for each fraction.

    Args:
        clips: [B, T, 3, H_i, W_i] in [-1, 1].
        heat: [B, T, H, W].
        fractions: of all pixels of a clip.
        fill: see `remove`.
        random: ranks pixels of equal heat.
    """
    batch, frames, _, height, width = clips.shape
    heat = torch.from_numpy(heatmap.upscale(heat, height, width)).to(clips.device).flatten(1)
    chance = torch.from_numpy(random.random(heat.shape, np.float32)).to(heat.device)
    # Chance decides between equal heat and nothing else: far below a gray level of the color scale.
    largest = heat.abs().amax(1, keepdim=True).clamp(min=torch.finfo(heat.dtype).tiny)
    order = (heat / largest + 1e-6 * chance).argsort(dim=1, descending=True)
    for fraction in fractions:
        removed = torch.zeros_like(heat, dtype=torch.bool)
        removed.scatter_(1, order[:, : round(fraction * order.shape[1])], True)
        yield remove(clips, removed.view(batch, frames, height, width), fill)


def remove(clips: Tensor, removed: Tensor, fill: Fill = "surroundings") -> Tensor:
    """Return clips without some of their pixels.

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


def curves(clips: Sequence[Clip], logits: np.ndarray) -> tuple[list[float], list[float]]:
    """Return balanced accuracy of videos and mean confidence of clips, for logits [clips, fractions].

    Confidence is the probability of the class that the whole clip was given.
    """
    probabilities = probability_of(logits)
    of_video: dict[tuple[str, int], list[int]] = {}
    for place, clip in enumerate(clips):
        of_video.setdefault((clip.video.name, clip.label), []).append(place)
    right: dict[int, list[np.ndarray]] = {}
    for (_, label), places in of_video.items():
        right.setdefault(label, []).append((probabilities[places].mean(0) > DEFAULT_THRESHOLD) == bool(label))
    accuracy = np.mean([np.mean(each, axis=0) for each in right.values()], axis=0)
    first = probabilities[:, :1] > DEFAULT_THRESHOLD
    confidence = np.where(first, probabilities, 1 - probabilities).mean(0)
    return accuracy.tolist(), confidence.tolist()


def mean_height(fractions: Sequence[float], values: Sequence[float]) -> float:
    """Return the mean height of a curve (trapezoids)."""
    return float(np.trapezoid(values, fractions) / (fractions[-1] - fractions[0]))
