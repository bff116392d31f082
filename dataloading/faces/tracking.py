"""Tracking of faces: detections of single frames linked by overlap within shots, and grouped into people."""

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dataloading.face_index import Brief, FaceTrack, Shot
from dataloading.faces.detectors import Detection, overlap

EVERY = 5  # frames between two looks
LINKED = 0.2  # intersection over union of the same face in two neighboring frames that were looked at
LONGEST_GAP = 10 * EVERY  # frames without finding the face before it counts as gone
LEAST_SHARE = 0.1  # of the frames looked at; a face found less often may be a false one, and comes after the others
CELLS = 6  # of an appearance, in height and in width
LEAST_ALIKE = 0.75  # of one person in two shots: correlation of appearances, and a little for the same place and size
MOST_LISTED = 20  # of the faces that are too brief for a clip
SAME_PLACE = 0.15  # what boxes that are the same in two shots count beside their appearance
MOST_PEOPLE = 32  # that are followed; in a crowd the others are left out
LEAST_SMALL = 3  # times that a face found at a second look must be found: false ones are rarely found again

Looks = list[tuple[int, Sequence[Detection]]]


@dataclass(slots=True)
class _Link:
    """One face over time in one shot, while it is being linked."""

    shot: int
    frames: list[int]
    faces: list[Detection]
    spans: list[float]  # for how much of the video each look stands that found it
    lasting: bool = False  # found in a tenth of all looks
    appearance: np.ndarray | None = None  # the mean of its faces'

    @property
    def weight(self) -> float:
        """Area times time: the main face is large and always there."""
        return sum(face.size**2 * span for face, span in zip(self.faces, self.spans, strict=True))

    @property
    def reach(self) -> int:
        """Frames from the first to the last one that shows it."""
        return self.frames[-1] - self.frames[0] + 1

    @property
    def table(self) -> np.ndarray:
        """The columns of `FaceTrack.table`, not yet smoothed; landmarks where each of its faces has them."""
        known = all(face.landmarks for face in self.faces)
        points = [np.ravel(face.landmarks) if known else () for face in self.faces]
        found = zip(self.frames, self.faces, points, strict=True)
        return np.array([[frame, *face.center, face.size, *landmarks] for frame, face, landmarks in found])

    @property
    def summary(self) -> Brief:
        """The first and the last frame that show it, and its size in pixels."""
        return self.frames[0], self.frames[-1], round(float(np.median([face.size for face in self.faces])), 1)


@dataclass(frozen=True, slots=True)
class FoundFaces:
    """The people of a video, and what was found of faces altogether.

    Attributes:
        people: The track of each, over all shots, largest (area times time) first.
        tracks: How many faces were found, each followed within one shot, used or not.
        longest: First frame, last frame and size in pixels of the one that was seen for longest; None without any.
        brief: The largest of the faces that are too brief for a clip, in the same form.
        briefs: How many of these there are in all.
    """

    people: tuple[FaceTrack, ...]
    tracks: int
    longest: Brief | None
    brief: tuple[Brief, ...] = ()
    briefs: int = 0


