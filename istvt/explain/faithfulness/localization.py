"""Localization: whether heat is where the manipulation mask is, and whether the hottest frame is the forged one.

*Where*, of heat summed over frames against the union of the frames' masks: the hottest pixel lies in the mask
(pointing game); relevance rank accuracy, the share of the K hottest pixels in a mask of K pixels; relevance mass, the
share of heat in it (Arras et al., "CLEVR-XAI", Information Fusion 2022). *When*: the hottest frame is a forged one.
"""

from __future__ import annotations

import cv2
import numpy as np

from dataloading.clips.reader import size_of_video
from dataloading.clips.sampling import Clip
from dataloading.video.decode import decode_frames
from dataloading.video.probe import picture_size
from dataloading.video.processes import Workers
from istvt.explain import heatmap


def hottest_hit(heat: np.ndarray, mask: np.ndarray) -> float:
    """Return whether the hottest entry lies in the mask; of several that are equally hot, the share that does."""
    hottest = heat == heat.max()
    return float(mask[hottest].mean())


def rank_accuracy(order: np.ndarray, mask: np.ndarray) -> float:
    """Return the share of the first K pixels in the mask, where K are the mask's pixels.

    Args:
        order: int [pixels], hottest first.
        mask: bool [H_i, W_i].
    """
    flat = mask.ravel()
    return float(flat[order[: int(flat.sum())]].mean())


def mass_in(where: np.ndarray, mask: np.ndarray) -> float | None:
    """Return the share of heat, [H_i, W_i] and not negative, in the mask; None where there is no heat."""
    total = where.sum(dtype=np.float64)
    return float(where[mask].sum(dtype=np.float64) / total) if total > 0 else None


def mask_of(clip: Clip, size: int) -> np.ndarray:
    """Return which pixels of a clip, as the model sees it, its mask video calls manipulated: bool [T, size, size].

    Raises:
        InputError: the mask cannot be read, or lacks a frame.
    """
    processes, mask = Workers(), clip.video.mask
    size_of_mask = processes.call(picture_size, mask, file=mask)
    scale_x, scale_y = np.divide(size_of_mask, size_of_video(clip.video, processes))
    x0, y0, x1, y1 = clip.box
    box = (x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y)
    frames = processes.call(decode_frames, mask, clip.frames, file=mask)
    return np.stack([heatmap.crop(frame.max(2), box, size, cv2.BORDER_CONSTANT) >= 128 for frame in frames])
