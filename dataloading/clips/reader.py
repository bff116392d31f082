"""Reading of clips from their files: decoded frames cut to the crop (PyAV), or what DALI decodes.

DALI is given a whole encoded video, or the JPEG pictures of a crop store.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from dataloading.clips.pipeline import Draw, Sample
from dataloading.clips.sampling import Clip
from dataloading.clips.store import LEAST_IMAGE_SIZE, decode_crops, read_frames, read_table
from dataloading.dataset import Video
from dataloading.errors import InputError
from dataloading.video.decode import iterate_frames
from dataloading.video.probe import picture_size, probe_once
from dataloading.video.processes import Workers
from dataloading.video.reencode import encoded_count, reencoded_frames, reencoded_regions

LARGEST_AREA = 4096 * 4096  # pixels of the part of a frame that is kept


def read_decoded(
    clips: Sequence[Clip], draws: Sequence[Draw], image_size: int, processes: Workers, crf: int | None = None
) -> list[Sample | str]:
    """Decode clips of one video by PyAV, in one pass through the file; of a crop store only the frames of the clips.

    With `crf` the video is encoded once more before (`dataloading.video.reencode`).

    A video is decoded in a worker process. The bytes of a crop are those that this program wrote, by their checksums,
    and are decoded in the thread that calls this, which leaves the interpreter to others meanwhile. Only the pixels
    that the crop to `image_size` can reach are kept.

    Returns:
        For each clip its sample, or one sentence with the reason why there is none.
    """
    video = clips[0].video
    try:
        if video.crops is None:
            outcomes = processes.call(decode_windows, clips, image_size, crf, file=video.path)
        else:
            outcomes = decode_windows(clips, image_size, crf)
    except InputError as error:  # the file made the decoder crash
        return [str(error)] * len(clips)
    return [
        outcome if isinstance(outcome, str) else Sample(outcome[0], clip.frames, outcome[1], draw)
        for clip, draw, outcome in zip(clips, draws, outcomes, strict=True)
    ]


def decode_windows(
    clips: Sequence[Clip], image_size: int, crf: int | None = None
) -> list[tuple[np.ndarray, np.ndarray] | str]:
    """Return frames and box of each clip as in its `Sample`, or the reason why there is none."""
    video = clips[0].video
    frames = np.concatenate([clip.frames for clip in clips])
    try:
        if video.crops is None:
            info, x, y = probe_once(video.path), 0, 0
            part = 0, 0, info.width, info.height
            if crf is None:
                pictures = iterate_frames(video.path, frames, info)
            else:
                pictures = reencoded_frames(video.path, frames, info, crf)
        else:
            info = read_table(video.crops)
            x, y, *_ = info.region
            part = info.usable
            if crf is None:
                pictures = decode_crops(video.path, info, frames)
            else:
                count = encoded_count(frames, len(info.offset))
                pictures = reencoded_regions(decode_crops(video.path, info, range(count)), frames, crf)
        windows = [_Window(clip, info.width, info.height, image_size, part) for clip in clips]
        for frame, picture in pictures:
            for window in windows:
                window.take(frame, picture, x, y)
    except MemoryError:
        raise
    except Exception as error:  # OSError: of a disk or a network drive; PyAV has errors of many types
        if len(clips) == 1:
            expected = isinstance(error, InputError | OSError)
            return [str(error) if expected else f"{video.path} failed ({type(error).__name__}: {error})."]
        # Some clips cannot be decoded: read each by itself to keep the others.
        return [decode_windows([clip], image_size, crf)[0] for clip in clips]
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
    box = _checked_box(clip, info.width, info.height)
    last = int(clip.frames[-1])
    if last >= info.frames:
        raise InputError(f"{clip.video.path} has no frame {last}: it has {info.frames}, counted from 0.")
    return box


def read_pictures(clip: Clip, draw: Draw, image_size: int) -> Sample | str:
    """Read the JPEG pictures of a clip of a crop store; return its sample, or one sentence why there is none."""
    try:
        table = read_table(clip.video.crops)
        window = _Window(clip, table.width, table.height, image_size, table.usable)
        pictures = dict(read_frames(clip.video.path, table, clip.frames))
        corner = np.float32([*table.region[:2]] * 2)
        data = tuple(np.frombuffer(pictures[int(frame)], np.uint8) for frame in clip.frames)
        return Sample(data, clip.frames, window.box - corner, draw)
    except (InputError, OSError) as error:
        return str(error)


def whole_pictures(
    video: Video, frames: Sequence[int] | np.ndarray, processes: Workers
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode frames of a video as `iterate_frames` does; what a crop store does not hold of a picture is gray.

    Raises:
        InputError: As `iterate_frames`.
    """
    if video.crops is None:
        yield from processes.iterate(iterate_frames, video.path, frames, file=video.path)
        return
    table = read_table(video.crops)
    x0, y0, x1, y1 = table.region
    for frame, part in decode_crops(video.path, table, frames):
        picture = np.full((table.height, table.width, 3), 128, np.uint8)
        picture[y0:y1, x0:x1] = part
        yield frame, picture


