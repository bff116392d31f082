"""How much memory an explanation takes, in token grids [F, S, C] of one clip: PyTorch's own allocations, counted."""

import pytest
import torch

from bench.common.timing import peak_bytes
from istvt import ISTVT, ISTVTConfig
from istvt.explain import explain, explanation
from kernels.relevance import reference


@pytest.fixture(autouse=True)
def little_in_work_at_a_time(monkeypatch):
    """What is in work at a time is bounded whatever the clip; here too it is small against a token grid."""
    monkeypatch.setitem(explanation.CHUNK_TOKENS, "cpu", 32)
    monkeypatch.setattr(reference, "TILE_ELEMENTS", 1 << 12)


def model_and_tokens(depth: int, side: int) -> tuple[ISTVT, torch.Tensor]:
    torch.manual_seed(0)
    config = ISTVTConfig(frames=7, grid=(side, side), dim=48, heads=4, depth=depth, mlp_dim=96)
    return ISTVT(config).eval(), torch.randn(1, config.frame_rows, config.positions, config.dim)


def token_grids(depth: int, side: int, **options) -> float:
    """Peak memory of one explanation."""
    model, tokens = model_and_tokens(depth, side)
    return peak_bytes(lambda: explain(model, tokens=tokens, **options), "cpu") / (4 * tokens.numel())


def test_twelve_more_blocks_take_four_more_token_grids():
    """Inputs are kept of every so many blocks; all of them, and every attention, would be 12 and more."""
    few = token_grids(depth=4, side=6)
    assert few < 12
    assert token_grids(depth=16, side=6) < few + 4.5


def test_a_larger_clip_takes_more_memory_in_proportion_to_its_tokens_and_not_to_their_square():
    assert token_grids(depth=2, side=12) < 1.1 * token_grids(depth=2, side=6)
    assert token_grids(depth=2, side=12, keep_maps=True) > 2 * token_grids(depth=2, side=6, keep_maps=True)


def test_stored_maps_are_held_once_and_not_twice_while_they_are_put_together():
    model, tokens = model_and_tokens(depth=3, side=8)
    blocks = explain(model, tokens=tokens, keep_maps=True).blocks
    maps = [map_ for block in blocks for kind in (block.temporal, block.spatial) for map_ in vars(kind).values()]
    held = sum(map_.nbytes for map_ in maps)
    peak = peak_bytes(lambda: explain(model, tokens=tokens, keep_maps=True), "cpu")
    light = peak_bytes(lambda: explain(model, tokens=tokens), "cpu")
    assert held < peak < 1.2 * held + light


def test_the_frames_of_a_clip_go_through_the_backbone_one_by_one_where_only_an_explanation_is_wanted():
    """The first layers of the backbone hold more of a clip than all of its explanation."""
    torch.manual_seed(0)
    config = ISTVTConfig(frames=6, image_size=64, dim=16, heads=2, depth=1, mlp_dim=16, backbone_dims=(8, 16, 16, 16))
    model, clip = ISTVT(config).eval(), torch.rand(1, 6, 3, 64, 64)
    with torch.no_grad():
        together = peak_bytes(lambda: model.tokenize(clip), "cpu")
        one_by_one = peak_bytes(lambda: model.tokenize(clip, frames_at_once=1), "cpu")
        torch.testing.assert_close(model.tokenize(clip), model.tokenize(clip, frames_at_once=1))
    assert one_by_one < together / 3
    assert peak_bytes(lambda: explain(model, clip), "cpu") < together / 2
