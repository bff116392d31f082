"""Clips in which nothing moves and clips without detail are known, in real and drawn faces."""

import cv2
import numpy as np
import pytest
import torch

from bench.experiments.edited_videos import DRAWN_SIZE, drawn, man
from istvt.inference.clip_quality import LEAST_DETAIL, blur_remark, detail, motion, still_remark


def clip(pictures, size: int = 300) -> torch.Tensor:
    """As a model is given it, [1, T, 3, size, size] in [-1, 1]."""
    resized = np.stack([cv2.resize(p, (size, size), interpolation=cv2.INTER_LINEAR) for p in pictures])
    return torch.from_numpy(resized).permute(0, 3, 1, 2)[None].float() / 127.5 - 1


def face(picture: np.ndarray) -> np.ndarray:
    return picture[22:118, 40:136]


def test_a_talking_face_moves_and_a_still_picture_does_not():
    talking = [face(picture) for picture in man()[30:36]]
    assert 0.5 < motion(clip(talking)).item() < 10
    assert motion(clip(talking[:1] * 6)).item() == 0
    # One step, to a key frame, may differ.
    assert motion(clip([*talking[:1] * 3, *talking[3:4] * 3])).item() == 0
    assert motion(clip(talking[:1])).item() == 0


@pytest.mark.parametrize("picture", [face(man()[30]), drawn(20)[0][: DRAWN_SIZE - 48, 24:120]])
def test_the_fewer_pixels_a_picture_had_the_less_detail_it_shows(picture):
    sizes = (96, 48, 32, 24, 16)
    enlarged = [cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) for size in sizes]
    measured = [detail(clip([each] * 2)).item() for each in enlarged]
    assert measured == sorted(measured, reverse=True)
    for size, part in zip(sizes, measured, strict=True):
        assert size / 300 / 2 < part < max(size / 300, 0.05) * 2
    blurred = cv2.GaussianBlur(picture, (0, 0), 3)
    assert detail(clip([blurred] * 2)).item() < 0.1 < LEAST_DETAIL < measured[0]
    assert detail(clip([blurred] * 2, 96)).item() == 1  # too small an input to tell


def test_a_remark_is_made_on_what_is_still_and_on_what_is_more_blurred_than_small():
    assert still_remark([2.0, 1.0]) is None
    assert still_remark([0.0, 0.01]).startswith("nothing moves in its clips: there is no evidence over time")
    assert still_remark([0.0, 3.0]).startswith("nothing moves in 1 of its 2 clips")
    assert blur_remark([0.8, 0.9], side=1.2) is None
    assert "a sharp picture 10 times smaller" in blur_remark([0.1, 0.1], side=1.2)
    assert blur_remark([0.15, 0.15], side=0.2) is None  # a small face, of which another remark tells
