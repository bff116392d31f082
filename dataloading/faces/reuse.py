"""Reuse of an original's face boxes for the fakes made from it.

A fake shares its frames and shots with the original, so one pass serves both. This is not only faster: with boxes of
their own, fakes are cropped a little differently from their originals, and a model may learn the crop.
"""

from dataclasses import replace

from dataloading.dataset import Video
from dataloading.face_index import FaceEntry, FaceTrack
from dataloading.faces.detect import manipulated_faces
from dataloading.faces.detectors import Detection, FaceDetector, overlap
from dataloading.faces.search import faces_in
from dataloading.video.decode import decode_frames
from dataloading.video.probe import VideoInfo

AGREES = 0.5  # intersection over union


def reuse_boxes(original: FaceEntry, fake: Video, info: VideoInfo, detector: FaceDetector) -> FaceEntry | None:
    """Return the boxes of an original for a fake, or None where they do not fit.

    They fit if both have the same size, the fake has no more frames than the original (fakes end with the shorter of
    their two originals), and a face is where it should be in the middle of the fake: where there are several, the
    manipulated one.
    """
    table = original.boxes.table[original.key_frames < info.frames]
    same_size = (info.width, info.height) == (original.width, original.height)
    if not same_size or info.frames > original.frames or not len(table):
        return None
    middle, *place = table[len(table) // 2, :4]
    expected = _square(*place)
    faces = faces_in(decode_frames(fake.path, [int(middle)], info)[0], detector)
    if fake.mask:
        [(_, faces)] = manipulated_faces([(int(middle), faces)], fake.mask, info.width)
    if not any(overlap(_square(*face.center, face.size), expected) >= AGREES for face in faces):
        return None
    shots = original.shots and tuple(
        (first, min(last, info.frames - 1)) for first, last in original.shots if first < info.frames
    )
    tables = [track.table[track.frame < info.frames] for track in original.others]
    others = tuple(FaceTrack.of(rows) for rows in tables if len(rows))
    changes = {"frames": info.frames, "fps": info.fps, "boxes": FaceTrack.of(table), "boxes_of": original.video}
    return replace(original, video=fake.name, shots=shots, others=others, **changes)


def _square(x: float, y: float, size: float) -> Detection:
    return Detection(x - size / 2, y - size / 2, x + size / 2, y + size / 2, confidence=1.0)
