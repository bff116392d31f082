"""`FaceIndex`: the face boxes of a data set's videos, one JSON line a video in a file beside the set.

A line is either where the face is on some frames of the video (every fifth, usually; between them it is
interpolated), or the whole picture (`boxes` is null), or the sentence that says why the video cannot be used::

    {"video": "fake/a_b", "frames": 300, "fps": 25.0, "width": 640, "height": 480, "detector": "yuface",
     "boxes": {"frame": [0, 5], "x": [301.5, 302.0], "y": [210.2, 210.4], "size": [122.1, 122.5]},
     "boxes_of": "real/a", "shots": [[0, 187], [188, 299]], "version": 2}
    {"video": "real/c", "error": "real/c.mp4 is empty (0 bytes); expected a video file", "version": 2}

Where the detector finds landmarks, `boxes` also holds `landmarks`, ten numbers a frame: x and y of each of `LANDMARKS`.
Of a whole picture `face` is where the face is in it, in the form of `boxes`, where the data set says that.

`boxes` are those of the main person over all shots; `others`, where there are any, is a list of the same for each of
the other people. `brief`, where there are any, is `[first frame, last frame, size]` of the largest faces that were
found and are too brief for a clip, and `briefs` how many those are in all. `crowd` is the most faces in one frame,
where these are more than are followed. `boxes_of` is the video whose boxes these
are, where that is another one. `shots` are the first and last frames of the shots, null where they are not known: lines
of version 1 do not have them, and are read as one shot.
A later line replaces an earlier one of the same video.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from dataloading.dataset import FACE
from dataloading.errors import InputError
from dataloading.io import parse_json, read_bytes

LONG_VIDEO = 60.0  # seconds; up to here every video of the published data sets is used as in earlier versions
LONGEST_BREAK = (50, 2.0)  # frames and seconds between two recorded boxes; after the longer of both a face was gone
FILE_NAME = "face_index.jsonl"
MAX_BYTES = 4 << 30
MARGIN = 1.25
# What stands for a detector where none looked: the box is the whole picture, or it was made elsewhere.
WHOLE_FRAME = "none"
BOXES_FILE = "boxes file"

LANDMARKS = ("right eye", "left eye", "nose tip", "right corner of the mouth", "left corner of the mouth")
NOSE = LANDMARKS.index("nose tip")
# By part of the face: its landmarks, and the side of its box in units of the face's scale: of the distance of the eyes,
# or of the eyes from the mouth, whichever is longer: one shrinks where the head turns, the other where it nods.
# Both eyes with their lids are 1.5 units wide, and a mouth is one unit high when it is wide open.
PARTS: dict[str, tuple[tuple[int, int], float]] = {"eyes": ((0, 1), 1.75), "mouth": ((3, 4), 1.25)}

Box = tuple[float, float, float, float]
Shot = tuple[int, int]  # its first and its last frame
Brief = tuple[int, int, float]  # a face too brief for a clip: the first and the last frame that show it, and its size


@dataclass(frozen=True, slots=True, eq=False)
class FaceTrack:
    """Where one face is on K frames of a video, in pixels of the upright picture.

    Attributes:
        frame: int64 [K], ascending: the frames.
        x, y: float64 [K]: the nose tip (or the center of the detected box) on each.
        size: float64 [K]: the larger of the face's height and width on each.
        landmarks: float64 [K, 10]: x and y of each of `LANDMARKS`; None where they are not known.
    """

    frame: Sequence[int]
    x: Sequence[float]
    y: Sequence[float]
    size: Sequence[float]
    landmarks: Sequence[Sequence[float]] | None = None

    def __post_init__(self) -> None:
        for name, dtype in (("frame", np.int64), ("x", np.float64), ("y", np.float64), ("size", np.float64)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype))  # a quarter of the memory of a tuple
        counts = [len(values) for values in (self.frame, self.x, self.y, self.size)]
        if len(set(counts)) > 1 or 0 in counts:
            raise ValueError(f"{counts} values of frame, x, y and size; expected as many of each, and one or more")
        if self.landmarks is not None:
            sizes = sorted({len(row) for row in self.landmarks})
            if len(self.landmarks) != counts[0] or sizes != [2 * len(LANDMARKS)]:
                rows = f"{len(self.landmarks)} rows of {' or '.join(map(str, sizes)) or 'no'} numbers"
                raise ValueError(f"landmarks are {rows}; expected one of {2 * len(LANDMARKS)} for each frame")
            object.__setattr__(self, "landmarks", np.asarray(self.landmarks, np.float64))
        if (np.diff(self.frame) <= 0).any():
            raise ValueError("frames that do not ascend; expected each one once, in order")

    @classmethod
    def of(cls, table: np.ndarray) -> "FaceTrack":
        """Return the track of a table with the columns frame, x, y and size, [K, 4], and of landmarks, [K, 14]."""
        return cls(*table[:, :4].T, landmarks=table[:, 4:] if table.shape[1] > 4 else None)

    @property
    def table(self) -> np.ndarray:
        """The columns frame, x, y and size, float64 [K, 4]; with those of landmarks, where they are known, [K, 14]."""
        landmarks = [] if self.landmarks is None else [self.landmarks]
        return np.column_stack([self.frame, self.x, self.y, self.size, *landmarks])

    def part(self, region: str, width: int, height: int) -> "FaceTrack | None":
        """Return where a part of the face is, of `PARTS`: on the frames on which its landmarks lie in the picture.

        The box of a clip (`FaceEntry.box`) is a square around the middle of the part. Its side is that of `PARTS`, and
        does not depend on how far an eye or the mouth is open.

        Args:
            region: The part.
            width, height: Of the picture.

        Returns:
            Its track; None where it is in the picture on no frame.
        """
        points = self.landmarks.reshape(-1, len(LANDMARKS), 2)
        eyes, mouth = (points[:, list(PARTS[name][0])] for name in ("eyes", "mouth"))
        apart = np.linalg.norm(eyes[:, 1] - eyes[:, 0], axis=1)
        scale = np.maximum(apart, np.linalg.norm(eyes.mean(axis=1) - mouth.mean(axis=1), axis=1))
        own, side = (eyes if region == "eyes" else mouth), PARTS[region][1]
        inside = ((own >= 0) & (own <= (width - 1, height - 1))).all(axis=(1, 2)) & (scale > 0)
        if not inside.any():
            return None
        middle = own.mean(axis=1)
        return FaceTrack.of(np.column_stack([self.frame, middle, scale * side / MARGIN])[inside])


@dataclass(frozen=True, slots=True, eq=False)
class FaceEntry:
    """What the index knows about one video: a line of the file.

    Attributes:
        video: `Video.name`.
        frames: Number of frames of the video; 0 where there is an error.
        fps: Average frame rate.
        width, height: Size of the upright picture in pixels.
        detector: The face detector that found them; `WHOLE_FRAME` or `BOXES_FILE` where no detector did.
        boxes: The face of the main person; None for the whole picture, and where there is an error.
        boxes_of: `Video.name` of the original whose boxes these are, where they were reused.
        error: Why the video cannot be used, or None.
        shots: First and last frame (inclusive) of each shot, ascending; frames of dissolves and fades are in none. None
            where they are not known, because no frame or not every frame was looked at: then all is taken for one shot.
        others: The faces of the other people, largest (area times time) first.
        brief: The largest of the faces that were found, each followed within one shot, and are too brief for a clip.
        briefs: How many of these there are in all.
        crowd: Most faces in one frame, where they are more than are followed; else 0.
        face: Of a whole picture: where the face is in it, with landmarks; None where that is not known.
        version: Of the format of a line.
    """

    video: str
    frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    detector: str = WHOLE_FRAME
    boxes: FaceTrack | None = None
    boxes_of: str | None = None
    error: str | None = None
    shots: tuple[Shot, ...] | None = None
    others: tuple[FaceTrack, ...] = ()
    brief: tuple[Brief, ...] = ()
    briefs: int = 0
    crowd: int = 0
    face: FaceTrack | None = None
    version: Literal[1, 2] = 2

    def __post_init__(self) -> None:
        places = [] if self.shots is None else [-1, *(frame for shot in self.shots for frame in shot), self.frames]
        steps = [after - before for before, after in pairwise(places)]
        # Before a shot, and after the last one, a frame must pass; a shot may have one frame.
        if any(step < (number % 2 == 0) for number, step in enumerate(steps)):
            raise ValueError(f"shots {list(map(list, self.shots))}; expected [first, last] frames, ascending")
        if self.error is None and min(self.frames, self.width, self.height) < 1:
            size = f"{self.width}x{self.height}"
            raise ValueError(f"{self.frames} frames of {size} pixels; expected frames, width and height, or an error")

    @property
    def whole_frame(self) -> bool:
        """Whether the box is the whole picture (the videos are face crops already)."""
        return self.error is None and self.boxes is None

    @property
    def key_frames(self) -> np.ndarray:
        """The frames for which the face is recorded, int64, ascending; none for the whole picture."""
        return self.boxes.frame if self.boxes else np.empty(0, np.int64)

    @property
    def people(self) -> list[FaceTrack]:
        """The face of every person, the main one first; none for the whole picture."""
        return [self.boxes, *self.others] if self.boxes else []

    def of_person(self, number: int) -> "FaceEntry":
        """Return the entry with the boxes of another person (1 is the main one) in the place of the main person's.

        Raises:
            InputError: There are not so many.
        """
        people = self.people
        if not 1 <= number <= max(len(people), 1):
            if not people:
                raise InputError(f"{self.video} is used as a whole picture, and person is {number}; expected 1.")
            shows = f"{len(people)} {'person' if len(people) == 1 else 'people'}"
            expected = "1" if len(people) == 1 else f"1 to {len(people)}"
            raise InputError(f"{self.video} shows {shows}, and person is {number}; expected {expected}.")
        if number == 1:
            return self
        chosen = people.pop(number - 1)
        return replace(self, boxes=chosen, others=tuple(people))

    @property
    def has_landmarks(self) -> bool:
        """Whether the landmarks of the main person are known."""
        face = self.boxes or self.face
        return face is not None and face.landmarks is not None

    def of_region(self, region: str) -> "FaceEntry":
        """Return the entry with a part of the main person's face in the place of the face; with an error where that
        is not in the picture, or where there are no landmarks.
        """
        if region == FACE or self.error is not None:
            return self
        if not self.has_landmarks:
            what = f"crops of the {region} need the landmarks of a face, and there are none"
            return replace(self, error=f"{what}: {crop_name([self.detector])}")
        face = self.boxes or self.face
        part = face.part(region, self.width, self.height)
        if part is None:
            which = "an eye" if region == "eyes" else "a corner of the mouth"
            frames = "its one frame" if len(face.frame) == 1 else f"each of its {len(face.frame)} frames"
            why = f"on {frames} with landmarks {which} is outside of the picture"
            return replace(self, error=f"shows no {region} in view: {why}")
        return replace(self, boxes=part, others=(), face=None)

    def tracks(self) -> list[tuple[int, int, FaceTrack]]:
        """Return the person (from 1), the shot (from 0) and the boxes of every face in every shot."""
        shots = [(0, self.frames - 1)] if self.shots is None else self.shots
        found = []
        for person, track in enumerate(self.people, start=1):
            for shot, (first, last) in enumerate(shots):
                inside = track.table[(track.frame >= first) & (track.frame <= last)]
                if len(inside):
                    found.append((person, shot, FaceTrack.of(inside)))
        return found

    @property
    def clip_ranges(self) -> list[Shot]:
        """First and last frame (inclusive) between which clips can lie, of each shot in which the face is known.

        In a long video a shot counts as several where the face is gone for longer than `LONGEST_BREAK`.
        """
        shots = [(0, self.frames - 1)] if self.shots is None else self.shots
        if self.boxes is None:
            return list(shots)
        keys = [self.key_frames[(self.key_frames >= first) & (self.key_frames <= last)] for first, last in shots]
        keys = [inside for inside in keys if len(inside)]
        if self.fps > 0 and self.frames > LONG_VIDEO * self.fps:
            keys = [seen for inside in keys for seen in np.split(inside, 1 + np.flatnonzero(self._breaks(inside)))]
        return [(int(inside[0]), int(inside[-1])) for inside in keys]

    def _breaks(self, frames: np.ndarray) -> np.ndarray:
        """Return after which of these frames with a box the face is gone for longer than `LONGEST_BREAK`, bool."""
        return np.diff(frames) > max(LONGEST_BREAK[0], round(LONGEST_BREAK[1] * self.fps))

    @property
    def frames_seen(self) -> int:
        """How many frames show the main person, or the whole picture, without breaks of over `LONGEST_BREAK`."""
        if self.boxes is None:
            return self.frames
        frames, seen = self.key_frames, 0
        for first, last in self.clip_ranges:
            inside = frames[(frames >= first) & (frames <= last)]
            seen += 1 + int(np.diff(inside)[~self._breaks(inside)].sum())
        return seen

    @property
    def face_range(self) -> tuple[int, int]:
        """First and last frame (inclusive) between which the face is known; the whole video for the whole picture.

        Outside it the nearest known box is held, which may show no face: clips are better taken inside.
        """
        return (int(self.key_frames[0]), int(self.key_frames[-1])) if self.boxes else (0, self.frames - 1)

    def box(self, frames: Sequence[int] | np.ndarray) -> Box:
        """Return one box for a whole clip; see `FaceIndex.box`."""
        if self.boxes is None:
            return 0.0, 0.0, float(self.width), float(self.height)
        at, boxes = np.asarray(frames, np.float64), self.boxes
        x, y = (float(np.median(np.interp(at, boxes.frame, axis))) for axis in (boxes.x, boxes.y))
        half = MARGIN * float(np.interp(at, boxes.frame, boxes.size).max()) / 2
        return x - half, y - half, x + half, y + half

    def to_json(self) -> str:
        """Return the line of the index file, without the line break; pixels are rounded to tenths."""
        if self.error is not None:
            line = {"video": self.video, "error": self.error, "version": self.version}
        else:
            line = asdict(self) | {"fps": round(self.fps, 4)}
            del line["error"]
            if self.boxes_of is None:
                del line["boxes_of"]
            if self.version == 1:
                del line["shots"]
            if self.boxes:
                line["boxes"] = _rounded(line["boxes"])
            line["others"] = [_rounded(track) for track in line["others"]]
            line["face"] = line["face"] and _rounded(line["face"])
            for name in ("others", "brief", "briefs", "crowd", "face"):
                if not line[name]:
                    del line[name]
        return json.dumps(line, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str | bytes, where: str = "a line of the face index") -> "FaceEntry":
        """Return the entry of a line of the index file; InputError, which begins with `where`, if it is none."""
        return parse_json(line if isinstance(line, bytes) else line.encode(), cls, where)


def _rounded(track: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {name: values.round(1).tolist() for name, values in track.items() if values is not None}


def crop_name(detectors: Iterable[str]) -> str:
    """Return in words what crops these detectors give: `"faces found by yuface"`."""
    names = {WHOLE_FRAME: "whole pictures", BOXES_FILE: "faces of a boxes file"}
    return " and ".join(names.get(detector, f"faces found by {detector}") for detector in sorted(set(detectors)))


class FaceIndex:
    """Face boxes of the videos of a data set, by `Video.name`.

    Attributes:
        entries: By `Video.name`.
        path: The file the entries were read from, named in error messages.
        lines: How many lines of the file hold entries; more than there are entries where some replaced others.
        broken: Numbers of the lines of the file that are none of an index and were left out.
    """

    def __init__(self, entries: dict[str, FaceEntry] | None = None, path: Path | None = None):
        self.entries = entries or {}
        self.path = path
        self.lines = len(self.entries)
        self.broken: list[int] = []

    @classmethod
    def read(cls, root: str | Path, *, leave_out_broken: bool = False) -> "FaceIndex":
        """Read the index of a data set.

        Args:
            root: The directory of the data set (with `face_index.jsonl` in it), or an index file.
            leave_out_broken: List lines that are none of an index in `broken`; their videos have no entry then.

        Raises:
            InputError: There is none, or a line other than the last is not a line of an index. A broken last line is
                what a killed run leaves behind, and is ignored.
        """
        path = Path(root)
        path = path / FILE_NAME if path.is_dir() else path
        if not path.is_file():
            raise InputError(f"There is no face index {path}: run `istvt prepare {Path(root)}` first.")
        index = cls(path=path)
        lines = read_bytes(path, MAX_BYTES).split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                entry = FaceEntry.from_json(line, f"{path}: line {number}")
            except InputError as error:
                if number == len(lines):
                    continue
                if not leave_out_broken:
                    drops = f"`istvt prepare {path.parent}` drops such lines and looks at their videos again"
                    raise InputError(f"{error} ({drops})") from error
                index.broken.append(number)
                continue
            index.entries[entry.video] = entry
            index.lines += 1
        return index

    def __contains__(self, video_name: str) -> bool:
        return video_name in self.entries

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[FaceEntry]:
        return iter(self.entries.values())

    def detectors(self, videos: Iterable[str]) -> list[str]:
        """Return the detectors that found the faces of these videos (`Video.name`), each once, for `crop_name`."""
        entries = (self.entries[name] for name in videos if name in self.entries)
        return sorted({entry.detector for entry in entries if entry.error is None})

    def without_shots(self, videos: Iterable[str]) -> list[str]:
        """Return which of these usable videos have no shots, so that a clip of theirs may span a cut."""
        entries = (self.entries[name] for name in videos if name in self.entries)
        return [entry.video for entry in entries if entry.error is None and entry.shots is None]

    @property
    def errors(self) -> dict[str, str]:
        """Why videos cannot be used: sentence by `Video.name`."""
        return {entry.video: entry.error for entry in self if entry.error is not None}

    def of_region(self, region: str) -> "FaceIndex":
        """Return the index of a part of the face, in which clips are cropped to that; see `FaceEntry.of_region`."""
        if region == FACE:
            return self
        return FaceIndex({name: entry.of_region(region) for name, entry in self.entries.items()}, self.path)

    def entry(self, video_name: str) -> FaceEntry:
        """Return the entry of one video; InputError where the index has none."""
        try:
            return self.entries[video_name]
        except KeyError:
            where = self.path or "the face index"
            raise InputError(f"{video_name} is not in {where}: run `istvt prepare` on its data set again.") from None

    def box(self, video_name: str, frames: Sequence[int] | np.ndarray) -> Box:
        """Return one square box for a whole clip: x0, y0, x1, y1 in pixels of the upright picture.

        Its side is 1.25 times the largest face size (the larger of height and width) over the clip, its center the
        median position of the nose tip over the clip, both interpolated between the recorded frames; paper, section
        IV-B. One box for all frames, because a box that moves from frame to frame is a temporal artifact itself. It may
        reach beyond the picture. Videos recorded without detection give the whole picture, which need not be square.

        Args:
            video_name: `Video.name`.
            frames: Indices of the frames of the clip.

        Raises:
            InputError: The video is not in the index, or it is there with an error.
        """
        entry = self.entry(video_name)
        if entry.error is not None:
            raise InputError(entry.error)
        return entry.box(frames)
