"""Celeb-DF v2 (and v1, which is laid out alike).

::

    <root>/{Celeb-real,YouTube-real,Celeb-synthesis}/[videos/]*.mp4
    <root>/List_of_testing_videos.txt        "1 YouTube-real/00170.mp4": there 1 is real and 0 is fake

Real videos are `id0_0000`, fakes `id0_id16_0000` (target, source, number), made from the clip `id0_0000`. Copies
in circulation add a level `videos/` and spell the directories differently, so upper and lower case do not matter.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dataloading.dataset import CLASSES, FAKE, REAL, Dataset
from dataloading.errors import InputError
from dataloading.io import read_text
from dataloading.layouts.builder import LIST_BYTES, NO_VALIDATION, Candidate, DatasetBuilder
from dataloading.layouts.files import child_directory
from dataloading.layouts.identity_split import THREE_WAY, VALIDATION_FROM_TRAINING

NAME = "celeb-df"
EXPECTED = "Celeb-real/, YouTube-real/ and Celeb-synthesis/ with *.mp4, and List_of_testing_videos.txt"

TEST_LIST = "List_of_testing_videos.txt"
LABELS = {"celeb-real": REAL, "youtube-real": REAL, "celeb-synthesis": FAKE}

_REAL_NAME = re.compile(r"(?P<target>id\d+)_(?P<number>\d+)")
_FAKE_NAME = re.compile(r"(?P<target>id\d+)_(?P<source>id\d+)_(?P<number>\d+)")


def recognize(root: Path) -> bool:
    """Return whether a directory looks like Celeb-DF."""
    return any(child_directory(root, name) for name in ("celeb-synthesis", "celeb-real"))


def read(root: Path) -> Dataset:
    """Read Celeb-DF with its official test list; a validation set is carved from the people of the rest.

    Raises:
        InputError: There are no videos, or the test list cannot be read or contradicts the directories.
    """
    builder = DatasetBuilder(root, NAME, EXPECTED)
    real: dict[str, Path] = {}
    found: list[Candidate] = []
    for name, label in LABELS.items():
        directory = child_directory(root, name) or root / name
        for path in builder.videos_in(child_directory(directory, "videos") or directory):
            if label == REAL:
                real[path.stem] = path
                found.append(_real(path, name))
            else:
                found.append(_fake(path, real))
    test = _test_files(builder, {_key(candidate.path): candidate.path for candidate in found})
    if test is None:
        return builder.finish(builder.split(f"There is no {TEST_LIST}, so the split is", THREE_WAY, found))
    tested = [replace(candidate, split="test") for candidate in found if candidate.path in test]
    rest = [candidate for candidate in found if candidate.path not in test]
    training = builder.split(NO_VALIDATION, VALIDATION_FROM_TRAINING, rest)
    if shared := _people(tested) & _people(training):
        builder.notes.append(
            f"{len(shared)} people of the official test list are also in its training videos; the "
            "official list overlaps in this way."
        )
    return builder.finish([*tested, *training])


def _real(path: Path, directory: str) -> Candidate:
    name = _REAL_NAME.fullmatch(path.stem)
    people = (name["target"],) if name else (f"{directory}/{path.stem}",)
    return Candidate(path, REAL, people, people_known=name is not None)


def _fake(path: Path, real: dict[str, Path]) -> Candidate:
    name = _FAKE_NAME.fullmatch(path.stem)
    if name is None:
        return Candidate(path, FAKE, (path.stem,), "Celeb-synthesis", people_known=False)
    original = real.get(f"{name['target']}_{name['number']}")
    return Candidate(path, FAKE, (name["target"], name["source"]), "Celeb-synthesis", original=original)


def _people(videos: Sequence[Candidate]) -> set[str]:
    return {person for video in videos for person in video.people}


def _key(path: Path) -> tuple[str, str]:
    """Return directory and file name in lower case, without the optional `videos` level."""
    directory = path.parent.parent if path.parent.name.lower() == "videos" else path.parent
    return directory.name.lower(), path.name.lower()


def _test_files(builder: DatasetBuilder, path_of: dict[tuple[str, str], Path]) -> set[Path] | None:
    """Return the videos of the test list; None where there is no list."""
    list_path = builder.root / TEST_LIST
    if not list_path.is_file():
        return None
    test = set()
    for number, line in enumerate(read_text(list_path, LIST_BYTES).splitlines(), start=1):
        if not line.strip():
            continue
        label, _, name = line.strip().partition(" ")
        path, where = builder.root / name.strip(), f"{list_path}: line {number}"
        place = _key(path)
        if label not in ("0", "1") or place[0] not in LABELS:
            raise InputError(f"{where}: {line.strip()!r}; expected a line such as '1 YouTube-real/00170.mp4'")
        if 1 - int(label) != LABELS[place[0]]:
            listed, expected = CLASSES[1 - int(label)], CLASSES[LABELS[place[0]]]
            raise InputError(
                f"{where}: {name.strip()} is {listed} (in this list 1 is real and 0 is fake); expected {expected}, as "
                "all videos of its directory"
            )
        if place in path_of:
            test.add(path_of[place])
        else:
            builder.leave_out(path, f"named in {TEST_LIST} but missing")
    if not test:
        builder.notes.append(f"None of the videos that {TEST_LIST} names is there, so there is no test set.")
    return test
