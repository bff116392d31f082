"""Which part of the picture a model is shown, and whether it is what the model was trained on.

A model of whole pictures that is shown a face box sees a part of what it knows, larger, and the other way round. Its
verdicts are of little worth then, and nothing else shows it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dataloading.errors import InputError
from dataloading.face_index import WHOLE_FRAME, crop_name
from dataloading.faces import DETECTORS, detector_works


@dataclass(frozen=True)
class Crop:
    """How videos are cropped for a model.

    Attributes:
        detector: who finds the face, "auto" for the best one installed; None for the whole picture.
        note: what a person should know about it.
    """

    detector: str | None
    note: str | None = None


def choose_crop(trained_on: Collection[str], detector: str = "auto", detect: bool | None = None) -> Crop:
    """The crop of videos whose faces nobody has looked for yet: that of training, unless another one is asked for.

    Args:
        trained_on: `CheckpointInfo.detectors`; empty where they are not known, and then faces are looked for.
        detector: who is asked to find faces; "auto" leaves it to this function.
        detect: whether faces are to be looked for; None leaves it to this function unless a detector is named.

    Raises:
        InputError: a detector is named, and none is to be used.
    """
    if detect is False and detector != "auto":
        raise InputError(f"detector is {detector}, but faces are not to be looked for; give one or the other")
    whole_only = set(trained_on) == {WHOLE_FRAME}
    if detect is None and detector == "auto" and whole_only:
        return Crop(None, "whole pictures, as this model was trained on them (--detect looks for faces)")
    here = WHOLE_FRAME if detect is False else _finder(trained_on, detector)
    chosen = None if here == WHOLE_FRAME else here if here in trained_on else detector
    return Crop(chosen, crop_difference(trained_on, [here]))


def crop_difference(trained_on: Collection[str], here: Collection[str]) -> str | None:
    """The sentence that says how crops differ from those of training; None where they do not, or nobody knows."""
    if not trained_on or set(here) == set(trained_on):
        return None
    both = f"This model was trained on {crop_name(trained_on)}, and here it is shown {crop_name(here)}"
    if set(here) < set(trained_on):
        return f"{both}."
    if (WHOLE_FRAME in here) != (WHOLE_FRAME in trained_on):
        return f"{both}: another part of the picture, on which its verdicts cannot be relied."
    return f"{both}: the boxes differ a little."


def _finder(trained_on: Collection[str], detector: str) -> str:
    """The detector that is named, else the one of training where there was one and it works, else the best that does.

    The first that works is loaded, which is the one to be used, and no other."""
    if detector != "auto":
        return detector
    of_training = [name for name in DETECTORS if name in trained_on]
    in_turn = [*of_training, *DETECTORS] if len(of_training) == 1 else DETECTORS
    return next((name for name in in_turn if detector_works(name)), detector)