def size_of_video(video: Video, processes: Workers) -> tuple[int, int]:
    """Return width and height of the upright picture of a video, also of one in a crop store, which keeps a part of it.

    Raises:
        InputError: The file cannot be read.
    """
    if video.crops is None:
        width, height = processes.call(picture_size, video.path, file=video.path)
        return width, height
    table = read_table(video.crops)
    return table.width, table.height


@dataclass(slots=True, eq=False)
class _Window:
    """Crop window of one clip, collected frame by frame.

    With a margin for the resampling filter the result is the same as from whole pictures, which would not fit into
    memory for several batches. A part of more than `LARGEST_AREA` pixels, which only whole pictures beyond 4K have, is
    averaged to at most that before it is kept: six frames of 16K would be 2.4 GB a clip. A long and low picture is
    kept as it is: it takes little memory, and its low side has no rows to lose.
    """

    clip: Clip
    width: int
    height: int
    image_size: int
    available: tuple[int, int, int, int]  # of the picture: x0, y0, x1, y1
    frames: np.ndarray | None = None  # uint8 [T, h, w, 3]
    taken: set[int] = field(default_factory=set)
    box: np.ndarray = field(init=False)
    rows: slice = field(init=False)
    columns: slice = field(init=False)

    def __post_init__(self) -> None:
        self.box = _checked_box(self.clip, self.width, self.height)
        x0, y0, x1, y1 = self.box
        self.rows = _reach(y0, y1, self.height, self.image_size)
        self.columns = _reach(x0, x1, self.width, self.image_size)
        x0, y0, x1, y1 = self.available
        if self.columns.start < x0 or self.rows.start < y0 or self.columns.stop > x1 or self.rows.stop > y1:
            raise InputError(
                f"{self.clip.video.path} holds a part of each picture, and the box {self.clip.box} at an image size of "
                f"{self.image_size} reaches beyond it; expected the boxes of its store, and a size of "
                f"{LEAST_IMAGE_SIZE} or more."
            )

    def take(self, frame: int, picture: np.ndarray, x: int, y: int) -> None:
        """Keep a part of the picture if the frame belongs to the clip; it is given from pixel (x, y) on, [h, w, 3]."""
        places = np.flatnonzero(self.clip.frames == frame)
        if len(places) == 0:
            return
        rows = slice(self.rows.start - y, self.rows.stop - y)
        columns = slice(self.columns.start - x, self.columns.stop - x)
        part, factor = picture[rows, columns], self.factor
        if factor > 1:
            height, width = (side // factor for side in part.shape[:2])
            part = part[: height * factor, : width * factor]
            part = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
        if self.frames is None:
            self.frames = np.empty((len(self.clip.frames), *part.shape), np.uint8)
        self.frames[places] = part
        self.taken.add(frame)

    @property
    def factor(self) -> int:
        """By how much the part is shrunk: 1 for all but very large ones."""
        sides = self.rows.stop - self.rows.start, self.columns.stop - self.columns.start
        return min(math.ceil(math.sqrt(math.prod(sides) / LARGEST_AREA)), *sides)

    def frames_and_box(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the collected frames, and the box moved to where they were cut."""
        corner = np.float32([self.columns.start, self.rows.start] * 2)
        if missing := {*self.clip.frames.tolist()} - self.taken:
            raise KeyError(min(missing))
        return self.frames, (self.box - corner) / self.factor


def _reach(low: float, high: float, length: int, image_size: int) -> slice:
    """Return the pixels of one axis that antialiased resampling of [low, high] to `image_size` reads; at least one."""
    margin = 2 + (high - low) / image_size
    first = int(np.clip(np.floor(low - margin), 0, length - 1))
    return slice(first, int(np.clip(np.ceil(high + margin), first + 1, length)))


def _checked_box(clip: Clip, width: int, height: int) -> np.ndarray:
    """Return the box as float32 [4]; DALI crashes the process where a box does not overlap the picture."""
    x0, y0, x1, y1 = box = np.float32(clip.box)
    if not (np.isfinite(box).all() and x0 < x1 and y0 < y1):
        raise InputError(f"{clip.video.path} has the box {clip.box}; expected x0 < x1 and y0 < y1 in pixels.")
    if x0 > width - 1 or y0 > height - 1 or x1 < 1 or y1 < 1:
        raise InputError(f"{clip.video.path} has the box {clip.box}, which lies outside its {width}x{height} picture.")
    return box
