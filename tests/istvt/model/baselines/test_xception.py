"""Xception by frame: its published size, ImageNet weights by name, and what it cannot see."""

import pytest
import torch

from dataloading.errors import InputError
from istvt.model.architectures import build, model_preset
from istvt.model.checkpoint import load_pretrained
from istvt.model.flops import total_cost

SMALL = model_preset("xception")


def test_it_has_the_published_parameters_and_cost():
    """Xception has 22,855,952 parameters with 1,000 classes, and 8.4 G multiply-accumulates at 299 pixels.

    timm (huggingface/pytorch-image-models), results/results-imagenet.csv: legacy_xception 22.86M; infer_gmacs of
    results/benchmark-infer-amp-nchw-*.csv: 8.4 at 299. The last digits are of the network under timm's names.
    """
    config = model_preset("xception", "published")
    cost = total_cost(config)
    assert cost.parameters == 22_855_952 - (2048 * 1000 + 1000) + (2048 + 1)
    assert cost.layer_macs / config.frames == pytest.approx(8.4e9, rel=0.01)


def test_it_cannot_see_the_order_of_frames():
    torch.manual_seed(0)
    model, clips = build(SMALL).eval(), torch.rand(2, SMALL.frames, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(model(clips.flip(1)), model(clips))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("matrices", [False, True], ids=["timm", "cadene"])
def test_imagenet_weights_load_by_name(tmp_path, prefix, matrices):
    source, model = build(SMALL), build(SMALL)
    state = dict(source.backbone.state_dict())
    if matrices:  # as Cadene's first file has them
        state = {k: v[:, :, 0, 0] if k.endswith("pointwise.weight") else v for k, v in state.items()}
        state = {k: v for k, v in state.items() if not k.endswith("_tracked")}
    state |= {"fc.weight": torch.zeros(1000, 128), "fc.bias": torch.zeros(1000)}
    torch.save({prefix + key: value for key, value in state.items()}, tmp_path / "xception.pth")
    assert load_pretrained(model, tmp_path / "xception.pth") == ["fc.bias", "fc.weight"]
    for key, value in source.backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[key], value), key


def test_an_entry_flow_alone_is_no_xception(tmp_path):
    state = {k: v for k, v in build(SMALL).backbone.state_dict().items() if not k.startswith(("conv3", "bn3"))}
    torch.save(state, tmp_path / "flow.pth")
    with pytest.raises(InputError, match=r"conv3.conv1.weight is missing.*expected a timm or Cadene Xception"):
        load_pretrained(build(SMALL), tmp_path / "flow.pth")
