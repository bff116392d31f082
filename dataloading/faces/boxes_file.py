"""Face boxes that were made elsewhere."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dataloading.dataset import Dataset
from dataloading.errors import InputError
from dataloading.face_index import BOXES_FILE, FaceEntry
from dataloading.layouts.files import read_json

ROW = "[frame, x0, y0, x1, y1]"


def read_boxes(path: str | Path, dataset: Dataset) -> dict[str, np.ndarray]:
    """Reads `{"video": [[frame, x0, y0, x1, y1], ...], ...}`.

    A video is named by `Video.name`, by its path, or by its path relative to the root of the set.

    Returns:
        By `Video.name`, float64 [n, 5] with ascending frames.

    Raises:
        InputError: The file cannot be read, a box is not one, or none of its videos is in the set.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"boxes is {path}, which is not a file; expected JSON {{video: [{ROW}, ...]}}.")
    content = read_json(path, dict)
    found = {}
    for video in dataset.videos:
        keys = (video.name, str(video.path), _relative(video.path, dataset.root))
        key = next((key for key in keys if key in content), None)
        if key is not None:
            found[video.name] = _rows(content[key], key, path)
    if not found:
        raise InputError(f"None of the {len(content)} videos named in {path} is in {dataset.root}.")
    return found


def with_boxes(entry: FaceEntry, rows: np.ndarray) -> FaceEntry:
    """The entry of a video whose boxes are given.

    Raises:
        InputError: A box belongs to a frame that the video does not have.
    """
    if rows[-1, 0] >= entry.frames:
        raise InputError(f"{entry.video} has {entry.frames} frames, but its boxes file has frame {rows[-1, 0]:.0f}.")
    corners = rows[:, 1:]
    return replace(
        entry,
        detector=BOXES_FILE,
        key_frames=rows[:, 0].astype(np.int64),
        centers=(corners[:, :2] + corners[:, 2:]) / 2,
        sizes=(corners[:, 2:] - corners[:, :2]).max(axis=1),
    )


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else ""


def _rows(rows: Any, key: str, path: Path) -> np.ndarray:
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path} holds {rows!r} for {key}; expected a list of {ROW}.")
    for row in rows:
        if not _is_box(row):
            raise InputError(f"{path} holds {row!r} for {key}; expected {ROW} with x0 < x1, y0 < y1 and frame >= 0.")
    table = np.array(sorted(rows, key=lambda row: row[0]), np.float64)
    if len(np.unique(table[:, 0])) < len(table):
        raise InputError(f"{path} has two boxes for one frame of {key}; expected one.")
    return table


def _is_box(row: Any) -> bool:
    if not isinstance(row, list) or len(row) != 5:
        return False
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in row):
        return False
    frame, x0, y0, x1, y1 = row
    return frame >= 0 and frame == int(frame) and x0 < x1 and y0 < y1
