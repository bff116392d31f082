"""Search of a video for faces: one pass, coarse to fine in time and in the size of faces, that finds its shots too.

Videos of up to a minute are looked at every `EVERY` frames. Longer ones are looked at once a second, and between two
looks again

- at every `EVERY` frames where the picture changes (there may be a cut), and
- half-way where one of them shows a face, and so on as long as a face is not where it would be interpolated.

A look is at a picture whose larger side is at most `LARGEST_SIDE`, in which a face of 40 pixels of a 1080p video has
13. Where a look finds no face, a *second look* at a larger picture (`FaceDetector.second_side`) finds small ones: at
most once a second and `MOST_SECOND_LOOKS` times a video, and once it has found some, at the part around them with every
look.
"""

import ctypes
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import av
import numpy as np

from dataloading.errors import InputError
from dataloading.face_index import LONG_VIDEO, Shot
from dataloading.faces.detectors import Detection, FaceDetector, overlap
from dataloading.faces.tracking import EVERY, LINKED, Looks, appearance
from dataloading.video.decode import iterate_frames, scan_frames
from dataloading.video.probe import VideoInfo
from dataloading.video.shots import LEAST_DIFFERENCE, THUMBNAIL, ShotFinder

LARGEST_SIDE = 640  # pixels of a picture that is looked at
MOST_SECOND_LOOKS = 600  # at whole pictures
COARSE = 1.0  # seconds between looks where nothing happens
MOVED = 0.1  # of a face's size: so far may it be from where it would be interpolated
MOST_FACES = 32  # that are followed of one picture
LOOKS_PER_TRIM = 30  # looks of a long video after which free memory is given back
AROUND = 1.5  # face sizes by which the part for a second look reaches beyond the small faces of the look before

Result = TypeVar("Result")
Advance = Callable[[int, int], None]
Steps = Generator[tuple[int, int], None, Result]  # (frames searched, frames in all) now and then, and a result


@dataclass
class Search:
    """What was found in a video.

    Attributes:
        looks: The frames that were looked at, ascending, and the faces found in each.
        spans: For how much of the video each look stands, in units of `every` frames.
        small: The looks again, with the faces found at a second look where there are none in `looks`.
        shots: First and last frame of each shot; None where a frame is damaged.
        crowd: Most faces in one picture.
        gap: Frames after which a face that is not found any more is gone.
    """

    looks: Looks = field(default_factory=list)
    spans: list[float] = field(default_factory=list)
    small: Looks = field(default_factory=list)
    shots: tuple[Shot, ...] | None = None
    crowd: int = 0
    gap: int = 0


def frames_looked_at(frames: int, every: int = EVERY) -> np.ndarray:
    """Return which of so many frames a face can be looked for in: int64, ascending."""
    return np.union1d(np.arange(0, frames, every), frames - 1)


