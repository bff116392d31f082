"""The DFDC preview set (DFDCP; what many papers call DFDC).

::

    <root>/dataset.json      {"method_A/<id>/<id>_A/<name>.mp4": {"label": "fake", "set": "train", ...}, ...}
    <root>/{method_A,method_B,original_videos}/[videos/]<id>/...

The values may also name the people shown (`target_id`, `swapped_id`); otherwise the first directory below the
method is the person.
"""

from pathlib import Path, PurePosixPath
from typing import Any

from dataloading.dataset import FAKE, ORIGINAL, REAL, Dataset, LeftOut
from dataloading.errors import InputError
from dataloading.layouts.builder import Candidate, describe, to_dataset, with_made_split
from dataloading.layouts.files import UNKNOWN_PLACE, add_unknown_places, directories, read_json
from dataloading.layouts.identity_split import VALIDATION_FROM_TRAINING

NAME = "dfdc-preview"
EXPECTED = "dataset.json and the directories method_A/, method_B/ and original_videos/"

_LABELS = {"real": REAL, "fake": FAKE}


def recognize(root: Path) -> bool:
    """Whether a directory looks like the DFDC preview set."""
    return (root / "dataset.json").is_file() and any(_of_this_layout(place.name) for place in directories(root))


def read(root: Path) -> Dataset:
    """Reads the set with its official training and test sets; a validation set is carved from the training people.

    Raises:
        InputError: There is no dataset.json, it cannot be read, or none of its videos is there.
    """
    list_path = root / "dataset.json"
    if not list_path.is_file():
        raise InputError(f"{root} has no dataset.json, which the layout {NAME} needs.")
    left_out: list[LeftOut] = []
    test: list[Candidate] = []
    rest: list[Candidate] = []
    for name, entry in read_json(list_path, dict).items():
        if not isinstance(entry, dict):
            raise InputError(f'{list_path} holds {entry!r} for {name}; expected {{"label": ..., "set": ...}}.')
        place = PurePosixPath(name)
        if not place.parts or place.is_absolute() or ".." in place.parts:
            raise InputError(f"{list_path} names the video {name!r}; expected a path below {root}.")
        path = _find(root, name)
        label = _LABELS.get(str(entry.get("label")).lower())
        if path is None:
            left_out.append(LeftOut(root / name, "named in dataset.json but missing"))
        elif label is None:
            left_out.append(LeftOut(path, "no label (real or fake) is given"))
        elif entry.get("set") not in ("train", "test"):
            left_out.append(LeftOut(path, "its set is neither train nor test"))
        else:
            method = ORIGINAL if label == REAL else PurePosixPath(name).parts[0]
            candidate = Candidate(path, label, _people(name, entry), method, entry["set"])
            (test if entry["set"] == "test" else rest).append(candidate)
    notes = []
    if rest:
        notes.append(
            describe(
                "There is no official validation set; from the training people it is", VALIDATION_FROM_TRAINING, rest
            )
        )
    used = [candidate.path for candidate in test + rest]
    videos = test + with_made_split(rest, VALIDATION_FROM_TRAINING, left_out)
    unnamed: list[LeftOut] = []
    add_unknown_places(root, [*used, *(item.path for item in left_out)], unnamed)
    left_out += [LeftOut(item.path, _unnamed(root, item)) for item in unnamed]
    return to_dataset(root, NAME, videos, left_out, notes, EXPECTED)


def _unnamed(root: Path, item: LeftOut) -> str:
    known = _of_this_layout(item.path.relative_to(root).parts[0])
    return "not named in dataset.json" if known else UNKNOWN_PLACE


def _of_this_layout(directory: str) -> bool:
    return directory == "original_videos" or directory.startswith("method_")


def _find(root: Path, name: str) -> Path | None:
    """The file of a key: where it says, or below an additional `videos` directory."""
    first, *others = PurePosixPath(name).parts
    places = (root / name, root.joinpath(first, "videos", *others))
    return next((path for path in places if path.is_file()), None)


def _people(name: str, entry: dict[str, Any]) -> tuple[str, ...]:
    people = [str(entry[key]) for key in ("target_id", "swapped_id") if entry.get(key) is not None]
    if not people:
        parts = PurePosixPath(name).parts
        people = [parts[1] if len(parts) > 2 else PurePosixPath(name).stem]
    return tuple(dict.fromkeys(people))