def find_people(
    detections: Iterable[tuple[int, Sequence[Detection]]],
    shots: Sequence[Shot] | None = None,
    clip_frames: int | None = None,
    *,
    spans: Sequence[float] | None = None,
    small: Iterable[tuple[int, Sequence[Detection]]] = (),
    gap: int = LONGEST_GAP,
) -> FoundFaces:
    """Link detections by overlap within each shot, and group the tracks into people.

    A person is used if a clip fits between two frames of a shot that show them, whatever share of the video it is. Two
    tracks may be one person where one is gone before the other is there. In one shot they are, if each was found in a
    tenth of all looks: the face was lost and found again. In two shots they are if they look alike, and of several
    people the most alike. How a face looks is the layout of color in its box and no identity: hair, beard, make-up and
    light count as much as features. The same person in other light may be taken for two, and two people
    who look alike for one.

    Faces that were found in less than a tenth of all looks come after the others, however large: they may be false. In
    a video of one shot the main person is that of the largest track. At most `MOST_PEOPLE` are followed.

    Args:
        detections: The frames that were looked at, ascending, and the faces found in each.
        shots: First and last frame of each shot; None for one. Faces in frames of no shot are not used.
        clip_frames: Frames of a clip; None where they are not known: a face found twice, or in a tenth of the looks.
        spans: For how much of the video each look stands, in any unit; None where all stand for the same.
        small: The looks again, with faces that were found in larger pictures. They are used in shots that have no
            usable face in `detections`.
        gap: Frames after which a face that is not found any more is gone.
    """
    detections, small = list(detections), list(small)
    spans = [1.0] * len(detections) if spans is None else spans
    least = clip_frames or 2
    links = _links(detections, shots, spans, gap)
    small_links = [link for link in _links(small, shots, spans, gap) if len(link.frames) >= LEAST_SMALL]
    lasting = LEAST_SHARE * sum(spans)
    for link in (*links, *small_links):
        link.lasting = sum(link.spans) >= lasting
    served = {link.shot for link in links if _is_usable(link, least)}
    links += [link for link in small_links if link.shot not in served]
    for link in links:
        known = [face.appearance for face in link.faces if face.appearance is not None]
        link.appearance = np.mean(known, axis=0) if known else None
    usable = sorted((link for link in links if _is_usable(link, least)), key=_rank)
    people = _people(usable)
    people = [person for person in people if (clip_frames is None and person[0].lasting) or _reach(person) >= least]
    if shots is not None and len(shots) > 1:
        people.sort(key=lambda person: (not person[0].lasting, -sum(link.weight for link in person)))
    longest = max(links, key=lambda link: link.reach, default=None)
    used = {id(link) for person in people for link in person}
    # Those that are shorter than a clip, and not what is left out of a crowd.
    unused = [link for link in links if id(link) not in used and link.reach < least]
    unused.sort(key=lambda link: -link.weight)
    return FoundFaces(
        tuple(map(_track, people)),
        len(links),
        longest and longest.summary,
        tuple(link.summary for link in unused[:MOST_LISTED]),
        len(unused),
    )


def _reach(person: Sequence[_Link]) -> int:
    """Return the most frames between the first and the last one of a shot that shows a person."""
    frames: dict[int, list[int]] = {}
    for link in person:
        frames.setdefault(link.shot, []).extend((link.frames[0], link.frames[-1]))
    return max(max(ends) - min(ends) + 1 for ends in frames.values())


def _rank(link: _Link) -> tuple[bool, float]:
    return not link.lasting, -link.weight


def _track(person: Sequence[_Link]) -> FaceTrack:
    in_time = sorted(person, key=lambda link: link.frames[0])
    tables = [_smoothed(link.table) for link in in_time]
    columns = min(table.shape[1] for table in tables)  # without landmarks where a part of the tables lacks them
    return FaceTrack.of(np.concatenate([table[:, :columns] for table in tables]))


def appearance(picture: np.ndarray, face: Detection) -> np.ndarray:
    """Return how a face in a uint8 picture [H, W, 3] looks: float32 [108], logarithms of the mean colors of 6x6 cells.

    The mean over all cells is taken out, so that it depends less on the light, and left and right are averaged, so that
    it depends less on where the face looks.
    """
    (x, y), half = face.center, face.size / 2
    rows, columns = (
        np.clip(np.linspace(middle - half, middle + half, 4 * CELLS).astype(np.int64), 0, side - 1)
        for middle, side in ((y, picture.shape[0]), (x, picture.shape[1]))
    )
    cells = picture[rows][:, columns].astype(np.float32).reshape(CELLS, 4, CELLS, 4, 3).mean(axis=(1, 3))
    colors = np.log((cells + cells[:, ::-1]) / 2 + 8)  # 8 gray levels: noise in the dark
    return (colors - colors.mean()).ravel()


def _links(
    detections: Sequence[tuple[int, Sequence[Detection]]],
    shots: Sequence[Shot] | None,
    spans: Sequence[float] | None = None,
    gap: int = LONGEST_GAP,
) -> list[_Link]:
    """Return every face over time, each within one shot."""
    links: list[_Link] = []
    looks = [frame for frame, _ in detections]
    for shot, (first, last) in enumerate([(0, sys.maxsize)] if shots is None else shots):
        of_shot: list[_Link] = []
        open_links: list[_Link] = []
        for look in range(bisect_left(looks, first), bisect_right(looks, last)):
            frame, faces = detections[look]
            open_links = [link for link in open_links if frame - link.frames[-1] <= gap]
            started = _extend(open_links, shot, frame, faces, 1.0 if spans is None else spans[look])
            open_links += started
            of_shot += started
        links += of_shot
    return links


