"""Search for video files below a root: suffixes, links, and directories that are skipped."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from dataloading import remote
from dataloading.dataset import LeftOut
from dataloading.errors import InputError

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp"})
MASKS = "masks"
MASK_VIDEO = f"in {MASKS}/, where data sets keep videos of the manipulated regions"
NO_TEXT = "a file whose name is not UTF-8 (a link to it may have one that is)"


def is_video(path: Path) -> bool:
    """Return whether the name is that of a video file."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


def is_text(path: Path) -> bool:
    """Return whether a path can be written to a file in UTF-8; on Linux a name may be any bytes."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def directories(directory: Path) -> list[Path]:
    """Return the visible directories in a directory, sorted by name; none where it does not exist."""
    if not directory.is_dir():
        return []
    return sorted(child for child in directory.iterdir() if child.is_dir() and not child.name.startswith("."))


def child_directory(directory: Path, name: str) -> Path | None:
    """Return the directory of that name in a directory, whatever its upper and lower case."""
    exact = directory / name
    if exact.is_dir():
        return exact
    return next((child for child in directories(directory) if child.name.lower() == name.lower()), None)


def walk(root: Path, enter: Callable[[Path], bool] = lambda directory: True) -> Iterator[Path]:
    """Yield all visible files below a directory; `enter` says which directories to look into.

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
    """Return whether one of the paths is in a directory, links resolved."""
    return any(place.resolve().is_relative_to(directory) for place in places)


def files_named(name: str, root: Path, depth: int) -> list[Path]:
    """Return the files of that name in a directory and at most `depth` levels below it, sorted."""
    return sorted(path for level in range(depth + 1) for path in root.glob("*/" * level + name) if path.is_file())


def video_files(paths: Iterable[str | Path]) -> tuple[list[Path | str], list[LeftOut]]:
    """Return files as given, and the video files of directories and what is below them, in order; nothing is opened.

    Of URLs, also those of directories, the files are URLs.

    Returns:
        The files, and those of the directories that are masks of manipulations and no videos of faces, or whose names
        are not UTF-8.

    A link to a file that is gone is among them: opening it fails with a sentence, and the next one is read.

    Raises:
        InputError: A path does not exist, or a directory holds no video.
    """
    files: list[Path | str] = []
    left_out: list[LeftOut] = []
    for given in paths:
        if (url := remote.url_of(given)) is not None:
            files += remote.videos_of(url, VIDEO_SUFFIXES)
            continue
        path = Path(given)
        if not path.exists() and not path.is_symlink():
            raise InputError(f"{path} does not exist; expected a video file or a directory of them.")
        if not path.is_dir():
            files.append(path)  # also without the suffix of a video
            continue
        found = [file for file in walk(path) if is_video(file)]
        reasons = {file: _why_left_out(file, path) for file in found}
        if None not in reasons.values():
            besides = "".join(f"; {count} is {reason}" for reason, count in Counter(reasons.values()).items())
            raise InputError(f"{path} holds no video file (looked for {', '.join(sorted(VIDEO_SUFFIXES))}{besides}).")
        files += [file for file, reason in reasons.items() if reason is None]
        left_out += [LeftOut(file, reason) for file, reason in reasons.items() if reason is not None]
    return files, left_out


def _why_left_out(file: Path, root: Path) -> str | None:
    """Return why a video below `root` is not used, or None."""
    if MASKS in file.relative_to(root).parts[:-1]:
        return MASK_VIDEO
    return None if is_text(file) else NO_TEXT
