"""Choice of the crops of a video, and their comparison with those of training.

A model trained on whole pictures sees only an enlarged part of them in a face box, and the other way round. Its
verdicts are unreliable then, and nothing in a score shows it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from dataloading.dataset import FACE, Region
from dataloading.errors import InputError
from dataloading.face_index import WHOLE_FRAME, crop_name
from dataloading.faces import DETECTORS, detector_works


@dataclass(frozen=True)
class Crop:
    """Crop of videos for a model.

    Attributes:
        detector: name of the face detector, "auto" for the best one installed; None for the whole picture.
        note: caveat of the verdicts in one sentence, if any.
    """

    detector: str | None
    note: str | None = None


def choose_crop(
    trained_on: Collection[str], detector: str = "auto", detect: bool | None = None, region: Region = FACE
) -> Crop:
    """Return the crop of videos without face boxes: that of training, unless another one is chosen.

    Args:
        trained_on: `CheckpointInfo.detectors`; where it is empty (not known) faces are detected.
        detector: name of a face detector; "auto" leaves it to this function.
        detect: whether faces are to be detected; None leaves it to this function unless a detector is named.
        region: that the training clips were cropped to. Parts of the face are looked for by its landmarks, which whole
            pictures of other videos do not have.

    Raises:
        InputError: a detector is named, and none is to be used.
    """
    if detect is False and detector != "auto":
        raise InputError(f"detector is {detector}, but face detection is off; give one or the other")
    whole_only = set(trained_on) == {WHOLE_FRAME} and region == FACE
    if detect is None and detector == "auto" and whole_only:
        return Crop(None, "whole pictures, as this model was trained on them (--detect looks for faces)")
    here = WHOLE_FRAME if detect is False else _choose_detector(trained_on, detector)
    chosen = None if here == WHOLE_FRAME else here if here in trained_on else detector
    return Crop(chosen, crop_difference(trained_on, [here], region))


def check_people(
    faces: str = "all", person: int | None = None, boxes: str | Path | None = None, detect: bool | None = None
) -> None:
    """Check the arguments that choose people: which are scored, the number of one, its boxes, whole pictures.

    Raises:
        InputError: one is none of its values, or two exclude each other.
    """
    if faces not in ("all", "main"):
        raise InputError(f"faces is {faces!r}; expected all or main")
    if person is not None and person < 1:
        raise InputError(f"person is {person}; expected at least 1")
    if person is not None and faces == "main":
        raise InputError(f"person is {person} and faces is main; expected one of them")
    if boxes is not None and detect is False:
        raise InputError(f"boxes is {boxes}, but whole pictures are asked for; expected one of them")


def crop_difference(trained_on: Collection[str], here: Collection[str], region: Region = FACE) -> str | None:
    """Return one sentence on how crops differ from those of training; None if they do not or are not known.

    Args:
        trained_on, here: names of detectors, as of `crop_name`.
        region: that is cropped, in training and here.
    """
    if not trained_on or set(here) == set(trained_on):
        return None
    both = f"This model was trained on {crop_name(trained_on)}, and here it is shown {crop_name(here)}"
    if set(here) < set(trained_on):
        return f"{both}."
    if region != FACE:
        return f"{both}: the crops of the {region} differ a little."
    if (WHOLE_FRAME in here) != (WHOLE_FRAME in trained_on):
        return f"{both}: another part of the picture, so its verdicts cannot be relied on."
    return f"{both}: the boxes differ a little."


def _choose_detector(trained_on: Collection[str], detector: str) -> str:
    """Return `detector`, or for "auto" that of training if it works, else the best one that works.

    Detectors are tried by loading them, up to the first one that works.
    """
    if detector != "auto":
        return detector
    of_training = [name for name in DETECTORS if name in trained_on]
    candidates = [*of_training, *DETECTORS] if len(of_training) == 1 else DETECTORS
    return next((name for name in candidates if detector_works(name)), detector)
