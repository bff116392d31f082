"""A plain tree of real and fake videos, for anything that is no published data set.

::

    <root>/{real,fake}/**/*.mp4                     split here
    <root>/{train,val,test}/{real,fake}/**/*.mp4    split given

A directory below `fake/` names the manipulation. Files named as in FaceForensics++ (`000_003`, `01_02__scene..`)
or alike but for their directory are kept in one split.
"""

from pathlib import Path

from dataloading.dataset import FAKE, ORIGINAL, REAL, SPLITS, Dataset, LeftOut
from dataloading.layouts.builder import Candidate, describe, to_dataset, with_made_split
from dataloading.layouts.faceforensics import original_of_name, people_of_name
from dataloading.layouts.files import add_unknown_places, child_directory, videos_in
from dataloading.layouts.identity_split import THREE_WAY, VALIDATION_FROM_TRAINING

NAME = "plain"
EXPECTED = "real/ and fake/ with videos, or train/, val/ and test/ with real/ and fake/ in each"

_LABELS = {"real": REAL, "fake": FAKE}
_SPELLINGS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


def recognize(root: Path) -> bool:
    """Whether a directory has `real` or `fake` in it, or in its splits."""
    return any(child_directory(place, name) for place in (root, *_split_directories(root).values()) for name in _LABELS)


def read(root: Path) -> Dataset:
    """Reads the tree; InputError where there is no video in it."""
    left_out: list[LeftOut] = []
    notes: list[str] = []
    candidates: list[Candidate] = []
    given = _split_directories(root)
    for split, directory in given.items():
        candidates += _read_classes(directory, split, left_out)
    without = _read_classes(root, None, left_out)
    known = [candidate.path for candidate in (*candidates, *without)]
    if without:
        notes.append(describe("No split is given for real/ and fake/, so it is", THREE_WAY, without))
        candidates += with_made_split(without, THREE_WAY, left_out)
    elif any(c.split == "train" for c in candidates) and not any(c.split == "val" for c in candidates):
        training = [candidate for candidate in candidates if candidate.split == "train"]
        notes.append(describe("There is no val/; from train/ it is", VALIDATION_FROM_TRAINING, training))
        candidates = [candidate for candidate in candidates if candidate.split != "train"]
        candidates += with_made_split(training, VALIDATION_FROM_TRAINING, left_out)
    for name, label in _LABELS.items():
        if not any(candidate.label == label for candidate in candidates):
            notes.append(f"There is no {name} video.")
    add_unknown_places(root, known, left_out)
    return to_dataset(root, NAME, candidates, left_out, notes, EXPECTED)


def _split_directories(root: Path) -> dict[str, Path]:
    found = {}
    for split in SPLITS:
        directory = next((d for name in _SPELLINGS[split] if (d := child_directory(root, name))), None)
        if directory and any(child_directory(directory, name) for name in _LABELS):
            found[split] = directory
    return found


def _read_classes(place: Path, split: str | None, left_out: list[LeftOut]) -> list[Candidate]:
    real_directory, fake_directory = (child_directory(place, name) for name in ("real", "fake"))
    real = videos_in(real_directory, left_out, recursive=True) if real_directory else []
    fake = videos_in(fake_directory, left_out, recursive=True) if fake_directory else []
    original_of = {path.stem: path for path in real}
    candidates = [_candidate(path, REAL, ORIGINAL, split) for path in real]
    for path in fake:
        method = path.relative_to(fake_directory).parts[0] if path.parent != fake_directory else "fake"
        original = original_of.get(original_of_name(path.stem) or "") if people_of_name(path.stem) else None
        candidates.append(_candidate(path, FAKE, method, split, original))
    return candidates


def _candidate(path: Path, label: int, manipulation: str, split: str | None, original: Path | None = None) -> Candidate:
    people = people_of_name(path.stem)
    known = people is not None
    return Candidate(path, label, people or (path.stem,), manipulation, split, original=original, people_known=known)
