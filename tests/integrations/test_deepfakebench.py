"""The DeepfakeBench detector, against a stand-in of that benchmark's interface: registries, base class, loop."""

import abc
import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional

from istvt.inference.export import example_clips
from istvt.model.architectures import ARCHITECTURES
from istvt.model.checkpoint import load_model

PLUGIN = Path(__file__).parents[2] / "integrations/deepfakebench"
METHODS = ("features", "forward", "classifier", "build_backbone", "build_loss", "get_losses", "get_train_metrics")


class Registry(dict):
    def register_module(self, module_name):
        return lambda found: self.setdefault(module_name, found)


@pytest.fixture
def detector(monkeypatch):
    """The class as the benchmark looks it up, by the name of its YAML."""
    detectors, losses = Registry(), Registry(cross_entropy=nn.CrossEntropyLoss)
    base = abc.ABCMeta("AbstractDetector", (nn.Module,), {n: abc.abstractmethod(lambda self: None) for n in METHODS})

    def metrics(label, output):
        assert not output.requires_grad
        return None, None, float((output.argmax(1) == label).float().mean()), None

    for name, values in {
        "detectors": {"DETECTOR": detectors, "__path__": []},
        "detectors.base_detector": {"AbstractDetector": base},
        "loss": {"LOSSFUNC": losses},
        "metrics": {"__path__": []},
        "metrics.base_metrics_class": {"calculate_metrics_for_train": metrics},
    }.items():
        module = types.ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    name = "detectors.istvt_detector"
    spec = importlib.util.spec_from_file_location(name, PLUGIN / "istvt_detector.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return detectors[yaml.safe_load((PLUGIN / "istvt.yaml").read_text())["model_name"]]


def settings(**changes):
    values = yaml.safe_load((PLUGIN / "istvt.yaml").read_text())
    return values | {"preset": "small", "resolution": 64} | changes


def batch_of(network, count=4):
    labels = torch.arange(count) % 2
    return {"image": example_clips(network, count), "label": labels, "mask": None, "landmark": None}


def test_a_trained_run_gives_the_benchmark_the_probabilities_of_this_project(detector, trained_run):
    expected, _ = load_model(trained_run)
    found = detector(settings(pretrained=str(trained_run), resolution=40)).eval()
    batch = batch_of(expected)
    with torch.no_grad():
        predicted, logits = found(batch, inference=True), expected(batch["image"])
        torch.testing.assert_close(predicted["prob"], torch.sigmoid(logits), rtol=0, atol=0)
        torch.testing.assert_close(torch.softmax(predicted["cls"], 1)[:, 1], predicted["prob"])
        torch.testing.assert_close(found.classifier(found.features(batch)), predicted["cls"])
    assert predicted["feat"].shape == (4, expected.config.dim)
    loss = found.get_losses(batch, predicted)["overall"]
    torch.testing.assert_close(loss, functional.binary_cross_entropy_with_logits(logits, batch["label"].float()))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_benchmarks_training_step_lowers_the_loss_of_every_architecture(detector, name):
    config = ARCHITECTURES[name].presets["small"]
    torch.manual_seed(0)
    found = detector(settings(architecture=name, clip_size=config.frames, resolution=config.image_size))
    batch = batch_of(found.backbone)
    optimizer = torch.optim.Adam(found.parameters(), lr=1e-3)
    found.train()
    losses = []
    for _ in range(3):
        torch.manual_seed(1)  # of dropout
        predicted = found(batch)
        loss = found.get_losses(batch, predicted)["overall"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert set(found.get_train_metrics(batch, predicted)) == {"acc", "auc", "eer", "ap"}
    assert predicted["cls"].shape == (4, 2)
    assert predicted["feat"].shape[0] == 4
    assert predicted["feat"].dim() == 2


def test_weights_of_the_benchmark_are_loaded_by_their_names(detector, tmp_path):
    first, second = (detector(settings()) for _ in range(2))
    torch.save(first.state_dict(), tmp_path / "ckpt_best.pth")
    second.load_state_dict(torch.load(tmp_path / "ckpt_best.pth"), strict=True)
    batch = batch_of(first.backbone, 2)
    with torch.no_grad():
        assert torch.equal(first.eval()(batch)["prob"], second.eval()(batch)["prob"])


def test_settings_that_would_feed_the_network_something_else_are_refused(detector, trained_run):
    with pytest.raises(ValueError, match="resolution 300, expected 40; mean"):
        detector(settings(pretrained=str(trained_run), resolution=300, mean=[0.485, 0.456, 0.406]))
    with pytest.raises(ValueError, match="clip_size 8, expected 6"):
        detector(settings(clip_size=8))


def test_the_settings_that_are_shipped_fit_the_network_that_they_name():
    values = yaml.safe_load((PLUGIN / "istvt.yaml").read_text())
    config = ARCHITECTURES[values["architecture"]].presets[values["preset"]]
    assert (values["clip_size"], values["resolution"]) == (config.frames, config.image_size)
