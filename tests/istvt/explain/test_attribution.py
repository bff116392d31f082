"""Attributions have the shape of the clips, and the metrics of Captum take them as they are."""

from functools import partial

import pytest
import torch

from istvt import ISTVT, ISTVTConfig
from istvt.explain import attribution, explain
from istvt.explain.grid import upscale

CONFIG = ISTVTConfig(frames=3, image_size=40, dim=24, heads=2, depth=2, mlp_dim=32, backbone_dims=(4, 6, 8, 12))


@pytest.fixture(scope="module")
def model() -> ISTVT:
    torch.manual_seed(0)
    return ISTVT(CONFIG).eval()


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    return torch.rand(2, 3, 3, 40, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_attribution_of_a_map_is_the_map_on_its_pixels_shared_by_the_colors(model, clips):
    result = explain(model, clips, target="real")
    assert result.target == ("real", "real")
    assert (result.settings.method, result.settings.rules()["stabilizer"]) == ("lrp", 0.01)
    found = attribution(model, clips, target="real")
    assert found.shape == clips.shape
    torch.testing.assert_close(found.sum(2), torch.from_numpy(upscale(result.temporal.numpy(), 40, 40)))
    whole = attribution(model, clips, target="real", heat="class_row")
    torch.testing.assert_close(whole[:, 0], whole[:, 2])


def test_the_attribution_of_attnlrp_is_that_of_every_color(model, clips):
    found = attribution(model, clips, method="attnlrp")
    torch.testing.assert_close(found.sum(2), explain(model, clips, method="attnlrp").pixels)


@pytest.mark.parametrize("method", ["lrp", "attnlrp"])
def test_infidelity_and_sensitivity_of_captum_take_an_attribution(model, clips, method):
    metrics = pytest.importorskip("captum.metrics", reason="captum is not installed")

    def perturb(x):
        noise = 0.05 * torch.randn_like(x)
        return noise, x - noise

    explained = partial(attribution, model, method=method)
    infidelity = metrics.infidelity(model, perturb, clips, explained(clips), n_perturb_samples=2)
    sensitivity = metrics.sensitivity_max(explained, clips, n_perturb_samples=2)
    for found in (infidelity, sensitivity):
        assert found.shape == (2,)
        assert found.isfinite().all()
        assert (found >= 0).all()
