"""The Deepfake Detection Challenge (DFDC): training parts, the Kaggle sample, and the labeled test set.

::

    <root>/dfdc_train_part_00/[dfdc_train_part_0/]{metadata.json, *.mp4}     {"a.mp4": {"label": "FAKE",
    <root>/train_sample_videos/{metadata.json, *.mp4}                         "split": "train", "original": "b.mp4"}}
    <root>/test/labels.csv with <root>/test/[videos/]*.mp4                    filename,label   (1 is fake)

`original` is missing or null for real videos. Fakes are grouped with their original when a split is made.
"""

import csv
import io
from pathlib import Path
from typing import Any

from dataloading.dataset import FAKE, ORIGINAL, REAL, Dataset, LeftOut
from dataloading.errors import InputError
from dataloading.layouts.builder import Candidate, describe, to_dataset, with_made_split
from dataloading.layouts.files import add_unknown_places, files_named, is_video, read_json, read_text, videos_in
from dataloading.layouts.identity_split import THREE_WAY, VALIDATION_FROM_TRAINING

NAME = "dfdc"
EXPECTED = "directories with metadata.json beside their *.mp4, or labels.csv beside videos/ or *.mp4"
DEPTH = 3

_SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
_LABELS = {"real": REAL, "fake": FAKE, "0": REAL, "1": FAKE}
BY_ORIGINAL = "original, with which its fakes stay"
NO_LABEL = "no label (REAL or FAKE) is given"


def recognize(root: Path) -> bool:
    """Whether a directory looks like DFDC."""
    return any(files_named(name, root, DEPTH) for name in ("metadata.json", "labels.csv"))


def read(root: Path) -> Dataset:
    """Reads every part below `root`.

    Raises:
        InputError: There are no videos, or a metadata.json or labels.csv cannot be read.
    """
    left_out: list[LeftOut] = []
    found: list[Candidate] = []
    for labels in files_named("labels.csv", root, DEPTH):
        found += _labeled_test(labels, left_out)
    tested = {candidate.path for candidate in found}
    for metadata in files_named("metadata.json", root, DEPTH):
        found += [candidate for candidate in _part(metadata, left_out) if candidate.path not in tested]

    notes: list[str] = []
    official = [candidate for candidate in found if candidate.split in ("val", "test")]
    rest = [candidate for candidate in found if candidate.split not in ("val", "test")]
    given = {candidate.split for candidate in official}
    if rest and "test" not in given:
        notes.append(describe("There is no labeled test set, so the split is", THREE_WAY, rest, BY_ORIGINAL))
        rest = with_made_split(rest, THREE_WAY, left_out)
    elif rest and "val" not in given:
        notes.append(
            describe(
                "There is no official validation set; from the training parts it is",
                VALIDATION_FROM_TRAINING,
                rest,
                BY_ORIGINAL,
            )
        )
        rest = with_made_split(rest, VALIDATION_FROM_TRAINING, left_out)
    add_unknown_places(root, [candidate.path for candidate in found], left_out)
    return to_dataset(root, NAME, official + rest, left_out, notes, EXPECTED)


def _part(metadata: Path, left_out: list[LeftOut]) -> list[Candidate]:
    directory = metadata.parent
    entries: dict[str, Any] = read_json(metadata, dict)
    ignored = []
    present = {path.name: path for path in videos_in(directory, ignored)}
    left_out += [item for item in ignored if item.path != metadata and item.path.name != "labels.csv"]
    candidates = []
    for name, entry in entries.items():
        if not isinstance(entry, dict):
            raise InputError(f'{metadata} holds {entry!r} for {name}; expected {{"label": "FAKE" or "REAL", ...}}.')
        path = present.pop(name, None)
        label = _LABELS.get(str(entry.get("label", entry.get("is_fake"))).lower())
        if path is None:
            left_out.append(LeftOut(directory / name, "named in metadata.json but missing"))
        elif label is None:
            left_out.append(LeftOut(path, NO_LABEL))
        else:
            split = _SPLITS.get(str(entry.get("split")).lower())
            candidates.append(_candidate(path, label, split, entry.get("original")))
    left_out += [LeftOut(path, "not named in the metadata.json beside it") for path in present.values()]
    return candidates


def _candidate(path: Path, label: int, split: str | None, original: object) -> Candidate:
    if label == REAL or not isinstance(original, str):
        manipulation = ORIGINAL if label == REAL else "DFDC"
        return Candidate(path, label, (path.stem,), manipulation, split, people_known=False)
    original_path = path.parent / original
    people = (original_path.stem,)
    return Candidate(path, FAKE, people, "DFDC", split, original=original_path, people_known=False)


def _labeled_test(labels: Path, left_out: list[LeftOut]) -> list[Candidate]:
    directory = labels.parent / "videos"
    directory = directory if directory.is_dir() else labels.parent
    present = {path.name: path for path in directory.iterdir() if is_video(path)}
    rows = csv.DictReader(io.StringIO(read_text(labels)))
    if rows.fieldnames is None or not {"filename", "label"} <= set(rows.fieldnames):
        raise InputError(f"{labels} has the columns {rows.fieldnames}; expected filename and label.")
    candidates = []
    for row in rows:
        path = present.pop(row["filename"], None)
        label = _LABELS.get(str(row["label"]).strip().lower())
        if path is None:
            left_out.append(LeftOut(directory / row["filename"], "named in labels.csv but missing"))
        elif label is None:
            left_out.append(LeftOut(path, NO_LABEL))
        else:
            candidates.append(_candidate(path, label, "test", None))
    left_out += [LeftOut(path, "not named in labels.csv") for path in present.values()]
    return candidates