def _is_usable(link: _Link, least: int) -> bool:
    return link.lasting or link.reach >= least


def _people(links: Sequence[_Link]) -> list[list[_Link]]:
    """Group links, the most important first, into people, each with the one that it is most like."""
    if not links:
        return []
    people: list[list[_Link]] = []
    owners = np.full(len(links), -1)  # the person of each link
    first, last, shot = np.array([(link.frames[0], link.frames[-1], link.shot) for link in links]).T
    lasting = np.array([link.lasting for link in links])
    looks, known = _standard_scores(links)
    for number, link in enumerate(links):
        at_once = (first[:number] <= last[number]) & (last[:number] >= first[number])
        # In one shot a face that was lost and found again is the same; what is short in between may be false, or pass.
        likeness = np.where((shot[:number] == shot[number]) & lasting[:number] & lasting[number], 1.0, -1.0)
        alike = looks[:number] @ looks[number]
        both = known[:number] & known[number]
        # The place counts for little where both looks are known.
        near = np.flatnonzero((shot[:number] != shot[number]) & (~both | (alike >= LEAST_ALIKE - SAME_PLACE)))
        for other in near.tolist():
            place = _same_place(links[other], link)
            if both[other]:
                likeness[other] = alike[other] + SAME_PLACE * place
            else:
                likeness[other] = 1.0 if place >= 0.5 else -1.0
        likeness[np.isin(owners[:number], owners[:number][at_once])] = -1.0  # a person is in one place at a time
        likeness[owners[:number] < 0] = -1.0
        best = likeness.max(initial=-1.0)
        if best >= LEAST_ALIKE:
            owners[number] = owners[:number][likeness == best].min()
            people[owners[number]].append(link)
        elif len(people) < MOST_PEOPLE:
            owners[number] = len(people)
            people.append([link])
    return people


def _standard_scores(links: Sequence[_Link]) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors whose inner products are correlations of appearances, [n, 108], and of which links they are."""
    known = np.array([link.appearance is not None for link in links])
    size = 3 * CELLS**2
    looks = np.array([np.zeros(size) if link.appearance is None else link.appearance for link in links], np.float64)
    looks -= looks.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(looks, axis=1, keepdims=True)
    return np.divide(looks, lengths, out=np.zeros_like(looks), where=lengths > 0), known


def _same_place(one: _Link, other: _Link) -> float:
    return max(overlap(other.faces[0], one.faces[-1]), overlap(other.faces[-1], one.faces[0]))


def _extend(links: Sequence[_Link], shot: int, frame: int, faces: Sequence[Detection], span: float) -> list[_Link]:
    """Add the faces of one frame to the links they overlap with most; return links that the others start."""
    pairs = [(overlap(link.faces[-1], face), link, face) for link in links for face in faces]
    free = list(faces)
    for agreement, link, face in sorted(pairs, key=lambda pair: -pair[0]):
        if agreement < LINKED:
            break
        if link.frames[-1] < frame and any(face is other for other in free):
            link.frames.append(frame)
            link.faces.append(face)
            link.spans.append(span)
            free = [other for other in free if other is not face]
    return [_Link(shot, [frame], [face], [span]) for face in free]


def _smoothed(table: np.ndarray) -> np.ndarray:
    """Remove single outliers (median of three) and jitter (mean of three) from all columns but the first, the frame.

    The ends are repeated. Wider windows lag behind a head that moves fast: on carphone_pristine.mp4 a median of five
    puts the center of a clip's box up to 11 % of its side from the nose, this one 6.5 %; without both it is 5 %, with
    2.4 times the jitter.
    """
    frames, values = table[:, :1], table[:, 1:]
    return np.hstack([frames, _windows(np.median(_windows(values), axis=0)).mean(axis=0)])


def _windows(values: np.ndarray) -> np.ndarray:
    """Return each value with its two neighbors, [3, ...]."""
    at = np.arange(len(values))
    return np.stack([values[np.clip(at + shift, 0, len(values) - 1)] for shift in (-1, 0, 1)])
