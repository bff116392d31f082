"""Crops of videos: as in training by default, with a caveat where they differ."""

import sys

import pytest

from dataloading.errors import InputError
from dataloading.faces import installed_detectors
from istvt.inference.crop import choose_crop, crop_difference

BEST, *OTHERS = installed_detectors()


@pytest.mark.parametrize(
    ("trained_on", "detector", "detect", "chosen", "says"),
    [
        ([], "auto", None, "auto", None),  # an older checkpoint, which does not say
        ([], "auto", False, None, None),
        (["none"], "auto", None, None, "whole pictures, as this model was trained on them"),
        (["none"], "auto", False, None, None),
        (["none"], "auto", True, "auto", "trained on whole pictures, and here it is shown faces found by"),
        (["none"], BEST, None, BEST, "another part of the picture"),
        ([BEST], "auto", None, BEST, None),
        ([BEST], "auto", False, None, f"faces found by {BEST}, and here it is shown whole pictures"),
        (["boxes file"], "auto", None, "auto", "the boxes differ a little"),
        (["boxes file", BEST], "auto", None, BEST, "and here it is shown faces found by"),
        ([BEST, "none"], "auto", None, BEST, f"trained on whole pictures and faces found by {BEST}, and here"),
    ],
)
def test_a_video_is_cropped_as_in_training_unless_something_else_is_asked_for(
    trained_on, detector, detect, chosen, says
):
    crop = choose_crop(trained_on, detector, detect)
    assert crop.detector == chosen
    assert crop.note is None if says is None else says in crop.note


@pytest.mark.skipif(not OTHERS, reason="one detector is installed")
def test_the_detector_of_training_is_used_where_it_is_installed_though_a_better_one_is():
    assert choose_crop([OTHERS[-1]]).detector == OTHERS[-1]
    assert "the boxes differ a little" in choose_crop([OTHERS[-1]], BEST).note


@pytest.mark.skipif(not OTHERS, reason="one detector is installed")
def test_a_detector_of_training_that_is_installed_and_broken_is_passed_over(tmp_path, monkeypatch):
    """It was chosen for being installed, and the command refused; or it was named where another one looked."""
    (tmp_path / f"{BEST}.py").write_text("raise ImportError('libgomp.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, BEST, raising=False)
    crop = choose_crop([BEST])
    assert crop.detector == "auto"
    assert f"trained on faces found by {BEST}, and here it is shown faces found by {OTHERS[0]}" in crop.note


def test_a_detector_that_is_named_and_not_to_be_used_is_a_mistake():
    with pytest.raises(InputError, match="detector is dlib, but face detection is off; give one or the other"):
        choose_crop([], "dlib", False)


def test_crops_that_are_those_of_training_or_of_unknown_training_are_not_worth_a_word():
    assert crop_difference([], ["yuface"]) is None
    assert crop_difference(["yuface"], ["yuface"]) is None
    assert "so its verdicts cannot be relied on" in crop_difference(["yuface"], ["none"])


def test_parts_of_the_face_are_looked_for_where_training_had_whole_pictures_with_landmarks():
    crop = choose_crop(["none"], region="eyes")
    assert crop.detector is not None
    assert crop.note.endswith("the crops of the eyes differ a little.")
    assert choose_crop(["none"]).detector is None
