"""Plain tree of real and fake videos, for anything that is no published data set.

::

    <root>/{real,fake}/**/*.mp4                     split here
    <root>/{train,val,test}/{real,fake}/**/*.mp4    split given

A directory below `fake/` names the manipulation. Files named as in FaceForensics++ (`000_003`, `01_02__scene..`)
or alike but for their directory are kept in one split.
"""

from pathlib import Path

from dataloading.dataset import FAKE, ORIGINAL, REAL, SPLITS, Dataset
from dataloading.layouts.builder import Candidate, DatasetBuilder
from dataloading.layouts.faceforensics import is_name, parse_name
from dataloading.layouts.files import child_directory
from dataloading.layouts.identity_split import THREE_WAY, VALIDATION_FROM_TRAINING

NAME = "plain"
EXPECTED = "real/ and fake/ with videos, or train/, val/ and test/ with real/ and fake/ in each"

_LABELS = {"real": REAL, "fake": FAKE}
_SPELLINGS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


def recognize(root: Path) -> bool:
    """Return whether a directory has `real` or `fake` in it, or in its splits."""
    return any(child_directory(place, name) for place in (root, *_split_directories(root).values()) for name in _LABELS)


def read(root: Path) -> Dataset:
    """Read the tree; InputError where there is no video in it."""
    builder = DatasetBuilder(root, NAME, EXPECTED)
    candidates: list[Candidate] = []
    for split, directory in _split_directories(root).items():
        candidates += _read_classes(builder, directory, split)
    without = _read_classes(builder, root, None)
    if without:
        candidates += builder.split("No split is given for real/ and fake/, so it is", THREE_WAY, without)
    elif not any(candidate.split == "val" for candidate in candidates):
        training = [candidate for candidate in candidates if candidate.split == "train"]
        candidates = [candidate for candidate in candidates if candidate.split != "train"]
        candidates += builder.split("There is no val/; from train/ it is", VALIDATION_FROM_TRAINING, training)
    for name, label in _LABELS.items():
        if not any(candidate.label == label for candidate in candidates):
            builder.notes.append(f"There is no {name} video.")
    return builder.finish(candidates)


def _split_directories(root: Path) -> dict[str, Path]:
    found = {}
    for split in SPLITS:
        directory = next((d for name in _SPELLINGS[split] if (d := child_directory(root, name))), None)
        if directory and any(child_directory(directory, name) for name in _LABELS):
            found[split] = directory
    return found


def _read_classes(builder: DatasetBuilder, place: Path, split: str | None) -> list[Candidate]:
    real_directory, fake_directory = (child_directory(place, name) or place / name for name in ("real", "fake"))
    real = builder.videos_in(real_directory, recursive=True)
    candidates = [_candidate(path, REAL, ORIGINAL, split, {}) for path in real]
    path_of = {path.stem: path for path in real}
    for path in builder.videos_in(fake_directory, recursive=True):
        method = path.relative_to(fake_directory).parts[0] if path.parent != fake_directory else "fake"
        candidates.append(_candidate(path, FAKE, method, split, path_of))
    return candidates


def _candidate(path: Path, label: int, manipulation: str, split: str | None, path_of: dict[str, Path]) -> Candidate:
    known = is_name(path.stem)
    people, original = parse_name(path.stem) if known else ((path.stem,), None)
    original_path = path_of.get(original) if original else None
    return Candidate(path, label, people, manipulation, split, original=original_path, people_known=known)
