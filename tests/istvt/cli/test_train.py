"""`istvt train`: the files of a run, resuming, and refused runs."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import refused

from istvt.cli.main import main
from istvt.model.checkpoint import load_model
from istvt.run_dir import only_run


def test_a_training_run_leaves_a_checkpoint_that_says_what_it_is(trained_run):
    model, info = load_model(trained_run)
    assert info.config == model.config
    assert info.decoder == "pyav"
    assert info.settings["training"]["batch_size"] == 8
    assert info.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert info.metrics["epoch"] in (1, 2)
    assert (info.detectors, info.synthetic) == (["none"], True)


def test_a_training_run_writes_every_epoch_to_csv_and_tensorboard(trained_run):
    rows = list(csv.DictReader((trained_run / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {"train_loss", "val_loss", "val_accuracy", "val_precision", "val_recall", "val_f1", "val_auc"} <= set(
        rows[0]
    )
    assert list((trained_run / "tensorboard").glob("events*"))


def test_the_best_epoch_is_the_one_with_the_highest_validation_auc(trained_run):
    rows = list(csv.DictReader((trained_run / "history.csv").open()))
    _, info = load_model(trained_run)
    assert info.metrics["val_auc"] == pytest.approx(max(float(row["val_auc"]) for row in rows))


def test_the_same_command_again_uses_what_is_there(trained_run, synthetic_set, capsys, train_arguments):
    before = (trained_run / "best.safetensors").stat().st_mtime_ns
    assert main(train_arguments(synthetic_set, trained_run)) == 0
    assert "2 finished epochs; it is complete" in capsys.readouterr().out
    assert (trained_run / "best.safetensors").stat().st_mtime_ns == before


def test_a_run_directory_with_other_settings_is_not_overwritten(trained_run, synthetic_set, capsys, train_arguments):
    message = refused(capsys, train_arguments(synthetic_set, trained_run, "--training.learning_rate=0.1"))
    assert "training.learning_rate 0.0005, now 0.1" in message
    assert "choose another output" in message


def test_a_setting_that_an_earlier_version_did_not_have_counts_as_its_default(
    trained_run, synthetic_set, tmp_path, capsys, train_arguments
):
    """A run of `published` from before its LayerNorm eps was a setting went on with another network."""
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    for path in run.glob("checkpoints/*/run.json"):
        values = json.loads(path.read_text())
        del values["settings"]["model"]["layer_norm_eps"]
        path.write_text(json.dumps(values))
    assert main(train_arguments(synthetic_set, run)) == 0
    assert "it is complete" in capsys.readouterr().out
    message = refused(capsys, train_arguments(synthetic_set, run, "--model.layer_norm_eps=1e-5"))
    assert "model.layer_norm_eps 1e-06, now 1e-05" in message


def test_a_feature_grid_that_the_clips_do_not_give_is_refused_before_training(
    synthetic_set, tmp_path, capsys, train_arguments
):
    message = refused(capsys, train_arguments(synthetic_set, tmp_path / "run", "--model.grid=[5,5]"))
    assert "model.grid is (5, 5), but clips of model.image_size 40 give 3x3 feature cells" in message


def test_training_without_a_face_index_says_what_to_run(synthetic_set, tmp_path, capsys, train_arguments):
    root = tmp_path / "unprepared"
    shutil.copytree(synthetic_set, root)
    (root / "face_index.jsonl").unlink()
    assert "istvt prepare" in refused(capsys, train_arguments(root, tmp_path / "run"))


def test_a_validation_split_of_one_class_is_said_and_does_not_give_nan(
    synthetic_set, tmp_path, capsys, train_arguments
):
    root = tmp_path / "one_class"
    shutil.copytree(synthetic_set, root)
    pairs = json.loads((root / "splits" / "val.json").read_text())
    for pair in pairs:
        for name in pair:
            (root / f"original_sequences/youtube/c23/videos/{name}.mp4").unlink()
    assert main(train_arguments(root, tmp_path / "run", "--training.epochs=1")) == 0
    text = capsys.readouterr().out.replace("\n", " ")
    assert "holds only fake videos: AUC is undefined" in text
    assert "AUC undefined" in text
    assert "nan" not in (tmp_path / "run" / "history.csv").read_text().lower()


def test_a_damaged_video_is_named_and_never_stops_training(synthetic_set, tmp_path, capsys, train_arguments):
    root = tmp_path / "damaged"
    shutil.copytree(synthetic_set, root)
    [first, *_] = json.loads((root / "splits" / "train.json").read_text())
    victim = root / f"original_sequences/youtube/c23/videos/{first[0]}.mp4"
    data = bytearray(victim.read_bytes())
    start = data.find(b"mdat") + 8
    data[start + 400 :] = bytes(len(data) - start - 400) if data.find(b"moov") < start else data[start + 400 :]
    victim.write_bytes(bytes(data[: len(data) // 2]))
    assert main(train_arguments(root, tmp_path / "run", "--training.epochs=1")) == 0
    text = capsys.readouterr().out
    assert text.count(f"{first[0]}.mp4") == 1  # it was named three times
    assert f"{first[0]}.mp4" in text.split("video skipped:")[1]


def test_a_second_run_into_one_directory_is_refused_for_as_long_as_the_first_one_lives(
    synthetic_set, tmp_path, capsys, train_arguments
):
    """Two runs used to overwrite each other's checkpoints."""
    code = "import sys, time; from pathlib import Path; from istvt.run_dir import only_run\n"
    code += "with only_run(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    root = Path(__file__).parents[3]
    first = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "held\n"
        message = refused(capsys, train_arguments(synthetic_set, tmp_path))
        assert f"another run (process {first.pid}) is writing to {tmp_path}" in message
    finally:
        first.kill()  # as nothing can be tidied up after
        first.communicate()
    with only_run(tmp_path):
        pass
