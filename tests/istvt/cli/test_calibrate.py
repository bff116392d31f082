"""`istvt calibrate`: an old checkpoint gets what training gives a new one, and keeps its weights."""

import shutil
from dataclasses import replace

import pytest
import torch
from commands import refused

from istvt.cli.main import main
from istvt.model.checkpoint import load_model, read_info, save_model


@pytest.fixture
def old_run(trained_run, tmp_path):
    """The directory of a run of a version that knew no calibration."""
    run = tmp_path / "run"
    run.mkdir()
    model, info = load_model(trained_run)
    save_model(run / "best.safetensors", model, replace(info, calibration=None))
    return run


def test_an_old_checkpoint_gets_the_temperature_that_training_would_have_given_it(
    old_run, trained_run, synthetic_set, capsys
):
    video = next((synthetic_set / "original_sequences").rglob("*.mp4"))
    predict = ["predict", str(video), f"--checkpoint={old_run}", "--no-detect", "--max-error=0.45"]
    assert "holds no scores of a validation split" in refused(capsys, predict)
    assert main(["calibrate", str(old_run)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "of 2 real and 6 fake videos of the val split" in text
    assert "the 8 validation videos of this model support no error rate below" in text
    (model, found), (before, of_training) = load_model(old_run), load_model(trained_run)
    assert found.calibration.temperature == pytest.approx(of_training.calibration.temperature, rel=1e-3)
    assert found.calibration.fake == pytest.approx(of_training.calibration.fake, abs=1e-5)
    assert replace(found, calibration=None, checksum="") == replace(of_training, calibration=None, checksum="")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before.state_dict()[name]), name
    assert "support no error rate below" in refused(capsys, predict)  # eight videos
    assert "has a calibration; expected --replace, which makes it again" in refused(capsys, ["calibrate", str(old_run)])
    assert main(["calibrate", str(old_run), "--replace", "--split=train", f"--output={old_run}/other.safetensors"]) == 0
    assert len(read_info(old_run / "other.safetensors").calibration.fake) == 12
    assert len(read_info(old_run).calibration.fake) == 6


def test_a_checkpoint_without_a_data_set_or_with_one_that_moved_is_told_where_it_is(
    old_run, synthetic_set, tmp_path, capsys
):
    model, info = load_model(old_run)
    bare = tmp_path / "bare.safetensors"
    save_model(bare, model, replace(info, settings={}))
    sentence = f"checkpoint {bare}: does not say what it was trained on; expected --root, its data set"
    assert sentence in refused(capsys, ["calibrate", str(bare)])
    save_model(bare, model, replace(info, settings={**info.settings, "adaptation": {"rehearsal": 1, "old": 7}}))
    assert "settings: adaptation.old: 7; expected a list" in refused(capsys, ["calibrate", str(bare)])
    moved = {**info.settings, "data": {**info.settings["data"], "root": str(tmp_path / "gone")}}
    save_model(bare, model, replace(info, settings=moved))
    assert f"{tmp_path}/gone does not exist" in refused(capsys, ["calibrate", str(bare)])
    assert main(["calibrate", str(bare), f"--root={synthetic_set}"]) == 0
    only_real = shutil.copytree(synthetic_set, tmp_path / "real")
    for video in (only_real / "manipulated_sequences").rglob("c23/videos/*.mp4"):
        video.write_bytes(b"")
    message = refused(capsys, ["calibrate", str(bare), f"--root={only_real}", "--replace"])
    assert "2 real and 0 fake videos of the val split have a score; expected one or more of each" in message
