"""Masks of clips: which pixels are forged, from the mask videos of a data set, with the crop and flip of the frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dataloading.clips.cpu_pipeline import CpuPipeline
from dataloading.clips.pipeline import Draw, Sample
from dataloading.clips.reader import decode_windows
from dataloading.clips.sampling import Clip
from dataloading.clips.store import read_table
from dataloading.dataset import REAL
from dataloading.errors import InputError
from dataloading.video.probe import probe_once
from dataloading.video.processes import Workers

FORGED, NOT_FORGED, UNKNOWN = 1, 0, -1
_SIDES_DIFFER = 0.02  # a scaled mask has its video's proportions but for sides rounded to even numbers


def read_masks(
    clips: Sequence[Clip], draws: Sequence[Draw], image_size: int, processes: Workers
) -> list[np.ndarray | str]:
    """Read the masks of clips of one video, resized and mirrored as their frames are.

    Args:
        clips: of one video.
        draws: their augmentation, of which the flip applies.
        image_size: side of the result in pixels.
        processes: in which the mask video is decoded.

    Returns:
        For each clip int8 [T, image_size, image_size] of `FORGED` and `NOT_FORGED`, nothing forged in a real video; or
        one sentence with the reason why it is not known.
    """
    video = clips[0].video
    if video.label == REAL:
        return [np.zeros((len(clip.frames), image_size, image_size), np.int8) for clip in clips]
    if video.mask is None:
        return [f"{video.path} has no mask video."] * len(clips)
    try:
        windows = processes.call(decode_masks, clips, image_size, file=video.mask)
    except InputError as error:
        return [str(error)] * len(clips)
    pipeline, masks = CpuPipeline(image_size, augment=True), []
    for clip, draw, window in zip(clips, draws, windows, strict=True):
        if isinstance(window, str):
            masks.append(window)
            continue
        frames, box = window
        [mask] = pipeline.run([Sample(frames, clip.frames, box, Draw(flip=draw.flip))])
        masks.append((mask.amax(1) > 0).numpy().astype(np.int8))  # half of the gray levels or more
    return masks


def decode_masks(clips: Sequence[Clip], image_size: int) -> list[tuple[np.ndarray, np.ndarray] | str]:
    """Return frames and box of each clip in the mask video, as `decode_windows` of the video itself; in a worker.

    Raises:
        InputError: The mask video cannot be read, or it has other proportions or another length than its video.
    """
    video = clips[0].video
    mask = probe_once(video.mask)
    if video.crops is None:
        of_video = probe_once(video.path)
        frames = of_video.frames
        if mask.frames != frames:
            raise InputError(f"{video.mask} has {mask.frames} frames and its video {frames}; expected as many.")
    else:
        of_video = read_table(video.crops)
    across, down = mask.width / of_video.width, mask.height / of_video.height
    if abs(across - down) > _SIDES_DIFFER * max(across, down):
        raise InputError(
            f"{video.mask} is {mask.width}x{mask.height} and its video {of_video.width}x{of_video.height}; "
            "expected the same size, or the same proportions."
        )
    of_mask = replace(video, path=video.mask, mask=None, crops=None, first_frames=None)
    scale = (across, down, across, down)
    moved = [
        replace(clip, video=of_mask, box=tuple(float(x) * by for x, by in zip(clip.box, scale, strict=True)))
        for clip in clips
    ]
    return decode_windows(moved, image_size)
