"""An edited synthetic video: two drawn people in five shots, of whom one is forged in one shot.

Shots follow each other by hard cuts: the first person, the second, both side by side, the second again, the first
again. The second person is forged in the fourth shot and nowhere else, so a score of the whole video, of the other
person, or of another shot does not show it. The file beside the video says who is where and what is forged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from dataloading.dataset import ORIGINAL
from dataloading.face_index import MARGIN, WHOLE_FRAME, FaceEntry, FaceTrack
from dataloading.io import read_json, shown, write_json
from dataloading.synthetic.rendering import VideoPlan, render, write_video

SHOTS: tuple[tuple[int, ...], ...] = ((0,), (1,), (0, 1), (1,), (0,))  # the people of each shot, from left to right
FORGED_PERSON, FORGED_SHOT = 1, 3
FIRST_VIDEO = 5000  # number of the drawn video behind the first shot: none of a set's own
_MOST = 100_000  # frames, frames a second, pixels
LONGER = 1.5  # the first shot than the others: the first person is the main one


@dataclass(frozen=True, kw_only=True)
class EditedVideo:
    """What an edited video shows, as stored in the JSON file beside it.

    Attributes:
        fps: frames a second.
        size: height in pixels; the width is twice that.
        shots: first and last frame of each.
        people: numbers (from 1) of the people in each shot, from left to right.
        places: x0, y0, x1, y1 in pixels of the part of the picture that each of them is drawn in.
        forged_person: number of the person that is forged.
        forged_shot: number of the shot (from 1) in which it is.
        manipulation: how, one of `dataloading.synthetic.rendering.MANIPULATIONS`.
    """

    fps: int
    size: int
    shots: tuple[tuple[int, int], ...]
    people: tuple[tuple[int, ...], ...]
    places: tuple[tuple[tuple[float, float, float, float], ...], ...]
    forged_person: int
    forged_shot: int
    manipulation: str

    def __post_init__(self) -> None:
        if not 1 <= self.fps <= _MOST or not 1 <= self.size <= _MOST:
            raise ValueError(f"fps is {self.fps} and size {self.size}; expected numbers from 1 to {_MOST:,}")
        counts = [len(values) for values in (self.shots, self.people, self.places)]
        if len(set(counts)) > 1 or not self.shots:
            raise ValueError(f"{counts} shots, people and places; expected as many of each, and one or more")
        frames = [frame for shot in self.shots for frame in shot]
        if frames[0] or any(last < first for first, last in self.shots) or not _follow_each_other(self.shots):
            raise ValueError(f"shots are {shown(self.shots)}; expected [first, last] frames from 0 on, without gaps")
        if frames[-1] >= _MOST:
            raise ValueError(f"shots have {frames[-1] + 1:,} frames; expected at most {_MOST:,}")
        for number, (people, places) in enumerate(zip(self.people, self.places, strict=True)):
            if len(people) != len(places) or len(set(people)) < len(people) or min(people, default=0) < 1:
                raise ValueError(
                    f"people[{number}] are {shown(people)} in {len(places)} places; expected numbers from 1, each "
                    "once, and as many places"
                )
        if not 1 <= self.forged_shot <= len(self.shots):
            raise ValueError(f"forged_shot is {self.forged_shot}; expected 1 to {len(self.shots)}")

    def face_entry(self, path: str | Path) -> FaceEntry:
        """Return the people where they are drawn, for clips that show each as the set's other videos show theirs.

        The box of a clip is the whole part of the picture in which a person is drawn, so no face has to be looked for.
        """
        tracks = []
        for person in sorted({number for people in self.people for number in people}):
            rows = [
                (frame, (x0 + x1) / 2, (y0 + y1) / 2, (y1 - y0) / MARGIN)
                for (first, last), people, places in zip(self.shots, self.people, self.places, strict=True)
                for number, (x0, y0, x1, y1) in zip(people, places, strict=True)
                if number == person
                for frame in dict.fromkeys((*range(first, last, 5), last))
            ]
            tracks.append(FaceTrack.of(np.array(rows)))
        main, *others = tracks
        size = (self.shots[-1][1] + 1, float(self.fps), 2 * self.size, self.size)
        return FaceEntry(str(path), *size, WHOLE_FRAME, main, shots=self.shots, others=tuple(others))


def _follow_each_other(shots: Sequence[tuple[int, int]]) -> bool:
    return all(first == last + 1 for (_, last), (first, _) in pairwise(shots))


def draw_edited_video(
    path: str | Path,
    *,
    seed: int = 0,
    person: int = 0,
    frames: int = 24,
    size: int = 128,
    fps: int = 25,
    manipulation: str = "both",
) -> EditedVideo:
    """Draw an edited video into `path`, and what it shows into the file of that name that ends in `.json`.

    Args:
        path: of the MP4 file; its directory must exist.
        seed: of the set of which the people are.
        person: number of the first person in it; the second has the next number, and the face that is pasted the one
            after that.
        frames: of each shot, even; the first has half as many more.
        size: height in pixels, even; the width is twice that.
        fps: frames a second.
        manipulation: of the forged shot, one of `dataloading.synthetic.rendering.MANIPULATIONS`.
    """
    path = Path(path)
    lengths = [round(frames * LONGER), *[frames] * (len(SHOTS) - 1)]
    ends = np.cumsum(lengths).tolist()
    alone, side_by_side = ((size / 2, 0.0, 1.5 * size, float(size)),), _tiles(size)
    content = EditedVideo(
        fps=fps,
        size=size,
        shots=tuple((end - length, end - 1) for end, length in zip(ends, lengths, strict=True)),
        people=tuple(tuple(number + 1 for number in people) for people in SHOTS),
        places=tuple(side_by_side if len(people) > 1 else alone for people in SHOTS),
        forged_person=FORGED_PERSON + 1,
        forged_shot=FORGED_SHOT + 1,
        manipulation=manipulation,
    )

    def plan(shot: int, number: int) -> VideoPlan:
        forged = manipulation if (shot, number) == (FORGED_SHOT, FORGED_PERSON) else ORIGINAL
        video, pasted = FIRST_VIDEO + 2 * shot + number, person + len(SHOTS[2])
        return VideoPlan(seed, video, person + number, video, pasted, forged, lengths[shot], size)

    def pictures() -> Iterator[np.ndarray]:
        for shot, people in enumerate(SHOTS):
            drawn = [render(plan(shot, number)) for number in people]
            for together in zip(*drawn, strict=True):
                yield _wide([picture for picture, _ in together])

    write_json(path.with_suffix(".json"), asdict(content))
    write_video(path, pictures(), fps)
    return content


def read_edited_video(path: str | Path) -> EditedVideo:
    """Return what an edited video shows, from the JSON file beside it; InputError where that is missing or damaged."""
    return read_json(Path(path).with_suffix(".json"), EditedVideo)


def _tiles(size: int) -> tuple[tuple[float, float, float, float], ...]:
    """Return the left and the right half of a picture of `size` x `2 size` pixels."""
    return tuple((float(left), 0.0, float(left + size), float(size)) for left in (0, size))


def _wide(pictures: list[np.ndarray]) -> np.ndarray:
    """Return two square pictures side by side, or one in the middle with its edges drawn out to both sides."""
    if len(pictures) > 1:
        return np.concatenate(pictures, axis=1)
    [picture] = pictures
    half = picture.shape[0] // 2
    return np.pad(picture, ((0, 0), (half, half), (0, 0)), mode="edge")
