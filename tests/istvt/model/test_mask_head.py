"""Mask head of ISTVT and Y-shaped network: what they predict, what they learn from, and what they leave alone."""

import json
from dataclasses import replace

import pytest
import torch

from istvt.config import ATTENTIONS, PRESETS, ISTVTConfig
from istvt.explain import explain
from istvt.explain.grid import upscale
from istvt.model.architectures import build, model_preset
from istvt.model.checkpoint import CheckpointInfo, load_model, save_model
from istvt.model.detector import dice_losses, mask_losses
from istvt.model.flops import model_cost, total_cost

SMALL = ISTVTConfig(frames=3, image_size=56, dim=16, heads=2, depth=2, mlp_dim=24, backbone_dims=(4, 4, 8, 8))


def model_of(config):
    torch.manual_seed(0)
    return build(config).eval()


def clips_of(config, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, config.frames, 3, config.image_size, config.image_size, generator=generator) * 2 - 1


def with_and_without(attention: str = "temporal_first"):
    """A model with a mask head, and one of the same weights without."""
    masked = model_of(replace(SMALL, mask_head=2, attention=attention))
    plain = model_of(replace(SMALL, attention=attention))
    plain.load_state_dict({name: v for name, v in masked.state_dict().items() if not name.startswith("mask_head.")})
    return masked, plain


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_mask_head_changes_no_verdict_and_gives_each_pixel_a_probability(attention):
    masked, plain = with_and_without(attention)
    clips = clips_of(SMALL)
    with torch.no_grad():
        logits, masks = masked.segment(clips)
        assert torch.equal(logits, masked(clips))
        torch.testing.assert_close(logits, plain(clips), rtol=1e-6, atol=1e-7)
    assert masks.shape == (2, 3, 56, 56)
    assert 0 < masks.min() < masks.max() < 1


