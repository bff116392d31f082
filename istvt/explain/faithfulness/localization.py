"""Localization: pointing game and mass in the mask, where a fake has a mask of what was manipulated.

Pointing game: how often the hottest cell lies in the mask. Mass: how much of the heat does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from dataloading.clips.sampling import Clip
from dataloading.video.decode import decode_frames
from dataloading.video.probe import probe
from istvt.evaluation.intervals import wilson_interval
from istvt.explain import heatmap

KINDS = ("temporal", "spatial", "both")
IN_MASK = 0.5  # a cell counts as forged where at least half of it is
_FINE = 8  # pixels a cell in which masks are sampled before they are averaged


@dataclass
class Localization:
    """How well heat finds the manipulation, over clips of fakes with a mask, explained as fake.

    Attributes:
        clips: how many.
        pointing: share of clips whose hottest cell lies in the mask; a clip without heat has missed. None of no clip.
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
    """The mask of one clip, and where heat lay: by (ordering, kind) whether the hottest cell is in it, and the share.

    Attributes:
        manipulation: of the video.
        mask: share of each cell that was manipulated, [T, H, W].
    """

    manipulation: str
    mask: np.ndarray
    hit: dict[tuple[str, str], bool] = field(default_factory=dict)
    mass: dict[tuple[str, str], float | None] = field(default_factory=dict)

    def locate(self, ordering: str, temporal: np.ndarray, spatial: np.ndarray) -> None:
        """Note where the heat of an ordering lies, [T, H, W] each."""
        for kind, heat in zip(KINDS, (temporal, spatial, temporal + spatial), strict=True):
            heat = np.maximum(heat, 0).astype(np.float64)
            total = heat.sum()
            self.hit[ordering, kind] = bool(total > 0 and self.mask.flat[int(heat.argmax())] >= IN_MASK)
            self.mass[ordering, kind] = float((heat * self.mask).sum() / total) if total > 0 else None


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


def mask_on_grid(clip: Clip, grid: tuple[int, int]) -> np.ndarray:
    """Return the share of each cell of a clip's box that its mask video calls manipulated: float32 [T, H, W] in 0..1.

    Raises:
        InputError: the mask cannot be read, or lacks a frame.
    """
    video, mask = probe(clip.video.path), probe(clip.video.mask)
    scale_x, scale_y = mask.width / video.width, mask.height / video.height
    x0, y0, x1, y1 = clip.box
    box = (x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y)
    height, width = grid
    cells = []
    for frame in decode_frames(clip.video.mask, clip.frames, mask):
        fine = heatmap.crop(frame.max(2), box, (height * _FINE, width * _FINE), cv2.BORDER_CONSTANT)
        cells.append((fine >= 128).reshape(height, _FINE, width, _FINE).mean((1, 3)))
    return np.stack(cells).astype(np.float32)
