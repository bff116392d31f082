"""The cost formulas reproduce the published tables and agree with what PyTorch counts."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from istvt import ISTVT, ISTVTConfig, preset
from istvt.config import ATTENTIONS
from istvt.model.flops import model_cost, total_cost

PUBLISHED_BY_FRAMES = {2: 99.6, 4: 167.9, 6: 236.1, 8: 304.4, 12: 440.9, 16: 577.4}
PUBLISHED_BY_DEPTH = {4: 89.7, 6: 126.3, 8: 162.9, 12: 236.1, 16: 309.4, 24: 455.8}


@pytest.mark.parametrize("name", ["seed", "published"])
@pytest.mark.parametrize(("frames", "published"), PUBLISHED_BY_FRAMES.items())
def test_cost_by_frames_is_the_papers_table_iv_to_half_a_percent(name, frames, published):
    assert total_cost(replace(preset(name), frames=frames)).layer_macs / 1e9 == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize("name", ["seed", "published"])
@pytest.mark.parametrize(("depth", "published"), PUBLISHED_BY_DEPTH.items())
def test_cost_by_depth_is_the_papers_table_v_to_half_a_percent(name, depth, published):
    assert total_cost(replace(preset(name), depth=depth)).layer_macs / 1e9 == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize(
    "authors", [{}, {"position_embedding": "frames", "head_norm": True}], ids=["seed", "published"]
)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_formula_parameters_and_multiply_accumulates_are_what_pytorch_counts(attention, authors):
    config = ISTVTConfig(
        frames=3, image_size=60, dim=24, heads=3, head_dim=10, depth=3, mlp_dim=40, attention=attention,
        self_subtract=False, backbone_dims=(4, 6, 8, 12), **authors,
    )  # fmt: skip
    model = ISTVT(config, backend="reference").eval()
    cost = total_cost(config)
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.classify(model.encode(model.tokenize(torch.zeros(1, 3, 3, 60, 60))))
    assert counter.get_total_flops() == 2 * (cost.layer_macs + cost.attention_macs)


def test_the_parts_add_up():
    parts = model_cost(preset("seed"))
    assert sum(p.layer_macs for p in parts) == total_cost(preset("seed")).layer_macs
    assert [p.part for p in parts][:2] == ["Xception entry flow", "class tokens and positions"]
