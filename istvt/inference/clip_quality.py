"""What a clip can show at all: whether anything moves in it, and how much detail there is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

STILL = 0.1  # gray levels of 255; between two frames of a face that talks there is more than 0.5
LEAST_DETAIL = 1 / 5  # of what fits into the model's input
LEAST_SIDE = 192
# Ratio of the energies of the second and the third finest band of details, and the part of the input's pixels that a
# picture has that shows as much: measured on a real and a drawn face, scaled down, and up to 300 pixels.
_RATIOS = (0.011, 0.017, 0.05, 0.126, 0.186, 0.31)
_PARTS = (0.067, 0.083, 0.167, 0.333, 0.5, 1.0)


def motion(clips: torch.Tensor) -> torch.Tensor:
    """Return how much neighboring frames of clips [B, T, 3, H, W] in [-1, 1] differ, in gray levels of 255, [B].

    It is the mean over pixels, and of the steps from frame to frame the median: where a still picture was encoded, one
    of them may go to a key frame.
    """
    if clips.shape[1] < 2:
        return clips.new_zeros(len(clips))
    steps = (clips[:, 1:] - clips[:, :-1]).abs().mean(dim=(2, 3, 4))
    return 127.5 * steps.median(dim=1).values


def detail(clips: torch.Tensor) -> torch.Tensor:
    """Return how detailed the middle frame of clips [B, T, 3, H, W] is, [B]: 1 is a sharp picture of H pixels.

    A picture that has fewer pixels, or is blurred, and is enlarged to H has less energy in its finest details, compared
    with coarser ones. It is given as the part of H that a sharp picture with as little would have, right within a
    factor of 2. Inputs of under `LEAST_SIDE` pixels are too small to tell; they have 1.
    """
    picture = clips[:, clips.shape[1] // 2].float().mean(dim=1, keepdim=True)
    if min(picture.shape[-2:]) < LEAST_SIDE:
        return clips.new_ones(len(clips))
    energies = []
    for _ in range(3):
        coarse = F.avg_pool2d(picture, 2)
        again = F.interpolate(coarse, size=picture.shape[-2:], mode="bilinear", align_corners=False)
        energies.append((picture - again).square().mean(dim=(1, 2, 3)))
        picture = coarse
    ratio = (energies[1] / energies[2].clamp(min=1e-12)).log()
    known = torch.tensor(_RATIOS, device=clips.device).log()
    parts = torch.tensor(_PARTS, device=clips.device).log()
    after = torch.bucketize(ratio, known).clamp(1, len(known) - 1)
    w = ((ratio - known[after - 1]) / (known[after] - known[after - 1])).clamp(0, 1)
    return (parts[after - 1] * (1 - w) + parts[after] * w).exp()


def still_remark(motions: Sequence[float]) -> str | None:
    """Return the remark on clips in which nothing moves, or None."""
    still = int(np.count_nonzero(np.asarray(motions) < STILL))
    if not still:
        return None
    if still == len(motions):
        return "nothing moves in its clips: there is no evidence over time, and the verdict is on a still picture"
    return f"nothing moves in {still} of its {len(motions)} clips, which show no evidence over time"


def blur_remark(details: Sequence[float], side: float) -> str | None:
    """Return the remark on a picture that is much more blurred than its pixels let expect, or None.

    Args:
        details: of its clips, see `detail`.
        side: of the crop, in pixels, as a part of the model's input; a picture can have no more detail.
    """
    seen = float(np.median(details))
    if seen >= LEAST_DETAIL or seen > 0.5 * side:
        return None
    return f"it is blurred: a sharp picture {1 / seen:.0f} times smaller than the model's input would show as much"