def finished(steps: Steps[Result], advance: Advance | None = None) -> Result:
    """Return the result of a search that goes on by itself."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        if advance:
            advance(*step)


def search(
    path: Path,
    info: VideoInfo,
    detector: FaceDetector,
    every: int = EVERY,
    threads: int = 1,
) -> Steps[Search]:
    """Search a video, see the module's description; the memory it takes hardly depends on the video's length.

    Every frame is decoded, once. Where one that is not looked at is damaged, the others are decoded again and used, and
    the shots are not known.

    Args:
        path: The file.
        info: What `probe` says of it.
        detector: From `dataloading.faces.make_detector`.
        every: Frames between two looks, where they are closest.
        threads: That decode.

    Yields:
        How far it is.

    Returns:
        What was found.

    Raises:
        InputError: A frame that is looked at cannot be decoded.
    """
    searcher = _Searcher(info, detector, every)
    frames, finder = searcher.candidates, ShotFinder()
    try:
        scanned = scan_frames(path, frames, THUMBNAIL, info, largest=searcher.largest, threads=threads)
        found = yield from searcher.run(_with_changes(scanned, finder))
        found.shots = tuple(finder.shots())
        return found
    except InputError:
        return (
            yield from searcher.run((frame, True, picture) for frame, picture in iterate_frames(path, frames, info))
        )


def _with_changes(
    scanned: Iterable[tuple[int, np.ndarray, np.ndarray | None]], finder: ShotFinder
) -> Iterator[tuple[int, bool, np.ndarray]]:
    """Yield the pictures, and whether there may have been a cut since the one before; give `finder` all thumbnails."""
    changed = False
    for frame, thumbnail, picture in scanned:
        changed = finder.add(thumbnail) >= LEAST_DIFFERENCE or changed
        if picture is not None:
            yield frame, changed, picture
            changed = False


@dataclass
class _Look:
    """The faces found in one frame: at the first look, and else at the second one."""

    frame: int
    faces: list[Detection]
    small: list[Detection]

    @property
    def found(self) -> list[Detection]:
        return self.faces or self.small


class _Searcher:
    """Decides at which of the candidates to look, and looks."""

    def __init__(self, info: VideoInfo, detector: FaceDetector, every: int):
        self.info, self.detector, self.every = info, detector, every
        self.candidates = frames_looked_at(info.frames, every)
        second = max(round(info.fps * COARSE / every), 1)  # candidates a second
        self.is_long = info.fps > 0 and info.frames > LONG_VIDEO * info.fps
        self.coarse = second if self.is_long else 1
        stride = max(-(-len(self.candidates) // (second * MOST_SECOND_LOOKS)), 1) * second
        self.second_looks = set(self.candidates[::stride].tolist())
        # What waits for a decision is kept small; short videos are looked at in full size, as in earlier versions.
        self.largest = detector.second_side if self.is_long else None
        self.around: list[Detection] = []  # the small faces of the newest second look
        self.crowd = 0

    def run(self, pictures: Iterable[tuple[int, bool, np.ndarray]]) -> Steps[Search]:
        """Look at pictures of the candidates, each given with its frame and whether there may be a cut before it."""
        looks: list[_Look] = []
        waiting: list[tuple[int, np.ndarray]] = []
        changed = False
        self.around = []
        for number, (frame, change, picture) in enumerate(pictures):
            changed = changed or change
            if number % self.coarse and frame != self.candidates[-1]:
                waiting.append((frame, picture))
                continue
            look = self._look(frame, picture)
            if changed:
                looks += [self._look(*between) for between in waiting]
            elif waiting:
                looks += self._between(looks[-1], look, waiting)
            looks.append(look)
            waiting, changed = [], False
            if self.is_long and number // self.coarse % LOOKS_PER_TRIM == 0:
                _trim_heap()
            yield frame + 1, self.info.frames
        return self._search(looks)

    def _between(self, before: _Look, after: _Look, waiting: list[tuple[int, np.ndarray]]) -> list[_Look]:
        """Look at what is between two looks, if one of them shows a face, until the faces can be interpolated."""
        if not waiting or not (before.found or after.found):
            return []
        middle = len(waiting) // 2
        look = self._look(*waiting[middle])
        if _interpolates(before, look, after):
            return [look]
        earlier, later = waiting[:middle], waiting[middle + 1 :]
        return [*self._between(before, look, earlier), look, *self._between(look, after, later)]

    def _look(self, frame: int, picture: np.ndarray) -> _Look:
        """Look at a picture, and a second time where that finds nothing and it is due."""
        faces, small = self._faces(picture, LARGEST_SIDE), []
        if not faces and max(self.info.width, self.info.height) > LARGEST_SIDE:
            if self.around:
                small = self._faces(picture, self.detector.second_side, self.around)
            if not small and frame in self.second_looks:
                small = self._faces(picture, self.detector.second_side)
                self.around = small
            elif small:
                self.around = small
        return _Look(frame, faces, small)

    def _faces(self, picture: np.ndarray, side: int, around: list[Detection] | None = None) -> list[Detection]:
        """Return the largest faces in a picture, or in its part around some, in pixels of the video."""
        factor = self.info.width / picture.shape[1]
        part, x, y = picture, 0, 0
        if around:
            part, x, y = _part(picture, [face.scaled(1 / factor) for face in around])
            # As large as at a look at the whole picture.
            side = round(side * max(part.shape[:2]) / max(picture.shape[:2]))
        faces = [face.moved(x, y) for face in faces_in(part, self.detector, side)]
        self.crowd = max(self.crowd, len(faces))
        if len(faces) > MOST_FACES:
            faces = sorted(faces, key=lambda face: -face.size)[:MOST_FACES]
        faces = [replace(face, appearance=appearance(picture, face)) for face in faces]
        return [face.scaled(factor) for face in faces] if factor != 1 else faces

    def _search(self, looks: list[_Look]) -> Search:
        spans = [1.0] * len(looks)
        gap = 10 * self.every
        if self.is_long:
            frames = np.array([look.frame for look in looks], np.float64)
            middles = np.concatenate([[-0.5], (frames[1:] + frames[:-1]) / 2, [self.info.frames - 0.5]])
            spans = (np.diff(middles) / self.every).tolist()
            gap = max(gap, 2 * self.coarse * self.every)
        return Search(
            [(look.frame, look.faces) for look in looks],
            spans,
            [(look.frame, look.small) for look in looks],
            crowd=self.crowd,
            gap=gap,
        )


def _trim_heap() -> None:
    """Give free memory back to the system, where the C library is glibc.

    Pictures and the detector's buffers have many sizes and leave gaps in the heap, which else grew by 140 MiB in half
    an hour of 1080p on a busy machine.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _interpolates(before: _Look, look: _Look, after: _Look) -> bool:
    """Whether the faces of a look between two others are where they would be interpolated."""
    if not len(before.found) == len(look.found) == len(after.found):
        return False
    w = (look.frame - before.frame) / (after.frame - before.frame)
    for face in look.found:
        ends = [max(other.found, key=lambda end: overlap(face, end)) for other in (before, after)]
        if min(overlap(face, end) for end in ends) < LINKED:
            return False
        first, last = (np.array([*end.center, end.size]) for end in ends)
        off = np.abs((1 - w) * first + w * last - [*face.center, face.size]).max()
        if off > MOVED * face.size:
            return False
    return True


def _part(picture: np.ndarray, faces: list[Detection]) -> tuple[np.ndarray, int, int]:
    """Return the part of a picture around some faces, and the place of its corner."""
    height, width = picture.shape[:2]
    x0, y0 = (int(max(min(getattr(f, side) - AROUND * f.size for f in faces), 0)) for side in ("x0", "y0"))
    x1 = int(min(max(f.x1 + AROUND * f.size for f in faces), width))
    y1 = int(min(max(f.y1 + AROUND * f.size for f in faces), height))
    return np.ascontiguousarray(picture[y0:y1, x0:x1]), x0, y0


def faces_in(picture: np.ndarray, detector: FaceDetector, largest: int = LARGEST_SIDE) -> list[Detection]:
    """Return the faces in a uint8 RGB picture [H, W, 3] of any size, in its own pixels.

    The detector is given a picture with no side of more than `largest` pixels.
    """
    factor = max(picture.shape[:2]) / largest
    if factor <= 1:
        return detector.detect(picture)
    height, width = (max(round(side / factor), 1) for side in picture.shape[:2])
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    small = frame.reformat(width=width, height=height, interpolation="AREA").to_ndarray()
    return [face.scaled(factor) for face in detector.detect(small)]
