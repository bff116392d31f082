"""The DFDC preview set (DFDCP; what many papers call DFDC).

::

    <root>/dataset.json      {"method_A/<id>/<id>_A/<name>.mp4": {"label": "fake", "set": "train", ...}, ...}
    <root>/{method_A,method_B,original_videos}/[videos/]<id>/...

The values may also name the people shown (`target_id`, `swapped_id`); otherwise the first directory below the
method is the person.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dataloading.dataset import FAKE, ORIGINAL, REAL, Dataset
from dataloading.errors import InputError
from dataloading.io import read_json
from dataloading.layouts.builder import LIST_BYTES, NO_VALIDATION, UNKNOWN_PLACE, Candidate, DatasetBuilder
from dataloading.layouts.files import directories
from dataloading.layouts.identity_split import VALIDATION_FROM_TRAINING

NAME = "dfdc-preview"
EXPECTED = "dataset.json and the directories method_A/, method_B/ and original_videos/"

_LABELS = {"real": REAL, "fake": FAKE}


@dataclass(frozen=True, slots=True)
class _Entry:
    """A video's entry in `dataset.json`; further fields are ignored."""

    label: str | None = None
    set: str | None = None
    target_id: str | int | None = None
    swapped_id: str | int | None = None


def recognize(root: Path) -> bool:
    """Return whether a directory looks like the DFDC preview set."""
    return (root / "dataset.json").is_file() and any(_of_this_layout(place.name) for place in directories(root))


def read(root: Path) -> Dataset:
    """Read the set with its official training and test sets; a validation set is carved from the training people.

    Raises:
        InputError: There is no dataset.json, it cannot be read, or none of its videos is there.
    """
    list_path = root / "dataset.json"
    if not list_path.is_file():
        raise InputError(f"{root} has no dataset.json, which the layout {NAME} needs.")
    builder = DatasetBuilder(root, NAME, EXPECTED)
    found: list[Candidate] = []
    for name, entry in read_json(list_path, dict[str, _Entry], unknown="ignore", max_bytes=LIST_BYTES).items():
        place = PurePosixPath(name)
        if not place.parts or place.is_absolute() or ".." in place.parts:
            raise InputError(f"{list_path} names the video {name!r}; expected a path below {root}.")
        path = _find(root, place)
        label = _LABELS.get(str(entry.label).lower())
        if path is None:
            builder.leave_out(root / name, "named in dataset.json but missing")
        elif label is None:
            builder.leave_out(path, "no label (real or fake) is given")
        elif entry.set not in ("train", "test"):
            builder.leave_out(path, "its set is neither train nor test")
        else:
            method = ORIGINAL if label == REAL else place.parts[0]
            found.append(Candidate(path, label, _people(place, entry), method, entry.set))
    for path in builder.unknown_places([candidate.path for candidate in found]):
        known = _of_this_layout(path.relative_to(root).parts[0])
        builder.leave_out(path, "not named in dataset.json" if known else UNKNOWN_PLACE)
    test = [candidate for candidate in found if candidate.split == "test"]
    training = [candidate for candidate in found if candidate.split == "train"]
    return builder.finish(test + builder.split(NO_VALIDATION, VALIDATION_FROM_TRAINING, training))


def _of_this_layout(directory: str) -> bool:
    return directory == "original_videos" or directory.startswith("method_")


def _find(root: Path, place: PurePosixPath) -> Path | None:
    """Return the file of a key: where it says, or below an additional `videos` directory."""
    first, *others = place.parts
    places = (root / place, root.joinpath(first, "videos", *others))
    return next((path for path in places if path.is_file()), None)


def _people(place: PurePosixPath, entry: _Entry) -> tuple[str, ...]:
    people = [str(person) for person in (entry.target_id, entry.swapped_id) if person is not None]
    return tuple(dict.fromkeys(people)) or (place.parts[1] if len(place.parts) > 2 else place.stem,)
