"""Heat on pictures: the scale survives every map, hot stays brighter than cold, and it lands where the face is."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dataloading.errors import InputError
from istvt.config import NORMALIZATIONS
from istvt.explain import heatmap
from istvt.model.xception import XceptionEntryFlow


def test_a_map_of_zeros_or_of_one_value_is_no_heat_and_not_nan():
    for value in (0.0, 3.5, -2.0):
        for per in NORMALIZATIONS:
            assert np.array_equal(heatmap.normalize(np.full((2, 3, 3), value), per), np.zeros((2, 3, 3)))


def test_one_scale_a_clip_keeps_frames_comparable_and_one_a_frame_shows_the_quiet_frame():
    heat = np.zeros((2, 2, 2))
    heat[0, 0, 1], heat[1, 1, 0] = 10, 1
    per_clip, per_frame = heatmap.normalize(heat), heatmap.normalize(heat, "frame")
    assert per_clip[0, 0, 1] == 1
    assert per_clip[1, 1, 0] == pytest.approx(0.1)
    assert per_frame[0, 0, 1] == per_frame[1, 1, 0] == 1


def test_tiny_relevance_is_scaled_as_large_relevance_is():
    heat = np.random.default_rng(0).random((2, 3, 3))
    np.testing.assert_allclose(heatmap.normalize(heat * 1e-30), heatmap.normalize(heat), rtol=1e-5)


def test_heat_that_is_not_finite_or_an_unknown_scale_is_one_sentence():
    with pytest.raises(InputError, match="not finite"):
        heatmap.normalize(np.full((1, 1, 1), np.nan))
    with pytest.raises(InputError, match="normalization is 'video'; expected one of clip, frame"):
        heatmap.normalize(np.zeros((1, 1, 1)), "video")


def test_more_heat_is_never_darker_in_grayscale_on_any_face():
    """Every gray under every heat: a column of heats over each of the 256 grays."""
    grays = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(256, axis=0)
    heat = np.repeat(np.linspace(0, 1, 256)[:, None], 256, axis=1)
    shown = cv2.cvtColor(heatmap.overlay(grays, heat), cv2.COLOR_RGB2GRAY).astype(int)
    assert (np.diff(shown, axis=0) >= -2).all()  # two gray levels of rounding
    assert (shown[-1] - shown[0] > 70).all()


@pytest.mark.parametrize("size", [64, 96, 300])
def test_a_cell_is_drawn_where_the_backbone_looks_for_it(size):
    """The middle of its gradient with respect to the input: evenly divided, the first cell was 4 pixels off."""
    torch.manual_seed(0)
    backbone, frames = XceptionEntryFlow((8, 16, 16, 24), 32).eval(), torch.randn(4, 3, size, size, requires_grad=True)
    features = backbone(frames)
    cells = features.shape[-1]
    for cell in {0, 1, cells // 2, cells - 2, cells - 1}:
        energy = torch.zeros(size, size)
        for _ in range(6):
            output = (features[..., cell, cells - 1 - cell] * torch.randn(4, 32)).sum()
            energy += torch.autograd.grad(output, frames, retain_graph=True)[0].square().sum((0, 1))
        heat = np.zeros((cells, cells))
        heat[cell, cells - 1 - cell] = 1
        drawn = heatmap.upscale(heat, size, size)
        peak = np.unravel_index(drawn.argmax(), drawn.shape)
        for axis, place in enumerate(peak):
            along = energy.sum(1 - axis)
            middle = float((along * torch.arange(size)).sum() / along.sum())
            assert abs(place - middle) < 0.5
        assert drawn[peak] == 1


def test_between_cells_heat_is_bilinear_and_the_last_one_is_not_smeared_to_the_edge():
    across = heatmap.upscale(np.array([[0.0, 1.0]]), 7, 64)[3]
    np.testing.assert_allclose(across[[3, 7, 11, 19, 27, 35]], [0, 0.25, 0.5, 1, 0.5, 0], atol=1e-6)
    assert not across[35:].any()


def test_maps_of_any_number_of_clips_and_frames_are_brought_to_pixels_together():
    heat = np.random.default_rng(0).random((2, 3, 4, 5))
    together = heatmap.upscale(heat, 64, 80)
    assert together.shape == (2, 3, 64, 80)
    np.testing.assert_array_equal(together[1, 2], heatmap.upscale(heat[1, 2], 64, 80))


def test_without_heat_a_picture_is_only_grayed():
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    shown = heatmap.overlay(picture, np.zeros((2, 2)))
    spread = shown.astype(int).max(2) - shown.min(2)
    assert spread.max() <= 4  # the color of no heat is nearly black


@settings(max_examples=60, deadline=None)
@given(
    x0=st.floats(-40, 60),
    y0=st.floats(-40, 60),
    side=st.floats(1, 90),
    height=st.integers(4, 50),
    width=st.integers(4, 50),
)
def test_a_box_anywhere_leaves_the_rest_of_the_frame_as_it_is(x0, y0, side, height, width):
    frame = np.full((height, width, 3), 200, np.uint8)
    shown = heatmap.paste(frame, np.ones((3, 3)), (x0, y0, x0 + side, y0 + side))
    assert shown.shape == frame.shape
    rows, columns = np.mgrid[:height, :width]
    outside = (rows < y0 - 1) | (rows > y0 + side + 1) | (columns < x0 - 1) | (columns > x0 + side + 1)
    assert (shown[outside] == 200).all()
    inside = (rows > y0 + 1) & (rows < y0 + side - 2) & (columns > x0 + 1) & (columns < x0 + side - 2)
    assert (shown[inside] == heatmap.colorize(np.array(1.0))).all()


def test_pasted_heat_lies_on_the_same_part_of_the_face_as_in_the_crop():
    frame = np.zeros((100, 160, 3), np.uint8)
    heat = np.zeros((4, 4))
    heat[1, 3] = 1  # the cell around x = 40 + 3.5 * 20, y = 10 + 1.5 * 20
    shown = heatmap.paste(frame, heat, (40, 10, 120, 90)).sum(2)
    y, x = np.unravel_index(shown.argmax(), shown.shape)
    assert abs(x - 115) <= 5
    assert abs(y - 40) <= 1


def test_a_crop_is_the_box_and_its_border_is_repeated():
    frame = np.zeros((40, 60, 3), np.uint8)
    frame[10:20, 30:50] = 255
    crop = heatmap.crop(frame, (30, 10, 40, 20), 30)
    assert (crop[2:-2, 2:-2] == 255).all()
    assert heatmap.crop(frame, (-20, -20, 80, 80), 50).shape == (50, 50, 3)
    np.testing.assert_array_equal(heatmap.crop(frame, (0, 0, 60, 60), 60)[:40], frame)


def test_a_crop_of_a_very_large_frame_is_the_one_of_the_frame_in_a_smaller_size():
    """It is averaged first: a blur at full size takes half a minute at 16K."""
    rng = np.random.default_rng(0)
    small = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
    large = np.kron(small, np.ones((12, 12, 1), np.uint8))
    box = np.array((40.0, 30.0, 260.0, 250.0))
    found, expected = heatmap.crop(large, tuple(12 * box), 40), heatmap.crop(small, tuple(box), 40)
    assert np.abs(found.astype(int) - expected).mean() < 2
    assert heatmap.crop(large, (-9000, -9000, -100, -100), 40).shape == (40, 40, 3)
