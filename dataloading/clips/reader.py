"""Reading of clips from their files, as decoded frames cut to the crop (PyAV) or as the encoded file (for DALI)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from dataloading.clips.pipeline import Draw, Sample
from dataloading.clips.sampling import Clip
from dataloading.errors import InputError
from dataloading.video.decode import iterate_frames
from dataloading.video.probe import VideoInfo, probe_once
from dataloading.video.processes import Workers

LARGEST_SIDE = 4096  # pixels of the part of a frame that is kept


def read_decoded(
    path: Path, clips: Sequence[Clip], draws: Sequence[Draw], image_size: int, processes: Workers
) -> list[Sample | str]:
    """Decode clips of one video by PyAV in a worker process, in one pass through the file.

    Only the pixels that the crop to `image_size` can reach are kept.

    Returns:
        For each clip its sample, or one sentence with the reason why there is none.
    """
    try:
        outcomes = processes.call(decode_windows, path, clips, image_size, file=path)
    except InputError as error:  # the file made the decoder crash
        return [str(error)] * len(clips)
    return [
        outcome if isinstance(outcome, str) else Sample(outcome[0], clip.frames, outcome[1], draw)
        for clip, draw, outcome in zip(clips, draws, outcomes, strict=True)
    ]


def decode_windows(path: Path, clips: Sequence[Clip], image_size: int) -> list[tuple[np.ndarray, np.ndarray] | str]:
    """Return frames and box of each clip as in its `Sample`, or the reason why there is none; in a worker process."""
    try:
        info = probe_once(path)
        windows = [_Window(clip, info, image_size) for clip in clips]
        for frame, picture in iterate_frames(path, np.concatenate([clip.frames for clip in clips]), info):
            for window in windows:
                window.take(frame, picture)
    except Exception as error:  # OSError: of a disk or a network drive; PyAV has errors of many types
        if len(clips) == 1:
            expected = isinstance(error, InputError | OSError)
            return [str(error) if expected else f"{path} failed ({type(error).__name__}: {error})."]
        # Some clips cannot be decoded: read each by itself to keep the others.
        return [decode_windows(path, [clip], image_size)[0] for clip in clips]
    return [window.frames_and_box() for window in windows]


def read_encoded(clip: Clip, draw: Draw, processes: Workers) -> Sample | str:
    """Read the whole encoded file of a clip; return its sample, or one sentence with the reason why there is none."""
    path = clip.video.path
    try:
        box = processes.call(check_encoded, clip, file=path)
        return Sample(np.fromfile(path, np.uint8), clip.frames, box, draw)
    except (InputError, OSError) as error:
        return str(error)


def check_encoded(clip: Clip) -> np.ndarray:
    """Return the box of a clip that its file holds, float32 [4]; in a worker process.

    Raises:
        InputError: The file is no video, or has no such frames or no such box.
    """
    info = probe_once(clip.video.path)
    box = _checked_box(clip, info)
    last = int(clip.frames[-1])
    if last >= info.frames:
        raise InputError(f"{clip.video.path} has no frame {last}: it has {info.frames}, counted from 0.")
    return box


@dataclass(slots=True, eq=False)
class _Window:
    """Crop window of one clip, collected frame by frame.

    With a margin for the resampling filter the result is the same as from whole pictures, which would not fit into
    memory for several batches. A part with a side of more than `LARGEST_SIDE` pixels, which only whole pictures beyond
    4K have, is averaged to at most that before it is kept: six frames of 16K would be 2.4 GB a clip.
    """

    clip: Clip
    info: VideoInfo
    image_size: int
    parts: dict[int, np.ndarray] = field(default_factory=dict)
    box: np.ndarray = field(init=False)
    rows: slice = field(init=False)
    columns: slice = field(init=False)

    def __post_init__(self) -> None:
        self.box = _checked_box(self.clip, self.info)
        x0, y0, x1, y1 = self.box
        self.rows = _reach(y0, y1, self.info.height, self.image_size)
        self.columns = _reach(x0, x1, self.info.width, self.image_size)

    def take(self, frame: int, picture: np.ndarray) -> None:
        """Keep a part of the picture [H, W, 3] if the frame belongs to the clip."""
        if frame in self.clip.frames:
            part, factor = picture[self.rows, self.columns], self.factor
            if factor > 1:
                height, width = (side // factor for side in part.shape[:2])
                part = part[: height * factor, : width * factor]
                self.parts[frame] = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
            else:
                self.parts[frame] = part.copy()

    @property
    def factor(self) -> int:
        """By how much the part is shrunk: 1 for all but very large ones."""
        sides = self.rows.stop - self.rows.start, self.columns.stop - self.columns.start
        return min(-(-max(sides) // LARGEST_SIDE), *sides)

    def frames_and_box(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the collected frames, and the box moved to where they were cut."""
        corner = np.float32([self.columns.start, self.rows.start] * 2)
        frames = np.stack([self.parts[int(frame)] for frame in self.clip.frames])
        return frames, (self.box - corner) / self.factor


def _reach(low: float, high: float, length: int, image_size: int) -> slice:
    """Return the pixels of one axis that antialiased resampling of [low, high] to `image_size` reads; at least one."""
    margin = 2 + (high - low) / image_size
    first = int(np.clip(np.floor(low - margin), 0, length - 1))
    return slice(first, int(np.clip(np.ceil(high + margin), first + 1, length)))


def _checked_box(clip: Clip, info: VideoInfo) -> np.ndarray:
    """Return the box as float32 [4]; DALI crashes the process where a box does not overlap the picture."""
    x0, y0, x1, y1 = box = np.float32(clip.box)
    if not (np.isfinite(box).all() and x0 < x1 and y0 < y1):
        raise InputError(f"{clip.video.path} has the box {clip.box}; expected x0 < x1 and y0 < y1 in pixels.")
    if x0 > info.width - 1 or y0 > info.height - 1 or x1 < 1 or y1 < 1:
        size = f"{info.width}x{info.height}"
        raise InputError(f"{clip.video.path} has the box {clip.box}, which lies outside its {size} picture.")
    return box
