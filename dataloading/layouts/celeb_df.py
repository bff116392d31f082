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

from dataloading.dataset import CLASSES, FAKE, REAL, Dataset, LeftOut
from dataloading.errors import InputError
from dataloading.layouts.builder import Candidate, describe, to_dataset, with_made_split
from dataloading.layouts.files import add_unknown_places, child_directory, read_text, videos_in
from dataloading.layouts.identity_split import THREE_WAY, VALIDATION_FROM_TRAINING

NAME = "celeb-df"
EXPECTED = "Celeb-real/, YouTube-real/ and Celeb-synthesis/ with *.mp4, and List_of_testing_videos.txt"

TEST_LIST = "List_of_testing_videos.txt"
LABELS = {"celeb-real": REAL, "youtube-real": REAL, "celeb-synthesis": FAKE}

_REAL_NAME = re.compile(r"(?P<target>id\d+)_(?P<number>\d+)")
_FAKE_NAME = re.compile(r"(?P<target>id\d+)_(?P<source>id\d+)_(?P<number>\d+)")


def recognize(root: Path) -> bool:
    """Whether a directory looks like Celeb-DF."""
    return any(child_directory(root, name) for name in ("celeb-synthesis", "celeb-real"))


def read(root: Path) -> Dataset:
    """Reads Celeb-DF with its official test list; a validation set is carved from the people of the rest.

    Raises:
        InputError: There are no videos, or the test list cannot be read or contradicts the directories.
    """
    left_out: list[LeftOut] = []
    found: list[Candidate] = []
    directory_of = {name: child_directory(root, name) for name in LABELS}
    for name, directory in directory_of.items():
        if directory:
            place = child_directory(directory, "videos") or directory
            found += [_candidate(path, name) for path in videos_in(place, left_out)]
    found = _with_originals(found)
    notes: list[str] = []
    test = _test_files(root, {(_key(candidate.path)): candidate.path for candidate in found}, left_out, notes)
    if test is None:
        notes.append(describe(f"There is no {TEST_LIST}, so the split is", THREE_WAY, found))
        videos = with_made_split(found, THREE_WAY, left_out)
    else:
        tested = [replace(candidate, split="test") for candidate in found if candidate.path in test]
        rest = [candidate for candidate in found if candidate.path not in test]
        videos = tested + with_made_split(rest, VALIDATION_FROM_TRAINING, left_out)
        notes.append(
            describe(
                "There is no official validation set; from the training people it is", VALIDATION_FROM_TRAINING, rest
            )
        )
        notes += _shared_people(videos)
    add_unknown_places(root, [candidate.path for candidate in found], left_out)
    return to_dataset(root, NAME, videos, left_out, notes, EXPECTED)


def _candidate(path: Path, directory: str) -> Candidate:
    label = LABELS[directory]
    if label == FAKE:
        name = _FAKE_NAME.fullmatch(path.stem)
        people = (name["target"], name["source"]) if name else (path.stem,)
        return Candidate(path, FAKE, people, "Celeb-synthesis", people_known=name is not None)
    name = _REAL_NAME.fullmatch(path.stem)
    people = (name["target"],) if name else (f"{directory}/{path.stem}",)
    return Candidate(path, REAL, people, people_known=name is not None)


def _with_originals(found: Sequence[Candidate]) -> list[Candidate]:
    real = {candidate.path.stem: candidate.path for candidate in found if candidate.label == REAL}
    result = []
    for candidate in found:
        name = _FAKE_NAME.fullmatch(candidate.path.stem) if candidate.label == FAKE else None
        original = real.get(f"{name['target']}_{name['number']}") if name else None
        result.append(replace(candidate, original=original))
    return result


def _key(path: Path) -> tuple[str, str]:
    """Directory and file name in lower case, without the optional `videos` level."""
    directory = path.parent.parent if path.parent.name.lower() == "videos" else path.parent
    return directory.name.lower(), path.name.lower()


def _test_files(
    root: Path, path_of: dict[tuple[str, str], Path], left_out: list[LeftOut], notes: list[str]
) -> set[Path] | None:
    """The videos of the test list; None where there is no list."""
    list_path = root / TEST_LIST
    if not list_path.is_file():
        return None
    test = set()
    for number, line in enumerate(read_text(list_path).splitlines(), start=1):
        if not line.strip():
            continue
        label, _, name = line.strip().partition(" ")
        place = _key(root / name.strip())
        if label not in ("0", "1") or place[0] not in LABELS:
            raise InputError(
                f"Line {number} of {list_path} is {line.strip()!r}; expected a line such as '1 YouTube-real/00170.mp4'."
            )
        if 1 - int(label) != LABELS[place[0]]:
            raise InputError(
                f"Line {number} of {list_path} calls {name.strip()} {CLASSES[1 - int(label)]} (in this list 1 is real "
                f"and 0 is fake), but its directory holds {CLASSES[LABELS[place[0]]]} videos."
            )
        if place in path_of:
            test.add(path_of[place])
        else:
            left_out.append(LeftOut(root / name.strip(), f"named in {TEST_LIST} but missing"))
    if not test:
        notes.append(f"None of the videos that {TEST_LIST} names is there, so there is no test set.")
    return test


def _shared_people(videos: Sequence[Candidate]) -> list[str]:
    people = [{p for v in videos if (v.split == "test") == tested for p in v.people} for tested in (True, False)]
    shared = people[0] & people[1]
    if not shared:
        return []
    return [f"{len(shared)} people of the official test list are also in its training videos; this is how the list is."]
