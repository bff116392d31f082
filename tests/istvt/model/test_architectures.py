"""Every architecture by name: presets, shapes, gradients, costs, checkpoints; what is not true of one is refused."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from dataloading.errors import InputError
from istvt.config import DetectorConfig, ISTVTConfig
from istvt.model.architectures import ARCHITECTURES, build, model_preset
from istvt.model.checkpoint import CheckpointInfo, load_model, load_pretrained, read_info, save_model
from istvt.model.flops import model_cost, total_cost

BASELINES = [name for name in ARCHITECTURES if name != "istvt"]


def clips_of(config: DetectorConfig, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, config.frames, 3, config.image_size, config.image_size, generator=generator) * 2 - 1


@pytest.fixture(scope="module")
def small() -> dict[str, torch.nn.Module]:
    """The small network of each architecture, from one seed."""
    found = {}
    for name in ARCHITECTURES:
        torch.manual_seed(0)
        found[name] = build(model_preset(name))
    return found


@pytest.mark.parametrize("name", BASELINES)
def test_the_defaults_of_a_configuration_are_the_published_sizes(name):
    assert ARCHITECTURES[name].config() == model_preset(name, "published")
    assert model_preset(name).architecture == name


@pytest.mark.parametrize("name", BASELINES)
def test_a_step_along_the_gradient_lowers_the_loss_and_reaches_every_parameter(name, small):
    model, clips, labels = small[name].train(), clips_of(small[name].config, 4), torch.tensor([0.0, 1.0, 0.0, 1.0])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    masks = (clips[:, :, 0] > 0).to(torch.int8) * labels[:, None, None, None].to(torch.int8)

    def minimized() -> torch.Tensor:
        torch.manual_seed(2)  # of dropout
        if model.config.makes_masks:
            return model(clips, labels, masks)[1].mean()
        return functional.binary_cross_entropy_with_logits(model(clips), labels)

    assert model(clips).shape == (4,)
    loss = minimized()
    loss.backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    without = [key for key, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()]
    assert without == []
    norm = torch.nn.utils.get_total_norm(list(gradients.values()))
    assert norm > 0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 1e-3 * parameter.grad / norm
        assert minimized() < loss
    model.load_state_dict(before)
    model.zero_grad()


@pytest.mark.parametrize("name", BASELINES)
def test_a_clip_has_the_same_logit_alone_and_among_others(name, small):
    model, clips = small[name].eval(), clips_of(small[name].config, 3)
    with torch.no_grad():
        torch.testing.assert_close(model(clips)[1:2], model(clips[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BASELINES)
def test_clips_of_another_shape_are_refused(name, small):
    config = small[name].config
    for shape in ((1, config.frames + 1, 3, config.image_size, config.image_size), (1, config.frames, 3, 96, 96)):
        says = rf"clips have shape .*expected \[clips, {config.frames} frames|clips of 96x96 pixels give"
        with pytest.raises(ValueError, match=says):
            small[name](torch.zeros(shape))


@pytest.mark.parametrize("name", BASELINES)
def test_a_checkpoint_knows_its_architecture(name, small, tmp_path):
    path, clips = tmp_path / "model.safetensors", clips_of(small[name].config)
    save_model(path, small[name].eval(), CheckpointInfo(small[name].config))
    model, info = load_model(path)
    assert info.config == read_info(path).config == small[name].config
    assert type(info.config) is ARCHITECTURES[name].config
    with torch.no_grad():
        assert torch.equal(model(clips), small[name](clips))


def test_a_checkpoint_that_names_no_architecture_is_one_of_istvt(small, tmp_path):
    """Those of versions that knew no other."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    path, clips = tmp_path / "model.safetensors", clips_of(small["istvt"].config)
    save_model(path, small["istvt"].eval(), CheckpointInfo(small["istvt"].config))
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["istvt"])
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert metadata["config"].pop("architecture") == "istvt"
    save_file(state, path, metadata={"istvt": json.dumps(metadata)})
    model, info = load_model(path)
    assert info.config == small["istvt"].config
    with torch.no_grad():
        assert torch.equal(model(clips), small["istvt"](clips))


def test_a_checkpoint_of_an_unknown_architecture_is_refused(small, tmp_path):
    path = tmp_path / "model.safetensors"
    config = replace(small["istvt"].config)
    object.__setattr__(config, "architecture", "resnet")
    save_model(path, small["istvt"], CheckpointInfo(config))
    with pytest.raises(InputError, match=r"config\.architecture: 'resnet'; expected one of istvt, xception"):
        load_model(path)


@pytest.mark.parametrize("name", BASELINES)
def test_the_parts_of_the_cost_are_all_of_the_network(name, small):
    config, model = small[name].config, small[name].eval().set_backend("reference")
    cost = total_cost(config)
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(clips_of(config, 1))
    model.set_backend("auto")
    if name != "vtn":  # its formula counts all of the last block, as ISTVT's
        assert 2 * (cost.layer_macs + cost.attention_macs) == counter.get_total_flops()
    assert len({part.part for part in model_cost(config)}) == len(model_cost(config)) > 1


@pytest.mark.parametrize("name", BASELINES)
def test_weights_of_another_kind_are_refused(name, small, tmp_path):
    path, model = tmp_path / "weights.pth", small[name]
    torch.save({"layer.weight": torch.zeros(2, 2)}, path)
    if model.pretrained_from is None and not isinstance(model.config, ISTVTConfig):
        with pytest.raises(InputError, match=f"{name} starts from random weights; expected none"):
            load_pretrained(model, path)
        return
    with pytest.raises(InputError, match=r"weights\.pth: .* is missing"):
        load_pretrained(model, path)
    save_model(tmp_path / "model.safetensors", small["istvt"], CheckpointInfo(small["istvt"].config))
    with pytest.raises(InputError, match=r"model\.safetensors: is a checkpoint of istvt; expected a"):
        load_pretrained(model, tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", BASELINES)
def test_sizes_without_bounds_are_refused_before_memory_is_taken(name):
    config = model_preset(name)
    for field, value in config.to_dict().items():
        if type(value) is int:
            with pytest.raises(ValueError, match=rf"model\.{field} is 0; expected [0-9]+ or more|[0-9]+ or less"):
                # Counts that may be 0 are too large instead.
                replace(config, **{field: 0}), replace(config, **{field: 10**9})
        elif isinstance(value, tuple):
            with pytest.raises(ValueError, match=rf"model\.{field} is .*; expected .* from "):
                replace(config, **{field: (10**9,) * len(value)})
