"""Attributions have the shape of the clips, and the metrics of Captum take them as they are."""

from functools import partial

import numpy as np
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


@pytest.mark.parametrize("method", ["lrp", "attnlrp"])
def test_metrics_of_quantus_take_an_attribution(model, clips, method):
    """Complexity and robustness take clips as they are, localization the sum over frames and colors."""
    quantus = pytest.importorskip("quantus", reason="quantus is not installed")
    options = {"disable_warnings": True, "abs": True}
    batch = {"model": model, "x_batch": clips.numpy(), "y_batch": np.zeros(2, int), "channel_first": True,
             "device": "cpu"}  # fmt: skip

    def explained(model, inputs, targets, **_):
        return attribution(model, torch.as_tensor(inputs, dtype=torch.float32), method=method).numpy()

    found = attribution(model, clips, method=method).numpy()
    for metric in (quantus.Sparseness(**options), quantus.Complexity(**options)):
        assert np.isfinite(metric(**batch, a_batch=found)).all()
    change = quantus.MaxSensitivity(nr_samples=2, **options)(**batch, a_batch=found, explain_func=explained)
    assert len(change) == 2 and min(change) > 0
    # In the mask that holds what is hottest, half of the pixels, lies more than half of the relevance.
    where = np.abs(found.sum((1, 2), keepdims=True))[:, :, 0]
    mask = where >= np.median(where, axis=(2, 3), keepdims=True)
    batch["x_batch"] = clips.flatten(1, 2).numpy()
    for metric in (quantus.RelevanceRankAccuracy(**options), quantus.RelevanceMassAccuracy(**options)):
        assert min(metric(**batch, a_batch=where, s_batch=mask)) > 0.5
