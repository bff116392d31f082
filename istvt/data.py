"""From data settings to videos with face boxes: the first step of training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from dataloading import FaceIndex, Video, read_dataset
from dataloading.dataset import CLASSES, ORIGINAL, Dataset
from dataloading.errors import InputError
from istvt.settings import DataSettings

SYNTHETIC_NOTE = (
    "This is the synthetic set: drawn faces with drawn forgeries. It shows what each attention sees and that the "
    "whole path works; it says nothing about accuracy on real forgeries."
)
SYNTHETIC_MODEL_NOTE = (
    "This model was trained on the synthetic set and has only ever seen drawn faces: its verdict says nothing about a "
    "real video."
)


def open_dataset(settings: DataSettings) -> tuple[Dataset, FaceIndex]:
    """The data set that `settings` name, and its face index.

    Raises:
        InputError: no such directory, an unknown layout, a manipulation that is not there, or no face index.
    """
    dataset = read_dataset(settings.root, settings.layout, settings.compression, settings.originals)
    if settings.manipulations is not None:
        found = {video.manipulation for video in dataset.videos}
        missing = [name for name in settings.manipulations if name not in found]
        if missing:
            raise InputError(
                f"data.manipulations names {', '.join(missing)}, which {settings.root} does not hold; "
                f"it holds {', '.join(sorted(found - {ORIGINAL}))}"
            )
        dataset = dataset.select(manipulation={ORIGINAL, *settings.manipulations})
    return dataset, FaceIndex.read(dataset.root)


def split_videos(dataset: Dataset, split: str) -> list[Video]:
    """The videos of one split.

    Raises:
        InputError: the split is empty (the sentence says which splits are not).
    """
    videos = [video for video in dataset.videos if video.split == split]
    if not videos:
        others = ", ".join(f"{count} in {name}" for name, count in dataset.summary().splits.items()) or "none at all"
        raise InputError(f"{dataset.root} has no videos in its {split} split; it has {others}")
    return videos


def only_class(videos: Sequence[Video]) -> str | None:
    """The class that all of `videos` have, or None where there are both."""
    labels = {video.label for video in videos}
    return CLASSES[labels.pop()] if len(labels) == 1 else None
