"""Which of several faces in a fake is the manipulated one, where a mask video shows it.

Without this a fake with several people may be cropped around a real face and still be labeled fake, a known defect of
benchmarks on DeepFakeDetection.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataloading.faces.detectors.detector import Detection
from dataloading.video.decode import iterate_frames
from dataloading.video.probe import probe

MASKED = 64  # gray levels; a mask is black and white but for what compression does to it

Looks = list[tuple[int, Sequence[Detection]]]


def manipulated_faces(looks: Looks, mask: Path, width: int) -> Looks:
    """Keeps, of several faces in a frame, the one with most of the mask; the mask is opened only if there are several.

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
