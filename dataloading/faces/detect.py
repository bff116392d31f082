"""Face detection in a video: from its frames to its entry in the face index."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np

from dataloading.errors import InputError
from dataloading.face_index import FaceEntry, Shot
from dataloading.faces.detectors import Detection, FaceDetector
from dataloading.faces.tracking import FoundFaces, appearance, find_people
from dataloading.video.decode import iterate_frames, scan_frames
from dataloading.video.probe import VideoInfo, probe
from dataloading.video.shots import THUMBNAIL, ShotFinder

EVERY = 5
LARGEST_SIDE = 640  # pixels; detectors are slow on larger pictures and find no more faces worth tracking
MASKED = 64  # gray levels; a mask is black and white but for what compression does to it

Looks = list[tuple[int, Sequence[Detection]]]


def find_face(
    path: str | Path,
    detector: FaceDetector,
    every: int = EVERY,
    name: str | None = None,
    info: VideoInfo | None = None,
    mask: Path | None = None,
    clip_frames: int | None = None,
) -> FaceEntry:
    """Find the people and the shots of a video in one pass through the file.

    Every frame is decoded. Where one that is not looked at is damaged, the others are used and the shots are not known.

    Args:
        path: The file.
        detector: From `dataloading.faces.make_detector`.
        every: Look at every so many frames, and at the last one.
        name: `Video.name` for the entry; the path by default.
        info: What `probe` says of the file, if it is known already.
        mask: The mask video of a fake, which decides between several faces.
        clip_frames: Frames of a clip, if they are known: a face that is seen for fewer is not used.

    Returns:
        The entry, with the main person's boxes in `boxes` and the other people's in `others`.

    Raises:
        InputError: The file (or the mask, where it is needed) cannot be read, no face was found in it, or none that can
            be used; then the sentence says how many there were, when, how large, and what they lack.
    """
    path = Path(path)
    info = info or probe(path)
    frames = frames_looked_at(info.frames, every)
    try:
        looks, shots = _look_and_find_shots(path, frames, info, detector)
    except InputError:
        looks, shots = [(n, _look(picture, detector)) for n, picture in iterate_frames(path, frames, info)], None
    found = find_people(manipulated_faces(looks, mask, info.width) if mask else looks, shots, clip_frames)
    if not found.people:
        raise InputError(_why_no_face(path, detector, looks, found, info, clip_frames))
    main, *others = found.people
    size = (info.frames, info.fps, info.width, info.height)
    rest = {"others": tuple(others), "brief": found.brief, "briefs": found.briefs}
    return FaceEntry(name or str(path), *size, detector.name, main, shots=shots, **rest)


def whole_picture(path: str | Path, name: str | None = None) -> FaceEntry:
    """Return the entry of a video that is a face crop already, with its shots where every frame can be decoded.

    Raises:
        InputError: The file is no video.
    """
    info = probe(path)
    finder = ShotFinder()
    try:
        for _, thumbnail, _ in scan_frames(path, (), THUMBNAIL, info):
            finder.add(thumbnail)
        shots = tuple(finder.shots())
    except InputError:
        shots = None  # the loader names what is damaged, clip by clip
    return FaceEntry(name or str(path), info.frames, info.fps, info.width, info.height, shots=shots)


def _look_and_find_shots(
    path: Path, frames: np.ndarray, info: VideoInfo, detector: FaceDetector
) -> tuple[Looks, tuple[Shot, ...]]:
    """Return the faces in these frames, and the shots of the whole video."""
    looks, finder = [], ShotFinder()
    for frame, thumbnail, picture in scan_frames(path, frames, THUMBNAIL, info):
        finder.add(thumbnail)
        if picture is not None:
            looks.append((frame, _look(picture, detector)))
    return looks, tuple(finder.shots())


def _look(picture: np.ndarray, detector: FaceDetector) -> list[Detection]:
    """Return the faces in a picture, each with how it looks."""
    return [replace(face, appearance=appearance(picture, face)) for face in faces_in(picture, detector)]


def _why_no_face(
    path: Path, detector: FaceDetector, looks: Looks, found: FoundFaces, info: VideoInfo, clip_frames: int | None
) -> str:
    """Return the sentence that says why no face of a video can be used."""
    looked = f"{detector.name} looked at {len(looks)} of its {info.frames} frames"
    detected = [(frame, face) for frame, faces in looks for face in faces]
    if not detected:
        return f"{path} shows no face: {looked}."
    if found.longest is None:  # all of them in dissolves and fades
        first, last, size = detected[0][0], detected[-1][0], detected[0][1].size
        seen, why = "all of them", "they are in dissolves or fades"
    else:
        first, last, size = found.longest
        seen = "the longest seen" if found.tracks > 1 else "seen"
        why = f"a clip needs the same face in {clip_frames or 2} frames of one shot"
    times = [f"{frame / info.fps:.1f}" for frame in dict.fromkeys((first, last))] if info.fps else []
    seconds = f" ({' to '.join(times)} s)" if times else ""
    span = f"frame {first}" if first == last else f"frames {first} to {last}"
    count = found.tracks or len(detected)
    faces = "1 face" if count == 1 else f"{count} faces"
    found_here = f"found {faces}, {seen} in {span}{seconds}, {size:.0f} pixels large"
    return f"{path} shows a face too briefly: {looked} and {found_here}; {why}."


def frames_looked_at(frames: int, every: int = EVERY) -> np.ndarray:
    """Return which of so many frames faces are looked for in: int64, ascending."""
    return np.union1d(np.arange(0, frames, every), frames - 1)


def faces_in(picture: np.ndarray, detector: FaceDetector) -> list[Detection]:
    """Return the faces in a uint8 RGB picture [H, W, 3] of any size, in its own pixels."""
    factor = max(picture.shape[:2]) / LARGEST_SIDE
    if factor <= 1:
        return detector.detect(picture)
    height, width = (round(side / factor) for side in picture.shape[:2])
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    small = frame.reformat(width=width, height=height, interpolation="AREA").to_ndarray()
    return [face.scaled(factor) for face in detector.detect(small)]


def manipulated_faces(looks: Looks, mask: Path, width: int) -> Looks:
    """Keep, of several faces in a frame, the manipulated one: that with most of the mask.

    Without this a fake with several people may be cropped around a real face and still be labeled fake, a known defect
    of benchmarks on DeepFakeDetection. The mask is opened only if there are several faces.

    Args:
        looks: Frames and the faces found in them.
        mask: The mask video.
        width: That of the pictures in which the faces were found; the mask may be scaled.

    Raises:
        InputError: The mask cannot be read.
    """
    if all(len(faces) < 2 for _, faces in looks):
        return looks
    info = probe(mask)
    doubtful = [frame for frame, faces in looks if len(faces) > 1 and frame < info.frames]
    if not doubtful:
        return looks
    pictures = dict(iterate_frames(mask, doubtful, info))
    return [(frame, _masked(faces, pictures[frame], width) if frame in pictures else faces) for frame, faces in looks]


def _masked(faces: Sequence[Detection], picture: np.ndarray, width: int) -> Sequence[Detection]:
    rows, columns = np.nonzero(picture.max(axis=2) > MASKED)
    x, y = (place * width / picture.shape[1] for place in (columns, rows))
    covered = [np.count_nonzero((x > f.x0) & (x < f.x1) & (y > f.y0) & (y < f.y1)) for f in faces]
    return [faces[int(np.argmax(covered))]] if max(covered) > 0 else faces
