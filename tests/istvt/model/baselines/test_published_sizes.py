"""Parameters and multiply-accumulates of the published presets are what their papers and authors print."""

import pytest
import torch

from istvt.model.architectures import build, model_preset
from istvt.model.flops import model_cost, total_cost


def cost(name):
    return total_cost(model_preset(name, "published"))


def parameters(name):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(model_preset(name, "published")).parameters())


def test_c3d_has_78_4_million_with_101_classes_and_38_5_g_multiply_accumulates():
    found = cost("c3d")
    assert found.parameters + 100 * (4096 + 1) == 78_409_573
    assert found.layer_macs == pytest.approx(38.5e9, rel=0.005)


def test_two_streams_of_i3d_have_the_papers_25_million_with_400_classes():
    rgb = parameters("i3d") + 399 * (1024 + 1)
    flow = rgb - 64 * 7**3  # two channels in instead of three
    assert rgb + flow == pytest.approx(25e6, rel=0.02)


def test_the_cnn_of_cnn_lstm_is_densenet_121_without_its_classifier():
    with torch.device("meta"):
        features = build(model_preset("cnn_lstm", "published")).features
    assert sum(parameter.numel() for parameter in features.parameters()) == 7_978_856 - (1024 * 1000 + 1000)


def test_stil_has_22_68_million():
    assert parameters("stil") == pytest.approx(22.68e6, abs=0.01e6)


def test_timesformer_has_121_4_million_and_590_g_for_three_crops():
    found = cost("timesformer")
    assert found.parameters + 399 * (768 + 1) == pytest.approx(121.4e6, rel=0.002)
    assert 3 * (found.layer_macs + found.attention_macs) == pytest.approx(590e9, rel=0.01)


def test_vivit_has_115_1_million_and_284_4_g():
    found = cost("vivit")
    assert found.parameters + 399 * (768 + 1) == pytest.approx(115.1e6, rel=0.001)
    assert found.layer_macs + found.attention_macs == pytest.approx(284.4e9, rel=0.01)


def test_vtn_has_the_backbone_and_the_mlp_of_the_published_istvt():
    vtn, istvt = ({p.part: p for p in model_cost(model_preset(name, "published"))} for name in ("vtn", "istvt"))
    for part in ("Xception entry flow", "MLP"):
        assert vtn[part].parameters == istvt[part].parameters
    assert vtn["joint attention"].attention_macs > 5 * istvt["spatial attention"].attention_macs
