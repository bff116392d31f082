"""Localization: pointing game and mass in the mask, where a fake has a mask of what was manipulated.

Pointing game: how often the hottest pixel lies in the mask. Mass: how much of the heat does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from dataloading.clips.sampling import Clip
from dataloading.video.decode import decode_frames
from dataloading.video.probe import picture_size
from dataloading.video.processes import Workers
from istvt.evaluation.intervals import wilson_interval
from istvt.explain import heatmap

KINDS = ("temporal", "spatial", "both")


@dataclass
class Localization:
    """How well heat finds the manipulation, over clips of fakes with a mask, explained as fake.

    Attributes:
        clips: how many.
        pointing: share of clips whose hottest pixel lies in the mask; a clip without heat has missed. None of no clip.
        low, high: its 95 % Wilson interval.
        mass: mean share of the heat that lies in the mask, over the clips with heat; None where there is none.
    """

    clips: int
    pointing: float | None
    low: float | None
    high: float | None
    mass: float | None


@dataclass
class MaskedClip:
    """Where heat lay in one clip: by (ordering, kind) whether the hottest pixel is in the mask, and the share in it.

    Attributes:
        manipulation: of the video.
        mask_share: of the clip's pixels that were manipulated.
    """

    manipulation: str
    mask_share: float
    hit: dict[tuple[str, str], bool] = field(default_factory=dict)
    mass: dict[tuple[str, str], float | None] = field(default_factory=dict)

    def locate(self, ordering: str, temporal: np.ndarray, spatial: np.ndarray, mask: np.ndarray) -> None:
        """Note where the heat of an ordering, [T, H, W] each, lies beside the mask, bool [T, H_i, W_i]."""
        for kind, heat in zip(KINDS, (temporal, spatial, temporal + spatial), strict=True):
            heat = heatmap.upscale(np.maximum(heat, 0), *mask.shape[1:])
            total = float(heat.sum(dtype=np.float64))
            self.hit[ordering, kind] = total > 0 and bool(mask.flat[int(heat.argmax())])
            self.mass[ordering, kind] = float(heat[mask].sum(dtype=np.float64)) / total if total > 0 else None


def localizations(clips: Sequence[MaskedClip], ordering: str) -> dict[str, Localization]:
    """Return the localization of an ordering by kind of heat."""
    result = {}
    for kind in KINDS:
        hits = sum(clip.hit[ordering, kind] for clip in clips)
        masses = [clip.mass[ordering, kind] for clip in clips if clip.mass[ordering, kind] is not None]
        low, high = wilson_interval(hits, len(clips)) if clips else (None, None)
        share = hits / len(clips) if clips else None
        result[kind] = Localization(len(clips), share, low, high, float(np.mean(masses)) if masses else None)
    return result


def mask_of(clip: Clip, size: int) -> np.ndarray:
    """Return which pixels of a clip, as the model sees it, its mask video calls manipulated: bool [T, size, size].

    Raises:
        InputError: the mask cannot be read, or lacks a frame.
    """
    processes, path, mask = Workers(), clip.video.path, clip.video.mask
    sizes = [processes.call(picture_size, file, file=file) for file in (mask, path)]
    scale_x, scale_y = np.divide(*sizes)
    x0, y0, x1, y1 = clip.box
    box = (x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y)
    frames = processes.call(decode_frames, mask, clip.frames, file=mask)
    return np.stack([heatmap.crop(frame.max(2), box, size, cv2.BORDER_CONSTANT) >= 128 for frame in frames])
