"""What the papers of the comparison detectors say of them, each on a small network of random weights."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from dataloading.errors import InputError
from istvt.explain import explain
from istvt.model.architectures import ARCHITECTURES, build, model_preset
from istvt.model.baselines.i3d import Unit, inflated
from istvt.model.baselines.stil import TemporalShift
from istvt.model.checkpoint import load_pretrained

BY_FRAME = ("xception", "y_network")


def small(name: str, **changes) -> nn.Module:
    torch.manual_seed(0)
    return build(replace(model_preset(name), **changes)).eval()


def clips_of(model: nn.Module, count: int = 2) -> torch.Tensor:
    config = model.config
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, config.frames, 3, config.image_size, config.image_size, generator=generator) * 2 - 1


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in ("istvt", *BY_FRAME)])
def test_it_compares_frames(name):
    """Another order of the same frames gives another logit; detectors that judge by frame give the same."""
    model = small(name).double()
    for key, parameter in model.named_parameters():
        if key.endswith(("embedding", "temporal_fc.weight")):  # zero at first: TimeSformer starts as a ViT by frame
            nn.init.normal_(parameter, std=0.1)
    clips = clips_of(model).double()
    with torch.no_grad():
        logits, turned = model(clips), model(clips.flip(1))
    assert (logits - turned).abs().max() > 1e-3 * (logits[0] - logits[1]).abs()


@pytest.mark.parametrize("name", ["ftcn", "timesformer", "video_transformer", "vivit", "vtn"])
def test_every_implementation_of_attention_gives_the_same_logits(name):
    model = small(name).double()
    clips = clips_of(model).double()
    with torch.no_grad():
        expected = model.set_backend("reference")(clips)
        torch.testing.assert_close(model.set_backend("sdpa")(clips), expected, rtol=1e-6, atol=1e-7)


def test_timesformer_starts_without_temporal_attention_but_in_its_first_block():
    model = small("timesformer", depth=3)
    assert [bool(block.temporal_fc.weight.any()) for block in model.blocks] == [True, False, False]


def test_an_inflated_convolution_gives_of_a_repeated_picture_what_the_picture_gives():
    flat, deep = nn.Conv2d(3, 5, 3, padding=1, bias=False), Unit(3, 5, 3).conv
    with torch.no_grad():
        deep.weight.copy_(inflated(flat.weight, deep.weight))
        picture = torch.randn(2, 3, 8, 8)
        clip = picture.unsqueeze(2).expand(-1, -1, 5, -1, -1)
        torch.testing.assert_close(deep(clip)[:, :, 1:-1], flat(picture).unsqueeze(2).expand(-1, -1, 3, -1, -1))


def test_i3d_starts_from_googlenet_by_name(tmp_path):
    source, model = small("i3d"), build(model_preset("i3d"))
    flat = {k: v[:, :, 0] if v.dim() == 5 else v for k, v in source.backbone.state_dict().items()}
    others = {"fc.weight": torch.zeros(1000, 128), "fc.bias": torch.zeros(1000), "aux1.conv.bn.bias": torch.zeros(8)}
    torch.save(flat | others, tmp_path / "googlenet.pth")
    assert load_pretrained(model, tmp_path / "googlenet.pth") == sorted(others)
    for key, value in model.backbone.state_dict().items():
        expected = flat[key]
        if value.dim() == 5:
            assert torch.equal(value, expected.unsqueeze(2).expand_as(value) / value.shape[2]), key
        else:
            assert torch.equal(value, expected), key


@pytest.mark.parametrize("dotted", [False, True])
def test_cnn_lstm_starts_from_densenet_by_name(tmp_path, dotted):
    source, model = small("cnn_lstm"), build(model_preset("cnn_lstm"))
    state = {f"features.{k}": v for k, v in source.features.state_dict().items()}
    if dotted:  # as torchvision's first file has them, without batch counts
        state = {k.replace("norm1", "norm.1").replace("conv2", "conv.2"): v for k, v in state.items()}
        state = {k: v for k, v in state.items() if not k.endswith("tracked")}
    torch.save(state | {"classifier.weight": torch.zeros(9, 9)}, tmp_path / "densenet.pth")
    assert load_pretrained(model, tmp_path / "densenet.pth") == ["classifier.weight"]
    for key, value in source.features.state_dict().items():
        assert torch.equal(model.features.state_dict()[key], value), key


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_cnn_lstm_reads_the_clip_in_both_directions(cell):
    model = small("cnn_lstm", cell=cell)
    assert type(model.recurrent).__name__.lower() == cell
    features = torch.randn(1, 5, model.recurrent.input_size)
    with torch.no_grad():
        states, _ = model.recurrent(features)
        turned, _ = model.recurrent(features.flip(1))
    assert not torch.allclose(states[:, -1, :32], turned[:, -1, :32])


def test_lrcn_starts_from_vgg_by_name(tmp_path):
    source, model = small("lrcn"), build(model_preset("lrcn"))
    state = {k.replace("fc6", "classifier.0"): v for k, v in source.features.state_dict().items()}
    rest = {"classifier.3.weight": torch.zeros(9, 9), "classifier.6.bias": torch.zeros(9)}
    torch.save(state | rest, tmp_path / "vgg.pth")
    assert load_pretrained(model, tmp_path / "vgg.pth") == sorted(rest)
    for key, value in source.features.state_dict().items():
        assert torch.equal(model.features.state_dict()[key], value), key


def test_one_frame_that_speaks_for_real_makes_a_clip_of_lrcn_real():
    """The logit is the soft minimum over frames: a blink is brief."""
    model = small("lrcn")
    clips = clips_of(model)
    with torch.no_grad():
        of_frames = model.head(model.states(clips)).squeeze(-1)
        torch.testing.assert_close(model(clips), -torch.exp(-of_frames).mean(1).log())
        model.head = nn.Identity()
        model.states = lambda _: torch.tensor([[3.0] * 15 + [-8.0], [3.0] * 16]).unsqueeze(-1)
        real, fake = model(clips).tolist()
    assert real < -5
    assert fake == pytest.approx(3)


def test_lip_motion_sees_only_what_moves():
    """A still mouth has one logit whatever it looks like; one that moves has others."""
    model = small("lip_motion")
    clips = clips_of(model)
    with torch.no_grad():
        still = model(clips[:, :1].expand_as(clips))
        assert still[0] == still[1]
        assert (model(clips) - still).abs().min() > 1e-3


def test_the_probability_of_an_s_mil_bag_is_the_sharp_product_of_its_instances():
    model = small("s_mil", lengths=(2,))
    clips = clips_of(model)
    with torch.no_grad():
        features = model.backbone(clips.flatten(0, 1)).mean((2, 3)).view(2, 6, -1)
        h = model.instances[0](features.transpose(1, 2)).relu().transpose(1, 2)
        weights = model.attention(h).softmax(1)
        product = torch.exp(-weights * model.head(h)).prod(1).squeeze(-1)
        torch.testing.assert_close(model(clips).sigmoid(), 1 / (1 + product))


def test_stil_begins_with_a_shift_of_an_eighth_of_the_channels_to_either_side():
    shift, x = TemporalShift(16, 4), torch.randn(2 * 4, 16, 3, 3)
    with torch.no_grad():
        clips, found = x.view(2, 4, 16, 3, 3), shift(x).view(2, 4, 16, 3, 3)
    assert torch.equal(found[:, :-1, :2], clips[:, 1:, :2])
    assert torch.equal(found[:, 1:, 2:4], clips[:, :-1, 2:4])
    assert torch.equal(found[:, :, 4:], clips[:, :, 4:])


def test_no_convolution_of_ftcn_sees_a_neighboring_pixel():
    kernels = {module.kernel_size for module in small("ftcn").modules() if isinstance(module, nn.Conv3d)}
    assert {kernel[1:] for kernel in kernels} == {(1, 1)}
    assert {kernel[0] for kernel in kernels} == {1, 3, 5}


def test_vtn_is_the_joint_variant_of_istvt_and_is_explained_like_it():
    vtn, istvt = small("vtn"), small("istvt", attention="joint", self_subtract=False)
    clips = clips_of(vtn)
    istvt.load_state_dict(vtn.state_dict())
    with torch.no_grad():
        assert torch.equal(vtn(clips), istvt(clips))
    assert torch.equal(explain(vtn, clips).joint, explain(istvt, clips).joint)
    with pytest.raises(ValueError, match="expected joint and false for vtn"):
        replace(vtn.config, self_subtract=True)


def test_a_baseline_has_no_map_of_tokens_and_says_what_explains_it():
    model = small("c3d")
    expected = "method lrp cannot explain a model of c3d; expected method shap or counterfactual, or a model of one of"
    with pytest.raises(InputError, match=expected):
        explain(model, clips_of(model))


@pytest.mark.parametrize("name", ["c3d", "s_mil"])
def test_shapley_values_and_counterfactuals_explain_a_baseline(name):
    model = small(name)
    clips = clips_of(model)
    shares = explain(model, clips, method="shap", tiles=2, spans=1, evaluations=10)
    with torch.no_grad():
        logits, nothing = model(clips), model(torch.zeros_like(clips))
    torch.testing.assert_close(shares.pixels.sum((1, 2, 3)), logits - nothing, rtol=1e-3, atol=1e-5)
    targets = ["fake" if logit > 0 else "real" for logit in logits]
    change = explain(model, clips, method="counterfactual", target=targets, bound=255, steps=10).counterfactual
    assert change.called.all()
    assert (change.logits.abs() < logits.abs()).all() or change.turned.all()


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("c3d", {"frames": 15}, "model.frames is 15; expected 16 or more, because c3d halves them four times"),
        ("s_mil", {"frames": 2}, "model.frames is 2; expected 3 or more, because s_mil has instances of 3 frames"),
        ("stil", {"frames": 1}, "model.frames is 1; expected 2 or more, because stil compares neighboring ones"),
        ("stil", {"image_size": 63}, "model.image_size is 63; expected 64 or more"),
        ("stil", {"width": 7}, "model.width is 7; expected an even number"),
        ("ftcn", {"frames": 300}, "model.frames is 300; expected 254 or less"),
        ("timesformer", {"image_size": 60}, "model.image_size is 60; expected a multiple of model.patch, 8"),
        ("timesformer", {"heads": 5}, "model.dim is 64 and model.heads is 5; expected a multiple of heads"),
        ("vivit", {"frames": 5}, "model.frames is 5; expected a multiple of model.tube_frames, 2"),
        ("cnn_lstm", {"cell": "rnn"}, "model.cell is 'rnn'; expected gru or lstm"),
        ("xception", {"exit_dims": (1, 2)}, "model.exit_dims is [1, 2]; expected 3 whole numbers"),
        ("i3d", {"dropout": 1.0}, "model.dropout is 1.0; expected 0.99 or less"),
    ],
)
def test_sizes_that_make_no_network_are_refused(name, changes, says):
    with pytest.raises(ValueError) as refusal:
        replace(model_preset(name), **changes)
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("c3d", {"image_size": 16}),
        ("i3d", {"frames": 1, "image_size": 16}),
        ("xception", {"image_size": 27}),
        ("s_mil", {"frames": 3, "image_size": 27}),
        ("cnn_lstm", {"frames": 1, "image_size": 16}),
        ("lrcn", {"frames": 1, "image_size": 16}),
        ("lip_motion", {"frames": 2, "image_size": 16}),
        ("stil", {"frames": 2}),
        ("ftcn", {"frames": 2, "image_size": 16}),
        ("timesformer", {"frames": 1, "image_size": 16}),
        ("vivit", {"frames": 2, "image_size": 16}),
    ],
)
def test_the_smallest_sizes_that_are_taken_make_a_network(name, changes):
    model = small(name, **changes)
    with torch.no_grad():
        assert model(clips_of(model)).isfinite().all()
