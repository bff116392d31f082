"""Boxes files: face boxes that another program made, with landmarks or without, as JSON by video."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from dataloading.dataset import Dataset
from dataloading.errors import InputError
from dataloading.face_index import BOXES_FILE, LANDMARKS, FaceEntry, FaceTrack
from dataloading.io import read_json

MAX_BYTES = 4 << 30
FACES = "faces.json"  # in the root of a data set whose faces are known: the synthetic set
ROW = "[frame, x0, y0, x1, y1]"
_COLUMNS = 5
_WITH_LANDMARKS = _COLUMNS + 2 * len(LANDMARKS)

Rows = list[list[float]]


def read_boxes(path: str | Path, dataset: Dataset, among: str | None = None) -> dict[str, np.ndarray]:
    """Read `{"video": [[frame, x0, y0, x1, y1], ...], ...}`.

    A video is named by `Video.name`, by its path, or by its path relative to the root of the set or to the directory of
    the file. After y1 a row may go on with the x and y of each of `dataloading.face_index.LANDMARKS`.

    Args:
        path: The file.
        dataset: The videos that may be named.
        among: These videos in words, for the error message; the root of the set by default.

    Returns:
        By `Video.name`, float64 [n, 5], or [n, 15] with landmarks, with ascending frames.

    Raises:
        InputError: The file cannot be read, a box is not one, or none of its videos is in the set.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"boxes is {path}, which is not a file; expected JSON {{video: [{ROW}, ...]}}.")
    content = read_json(path, dict[str, Rows], max_bytes=MAX_BYTES)
    found = {}
    for video in dataset.videos:
        keys = [video.name, str(video.path)]
        for folder in (dataset.root, path.parent):
            if video.path.is_relative_to(folder):
                keys.append(video.path.relative_to(folder).as_posix())
        key = next((key for key in keys if key in content), None)
        if key is not None:
            found[video.name] = _table(content[key], f"{path}: {key}")
    if not found:
        raise InputError(f"None of the {len(content)} videos named in {path} is in {among or dataset.root}.")
    return found


def with_boxes(entry: FaceEntry, rows: np.ndarray) -> FaceEntry:
    """Return the entry of a video with the boxes that are given for it.

    Raises:
        InputError: A box belongs to a frame that the video does not have.
    """
    if rows[-1, 0] >= entry.frames:
        raise InputError(f"{entry.video} has {entry.frames} frames, but its boxes file has frame {rows[-1, 0]:.0f}.")
    return replace(entry, detector=BOXES_FILE, boxes=track_of(rows))


def with_face(entry: FaceEntry, rows: np.ndarray) -> FaceEntry:
    """Return the entry of a video used as a whole picture with where the face is in it; frames it lacks are left out.

    A fake may end before its original, whose faces these are.
    """
    rows = rows[rows[:, 0] < entry.frames]
    return replace(entry, face=track_of(rows)) if len(rows) else entry


def track_of(rows: np.ndarray) -> FaceTrack:
    """Return the track of rows of a boxes file, float64 [n, 5] or [n, 15]."""
    frames, near, far, landmarks = rows[:, 0], rows[:, 1:3], rows[:, 3:5], rows[:, 5:]
    return FaceTrack.of(np.column_stack([frames, (near + far) / 2, (far - near).max(axis=1), landmarks]))


def _table(rows: Rows, where: str) -> np.ndarray:
    if not rows:
        raise InputError(f"{where}: []; expected a list of {ROW}")
    columns = {len(row) for row in rows}
    if columns not in ({_COLUMNS}, {_WITH_LANDMARKS}):
        odd = next((row for row in rows if len(row) not in (_COLUMNS, _WITH_LANDMARKS)), rows[0])
        landmarks = f"with the x and y of each of its {len(LANDMARKS)} landmarks after y1 in every row or in none"
        raise InputError(f"{where}: {odd}; expected {ROW}, {landmarks}")
    table = np.array(sorted(rows), np.float64)
    if not np.isfinite(table).all():
        raise InputError(f"{where}: a number that is not finite; expected {ROW} of finite numbers")
    frames, x0, y0, x1, y1 = table[:, :_COLUMNS].T
    wrong = table[(frames < 0) | (frames % 1 != 0) | (x0 >= x1) | (y0 >= y1)]
    if len(wrong):
        raise InputError(f"{where}: {wrong[0].tolist()}; expected {ROW} with x0 < x1, y0 < y1 and a frame from 0 on")
    if len(np.unique(frames)) < len(table):
        raise InputError(f"{where}: two boxes for one frame; expected one")
    return table