@pytest.mark.parametrize("method", ["lrp", "attnlrp", "gradient"])
def test_a_mask_head_takes_no_part_in_an_explanation(method):
    masked, plain = with_and_without()
    found, expected = (explain(model, clips_of(SMALL), method=method) for model in (masked, plain))
    for name in ("logits", "temporal", "spatial", "class_row"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_masks_lie_where_heatmaps_lie():
    """Of one part a cell, inside the outermost cells: what `explain.grid.upscale` draws of the logits of the cells."""
    model = model_of(replace(SMALL, mask_head=1))
    head, (height, width) = model.mask_head, SMALL.feature_grid
    cells = torch.randn(1, SMALL.frames, height, width)
    drawn = torch.from_numpy(upscale(cells.numpy(), 56, 56))
    placed = head.rows @ cells @ head.columns.T
    first, step = model.backbone.cell_centers()
    inside = slice(int(first) + 1, int(first + step * (height - 1)))
    torch.testing.assert_close(placed[..., inside, inside], drawn[..., inside, inside], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(placed[..., 0, 0], cells[..., 0, 0])  # and outside its own


def test_parts_of_a_cell_stand_where_the_cell_does():
    model = model_of(replace(SMALL, mask_head=4))
    logits = torch.zeros(*(4 * side for side in SMALL.feature_grid))
    logits[4:8, 0:4] = 1  # all parts of the cell in row 1 and column 0
    drawn = model.mask_head.rows @ logits @ model.mask_head.columns.T
    first, step = model.backbone.cell_centers()
    rows, columns = torch.nonzero(drawn > 0.5).float().mean(0)
    assert rows == pytest.approx(first + step, abs=1)
    assert drawn[round(first + step), 0] == 1 and columns < step


def test_unknown_masks_teach_nothing_and_others_are_as_if_they_were_alone():
    logits = torch.randn(3, 2, 4, 4, requires_grad=True)
    masks = torch.randint(0, 2, (3, 2, 4, 4), dtype=torch.int8)
    masks[1] = -1
    losses = mask_losses(logits, masks)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[::2], masks[::2].float(), reduction="none")
    torch.testing.assert_close(losses[::2], expected.flatten(1).mean(1))
    assert losses[1] == 0
    losses.sum().backward()
    assert logits.grad[1].eq(0).all() and logits.grad[0].ne(0).all()


def test_dice_loss_is_of_clips_with_forged_pixels_and_lower_for_a_mask_that_finds_them():
    masks = torch.zeros(3, 2, 4, 4, dtype=torch.int8)
    masks[0, 0, :2], masks[2] = 1, -1
    right = torch.where(masks == 1, 20.0, -20.0)
    torch.testing.assert_close(dice_losses(right, masks), torch.zeros(3))
    half = right.clone()
    half[0, 0, 0] = -20  # finds 4 of 8: 1 - 2 * 4 / (4 + 8)
    torch.testing.assert_close(dice_losses(half, masks), torch.tensor([1 / 3, 0, 0]))


def test_a_checkpoint_of_before_the_mask_head_still_loads(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    path, model = tmp_path / "model.safetensors", model_of(SMALL)
    save_model(path, model, CheckpointInfo(SMALL))
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["istvt"])
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert metadata["config"].pop("mask_head") == 0
    save_file(state, path, metadata={"istvt": json.dumps(metadata)})
    loaded, info = load_model(path)
    assert info.config == SMALL
    with torch.no_grad():
        assert torch.equal(loaded(clips_of(SMALL)), model(clips_of(SMALL)))


def test_a_checkpoint_with_a_mask_head_gives_the_same_masks(tmp_path):
    model = model_of(replace(SMALL, mask_head=3))
    save_model(tmp_path / "model.safetensors", model, CheckpointInfo(model.config))
    loaded, _ = load_model(tmp_path / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded.segment(clips_of(SMALL))[1], model.segment(clips_of(SMALL))[1])


def test_the_presets_have_no_mask_head_and_one_is_counted():
    assert not any(config.makes_masks for config in PRESETS.values())
    config = replace(SMALL, mask_head=2)
    assert total_cost(config).parameters == sum(parameter.numel() for parameter in build(config).parameters())
    assert [part.part for part in model_cost(config)][-1] == "mask head"


def test_a_model_without_masks_says_which_have_them():
    with pytest.raises(ValueError, match="this istvt predicts no masks; expected y_network, or an istvt or vtn"):
        model_of(SMALL).segment(clips_of(SMALL))


# The Y-shaped network


@pytest.fixture
def y_network():
    torch.manual_seed(0)
    return build(model_preset("y_network"))


def test_the_y_network_has_the_parameters_of_the_authors_code_but_for_one_channel():
    """Counted from nii-yamagishilab/ClassNSeg, model/ae.py; the mask there has two channels instead of one."""
    widths = [8, 8, 16, 16, 32, 32, 64, 64, 128]
    encoder = sum(9 * i * o + o + 2 * o for i, o in zip([3, *widths[:-1]], widths, strict=True))
    shared = sum(9 * i * o + o + 2 * o for i, o in ((128, 64), (64, 64), (64, 32), (32, 32)))
    branch = sum(9 * i * o + o + 2 * o for i, o in ((32, 16), (16, 16), (16, 8), (8, 8)))
    theirs = encoder + shared + 2 * branch + (9 * 8 * 2 + 2) + (9 * 8 * 3 + 3)
    with torch.device("meta"):
        found = sum(parameter.numel() for parameter in build(model_preset("y_network", "published")).parameters())
    assert found == theirs - (9 * 8 + 1)


def test_the_verdict_is_the_half_that_is_more_active_and_the_decoder_sees_no_other(y_network):
    model, clips = y_network.eval(), clips_of(y_network.config, 1)
    with torch.no_grad():
        halves, active = model._encode(clips)
        torch.testing.assert_close(model(clips), (active[:, 1] - active[:, 0]).mean()[None])
        torch.testing.assert_close(active[:, 0], halves[:, 0].abs().mean((1, 2, 3)))
        fake, real = (model._decode(halves, torch.full((6,), value)) for value in (1.0, 0.0))
        changed = halves.clone()
        changed[:, 0] += 1
        torch.testing.assert_close(model._decode(changed, torch.ones(6))[0], fake[0])
    assert not torch.equal(fake[0], real[0])
    assert fake[0].shape == (6, 64, 64) and fake[1].shape == (6, 3, 64, 64)


def test_what_is_minimized_is_activation_segmentation_and_reconstruction(y_network):
    model, clips = y_network.train(), clips_of(y_network.config)
    labels = torch.tensor([0.0, 1.0])
    masks = (clips[:, :, 0] > 0.5).to(torch.int8)
    logits, losses = model(clips, labels, masks)
    halves, active = model._encode(clips)
    y = labels.repeat_interleave(6)
    mask_logits, rebuilt = model._decode(halves, y)
    activation = (active[:, 1] - y).abs() + (active[:, 0] - (1 - y)).abs()
    segmentation = torch.nn.functional.binary_cross_entropy_with_logits(mask_logits, masks.flatten(0, 1).float())
    expected = activation.mean() + segmentation + torch.nn.functional.mse_loss(rebuilt, clips.flatten(0, 1))
    torch.testing.assert_close(losses.mean(), expected)
    torch.testing.assert_close(logits, (active[:, 1] - active[:, 0]).unflatten(0, (2, 6)).mean(1))
