"""Checkpoints: a file gives back what was saved; an invalid one is one sentence with file and field."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from dataloading.errors import InputError
from istvt import ISTVT, ISTVTConfig
from istvt.model.checkpoint import Calibration, CheckpointInfo, load_model, read_info, save_model

CONFIG = ISTVTConfig(frames=2, image_size=28, dim=12, heads=2, depth=1, mlp_dim=8, backbone_dims=(2, 3, 4, 5))
INFO = CheckpointInfo(
    CONFIG,
    decoder="pyav",
    settings={"data": {"root": "/data"}, "training": {"epochs": 3}},
    versions={"torch": "2.11"},
    metrics={"epoch": 2, "loss": 0.25, "val_auc": None},
    detectors=["yuface"],
    synthetic=False,
    calibration=Calibration(1.5, [0.1, 0.25], [0.75]),
)


def with_metadata(path, **changes):
    """A checkpoint whose metadata is changed, without a checksum."""
    save_model(path, ISTVT(CONFIG), INFO)
    metadata = {**vars(INFO), "config": CONFIG.to_dict(), "calibration": asdict(INFO.calibration)} | changes
    save_file(load_file(path), path, metadata={"istvt": json.dumps(metadata)})
    return path


@pytest.mark.parametrize(
    "config",
    [CONFIG, replace(CONFIG, position_embedding="frames", layer_norm_eps=1e-5, head_norm=True, grid=(1, 2))],
    ids=["seed", "published"],
)
def test_a_checkpoint_gives_back_what_was_saved(tmp_path, config):
    model, info = ISTVT(config), replace(INFO, config=config)
    save_model(tmp_path / "best.safetensors", model, info)
    loaded, found = load_model(tmp_path)
    assert not loaded.training
    assert loaded.config == config
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert found.checksum
    assert replace(found, checksum="") == info
    assert read_info(tmp_path) == found


@pytest.mark.parametrize(
    ("calibration", "says"),
    [
        ({"temperature": 0, "real": [0.1], "fake": [0.9]}, "temperature is 0.0; expected a number above 0"),
        ({"temperature": 1.0, "real": [], "fake": [0.9]}, "real holds []; expected scores from 0 to 1, one or more"),
        ({"temperature": 1.0, "real": [0.1], "fake": [1.5]}, "fake holds [1.5]; expected scores from 0 to 1"),
        ({"temperature": 1.0, "real": [0.1]}, "calibration.fake: missing; expected a value"),
    ],
)
def test_a_calibration_that_is_none_is_one_sentence(tmp_path, calibration, says):
    path = with_metadata(tmp_path / "best.safetensors", calibration=calibration)
    with pytest.raises(InputError) as refused:
        read_info(path)
    assert says in str(refused.value)


def test_the_loss_of_an_epoch_without_clips_is_saved_as_none(tmp_path):
    path = tmp_path / "best.safetensors"
    save_model(path, ISTVT(CONFIG), replace(INFO, metrics={"loss": float("nan"), "val_loss": 0.5}))
    assert read_info(path).metrics == {"loss": None, "val_loss": 0.5}


def test_a_checkpoint_without_the_fields_of_later_versions_has_the_seeds_values(tmp_path):
    earlier = CONFIG.to_dict()
    for name in ("position_embedding", "layer_norm_eps", "head_norm"):
        del earlier[name]
    model, info = load_model(with_metadata(tmp_path / "best.safetensors", config=earlier))
    assert info.config == CONFIG
    assert (CONFIG.position_embedding, model.norm.eps, CONFIG.head_norm) == ("all", 1e-6, False)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": 2}, "format: 2; expected 1"),
        ({"optimizer": "adam"}, "optimizer: unknown field with the value 'adam'"),
        ({"config": {**CONFIG.to_dict(), "depth": "12"}}, "config.depth: '12'; expected a whole number"),
        ({"config": {**CONFIG.to_dict(), "depth": 0}}, "config: model.depth is 0; expected 1 or more"),
        ({"config": {**CONFIG.to_dict(), "depth": 10**9}}, "config: model.depth is 1000000000; expected 1,024 or less"),
        (
            {"config": {**CONFIG.to_dict(), "mlp_dim": 10**9}},
            "config: model.mlp_dim is 1000000000; expected 1,048,576 or less",
        ),
        (
            {"config": {**CONFIG.to_dict(), "image_size": 10**18}},
            "config: model.image_size is 1000000000000000000; expected 8,192 or less",
        ),
        ({"config": {**CONFIG.to_dict(), "mlp_dim": 10**30}}, "config.mlp_dim: "),
        ({"settings": {"data": 3}}, "settings.data: 3; expected an object"),
        ({"settings": {"data": {"root": 3}}}, "settings.data.root is 3; expected text"),
        ({"metrics": {"loss": float("nan")}}, "metrics.loss: nan; expected a finite number"),
        ({"detectors": "yuface"}, "detectors: 'yuface'; expected a list"),
    ],
)
def test_metadata_that_cannot_be_used_is_one_sentence_with_file_and_field(tmp_path, changes, says):
    path = with_metadata(tmp_path / "best.safetensors", **changes)
    with pytest.raises(InputError) as error:
        load_model(path)
    message = str(error.value)
    assert message.startswith(f"checkpoint {path}: ")
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["[" * 100_000, '{"config": ' * 100_000, "{", "", "\ud800"])
def test_metadata_that_is_no_json_is_one_sentence(tmp_path, text):
    path = tmp_path / "best.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata={"istvt": text.encode("utf-8", "replace").decode()})
    with pytest.raises(InputError, match=r"checkpoint .*best\.safetensors: ") as error:
        read_info(path)
    assert len(str(error.value)) < 500
