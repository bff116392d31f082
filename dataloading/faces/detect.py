"""Face detection in a video: from its frames to its entry in the face index."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataloading.errors import InputError
from dataloading.face_index import FaceEntry
from dataloading.faces.detectors import Detection, FaceDetector
from dataloading.faces.search import MOST_FACES, Advance, Search, Steps, finished, search
from dataloading.faces.tracking import EVERY, FoundFaces, Looks, find_people
from dataloading.video.decode import iterate_frames, scan_frames
from dataloading.video.probe import VideoInfo, probe
from dataloading.video.shots import THUMBNAIL, ShotFinder

STEP = 25  # frames from one message of how far a search is to the next
MASKED = 64  # gray levels; a mask is black and white but for what compression does to it


def find_face(
    path: str | Path,
    detector: FaceDetector,
    every: int = EVERY,
    name: str | None = None,
    info: VideoInfo | None = None,
    mask: Path | None = None,
    clip_frames: int | None = None,
    advance: Advance | None = None,
    threads: int = 1,
) -> FaceEntry:
    """Find the people and the shots of a video in one pass through the file, as `dataloading.faces.search` describes.

    Every frame is decoded. Where one that is not looked at is damaged, the others are used and the shots are not known.

    Args:
        path: The file.
        detector: From `dataloading.faces.make_detector`.
        every: Look at every so many frames, and at the last one; in videos of over a minute only where faces move or
            the picture changes.
        name: `Video.name` for the entry; the path by default.
        info: What `probe` says of the file, if it is known already.
        mask: The mask video of a fake, which decides between several faces.
        clip_frames: Frames of a clip, if they are known: a face that is seen for fewer is not used.
        advance: Called with (frames searched, frames in all) now and then.
        threads: That decode.

    Returns:
        The entry, with the main person's boxes in `boxes` and the other people's in `others`.

    Raises:
        InputError: The file (or the mask, where it is needed) cannot be read, no face was found in it, or none that can
            be used; then the sentence says how many there were, when, how large, and what they lack.
    """
    steps = finding_face(
        path, detector, every=every, name=name, info=info, mask=mask, clip_frames=clip_frames, threads=threads
    )
    return finished(steps, advance)


def finding_face(
    path: str | Path,
    detector: FaceDetector,
    *,
    every: int = EVERY,
    name: str | None = None,
    info: VideoInfo | None = None,
    mask: Path | None = None,
    clip_frames: int | None = None,
    threads: int = 1,
) -> Steps[FaceEntry]:
    """Find the people as `find_face` does, but yield (frames searched, frames in all) now and then."""
    path = Path(path)
    info = info or probe(path)
    searched = yield from search(path, info, detector, every, threads)
    looks, small = searched.looks, searched.small
    if mask:
        looks, small = (manipulated_faces(faces, mask, info.width) for faces in (looks, small))
    spans, gap = searched.spans, searched.gap
    found = find_people(looks, searched.shots, clip_frames, spans=spans, small=small, gap=gap)
    if not found.people:
        raise InputError(_why_no_face(path, detector, searched, found, info, clip_frames))
    main, *others = found.people
    size = (info.frames, info.fps, info.width, info.height)
    rest = {"others": tuple(others), "brief": found.brief, "briefs": found.briefs}
    if searched.crowd > MOST_FACES:
        rest["crowd"] = searched.crowd
    return FaceEntry(name or str(path), *size, detector.name, main, shots=searched.shots, **rest)


def whole_picture(
    path: str | Path, name: str | None = None, *, advance: Advance | None = None, threads: int = 1
) -> FaceEntry:
    """Return the entry of a video that is a face crop already, with its shots where every frame can be decoded.

    Args:
        path: The file.
        name: `Video.name` for the entry; the path by default.
        advance: Called with (frames searched for shots, frames in all) now and then.
        threads: That decode.

    Raises:
        InputError: The file is no video.
    """
    return finished(finding_shots(path, name, threads), advance)


def finding_shots(path: str | Path, name: str | None = None, threads: int = 1) -> Steps[FaceEntry]:
    """Find the shots as `whole_picture` does, but yield (frames searched, frames in all) now and then."""
    info = probe(path)
    finder = ShotFinder()
    try:
        for frame, thumbnail, _ in scan_frames(path, (), THUMBNAIL, info, threads=threads):
            finder.add(thumbnail)
            if frame % STEP == 0:
                yield frame + 1, info.frames
        shots = tuple(finder.shots())
    except InputError:
        shots = None  # the loader names what is damaged, clip by clip
    return FaceEntry(name or str(path), info.frames, info.fps, info.width, info.height, shots=shots)


def _why_no_face(
    path: Path, detector: FaceDetector, searched: Search, found: FoundFaces, info: VideoInfo, clip_frames: int | None
) -> str:
    """Return the sentence that says why no face of a video can be used."""
    looked = f"{detector.name} looked at {len(searched.looks)} of its {info.frames} frames"
    detected = [(frame, face) for frame, faces in searched.looks for face in faces]
    detected = detected or [(frame, face) for frame, faces in searched.small for face in faces]
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
