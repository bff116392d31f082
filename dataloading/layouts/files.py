"""Finding files below a directory, and reading those that are lists."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from dataloading.dataset import LeftOut
from dataloading.errors import InputError
from dataloading.face_index import FILE_NAME as FACE_INDEX

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp"})

NOT_A_VIDEO = f"not a video file name (expected {', '.join(sorted(VIDEO_SUFFIXES))})"
UNKNOWN_PLACE = "in a directory that this layout does not have"


def is_video(path: Path) -> bool:
    """Whether the name is that of a video file."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


def directories(directory: Path) -> list[Path]:
    """The visible directories in a directory, sorted by name; none where it does not exist."""
    if not directory.is_dir():
        return []
    return sorted(child for child in directory.iterdir() if child.is_dir() and not child.name.startswith("."))


def child_directory(directory: Path, name: str) -> Path | None:
    """The directory of that name in a directory, whatever its upper and lower case."""
    exact = directory / name
    if exact.is_dir():
        return exact
    return next((child for child in directories(directory) if child.name.lower() == name.lower()), None)


def videos_in(directory: Path, left_out: list[LeftOut], *, recursive: bool = False) -> list[Path]:
    """The video files in a directory, sorted; files there with another kind of name are added to `left_out`."""
    found = []
    for path in sorted(walk(directory) if recursive else directory.iterdir()):
        if path.is_dir() or path.name.startswith(".") or path.name == FACE_INDEX:
            continue
        if is_video(path):
            found.append(path)
        else:
            left_out.append(LeftOut(path, NOT_A_VIDEO))
    return found


def walk(root: Path, enter: Callable[[Path], bool] = lambda directory: True) -> Iterator[Path]:
    """All visible files below a directory; `enter` says which directories to look into.

    Links to directories are followed, after the directories themselves: what has been seen is not seen again below
    another name, and a link to a directory above is no way out.
    """
    seen: set[Path] = set()
    starts = [root]
    while starts:
        start = starts.pop(0)
        for directory, names, files in os.walk(start):
            here = Path(directory)
            resolved = here.resolve()
            if resolved in seen or (here == start != root and _above(resolved, root, start.parent)):
                names.clear()
                continue
            seen.add(resolved)
            inside = [here / name for name in sorted(names) if not name.startswith(".") and enter(here / name)]
            starts += [place for place in inside if place.is_symlink()]
            names[:] = [place.name for place in inside if not place.is_symlink()]
            yield from (here / name for name in sorted(files) if not name.startswith("."))


def _above(directory: Path, *places: Path) -> bool:
    """Whether one of the places is in a directory, links resolved."""
    return any(place.resolve().is_relative_to(directory) for place in places)


def files_named(name: str, root: Path, depth: int) -> list[Path]:
    """The files of that name in a directory and at most `depth` levels below it, sorted."""
    return sorted(path for level in range(depth + 1) for path in root.glob("*/" * level + name) if path.is_file())


def add_unknown_places(root: Path, known: Iterable[Path], left_out: list[LeftOut]) -> None:
    """Adds to `left_out` every video file below `root` that is neither in `known` nor left out already."""
    seen = {*known, *(item.path for item in left_out)}
    # Directories of extracted frames may hold millions of files and never a video.
    for path in walk(root, enter=lambda directory: directory.name not in ("images", "frames")):
        if is_video(path) and path not in seen:
            left_out.append(LeftOut(path, UNKNOWN_PLACE))


def read_text(path: Path) -> str:
    """The text of a list file; InputError where it is not text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file.") from None


def read_json(path: Path, kind: type) -> Any:
    """The content of a JSON file that must be a list or a dict; InputError where it is not."""
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON ({error}).") from None
    if not isinstance(content, kind):
        expected = "a list" if kind is list else "an object"
        raise InputError(f"{path} holds a JSON {type(content).__name__}; expected {expected}.")
    return content


MASKS = "masks"
IS_A_MASK = f"in {MASKS}/, where data sets keep black and white videos of what was manipulated"


def video_files(paths: Iterable[str | Path]) -> tuple[list[Path], list[LeftOut]]:
    """Files as given, and the video files of directories and what is below them, in order; nothing is opened.

    Returns:
        The files, and those of the directories that are masks of manipulations and no videos of faces.

    A link to a file that is gone is given all the same: who opens it says so, and goes on to the next.

    Raises:
        InputError: A path does not exist, or a directory holds no video.
    """
    files: list[Path] = []
    left_out: list[LeftOut] = []
    for path in map(Path, paths):
        if not path.exists() and not path.is_symlink():
            raise InputError(f"{path} does not exist; expected a video file or a directory of them.")
        if not path.is_dir():
            files.append(path)  # whatever its name is
            continue
        found = [file for file in walk(path) if is_video(file)]
        masks = [file for file in found if MASKS in file.relative_to(path).parts[:-1]]
        if len(masks) == len(found):
            besides = f"; its {len(masks)} videos are all {IS_A_MASK}" if masks else ""
            raise InputError(f"{path} holds no video file (looked for {', '.join(sorted(VIDEO_SUFFIXES))}{besides}).")
        files += [file for file in found if MASKS not in file.relative_to(path).parts[:-1]]
        left_out += [LeftOut(mask, IS_A_MASK) for mask in masks]
    return files, left_out
