"""The Deepfake Detection Challenge (DFDC): training parts, the Kaggle sample, and the labeled test set.

::

    <root>/dfdc_train_part_00/[dfdc_train_part_0/]{metadata.json, *.mp4}     {"a.mp4": {"label": "FAKE",
    <root>/train_sample_videos/{metadata.json, *.mp4}                         "split": "train", "original": "b.mp4"}}
    <root>/test/labels.csv with <root>/test/[videos/]*.mp4                    filename,label   (1 is fake)

`original` is missing or null for real videos. Fakes are grouped with their original when a split is made.
"""

from dataclasses import dataclass
from pathlib import Path

from dataloading.dataset import FAKE, ORIGINAL, REAL, Dataset
from dataloading.io import read_csv, read_json
from dataloading.layouts.builder import LIST_BYTES, Candidate, DatasetBuilder
from dataloading.layouts.files import files_named, is_video
from dataloading.layouts.identity_split import THREE_WAY, VALIDATION_FROM_TRAINING

NAME = "dfdc"
EXPECTED = "directories with metadata.json beside their *.mp4, or labels.csv beside videos/ or *.mp4"
DEPTH = 3

_SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
_LABELS = {"real": REAL, "fake": FAKE, "0": REAL, "1": FAKE}
BY_ORIGINAL = "original, with which its fakes stay"
NO_LABEL = "no label (REAL or FAKE) is given"


@dataclass(frozen=True, slots=True)
class _Entry:
    """A video's entry in `metadata.json`; further fields are ignored."""

    label: str | int | None = None
    is_fake: str | int | None = None
    split: str | None = None
    original: str | None = None


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of `labels.csv`; further columns are ignored."""

    filename: str
    label: str


def recognize(root: Path) -> bool:
    """Return whether a directory looks like DFDC."""
    return any(files_named(name, root, DEPTH) for name in ("metadata.json", "labels.csv"))


def read(root: Path) -> Dataset:
    """Read every part below `root`.

    Raises:
        InputError: There are no videos, or a metadata.json or labels.csv cannot be read.
    """
    builder = DatasetBuilder(root, NAME, EXPECTED)
    found: dict[Path, Candidate] = {}
    for labels in files_named("labels.csv", root, DEPTH):
        found |= {candidate.path: candidate for candidate in _labeled_test(builder, labels)}
    for metadata in files_named("metadata.json", root, DEPTH):
        found = {candidate.path: candidate for candidate in _part(builder, metadata)} | found
    official = [candidate for candidate in found.values() if candidate.split in ("val", "test")]
    rest = [candidate for candidate in found.values() if candidate.split not in ("val", "test")]
    given = {candidate.split for candidate in official}
    if "test" not in given:
        rest = builder.split("There is no labeled test set, so the split is", THREE_WAY, rest, BY_ORIGINAL)
    elif "val" not in given:
        why = "There is no official validation set; from the training parts it is"
        rest = builder.split(why, VALIDATION_FROM_TRAINING, rest, BY_ORIGINAL)
    return builder.finish(official + rest)


def _part(builder: DatasetBuilder, metadata: Path) -> list[Candidate]:
    directory = metadata.parent
    lists = (metadata, directory / "labels.csv")
    present = {path.name: path for path in builder.videos_in(directory)}
    builder.left_out = [item for item in builder.left_out if item.path not in lists]
    candidates = []
    for name, entry in read_json(metadata, dict[str, _Entry], unknown="ignore", max_bytes=LIST_BYTES).items():
        path = present.pop(name, None)
        label = _LABELS.get(str(entry.is_fake if entry.label is None else entry.label).lower())
        if path is None:
            builder.leave_out(directory / name, "named in metadata.json but missing")
        elif label is None:
            builder.leave_out(path, NO_LABEL)
        else:
            candidates.append(_candidate(path, label, _SPLITS.get(str(entry.split).lower()), entry.original))
    for path in present.values():
        builder.leave_out(path, "not named in the metadata.json beside it")
    return candidates


def _candidate(path: Path, label: int, split: str | None, original: str | None = None) -> Candidate:
    source = path.parent / original if label == FAKE and original is not None else None
    manipulation, people = ORIGINAL if label == REAL else "DFDC", ((source or path).stem,)
    return Candidate(path, label, people, manipulation, split, original=source, people_known=False)


def _labeled_test(builder: DatasetBuilder, labels: Path) -> list[Candidate]:
    directory = labels.parent / "videos"
    directory = directory if directory.is_dir() else labels.parent
    present = {path.name: path for path in directory.iterdir() if is_video(path)}
    candidates = []
    for row in read_csv(labels, _Row, unknown="ignore", max_bytes=LIST_BYTES):
        path = present.pop(row.filename, None)
        label = _LABELS.get(row.label.strip().lower())
        if path is None:
            builder.leave_out(directory / row.filename, "named in labels.csv but missing")
        elif label is None:
            builder.leave_out(path, NO_LABEL)
        else:
            candidates.append(_candidate(path, label, "test"))
    for path in present.values():
        builder.leave_out(path, "not named in labels.csv")
    return candidates
