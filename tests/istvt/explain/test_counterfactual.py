"""The change that turns a verdict is the smallest one where that is known, bounded, and honest where there is none."""

import numpy as np
import pytest
import torch
from torch import nn

from istvt import ISTVT, ISTVTConfig
from istvt.config import ISTVTConfig as Config
from istvt.explain import attribution, explain
from istvt.explain.counterfactual import GRAY_LEVEL, _smoothed
from istvt.explain.explanation import logits_of

CONFIG = ISTVTConfig(frames=3, image_size=40, dim=16, heads=2, depth=2, mlp_dim=24, backbone_dims=(4, 4, 8, 8))


class LinearDetector(nn.Module):
    """A logit that is linear in the pixels, of which the smallest change is known."""

    def __init__(self, weight, bias) -> None:
        super().__init__()
        self.config = Config(frames=2, image_size=24)
        self.weight, self.bias = nn.Parameter(weight), bias

    def forward(self, clips):
        return (clips * self.weight).flatten(1).sum(1) + self.bias


@pytest.fixture(scope="module")
def patch():
    """Weights of a smooth patch in the first frame."""
    weight = torch.zeros(1, 2, 3, 24, 24)
    weight[:, 0, :, 8:16, 8:16] = 1
    return _smoothed(weight)[0]


@pytest.fixture(scope="module")
def gray():
    return torch.zeros(2, 2, 3, 24, 24)


def test_the_change_of_a_linear_detector_is_as_small_as_a_smooth_one_can_be(patch, gray):
    model = LinearDetector(patch, bias=1.0)
    result = explain(model, gray, method="counterfactual", bound=20, steps=30)
    found = result.counterfactual
    assert found.called.all() and found.turned.all()
    assert (found.logits < 0).all()
    # Along the smoothed weights, as far as the logit needs to fall: w . d = -1.01.
    direction = _smoothed(patch[None])[0]
    best = 1.01 * direction.norm() / (patch * direction).sum()
    norms = found.change.flatten(1).norm(dim=1)
    assert (norms >= 0.999 * 1 / patch.norm()).all()  # no change at all could be smaller
    assert (norms <= 1.05 * best).all()
    torch.testing.assert_close(result.pixels, found.change.abs().sum(2))
    assert result.pixels[:, 1].abs().max() == 0  # the model does not look at the second frame
    row, column = np.unravel_index(int(result.pixels[0, 0].argmax()), (24, 24))
    assert 8 <= row < 16 and 8 <= column < 16
    assert (found.control_logits > 0.9).all()  # as much change elsewhere does nothing


def test_without_a_change_within_the_bound_the_verdict_stays_and_that_is_said(patch, gray):
    needed = float(
        explain(LinearDetector(patch, 1.0), gray, method="counterfactual", bound=100).counterfactual.largest[0]
    )
    found = explain(LinearDetector(patch, 1.0), gray, method="counterfactual", bound=needed / 4).counterfactual
    assert found.called.all() and not found.turned.any()
    assert (found.logits > 0).all() and (found.logits < 1).all()  # the one that went furthest
    assert found.change.abs().max() <= needed / 4 * GRAY_LEVEL * 1.0001


def test_a_clip_that_is_not_called_so_has_no_verdict_to_turn_and_becomes_as_much_surer(patch, gray):
    found = explain(LinearDetector(patch, 1.0), gray, method="counterfactual", target="real", bound=20).counterfactual
    assert not found.called.any() and not found.turned.any()
    assert (found.logits >= 2).all() and (found.logits < 2.1).all()  # real was -1, and is -2 and a little


def test_both_sides_of_a_batch_are_explained_each_for_itself(patch):
    clips = torch.stack([torch.zeros(2, 3, 24, 24), -0.1 * torch.ones(2, 3, 24, 24)])
    model = LinearDetector(patch, bias=1.0)
    assert logits_of(model, clips)[0] > 0 > logits_of(model, clips)[1]
    together = explain(model, clips, method="counterfactual", target=["fake", "real"], bound=60)
    assert together.counterfactual.turned.all()
    assert together.counterfactual.logits[0] < 0 < together.counterfactual.logits[1]
    alone = explain(model, clips[1:], method="counterfactual", target="real", bound=60)
    torch.testing.assert_close(together.pixels[1:], alone.pixels, rtol=1e-4, atol=1e-6)


def test_changed_clips_stay_pictures_and_a_model_and_its_mode_stay_as_they_are():
    torch.manual_seed(3)
    model = ISTVT(CONFIG).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    clips = torch.rand(2, 3, 3, 40, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
    clips[0, 0, 0, :5] = 1  # as bright as a pixel can be
    done = []
    with torch.inference_mode():
        result = explain(
            model, clips, method="counterfactual", bound=30, steps=6, advance=lambda *parts: done.append(parts)
        )
    changed = clips + result.counterfactual.change
    assert changed.abs().max() <= 1 + 1e-6
    assert result.counterfactual.largest.max() <= 30 + 1e-3
    np.testing.assert_allclose(result.counterfactual.logits.numpy(), logits_of(model, changed), atol=1e-4)
    assert model.training and not any(parameter.grad is not None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert done == [(step, 6) for step in range(1, 7)]
    colors = attribution(model, clips, method="counterfactual", bound=30, steps=6)
    torch.testing.assert_close(colors, result.counterfactual.change.abs())


def test_a_search_that_would_take_too_long_is_one_sentence(patch, gray):
    with pytest.raises(ValueError, match=r"steps is 100000: 2 clips would take about .*; expected at most about"):
        explain(LinearDetector(patch, 1.0), gray, method="counterfactual", steps=100_000, time_limit=1e-3)
    with pytest.raises(ValueError, match=r"bound is 0; expected 0.001 or more"):
        explain(LinearDetector(patch, 1.0), gray, method="counterfactual", bound=0)
    with pytest.raises(ValueError, match="explain has no argument step"):
        explain(LinearDetector(patch, 1.0), gray, method="counterfactual", step=3)
