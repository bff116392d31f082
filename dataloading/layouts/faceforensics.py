"""FaceForensics++ as its download script lays it out, and as the Kaggle mirror does.

Official::

    <root>/original_sequences/{youtube,actors}/{raw|c0,c23,c40}/videos/000.mp4
    <root>/manipulated_sequences/<method>/{raw|c0,c23,c40}/videos/000_003.mp4     (<target>_<source>)
    <root>/manipulated_sequences/<method>/masks/videos/000_003.mp4
    <root>/{train,val,test}.json or <root>/splits/{train,val,test}.json           [["000", "003"], ...]

Kaggle (one compression, often without split files)::

    FaceForensics++_C23/{original,Deepfakes,Face2Face,FaceSwap,NeuralTextures,FaceShifter,DeepFakeDetection}/*.mp4

A pair in a split file puts two originals and the fakes made between them, in both orders and by every method, in that
split. DeepFakeDetection has no official split; its files are `<actor>__<scene>` and
`<target>_<source>__<scene>__<id>`.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dataloading.dataset import FAKE, ORIGINAL, REAL, SPLITS, Dataset
from dataloading.errors import InputError
from dataloading.io import read_json
from dataloading.layouts.builder import LIST_BYTES, Candidate, DatasetBuilder
from dataloading.layouts.files import directories, is_video
from dataloading.layouts.identity_split import THREE_WAY

NAME = "faceforensics"
EXPECTED = "original_sequences/<set>/<compression>/videos and manipulated_sequences/<method>/<compression>/videos"
KAGGLE_NAME = "faceforensics-kaggle"
KAGGLE_EXPECTED = "original/ beside Deepfakes/, Face2Face/, FaceSwap/, NeuralTextures/, ..."

METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter", "DeepFakeDetection")
COMPRESSIONS = ("raw", "c0", "c23", "c40")
NOT_IN_SPLIT = "named in none of the split files"
SPLIT_FILES_SOURCE = "train.json, val.json and test.json of github.com/ondyari/FaceForensics (dataset/splits)"

_ACTOR = re.compile(r"(?P<target>\d+)(_(?P<source>\d+))?__(?P<scene>.+?)(__(?P<id>[A-Z0-9]{8}))?")
_PAIR = re.compile(r"(?P<target>[^_]+)_(?P<source>[^_]+)")


def recognize(root: Path) -> bool:
    """Return whether a directory looks like the official layout."""
    return (root / "original_sequences").is_dir() or (root / "manipulated_sequences").is_dir()


def recognize_kaggle(root: Path) -> bool:
    """Return whether a directory looks like the Kaggle mirror."""
    return any((root / method).is_dir() for method in METHODS) and not recognize(root)


def read(root: Path, compression: str = "c23") -> Dataset:
    """Read the official layout.

    Args:
        root: The directory that holds `original_sequences` and `manipulated_sequences`.
        compression: `raw` (or `c0`, its other name), `c23` or `c40`.

    Raises:
        InputError: There are no videos of this compression, or a split file cannot be read.
    """
    builder = DatasetBuilder(root, NAME, EXPECTED)
    real = originals(builder, compression)
    fakes: list[Candidate] = []
    masks: list[Path] = []
    for method in directories(root / "manipulated_sequences"):
        of_method = _mask_files(method)
        masks += of_method
        fakes += _fakes(builder, _of_compression(builder, method, compression), method.name, real, of_method)
    if not real and not fakes:
        _explain_other_compression(root, compression)
    listed = _videos_of(root / "original_sequences" / "youtube", compression)
    return builder.finish(_with_split(builder, [*real, *fakes], listed), known=masks)


def read_kaggle(root: Path) -> Dataset:
    """Read the Kaggle mirror; InputError where there is no video or a split file cannot be read."""
    builder = DatasetBuilder(root, KAGGLE_NAME, KAGGLE_EXPECTED)
    real = [_real(path) for path in builder.videos_in(root / "original")]
    fakes: list[Candidate] = []
    for method in directories(root):
        if method.name in METHODS:
            fakes += _fakes(builder, builder.videos_in(method), method.name, real)
    return builder.finish(_with_split(builder, [*real, *fakes], root / "original"))


def originals(builder: DatasetBuilder, compression: str) -> list[Candidate]:
    """Return the real videos of the official layout, not yet in a split."""
    if compression not in COMPRESSIONS:
        raise InputError(f"compression is {compression!r}; expected one of {', '.join(COMPRESSIONS)}.")
    return [
        _real(path)
        for sequence in directories(builder.root / "original_sequences")
        for path in _of_compression(builder, sequence, compression)
    ]


def shows_actor(candidate: Candidate) -> bool:
    """Return whether the video is of DeepFakeDetection, filmed with paid actors, and not from YouTube."""
    return candidate.people[0].startswith("actor ")


def is_name(stem: str) -> bool:
    """Return whether a file is named as in FaceForensics++."""
    return re.fullmatch(r"\d{3}(_\d{3})?|\d{2}__.+|\d{2}_\d{2}__.+__[A-Z0-9]{8}", stem) is not None


def parse_name(stem: str) -> tuple[tuple[str, ...], str | None]:
    """Return the people that a file name names, the target first, and the name of the original of a fake.

    Numbers of YouTube and of actors are kept apart. The original is None where the name is none of a fake.
    """
    if actor := _ACTOR.fullmatch(stem):
        people = tuple(f"actor {number}" for number in (actor["target"], actor["source"]) if number)
        return people, f"{actor['target']}__{actor['scene']}" if actor["source"] else None
    if pair := _PAIR.fullmatch(stem):
        return (pair["target"], pair["source"]), pair["target"]
    return (stem,), None


def _real(path: Path) -> Candidate:
    people, _ = parse_name(path.stem)
    return Candidate(path, REAL, people)


def _fakes(
    builder: DatasetBuilder, paths: Sequence[Path], method: str, real: Sequence[Candidate], masks: Sequence[Path] = ()
) -> list[Candidate]:
    fakes = []
    path_of, mask_of = {candidate.path.stem: candidate.path for candidate in real}, {mask.stem: mask for mask in masks}
    for path in paths:
        people, original = parse_name(path.stem)
        if original is None:
            builder.leave_out(path, "a fake whose name is not <target>_<source>")
        else:
            mask = mask_of.get(path.stem)
            fakes.append(Candidate(path, FAKE, people, method, original=path_of.get(original), mask=mask))
    return fakes


def _videos_of(sequence: Path, compression: str) -> Path:
    """Return the directory of one compression of `youtube`, `actors` or a method."""
    names = ("raw", "c0") if compression in ("raw", "c0") else (compression,)
    places = [sequence / name / "videos" for name in names]
    return next((place for place in places if place.is_dir()), places[0])


def _of_compression(builder: DatasetBuilder, sequence: Path, compression: str) -> list[Path]:
    """Return the videos of one compression; those of the others are left out."""
    wanted = _videos_of(sequence, compression)
    for name in COMPRESSIONS:
        other = sequence / name / "videos"
        if other != wanted and other.is_dir():
            for path in filter(is_video, other.iterdir()):
                builder.leave_out(path, f"of compression {name}, {compression} was asked for")
    return builder.videos_in(wanted)


def _mask_files(method: Path) -> list[Path]:
    places = [method / "masks" / "videos", method / "masks"]
    return next((sorted(filter(is_video, place.iterdir())) for place in places if place.is_dir()), [])


def _explain_other_compression(root: Path, compression: str) -> None:
    there = {path.parent.name for path in root.glob("*/*/*/videos")} & {*COMPRESSIONS} - {compression}
    if there:
        raise InputError(f"{root} has no videos of compression {compression}; it has {', '.join(sorted(there))}.")


def _with_split(builder: DatasetBuilder, found: Sequence[Candidate], listed: Path) -> list[Candidate]:
    """Put candidates in the split of the split files, or of a made one where there is none."""
    split_of = _read_splits(builder)
    official: list[Candidate] = []
    made: list[Candidate] = []
    actors = [candidate for candidate in found if shows_actor(candidate)]
    others = [candidate for candidate in found if not shows_actor(candidate)]
    if split_of is None:
        missing = f"No split files ({SPLIT_FILES_SOURCE} belong in {builder.root}), so the split is"
        made = builder.split(missing, THREE_WAY, others)
    else:
        official = _official(builder, others, split_of)
        present = {candidate.path.stem for candidate in found if candidate.manipulation == ORIGINAL}
        for name, (split, _) in split_of.items():
            if name not in present:
                builder.leave_out(listed / f"{name}.mp4", f"named in {split}.json but missing")
        if others and not official:
            raise InputError(
                f"{builder.root}: none of its {len(others)} videos is named in its split files, which name "
                f"{len(split_of)}."
            )
    no_split = "DeepFakeDetection (actors) has no official split, so its split is"
    return official + made + builder.split(no_split, THREE_WAY, actors)


def _official(
    builder: DatasetBuilder, candidates: Sequence[Candidate], split_of: dict[str, tuple[str, str]]
) -> list[Candidate]:
    videos = []
    for candidate in candidates:
        places = [split_of.get(person) for person in candidate.people]
        if None in places:
            builder.leave_out(candidate.path, NOT_IN_SPLIT)
        elif len({split for split, _ in places}) > 1:
            builder.leave_out(candidate.path, "made from originals of two different splits")
        else:
            split, identity = places[0]
            videos.append(replace(candidate, split=split, identity=identity))
    return videos


def _read_splits(builder: DatasetBuilder) -> dict[str, tuple[str, str]] | None:
    """Return split and group of every original named in the split files; None where there are no split files."""
    root, files = builder.root, {}
    for split in SPLITS:
        places = [root / f"{split}.json", root / "splits" / f"{split}.json"]
        files[split] = next((path for path in places if path.is_file()), None)
    if not any(files.values()):
        return None
    split_of: dict[str, tuple[str, str]] = {}
    for split, path in files.items():
        if path is None:
            builder.notes.append(f"There are split files but no {split}.json, so nothing is in {split}.")
            continue
        # Pairs such as ["000", "003"]; some copies have single names.
        for group in read_json(path, list[list[str] | str], max_bytes=LIST_BYTES):
            names = [group] if isinstance(group, str) else group
            for name in names:
                if split_of.get(name, (split,))[0] != split:
                    raise InputError(f"{name} is in both {split_of[name][0]}.json and {split}.json of {root}.")
                split_of[name] = split, "_".join(sorted(names))
    return split_of
