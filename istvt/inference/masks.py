"""Comparison of predicted masks with those of a data set, pixel by pixel, and the mean mask of its training fakes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import numpy as np
import torch

from dataloading.clips.masks import FORGED, NOT_FORGED, read_masks
from dataloading.clips.pipeline import Draw
from dataloading.clips.sampling import evaluation_clips
from dataloading.dataset import FAKE, Dataset
from dataloading.face_index import FaceIndex
from dataloading.video.processes import Workers

MEAN_MASK_VIDEOS, MEAN_MASK_CLIPS = 48, 2
_THRESHOLDS = np.arange(1, 20) / 20


def count_pixels(predicted: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return how many pixels of each clip are true negative, false positive, false negative and true positive.

    Args:
        predicted: bool, which pixels are called forged, [B, T, H_i, W_i] or what is broadcast to it.
        masks: int8 [B, T, H_i, W_i] as of `ClipLoader`, unknown ones not counted.

    Returns:
        int64 [B, 4].
    """
    forged, bare = masks == FORGED, masks == NOT_FORGED
    cells = (bare & ~predicted, bare & predicted, forged & ~predicted, forged & predicted)
    return torch.stack([cell.flatten(1).sum(1) for cell in cells], dim=1)


def mean_mask(
    dataset: Dataset, index: FaceIndex, frames: int, image_size: int, workers: int = 2
) -> tuple[np.ndarray, int] | None:
    """Return the mask that fits the training fakes best without looking at a frame.

    That is the share of their forged frames in which a pixel is forged, cut at the threshold with the highest mean IoU
    on these clips. It is made of `MEAN_MASK_VIDEOS` fakes at the most.

    Args:
        dataset: whose training split is read.
        index: of its faces.
        frames: T of a clip.
        image_size: side of the masks.
        workers: threads that read.

    Returns:
        bool [image_size, image_size], and the number of fakes; None where no training fake has a mask that can be used.
    """
    fakes = [video for video in dataset.videos if video.split == "train" and video.label == FAKE and video.mask]
    chosen = np.unique(np.linspace(0, len(fakes) - 1, min(MEAN_MASK_VIDEOS, len(fakes))).round().astype(int))
    clips = evaluation_clips([fakes[place] for place in chosen], index, frames, MEAN_MASK_CLIPS)
    groups, processes = [list(group) for _, group in groupby(clips, key=lambda clip: clip.video.path)], Workers()
    with ThreadPoolExecutor(workers) as threads:
        read = threads.map(lambda group: read_masks(group, [Draw()] * len(group), image_size, processes), groups)
        masks = [[mask for mask in of_video if not isinstance(mask, str)] for of_video in read]
    masks = [np.stack(of_video) == FORGED for of_video in masks if of_video]  # each [clips, T, size, size]
    if not any(mask.any() for mask in masks):
        return None
    share = np.mean([mask[mask.any((2, 3))].mean(0) for mask in masks if mask.any()], axis=0)
    candidates = [share >= threshold for threshold in _THRESHOLDS]
    fits = [
        np.mean([(mask & one).sum() / max((mask | one).sum(), 1) for mask in masks if mask.any()]) for one in candidates
    ]
    return candidates[int(np.argmax(fits))], len(masks)
