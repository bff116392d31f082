"""`Dataset`: the labeled videos of a directory, their splits, and the files left out with the reason."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from dataloading.errors import InputError

REAL, FAKE = 0, 1
CLASSES = ("real", "fake")
SPLITS = ("train", "val", "test")
NO_SPLIT = "no split"
FIRST_FRAMES = 270  # of a video that evaluations use, as in the paper
ORIGINAL = "original"
Region = Literal["face", "eyes", "mouth"]  # what clips are cropped to
REGIONS: tuple[str, ...] = get_args(Region)
FACE = "face"
SYNTHETIC_SETTINGS = "synthetic.json"  # in the root of a set written by `istvt synthesize`
SYNTHETIC_NOTE = (
    "This is the synthetic set: drawn faces with drawn forgeries. It shows what each attention sees and that the "
    "whole path works; it says nothing about accuracy on real forgeries."
)
SYNTHETIC_MODEL_NOTE = (
    "This model was trained on the synthetic set and has only ever seen drawn faces: its verdict says nothing about a "
    "real video."
)


@dataclass(frozen=True, slots=True)
class Video:
    """One video file of a data set.

    Attributes:
        path: The file.
        label: 0 for real, 1 for fake.
        manipulation: The method that made a fake, as its data set names it; `"original"` for a real video.
        split: `"train"`, `"val"`, `"test"`, or None where the video belongs to no split.
        name: Unique in the data set: the path relative to its root, with forward slashes and without suffix.
        identity: The group that must not be in two splits at once (people, and originals together with their fakes).
        source: `name` of the original that a fake was made from (it shares the frames), where that is in the set.
        mask: The video that shows where a fake was manipulated, where the set has one.
        crops: In a crop store (`dataloading.clips.store`): the table of `path`, which holds a region of each frame.
        first_frames: How many frames from the beginning are there; None for all.
    """

    path: Path
    label: int
    manipulation: str
    split: str | None
    name: str
    identity: str
    source: str | None = None
    mask: Path | None = None
    crops: Path | None = None
    first_frames: int | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file, or a name in a list of the data set, that is not used, with the reason.

    `reason` does not name the file, so that equal reasons can be counted.
    """

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of a data set, as plain data: what was found, by class, split and manipulation, and what was left out."""

    root: Path
    layout: str
    videos: int
    classes: dict[str, int]
    splits: dict[str, int]
    table: dict[str, dict[str, int]]  # manipulation -> split -> videos
    left_out: dict[str, int]  # reason -> files
    notes: tuple[str, ...]


@dataclass(slots=True)
class Dataset:
    """The labeled videos of one directory.

    Attributes:
        root: The directory that was read.
        layout: The layout it was read as.
        videos: Its videos, sorted by name.
        left_out: Everything that was seen and is not used, with the reason.
        notes: Sentences for the user, such as how a split was made where there is no official one.
    """

    root: Path
    layout: str
    videos: list[Video]
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.videos)

    @property
    def synthetic(self) -> bool:
        """Whether this is a synthetic set (`dataloading.synthetic`)."""
        return (self.root / SYNTHETIC_SETTINGS).is_file()

    def select(
        self, split: str | Collection[str] | None = None, manipulation: str | Collection[str] | None = None
    ) -> "Dataset":
        """Return the part of the set in one of the splits and made by one of the manipulations; None means any.

        Real videos are the manipulation `"original"`: `select("test", ("original", "FaceSwap"))` is the FaceSwap
        test set with its real videos.
        """
        splits, manipulations = _as_set(split), _as_set(manipulation)
        videos = [
            video
            for video in self.videos
            if (splits is None or video.split in splits)
            and (manipulations is None or video.manipulation in manipulations)
        ]
        return Dataset(self.root, self.layout, videos, list(self.left_out), list(self.notes))

    def split_videos(self, split: str) -> list[Video]:
        """Return the videos of one split.

        Raises:
            InputError: The split is empty (the sentence says which splits are not).
        """
        videos = [video for video in self.videos if video.split == split]
        if not videos:
            others = ", ".join(f"{count} in {name}" for name, count in self.summary().splits.items()) or "none at all"
            raise InputError(f"{self.root} has no videos in its {split} split; it has {others}")
        return videos

    def summary(self) -> Summary:
        """Count by class, split and manipulation, and of what was left out by reason."""
        table: dict[str, Counter[str]] = {}
        for video in sorted(self.videos, key=lambda video: (video.manipulation != ORIGINAL, video.manipulation)):
            table.setdefault(video.manipulation, Counter())[video.split or NO_SPLIT] += 1
        splits = sum(table.values(), Counter())
        return Summary(
            root=self.root,
            layout=self.layout,
            videos=len(self.videos),
            classes={name: sum(v.label == label for v in self.videos) for label, name in enumerate(CLASSES)},
            splits={name: splits[name] for name in (*SPLITS, NO_SPLIT) if splits[name]},
            table={name: dict(row) for name, row in table.items()},
            left_out=dict(Counter(item.reason for item in self.left_out).most_common()),
            notes=tuple(self.notes),
        )


def only_class(videos: Sequence[Video]) -> str | None:
    """Return the class that all of `videos` have, or None where there are both."""
    labels = {video.label for video in videos}
    return CLASSES[labels.pop()] if len(labels) == 1 else None


def _as_set(choice: str | Collection[str] | None) -> frozenset[str] | None:
    if choice is None:
        return None
    return frozenset((choice,)) if isinstance(choice, str) else frozenset(choice)
