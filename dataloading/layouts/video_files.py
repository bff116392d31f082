"""The video files that a person names, one by one or by their directories."""

from collections.abc import Iterable
from pathlib import Path

from dataloading.dataset import LeftOut
from dataloading.errors import InputError
from dataloading.layouts.files import VIDEO_SUFFIXES, is_video, walk

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
