"""What stands where pixels were removed is no evidence itself, and nothing else changes."""

import pytest
import torch

from istvt.explain.faithfulness.deletion import remove


def ramp(height: int, width: int) -> torch.Tensor:
    """One clip of two frames whose brightness rises evenly to the right: [1, 2, 3, height, width]."""
    return torch.linspace(-0.8, 0.8, width).expand(1, 2, 3, height, width).clone()


def hole(clips: torch.Tensor, rows: slice, columns: slice) -> torch.Tensor:
    removed = torch.zeros(clips.shape[0], clips.shape[1], *clips.shape[-2:], dtype=torch.bool)
    removed[:, :, rows, columns] = True
    return removed


def test_what_is_not_removed_stays_bit_for_bit():
    clips = torch.rand(2, 3, 3, 37, 50) * 2 - 1
    removed = torch.rand(2, 3, 37, 50) < 0.3
    after = remove(clips, removed).permute(0, 1, 3, 4, 2)
    assert torch.equal(after[~removed], clips.permute(0, 1, 3, 4, 2)[~removed])
    assert torch.isfinite(after).all()


def test_what_is_removed_from_a_smooth_picture_leaves_no_shape():
    """Filled with gray every removed pixel made a real face look forged: deletion then measured the shape."""
    clips = ramp(64, 64)
    removed = hole(clips, slice(20, 36), slice(40, 56))
    filled = remove(clips, removed)
    assert (filled - clips).abs().max() < 0.15
    assert (filled[..., 1:] - filled[..., :-1]).abs().max() < 0.15  # no edge


@pytest.mark.parametrize(("height", "width"), [(64, 64), (75, 41), (1, 9), (2, 3)])
def test_a_hole_in_a_plain_picture_cannot_be_seen(height, width):
    clips = torch.full((1, 1, 3, height, width), 0.37)
    removed = torch.rand(1, 1, height, width) < 0.6
    removed[..., 0, 0] = False
    assert torch.allclose(remove(clips, removed), clips, atol=1e-5)


def test_a_frame_is_filled_from_itself_alone():
    clips = ramp(32, 32)
    removed = hole(clips, slice(0, 16), slice(0, 16))
    together = remove(torch.cat([clips, -clips]), torch.cat([removed, removed]))
    assert torch.equal(together[0], remove(clips, removed)[0])
    loud = clips.clone()
    loud[:, 1] = 1.0
    assert torch.equal(remove(loud, removed)[:, 0], remove(clips, removed)[:, 0])


def test_a_frame_of_which_nothing_is_left_becomes_mid_gray():
    clips = ramp(24, 24)
    assert not remove(clips, torch.ones(1, 2, 24, 24, dtype=torch.bool)).any()
