"""Scoring of clips: the device of the clips, the mode of the model."""

from types import SimpleNamespace

import pytest
import torch

from istvt import ISTVT, ISTVTConfig
from istvt.inference import score as scoring


class ModelOnTheSecondGPU:
    """A model with parameters on the second GPU; without a clip nothing else is used of it."""

    config = SimpleNamespace(image_size=40)

    def parameters(self):
        yield SimpleNamespace(device=torch.device("cuda", 1))

    def modules(self):
        return []

    def eval(self):
        return self


def test_clips_are_loaded_onto_the_very_gpu_that_holds_the_model(monkeypatch):
    """Once "cuda:1" became "cuda", the first GPU, and the model met clips of another device."""
    devices = []

    class Loader:
        decoder, skipped = "pyav", ()

        def __init__(self, *arguments, device, **named):
            devices.append(torch.device(device))

        def __iter__(self):
            return iter(())

    monkeypatch.setattr(scoring, "ClipLoader", Loader)
    scoring.score_clips(ModelOnTheSecondGPU(), [])
    assert devices == [torch.device("cuda", 1)]


def test_scoring_leaves_every_part_of_the_model_in_its_own_mode_whatever_happens(monkeypatch):
    """Once a frozen backbone was put into training by it, and an error left the model in evaluation mode."""

    def fails(*_):
        raise RuntimeError("the GPU is gone")

    monkeypatch.setattr(scoring, "ClipLoader", lambda *_, **__: map(fails, [None]))
    model = ISTVT(ISTVTConfig(image_size=40, dim=16, heads=2, depth=1, mlp_dim=24, backbone_dims=(4, 4, 8, 8)))
    model.train().backbone.eval()
    with pytest.raises(RuntimeError, match="the GPU is gone"):
        scoring.score_clips(model, [])
    assert [name for name, part in model.named_children() if not part.training] == ["backbone"]
    assert model.training
