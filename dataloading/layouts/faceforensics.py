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

from dataloading.dataset import FAKE, ORIGINAL, REAL, SPLITS, Dataset, LeftOut
from dataloading.errors import InputError
from dataloading.layouts.builder import Candidate, describe, to_dataset, with_made_split
from dataloading.layouts.files import add_unknown_places, directories, read_json, videos_in
from dataloading.layouts.identity_split import THREE_WAY

NAME = "faceforensics"
EXPECTED = "original_sequences/<set>/<compression>/videos and manipulated_sequences/<method>/<compression>/videos"
KAGGLE_NAME = "faceforensics-kaggle"
KAGGLE_EXPECTED = "original/ beside Deepfakes/, Face2Face/, FaceSwap/, NeuralTextures/, ..."

METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter", "DeepFakeDetection")
COMPRESSIONS = ("raw", "c0", "c23", "c40")
NOT_IN_SPLIT = "named in none of the split files"
WHERE_THE_SPLIT_IS = "train.json, val.json and test.json of github.com/ondyari/FaceForensics (dataset/splits)"

_ACTOR = re.compile(r"(?P<target>\d+)(_(?P<source>\d+))?__(?P<scene>.+?)(__(?P<id>[A-Z0-9]{8}))?")
_PAIR = re.compile(r"(?P<target>[^_]+)_(?P<source>[^_]+)")


def recognize(root: Path) -> bool:
    """Whether a directory looks like the official layout."""
    return (root / "original_sequences").is_dir() or (root / "manipulated_sequences").is_dir()


def recognize_kaggle(root: Path) -> bool:
    """Whether a directory looks like the Kaggle mirror."""
    return any((root / method).is_dir() for method in METHODS) and not recognize(root)


def read(root: Path, compression: str = "c23") -> Dataset:
    """Reads the official layout.

    Args:
        root: The directory that holds `original_sequences` and `manipulated_sequences`.
        compression: `raw` (or `c0`, its other name), `c23` or `c40`.

    Raises:
        InputError: There are no videos of this compression, or a split file cannot be read.
    """
    left_out: list[LeftOut] = []
    found = originals(root, compression, left_out)
    by_stem = {candidate.path.stem: candidate.path for candidate in found}
    masks: list[Path] = []
    for method in directories(root / "manipulated_sequences"):
        mask_of = {mask.stem: mask for mask in _mask_files(method)}
        masks += mask_of.values()
        for path in _of_compression(method, compression, left_out):
            found += _fake(path, method.name, by_stem, mask_of.get(path.stem), left_out)
    if not found:
        _explain_other_compression(root, compression)
    notes: list[str] = []
    listed = root / "original_sequences" / "youtube" / _spelled(root, compression) / "videos"
    videos = _with_split(root, found, listed, left_out, notes)
    add_unknown_places(root, [*(c.path for c in found), *masks], left_out)
    return to_dataset(root, NAME, videos, left_out, notes, EXPECTED)


def read_kaggle(root: Path) -> Dataset:
    """Reads the Kaggle mirror; InputError where there is no video or a split file cannot be read."""
    left_out: list[LeftOut] = []
    found = []
    if (root / "original").is_dir():
        paths = videos_in(root / "original", left_out)
        found = [Candidate(path, REAL, _people(path.stem)) for path in paths]
    by_stem = {candidate.path.stem: candidate.path for candidate in found}
    for method in directories(root):
        if method.name in METHODS:
            for path in videos_in(method, left_out):
                found += _fake(path, method.name, by_stem, None, left_out)
    notes: list[str] = []
    videos = _with_split(root, found, root / "original", left_out, notes)
    add_unknown_places(root, [c.path for c in found], left_out)
    return to_dataset(root, KAGGLE_NAME, videos, left_out, notes, KAGGLE_EXPECTED)


def originals(root: Path, compression: str, left_out: list[LeftOut]) -> list[Candidate]:
    """The real videos of the official layout, not yet in a split."""
    if compression not in COMPRESSIONS:
        raise InputError(f"compression is {compression!r}; expected one of {', '.join(COMPRESSIONS)}.")
    return [
        Candidate(path, REAL, _people(path.stem))
        for sequence in directories(root / "original_sequences")
        for path in _of_compression(sequence, compression, left_out)
    ]


def shows_actor(candidate: Candidate) -> bool:
    """Whether it is a video of DeepFakeDetection, whose people are paid actors, and not from YouTube."""
    return candidate.people[0].startswith("actor ")


def _people(stem: str) -> tuple[str, ...]:
    """The people that a file name names, the target first; the two number spaces (YouTube, actors) are kept apart."""
    if actor := _ACTOR.fullmatch(stem):
        return tuple(f"actor {number}" for number in (actor["target"], actor["source"]) if number)
    if pair := _PAIR.fullmatch(stem):
        return pair["target"], pair["source"]
    return (stem,)


def people_of_name(stem: str) -> tuple[str, ...] | None:
    """The people named by a file that is named as in FaceForensics++; None for any other name."""
    if re.fullmatch(r"\d{3}(_\d{3})?|\d{2}__.+|\d{2}_\d{2}__.+__[A-Z0-9]{8}", stem):
        return _people(stem)
    return None


