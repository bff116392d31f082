"""Parameters and multiply-accumulates of the published presets are those of public code and tables; each says which.

Not published, so without a count here: `cnn_lstm` and `lrcn` beyond their CNN, `s_mil` beyond its Xception, `ftcn`,
`lip_motion` and `vtn`;
`video_transformer` has those of its two parts.
`xception` has a file of its own.
"""

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
    """MMAction2, configs/recognition/c3d/README.md: 78.4M, 38.5G (16 frames of 112 pixels, UCF-101)."""
    found = cost("c3d")
    assert found.parameters + 100 * (4096 + 1) == 78_409_573
    assert found.layer_macs == pytest.approx(38.5e9, rel=0.005)


def test_i3d_has_12_697_264_with_400_classes_and_two_streams_the_papers_25_million():
    """Counted from the public re-implementation piergiaj/pytorch-i3d: 12,697,264 for RGB and 12,675,312 for flow.

    The paper's Table 1 prints 25M for both streams (from memory; the paper itself was not at hand).
    """
    rgb = parameters("i3d") + 399 * (1024 + 1)
    flow = rgb - 64 * 7**3  # two channels in instead of three
    assert (rgb, flow) == (12_697_264, 12_675_312)
    assert rgb + flow == pytest.approx(25e6, rel=0.02)


def test_the_cnn_of_cnn_lstm_is_densenet_121_without_its_classifier():
    """DenseNet-121 has 7,978,856 with 1,000 classes: table.md of FrancescoSaverioZuppichini/glasses.

    The recurrent network's size is this project's choice; no count of the whole is published.
    """
    with torch.device("meta"):
        features = build(model_preset("cnn_lstm", "published")).features
    assert sum(parameter.numel() for parameter in features.parameters()) == 7_978_856 - (1024 * 1000 + 1000)


def test_the_cnn_of_lrcn_is_vgg_16_without_its_last_two_layers():
    """VGG-16 has 138,357,544 with 1,000 classes (torchvision's table of weights), fc7 and fc8 among them.

    The LSTM's 256 units are those of the authors' code, yuezunli/WIFS2018_In_Ictu_Oculi; no count of the whole is
    published.
    """
    found = {part.part: part.parameters for part in model_cost(model_preset("lrcn", "published"))}
    assert found["features"] == 138_357_544 - (4096 + 1) * 4096 - (4096 + 1) * 1000
    assert found["recurrent"] == 4 * 256 * (4096 + 256 + 2)


def test_stil_has_the_22_686_369_of_the_authors_code_with_one_class():
    """Counted from the authors' code, STIL_Model(num_class=1, num_segment=8) of Tencent/TFace."""
    assert parameters("stil") == 22_686_369


def test_timesformer_has_122_million_and_196_g_a_clip():
    """MMAction2, configs/recognition/timesformer/README.md: 122M, 196G a clip (divided attention, 8 frames of 224).

    The paper's own 121.4M and 0.59 TFLOPs for three crops are from memory; three clips of 196G are 0.588.
    """
    found = cost("timesformer")
    assert found.parameters + 399 * (768 + 1) == pytest.approx(121.4e6, rel=0.002)
    assert found.layer_macs + found.attention_macs == pytest.approx(196e9, rel=0.01)


def test_vivit_has_115_1_million_and_284_4_g():
    """The paper's table of its four models, from memory: 115.1M, 284.4G for the factorised encoder.

    Neither the paper's table nor a count of public code was found; google-research/scenic prints accuracies alone.
    """
    found = cost("vivit")
    assert found.parameters + 399 * (768 + 1) == pytest.approx(115.1e6, rel=0.001)
    assert found.layer_macs + found.attention_macs == pytest.approx(284.4e9, rel=0.01)


def test_video_transformer_is_a_whole_xception_and_the_blocks_of_vit_base():
    """Xception has 20,806,952 without its classifier (timm `legacy_xception`), the blocks of ViT-Base 85,054,464."""
    found = {part.part: part.parameters for part in model_cost(model_preset("video_transformer", "published"))}
    assert (found["backbone"], found["blocks"]) == (20_806_952, 12 * 7_087_872)
    assert model_preset("video_transformer", "published").positions == 6 * 10 * 10 + 1


def test_vtn_has_the_backbone_and_the_mlp_of_the_published_istvt():
    vtn, istvt = ({p.part: p for p in model_cost(model_preset(name, "published"))} for name in ("vtn", "istvt"))
    for part in ("Xception entry flow", "MLP"):
        assert vtn[part].parameters == istvt[part].parameters
    assert vtn["joint attention"].attention_macs > 5 * istvt["spatial attention"].attention_macs