def original_of_name(stem: str) -> str | None:
    """The name of the original that a fake of this name was made from; None where the name does not say."""
    actor = _ACTOR.fullmatch(stem)
    if actor and actor["source"]:
        return f"{actor['target']}__{actor['scene']}"
    pair = _PAIR.fullmatch(stem)
    return pair["target"] if pair else None


def _fake(
    path: Path, method: str, originals_by_stem: dict[str, Path], mask: Path | None, left_out: list[LeftOut]
) -> list[Candidate]:
    original = original_of_name(path.stem)
    if original is None:
        left_out.append(LeftOut(path, "a fake whose name does not say <target>_<source>"))
        return []
    return [Candidate(path, FAKE, _people(path.stem), method, original=originals_by_stem.get(original), mask=mask)]


def _spellings(compression: str) -> tuple[str, ...]:
    return ("raw", "c0") if compression in ("raw", "c0") else (compression,)


def _spelled(root: Path, compression: str) -> str:
    """The name that the directory of this compression has here."""
    youtube = root / "original_sequences" / "youtube"
    return next((name for name in _spellings(compression) if (youtube / name).is_dir()), compression)


def _of_compression(sequence: Path, compression: str, left_out: list[LeftOut]) -> list[Path]:
    """The videos of one compression of `youtube`, `actors` or a method; those of the others are left out."""
    wanted = next((name for name in _spellings(compression) if (sequence / name / "videos").is_dir()), None)
    for name in COMPRESSIONS:
        other = sequence / name / "videos"
        if name != wanted and other.is_dir():
            reason = f"of compression {name}, {compression} was asked for"
            left_out += [LeftOut(path, reason) for path in videos_in(other, [])]
    return videos_in(sequence / wanted / "videos", left_out) if wanted else []


def _mask_files(method: Path) -> list[Path]:
    places = [method / "masks" / "videos", method / "masks"]
    return next((videos_in(place, []) for place in places if place.is_dir()), [])


def _explain_other_compression(root: Path, compression: str) -> None:
    there = sorted(
        {path.parent.name for path in root.glob("*/*/*/videos") if path.parent.name in COMPRESSIONS} - {compression}
    )
    if there:
        raise InputError(f"{root} has no videos of compression {compression}; it has {', '.join(there)}.")


def _with_split(
    root: Path, found: Sequence[Candidate], listed: Path, left_out: list[LeftOut], notes: list[str]
) -> list[Candidate]:
    """Puts candidates in the split of the split files, or of a made one where there is none."""
    split_of = _read_splits(root, notes)
    official: list[Candidate] = []
    without: list[Candidate] = []
    actors = [candidate for candidate in found if shows_actor(candidate)]
    others = [candidate for candidate in found if not shows_actor(candidate)]
    if split_of is None:
        without = others
    else:
        for candidate in others:
            official += _official(candidate, split_of, left_out)
        present = {candidate.path.stem for candidate in found if candidate.manipulation == ORIGINAL}
        missing = [(name, split) for name, (split, _) in split_of.items() if name not in present]
        left_out += [LeftOut(listed / f"{name}.mp4", f"named in {split}.json but missing") for name, split in missing]
        if others and not official:
            raise InputError(
                f"{root}: none of its {len(others)} videos is named in its split files, which name {len(split_of)}."
            )
    if without:
        missing = f"No split files ({WHERE_THE_SPLIT_IS} belong in {root}), so the split is"
        notes.append(describe(missing, THREE_WAY, without))
    if actors:
        notes.append(describe("DeepFakeDetection (actors) has no official split, so its split is", THREE_WAY, actors))
    made = with_made_split(without, THREE_WAY, left_out) + with_made_split(actors, THREE_WAY, left_out)
    return official + made


def _official(candidate: Candidate, split_of: dict[str, tuple[str, str]], left_out: list[LeftOut]) -> list[Candidate]:
    places = [split_of.get(person) for person in candidate.people]
    if None in places:
        left_out.append(LeftOut(candidate.path, NOT_IN_SPLIT))
        return []
    if len({split for split, _ in places}) > 1:
        left_out.append(LeftOut(candidate.path, "made from originals of two different splits"))
        return []
    split, identity = places[0]
    return [replace(candidate, split=split, identity=identity)]


def _read_splits(root: Path, notes: list[str]) -> dict[str, tuple[str, str]] | None:
    """Split and group of every original named in the split files; None where there are no split files."""
    files = {}
    for split in SPLITS:
        places = [root / f"{split}.json", root / "splits" / f"{split}.json"]
        files[split] = next((path for path in places if path.is_file()), None)
    if not any(files.values()):
        return None
    split_of: dict[str, tuple[str, str]] = {}
    for split, path in files.items():
        if path is None:
            notes.append(f"There are split files but no {split}.json, so nothing is in {split}.")
            continue
        for group in read_json(path, list):
            names = [group] if isinstance(group, str) else group
            if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
                raise InputError(f'{path} holds {group!r}; expected a list of pairs such as ["000", "003"].')
            for name in names:
                if split_of.get(name, (split,))[0] != split:
                    raise InputError(f"{name} is in both {split_of[name][0]}.json and {split}.json of {root}.")
                split_of[name] = split, "_".join(sorted(names))
    return split_of
