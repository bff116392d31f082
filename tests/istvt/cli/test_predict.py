"""What a person types and what comes back: each command for real, and each mistake in one sentence."""

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from video_fixtures import uneven_times, write_numbered, write_sound

from dataloading.clips import loader
from dataloading.errors import InputError, writing
from dataloading.face_index import FaceEntry
from dataloading.video import decoder as decoder_choice
from dataloading.video.probe import probe
from istvt.cli import doctor
from istvt.cli.main import COMMANDS, main
from istvt.config import DataSettings
from istvt.model.checkpoint import load_model, save_model
from istvt.report.evaluate_checkpoint import evaluate_checkpoint
from istvt.run_dir import only_run


def refused(capsys, arguments: list[str]) -> str:
    """The one sentence with which a command refuses."""
    capsys.readouterr()
    assert main(arguments) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("istvt: ")
    assert "\n" not in message
    assert "Traceback" not in message
    return message


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
    assert "2 finished epochs; it is already complete" in capsys.readouterr().out
    assert (trained_run / "best.safetensors").stat().st_mtime_ns == before


def test_a_run_directory_with_other_settings_is_not_overwritten(trained_run, synthetic_set, capsys, train_arguments):
    message = refused(capsys, train_arguments(synthetic_set, trained_run, "--training.learning_rate=0.1"))
    assert "training.learning_rate 0.0005, now 0.1" in message
    assert "choose another output" in message


def test_evaluation_writes_a_report_scores_and_json(trained_run, synthetic_set, tmp_path, capsys):
    arguments = ["evaluate", f"--checkpoint={trained_run}", f"--data.root={synthetic_set}", f"--output={tmp_path}"]
    assert main([*arguments, "--bootstrap=100"]) == 0
    assert "AUC" in capsys.readouterr().out
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    assert set(figures["manipulations"]) == {"blend", "both", "flicker"}
    assert figures["videos"]["count"] == 8
    assert len(list(csv.DictReader((tmp_path / "scores.csv").open()))) == 8
    page = (tmp_path / "report.html").read_text()
    assert "says nothing about accuracy on real forgeries" in page
    assert f"<title>ISTVT on the synthetic set in {synthetic_set}, test split</title>" in page
    assert "data:image" in page  # frames of examples


def test_a_path_with_square_brackets_is_printed_as_it_is(synthetic_set, tmp_path, capsys, train_arguments):
    """They were taken for markup: a path was printed without its [bold], and [/red] was a traceback."""
    place = tmp_path / "x [bold] y[/red]z"
    root, run, why = place / "set", place / "run", place / "why"
    shutil.copytree(synthetic_set, root)
    video = sorted((root / "manipulated_sequences").rglob("*/videos/*.mp4"))[0]
    train = train_arguments(root, run, "--training.epochs=1")
    commands = [
        (["synthesize", str(root), "--identities=8", "--frames=10", "--size=48", "--workers=1"], f"{root}: "),
        (train, f"validation videos of {root}, "),
        (train, f"{run} has 1 finished epoch"),
        (train, f": {run}/best.safetensors"),
        (["evaluate", f"--checkpoint={run}", f"--data.root={root}", "--bootstrap=9"], f"report: {run}/evaluation/rep"),
        (["predict", str(video), f"--checkpoint={run}"], str(video)),
        (["explain", str(video), f"--checkpoint={run}", f"--out={why}", "--clips=1"], f"open {why}/explanation.html"),
    ]
    for arguments, said in commands:
        assert main(arguments) == 0
        printed = capsys.readouterr()
        assert "".join(said.split()) in "".join((printed.out + printed.err).split())


def test_predict_scores_the_good_files_names_the_bad_one_and_exits_1(trained_run, synthetic_set, tmp_path, capsys):
    videos = sorted((synthetic_set / "original_sequences").rglob("*.mp4"))[:2]
    for video in videos:
        shutil.copy(video, tmp_path)
    (tmp_path / "broken.mp4").write_bytes(videos[0].read_bytes()[:900])
    (tmp_path / "notes.txt").write_text("not meant as a video")
    output = tmp_path / "scores.json"
    assert main(["predict", f"--checkpoint={trained_run}", str(tmp_path), "--no-detect", f"--json={output}"]) == 1
    text = capsys.readouterr().out
    assert "2 of 3 videos scored" in text
    assert "broken.mp4" in text
    assert "has only ever seen drawn faces: its verdict says nothing about a real video." in text
    rows = json.loads(output.read_text())
    assert [row["path"].endswith("broken.mp4") for row in rows].count(True) == 1
    assert all(0 <= row["probability_fake"] <= 1 for row in rows if "verdict" in row)


@pytest.mark.parametrize("named", ["directory", "files"])
def test_a_link_to_a_file_that_is_gone_is_listed_and_does_not_stop_the_others(
    trained_run, synthetic_set, tmp_path, capsys, named
):
    """One of them in a directory refused all of it, and the good file beside it was not scored."""
    [video, *_] = sorted((synthetic_set / "original_sequences").rglob("*.mp4"))
    shutil.copy(video, tmp_path / "good.mp4")
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "nowhere.mp4")
    paths = [tmp_path] if named == "directory" else sorted(tmp_path.iterdir())
    assert main(["predict", f"--checkpoint={trained_run}", *map(str, paths)]) == 1
    text = capsys.readouterr().out
    assert f"not scored  {tmp_path / 'dangling.mp4'} does not exist; expected a video file." in text
    assert "1 of 2 videos scored" in text


def test_the_clips_that_a_damaged_video_has_lost_are_counted_in_its_verdict(trained_run, tmp_path, capsys):
    """A video damaged half way was judged by its first clips, with no word of the others."""
    video, output = write_numbered(tmp_path, "a", frames=40), tmp_path / "scores.json"
    content = bytearray(video.read_bytes())
    start = content.find(b"mdat") + 4
    end = content.find(b"moov") if content.find(b"moov") > start else len(content)
    middle = (start + end) // 2
    content[middle : end - 4] = np.random.default_rng(0).bytes(end - 4 - middle)
    video.write_bytes(content)
    command = ["predict", f"--checkpoint={trained_run}", str(video), "--no-detect", f"--json={output}"]
    assert main(command) == 0
    [row] = json.loads(output.read_text())
    scored = len(row["clip_probabilities"])
    assert 0 < scored < 8
    assert row["remark"].startswith(f"{8 - scored} of the 8 clips could not be decoded: {video} is damaged: frame ")
    assert row["remark"] in capsys.readouterr().out


def test_predict_in_three_lines_of_python_gives_the_command_lines_scores(trained_run, synthetic_set, tmp_path):
    from istvt.inference.predict import predict

    video = sorted((synthetic_set / "original_sequences").rglob("*.mp4"))[0]
    model, _ = load_model(trained_run)
    [prediction] = predict(model, [video], detect=False)

    output = tmp_path / "scores.json"
    assert main(["predict", f"--checkpoint={trained_run}", str(video), "--no-detect", f"--json={output}"]) == 0
    assert json.loads(output.read_text())[0]["probability_fake"] == pytest.approx(prediction.score.probability)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"hello " * 500), "not a video"),
    ],
)
def test_predict_on_what_is_no_video_is_one_sentence(trained_run, tmp_path, capsys, make, says):
    path = tmp_path / "clip.mp4"
    make(path)
    capsys.readouterr()
    assert main(["predict", f"--checkpoint={trained_run}", str(path), "--no-detect"]) == 1
    captured = capsys.readouterr()
    lines = [line for line in (captured.out + captured.err).splitlines() if "clip.mp4" in line]
    assert len(lines) == 1
    assert says in lines[0]


def test_a_path_that_names_no_video_at_all_is_refused_alike_whether_it_is_missing_or_empty(
    trained_run, tmp_path, capsys
):
    """A missing file was reported on standard output with status 1, an empty directory refused with status 2."""
    (tmp_path / "empty").mkdir()
    command = ["predict", f"--checkpoint={trained_run}"]
    assert "empty holds no video file" in refused(capsys, [*command, str(tmp_path / "empty")])
    assert "a.mp4 does not exist; expected a video file" in refused(capsys, [*command, str(tmp_path / "a.mp4")])


def test_the_masks_of_a_data_set_are_left_out_counted_and_said(trained_run, synthetic_set, capsys):
    """They were scored, and called real or fake, like videos of faces."""
    folder = synthetic_set / "manipulated_sequences" / "blend"
    masks = len(list((folder / "masks").rglob("*.mp4")))
    assert main(["predict", f"--checkpoint={trained_run}", str(folder), "--clips=1"]) == 0
    text = capsys.readouterr().out
    assert f"{masks} videos left out: in masks/, where data sets keep" in text
    assert "8 of 8 videos scored" in text


def test_videos_are_cropped_as_those_of_training_were_unless_that_is_overridden(
    trained_run, synthetic_set, tmp_path, capsys
):
    """A model of whole pictures was shown face boxes by default, which turned verdicts round without a word."""
    video, output = sorted((synthetic_set / "original_sequences").rglob("*.mp4"))[0], tmp_path / "scores.json"
    found = {}
    for option in ("", "--no-detect", "--detect"):
        command = ["predict", f"--checkpoint={trained_run}", str(video), f"--json={output}", *filter(None, [option])]
        assert main(command) == 0
        found[option] = json.loads(output.read_text())[0]["probability_fake"], capsys.readouterr().out
    assert found[""][0] == found["--no-detect"][0] != found["--detect"][0]
    assert "whole pictures, as this model was trained on them (--detect looks for faces)" in found[""][1]
    assert "trained on whole pictures" not in found["--no-detect"][1]
    assert "This model was trained on whole pictures, and here it is shown faces found by" in found["--detect"][1]
    assert "--detect and --no-detect are given together" in refused(capsys, [*command, "--no-detect"])


def test_options_that_exclude_each_other_are_refused_before_the_model_is_loaded(
    trained_run, synthetic_set, capsys, monkeypatch
):
    """`predict` loaded all of the model first."""
    monkeypatch.setattr("istvt.model.checkpoint.load_model", None)
    video = str(sorted((synthetic_set / "original_sequences").rglob("*.mp4"))[0])
    for command in ("predict", "explain"):
        arguments = [command, video, f"--checkpoint={trained_run}", "--no-detect"]
        assert "--detector dlib and --no-detect are given together" in refused(capsys, [*arguments, "--detector=dlib"])
        assert "--detect and --no-detect are given together" in refused(capsys, [*arguments, "--detect"])


def test_what_makes_a_verdict_doubtful_is_in_every_output_of_predict_and_of_explain(
    trained_run, tmp_path, capsys, monkeypatch
):
    """A script that read the JSON got verdicts as if they were sure, and `explain` never said that a face is rare."""
    video, output = write_numbered(tmp_path, "numbered", frames=31), tmp_path / "scores.json"
    seen = {"key_frames": np.array([0, 30]), "centers": np.full((2, 2), 40.0), "sizes": np.full(2, 30.0)}
    info = probe(video)
    face = FaceEntry(str(video), info.frames, info.fps, info.width, info.height, "yuface", **seen)
    monkeypatch.setattr("istvt.inference.predict.find_face", lambda path, finder: face)
    remark = "a face was found in 2 of the 7 frames that were looked at"
    crop = "This model was trained on whole pictures, and here it is shown faces found by"
    caveat = "has only ever seen drawn faces"

    assert main(["predict", f"--checkpoint={trained_run}", str(video), "--detect", f"--json={output}"]) == 0
    [row] = json.loads(output.read_text())
    assert row["remark"] == remark
    assert [caveat in row["notes"][0], crop in row["notes"][1]] == [True, True]
    shown = capsys.readouterr().out
    assert [shown.count(sentence) for sentence in (remark, crop, caveat)] == [1, 1, 1]

    assert main(["explain", str(video), f"--checkpoint={trained_run}", "--detect", f"--out={tmp_path}/why"]) == 0
    shown, page = capsys.readouterr().out, (tmp_path / "why" / "explanation.html").read_text()
    notes = " ".join(json.loads((tmp_path / "why" / "explanation.json").read_text())["notes"])
    for sentence in (remark, crop, caveat):
        assert [text.count(sentence) for text in (shown, page, notes)] == [1, 1, 1]


def test_an_evaluation_says_when_boxes_are_of_another_kind_than_those_of_training(
    trained_run, synthetic_set, tmp_path, capsys
):
    root = shutil.copytree(synthetic_set, tmp_path / "videos")
    boxes = {"detector": "yuface", "boxes": {"frame": [0, 9], "x": [24, 24], "y": [24, 24], "size": [24, 24]}}
    lines = [json.loads(line) | boxes for line in (root / "face_index.jsonl").read_text().splitlines()]
    (root / "face_index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["evaluate", f"--checkpoint={trained_run}", f"--data.root={root}", f"--output={tmp_path}/out"]
    assert main([*command, "--bootstrap=20"]) == 0
    said = "trained on whole pictures, and here it is shown faces found by yuface: another part of the picture"
    assert said in capsys.readouterr().out
    assert said in (tmp_path / "out" / "report.html").read_text()


def test_an_evaluation_does_not_replace_one_of_other_videos_unasked(trained_run, synthetic_set, tmp_path, capsys):
    """Every evaluation of a run went to one folder, and the last one was all that was left."""
    run = shutil.copytree(trained_run, tmp_path / "run")
    command = ["evaluate", f"--checkpoint={run}", f"--data.root={synthetic_set}", "--bootstrap=20"]
    assert main([*command, "--data.evaluation_clips=1"]) == 0
    assert main([*command, "--split=val", "--data.evaluation_clips=1"]) == 0
    of = {name: json.loads((run / name / "evaluation.json").read_text()) for name in ("evaluation", "evaluation-val")}
    assert [figures["evaluated"]["split"] for figures in of.values()] == ["test", "val"]
    (run / "evaluation").rename(run / "other")
    (run / "evaluation-val").rename(run / "evaluation")
    held = f"holds an evaluation of {synthetic_set}, c23, val split; give this one an --output"
    assert held in refused(capsys, command)
    (run / "evaluation" / "explanations").mkdir()
    assert (
        "evaluation/explanations holds explanations that are not known to be of this model and these videos"
        in refused(capsys, [*command, f"--output={run}/evaluation"])
    )
    (run / "evaluation" / "explanations").rmdir()
    assert main([*command, f"--output={run}/evaluation", "--data.evaluation_clips=1"]) == 0
    assert "val split, which this one replaces" in capsys.readouterr().out


def test_an_evaluation_of_another_model_on_the_same_videos_is_not_replaced_without_a_word(
    trained_run, synthetic_set, tmp_path, capsys
):
    """It was, and the other model's explanations stayed beside the new report as if they were of it."""
    other, output = other_model(trained_run, tmp_path), tmp_path / "out"
    command = ["evaluate", f"--data.root={synthetic_set}", f"--output={output}", "--bootstrap=20"]
    command += ["--data.evaluation_clips=1"]
    assert main([*command, f"--checkpoint={trained_run}"]) == 0
    assert main([*command, f"--checkpoint={trained_run}"]) == 0
    assert "replaces" not in capsys.readouterr().out
    assert main([*command, f"--checkpoint={other}"]) == 0
    held = f"{output} held an evaluation of {synthetic_set}, c23, test split by {trained_run}/best.safetensors"
    assert f"{held} as it was then, which this one replaces" in capsys.readouterr().out
    (output / "explanations").mkdir()
    (output / "explanations" / "faithfulness.json").write_text("{}")  # of an earlier version
    before = (output / "evaluation.json").read_bytes()
    sentence = (
        f"{output}/explanations holds explanations that are not known to be of this model and these videos; measure"
    )
    assert sentence in refused(capsys, [*command, f"--checkpoint={other}"])
    assert (output / "evaluation.json").read_bytes() == before


def test_an_evaluation_that_does_not_say_of_which_model_it_is_may_be_of_this_one(
    trained_run, synthetic_set, tmp_path, capsys
):
    command = ["evaluate", f"--data.root={synthetic_set}", f"--output={tmp_path}", f"--checkpoint={trained_run}"]
    command += ["--bootstrap=20", "--data.evaluation_clips=1"]
    assert main(command) == 0
    written = json.loads((tmp_path / "evaluation.json").read_text())
    del written["checkpoint"], written["evaluated"]["checksum"]
    (tmp_path / "evaluation.json").write_text(json.dumps(written))
    capsys.readouterr()
    assert main(command) == 0
    assert "replaces" not in capsys.readouterr().out


def test_a_run_that_was_trained_on_is_evaluated_again_in_its_own_place(trained_run, synthetic_set, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(trained_run / "best.safetensors", run)
    command = ["evaluate", f"--checkpoint={run}", f"--data.root={synthetic_set}", "--bootstrap=20"]
    command += ["--data.evaluation_clips=1"]
    assert main(command) == 0
    shutil.copy(other_model(trained_run, tmp_path), run / "best.safetensors")
    assert main(command) == 0
    assert "as it was then, which this one replaces" in capsys.readouterr().out


def other_model(run, folder):
    """A model file of other weights."""
    model, info = load_model(run)
    with torch.no_grad():
        model.head.bias += 1
    save_model(folder / "other.safetensors", model, info)
    return folder / "other.safetensors"


def test_a_face_video_without_a_face_is_named(trained_run, synthetic_set, tmp_path, capsys):
    import av
    import numpy as np

    path = tmp_path / "empty_room.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width = stream.height = 96
        for _ in range(8):
            picture = np.full((96, 96, 3), 90, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        file.mux(stream.encode())
    assert main(["predict", f"--checkpoint={trained_run}", str(path), "--detect"]) == 1
    assert "shows no face" in capsys.readouterr().out.replace("\n", " ")


def test_a_checkpoint_that_is_none_is_one_sentence(trained_run, tmp_path, capsys):
    video = str(write_numbered(tmp_path, "a", frames=8))
    assert "no such file" in refused(capsys, ["predict", f"--checkpoint={tmp_path}/absent.safetensors", video])
    states = trained_run / "checkpoints"
    for place in (states, *states.iterdir()):
        message = refused(capsys, ["predict", f"--checkpoint={place}", video])
        assert message.endswith(f"which is no model file; give the run's directory, {trained_run}")
    (tmp_path / "text.safetensors").write_text("hello")
    message = refused(capsys, ["predict", f"--checkpoint={tmp_path}/text.safetensors", video])
    assert "text.safetensors" in message
    assert "safetensors" in message
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    assert "holds no ISTVT configuration" in refused(
        capsys, ["predict", f"--checkpoint={tmp_path}/other.safetensors", video]
    )


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("[1, 2]", "[1, 2]; expected an object"),
        ('"0.3"', "'0.3'; expected an object"),
        ('{"version": 3}', "config: missing; expected a value"),
        ('{"config": null}', "config: None; expected an object"),
        ('{"config": {"layers": 3}}', "config.layers: unknown field with the value 3"),
        ('{"config": {"backbone_dims": 3}}', "config.backbone_dims: 3; expected a list"),
    ],
)
def test_a_file_with_metadata_of_the_same_name_and_another_kind_is_one_sentence(tmp_path, capsys, said, says):
    """It ended in a TypeError or a KeyError."""
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata={"istvt": said})
    message = refused(capsys, ["predict", f"--checkpoint={path}", str(write_numbered(tmp_path, "a", frames=8))])
    assert f"checkpoint {path}: " in message
    assert says in message


def test_a_checkpoint_whose_bytes_have_changed_is_refused(trained_run, tmp_path):
    """safetensors reads flipped bytes without complaint, and so did everything above it."""
    content = bytearray((trained_run / "best.safetensors").read_bytes())
    content[-100] ^= 0x40
    (tmp_path / "best.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"best.safetensors: is damaged \(its content does not have the checksum"):
        load_model(tmp_path)


def test_a_checkpoint_of_an_earlier_version_is_read(trained_run, synthetic_set, tmp_path):
    """It has no checksum and says neither how its clips were cropped nor that they were drawn."""
    model, info = load_model(trained_run)
    said = {**info.__dict__, "config": info.config.to_dict()}
    del said["detectors"], said["synthetic"]
    save_file(model.state_dict(), tmp_path / "best.safetensors", metadata={"istvt": json.dumps(said)})
    loaded, earlier = load_model(tmp_path)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert earlier.detectors == []
    assert earlier.caveats == info.caveats != []  # the data set is still where it was


def test_a_checkpoint_that_cannot_be_written_is_one_sentence(trained_run, tmp_path):
    model, info = load_model(trained_run)
    with pytest.raises(InputError, match=r"nowhere/best\.safetensors: cannot be written \("):
        save_model(tmp_path / "nowhere" / "best.safetensors", model, info)


def test_a_checkpoint_whose_tensors_are_of_another_configuration_names_them(trained_run, tmp_path, capsys):
    model, info = load_model(trained_run)
    info.config = type(info.config)(**{**info.config.to_dict(), "depth": 3})
    save_model(tmp_path / "wrong.safetensors", model, info)
    video = str(write_numbered(tmp_path, "a", frames=8))
    message = refused(capsys, ["predict", f"--checkpoint={tmp_path}/wrong.safetensors", video])
    assert "another configuration" in message
    assert "blocks.2." in message


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--data.root=/nowhere/at/all"], "/nowhere/at/all does not exist"),
        (["prepare", "/nowhere/at/all"], "/nowhere/at/all does not exist"),
        (["evaluate", "--bootstrap=0"], "--bootstrap is 0; expected at least 1"),
        (["evaluate", "--data.root=/nowhere/at/all"], "/nowhere/at/all does not exist"),
        (["predict", "a.mp4", "--json=/nowhere/scores.json"], "there is no directory /nowhere; expected a file in one"),
        (["predict", "a.mp4", "--checkpoint=/nowhere/run"], "checkpoint /nowhere/run: no such file"),
        (["explain", "a.mp4", "--checkpoint=/nowhere/run"], "checkpoint /nowhere/run: no such file"),
        (["train", "--training.warmup_epochs=30"], "training.warmup_epochs is 30 and training.epochs 20"),
        (["explain", "a.mp4", "--clips=0"], "--clips is 0; expected at least 1"),
        (["dataset", "/nowhere/at/all"], "/nowhere/at/all does not exist"),
        (["model", "--preset", "huge"], "preset is 'huge'; expected one of seed, published, small"),
        (["model", "--model.dim=15"], "model.dim is 15"),
        (["train", "--training.epochs=0"], "training.epochs is 0"),
        (["train", "--training.seed=-1"], "training.seed is -1; expected 0 or more"),
        (["train", "--device=tpu9"], "device is 'tpu9'"),
        (["predict", "a.mp4", "--device=meta"], "device is 'meta'; expected auto, cpu, cuda or cuda:N"),
        (["synthesize", "/tmp/never-made", "--identities=3"], "identities"),
        (["model", "--preset", "seed", "--backbone-weights", "/nowhere.pth"], "/nowhere.pth: no such file"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_it(capsys, arguments, says):
    assert says in refused(capsys, arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["explain", "a.mp4", "--method=shap"], "--method is 'shap'; expected one of lrp, gradient, rollout, raw"),
        (["train", "--training.epochs=many"], "--training.epochs is 'many'; expected a whole number"),
        (["train", "--training.precision=int8"], "--training.precision is 'int8'; expected one of auto, float32"),
        (["model", "--model.grid=3"], "--model.grid is '3'; expected two whole numbers such as [19,19]"),
        (["model", "--model.backbone_dims=[1]"], "--model.backbone_dims is '[1]'; expected four whole numbers"),
        (["evaluate", "--stabilizers=x"], "--stabilizers is 'x'; expected a list such as [0.01,reference]"),
        (["evaluate", "--fill=black"], "--fill is 'black'; expected one of surroundings, gray"),
        (["evaluate", "--split=all"], "--split is 'all'; expected one of train, val, test"),
        (["explain"], "arguments are required: explain.video; istvt explain --help lists the options"),
        (["train", "--data.root"], "argument --data.root: expected one argument; istvt train --help"),
        (["dataset", "here", "there"], "unrecognized arguments: there; istvt dataset --help"),
        (["trian"], "the command is 'trian'; expected one of synthesize, dataset, prepare, train,"),
        (["model", "--pre=seed"], "unrecognized arguments: --pre=seed"),
        (
            ["train", "--data=absent.yaml"],
            "--data absent.yaml: cannot be read (No such file or directory); expected a file",
        ),
        (["evaluate", "--data.train_clips=2"], "unrecognized arguments: --data.train_clips=2"),  # it did nothing
    ],
)
def test_an_option_that_is_no_option_or_has_no_such_value_is_one_sentence(capsys, arguments, says):
    """It used to be the whole usage, then a line that spoke of Python's types."""
    assert says in refused(capsys, arguments)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "settings.yaml: cannot be read (No such file or directory)"),
        ("model: [", "settings.yaml: not YAML"),
        ("3", "settings.yaml: 3; expected an object"),
        ("model:\n  depths: 3\n", "settings.yaml: model.depths is no option of this command; istvt model --help"),
        ("model:\n  depth: three\n", "settings.yaml: model.depth is 'three'; expected a whole number"),
        ("preset: huge\n", "preset is 'huge'; expected one of seed, published, small"),
        ("model:\n  depth: 2\n  depth: 3\n", "model.depth: given in line 2 and again in line 3; expected it once"),
    ],
)
def test_a_settings_file_with_a_mistake_is_one_sentence(tmp_path, capsys, content, says):
    path = tmp_path / "settings.yaml"
    if content is not None:
        path.write_text(content)
    assert says in refused(capsys, ["model", f"--config={path}"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("training: [1, 2]", "settings.yaml: training is [1, 2]; expected options of this group, each by its name"),
        ("data: 3", "settings.yaml: data is 3; expected options of this group, each by its name"),
        ("data: {root: null}", "settings.yaml: data.root is null; expected a path"),
        ("data: {workers: null}", "settings.yaml: data.workers is null; expected a whole number"),
        ("model: {backbone_dims: null}", "settings.yaml: model.backbone_dims is null; expected four whole numbers"),
        ("training: {precision: null}", "settings.yaml: training.precision is null; expected one of auto, float32"),
        ("preset: null", "settings.yaml: preset is null; expected one of seed, published, small"),
        ("device: null", "settings.yaml: device is null; expected text"),
    ],
)
def test_a_group_that_is_none_and_a_value_that_is_missing_are_one_sentence(tmp_path, capsys, content, says):
    """Each was a traceback."""
    (tmp_path / "settings.yaml").write_text(f"output: run\n{content}\n")
    assert says in refused(capsys, ["train", f"--config={tmp_path}/settings.yaml"])


@pytest.mark.parametrize("content", ["model:\n  # depth: 3\n", "model:", "model: null\npreset: small\n", "model: {}\n"])
def test_a_group_of_which_everything_is_commented_out_is_as_if_it_were_not_there(tmp_path, capsys, content):
    """It was a traceback."""
    (tmp_path / "settings.yaml").write_text(content)
    for arguments, depth in (([], 2), (["--model.depth=5"], 5)):
        assert main(["model", *arguments, f"--config={tmp_path}/settings.yaml"]) == 0
        assert f"M={depth}" in capsys.readouterr().out


def test_a_preset_in_a_settings_file_sets_the_model_and_the_command_line_wins(tmp_path, capsys):
    """The file's preset was recorded, and the model was another."""
    (tmp_path / "settings.yaml").write_text("preset: seed\nmodel:\n  depth: 3\n")
    assert main(["model", "--config", str(tmp_path / "settings.yaml")]) == 0
    assert "C=728, N=8, D=91, M=3" in capsys.readouterr().out
    assert main(["model", "--config", str(tmp_path / "settings.yaml"), "--preset=small"]) == 0
    assert "C=64, N=4, D=16, M=3" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--videos-per-identity", "--videos_per_identity"])
def test_options_of_a_command_have_dashes_and_may_have_underscores(tmp_path, capsys, option):
    assert "videos_per_identity is 0" in refused(capsys, ["synthesize", str(tmp_path / "set"), f"{option}=0"])


def test_every_command_explains_itself_in_its_help(capsys):
    for name, (command, _) in COMMANDS.items():
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        usage, _, rest = capsys.readouterr().out.partition("\n\n")
        assert usage.startswith(f"usage: istvt {name}")
        assert "\n" not in usage
        assert rest.startswith(command.run.__doc__.splitlines()[0])
        assert "<class" not in rest


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "explain"])
def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(
    trained_run, synthetic_set, tmp_path, capsys, monkeypatch, train_arguments, command
):
    """What was computed for hours used to be lost with a traceback when it was to be written."""
    from istvt.evaluation import evaluate as evaluation
    from istvt.explain_video import video
    from istvt.inference import predict as prediction
    from istvt.training import trainer as training

    for module, work in (
        (training.Trainer, "train_epoch"),
        (evaluation, "score_clips"),
        (prediction, "score_video"),
        (video, "score_video"),
    ):
        monkeypatch.setattr(module, work, lambda *_, **__: pytest.fail("the work has begun"))
    (tmp_path / "file").write_text("in the way")
    place = tmp_path / "file" / "run"
    [clip, *_] = sorted((synthetic_set / "original_sequences").rglob("*.mp4"))
    arguments = {
        "train": train_arguments(synthetic_set, place),
        "evaluate": ["evaluate", f"--checkpoint={trained_run}", f"--data.root={synthetic_set}", f"--output={place}"],
        "predict": ["predict", str(clip), f"--checkpoint={trained_run}", "--no-detect", f"--json={place}/scores.json"],
        "explain": ["explain", str(clip), f"--checkpoint={trained_run}", "--no-detect", f"--out={place}"],
    }[command]
    sentence = f"{place} cannot be made (Not a directory); expected a directory to write in"
    if command == "predict":  # it makes no directory: for a file that is named wrongly, one in / may be the result
        sentence = f"there is no directory {place}; expected a file in one"
    assert sentence in refused(capsys, arguments)


def test_an_evaluation_of_damaged_videos_alone_names_the_set_and_the_first_reason(
    trained_run, synthetic_set, tmp_path, capsys
):
    root = tmp_path / "damaged"
    shutil.copytree(synthetic_set, root)
    for video in root.rglob("c23/videos/*.mp4"):
        video.write_bytes(video.read_bytes()[:900])
    command = ["evaluate", f"--checkpoint={trained_run}", f"--data.root={root}", f"--output={tmp_path}/out"]
    message = refused(capsys, command)
    assert f"{root}: no video of the test split could be scored; the first reason: {root}" in message
    assert "cut short" in message


def test_a_history_that_is_none_is_one_sentence(trained_run, synthetic_set, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(trained_run / "best.safetensors", run)
    (run / "history.csv").write_text("epoch,train_loss\n1,low\n")
    command = ["evaluate", f"--checkpoint={run}", f"--data.root={synthetic_set}", "--bootstrap=10"]
    assert "history.csv: line 2: train_loss: 'low'; expected a number" in refused(capsys, command)


def test_what_explanations_are_measured_with_is_looked_at_before_the_evaluation_and_not_ignored_without_explain(
    trained_run, synthetic_set, capsys
):
    command = ["evaluate", f"--checkpoint={trained_run}", f"--data.root={synthetic_set}"]
    assert "stabilizer is 'a'; expected" in refused(capsys, [*command, "--explain", "--stabilizers=[0.1,a]"])
    for twice in ("[0.1,1e-1]", '[0.1,"0.1"]'):
        message = refused(capsys, [*command, "--explain", f"--stabilizers={twice}"])
        assert "stabilizers holds 0.1 twice; expected each once" in message
    assert "stabilizers is []; expected a list" in refused(capsys, [*command, "--explain", "--stabilizers=[]"])
    assert "--stabilizers is given without --explain" in refused(capsys, [*command, "--stabilizers=[0.1]"])
    assert "--fill is given without --explain" in refused(capsys, [*command, "--fill=surroundings"])


def test_a_full_disk_is_one_sentence_and_a_fault_of_the_program_is_not(capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_while_writing(*_):
        with writing(Path("scores.csv")):
            full()

    def broken(*_):
        raise OSError("a fault")

    for run in (full, broken):
        monkeypatch.setattr(doctor, "run", run)
        if run is full:
            assert "No space left on device" in refused(capsys, ["doctor"])
            monkeypatch.setattr(doctor, "run", full_while_writing)
            assert "scores.csv: does not fit on the disk (No space left on device)" in refused(capsys, ["doctor"])
    with pytest.raises(OSError, match="a fault"):
        main(["doctor"])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.\nGPU 0 has ..."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
)
def test_memory_that_does_not_suffice_is_one_sentence_that_says_what_needs_less(error, capsys, monkeypatch):
    def run(*_):
        raise error

    monkeypatch.setattr(doctor, "run", run)
    said = refused(capsys, ["doctor"])
    assert said.count("memory does not suffice (") == 1
    assert "GPU 0 has" not in said
    assert "a smaller --batch-size needs less" in said


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


def test_a_video_too_short_for_a_clip_is_named_once_and_makes_prepare_exit_1(
    synthetic_set, tmp_path, capsys, train_arguments
):
    root = shutil.copytree(synthetic_set, tmp_path / "short")
    [first, *_] = json.loads((root / "splits" / "train.json").read_text())
    victim = root / f"original_sequences/youtube/c23/videos/{first[0]}.mp4"
    shutil.move(write_numbered(tmp_path, "blink", frames=1), victim)
    (root / "face_index.jsonl").unlink()
    assert main(["prepare", str(root), "--no-detect", "--workers=1"]) == 1
    assert f"{victim}: has 1 frame; a clip needs 6." in capsys.readouterr().err
    assert main(train_arguments(root, tmp_path / "run", "--training.epochs=1")) == 0
    text = capsys.readouterr().out
    assert text.count(f"{first[0]}.mp4") == 1
    assert f"no clip from 1 video:\n  {victim}: has 1 frame; a clip needs 6.\n" in text


def test_wrong_options_of_prepare_are_refused_before_anything_is_printed(synthetic_set, capsys):
    assert "every is 0" in refused(capsys, ["prepare", str(synthetic_set), "--every=0"])
    assert "--replace does that" in refused(capsys, ["prepare", str(synthetic_set)])
    assert main(["prepare", str(synthetic_set), "--detector=retina", "--replace"]) == 2
    assert capsys.readouterr().out == ""


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


def test_the_published_cost_tables_are_printed(capsys):
    assert main(["model", "--preset", "seed"]) == 0
    assert "235.757" in capsys.readouterr().out
    assert main(["model", "--preset", "published", "--model.frames", "16"]) == 0
    assert "576.399" in capsys.readouterr().out


def test_settings_come_from_a_file_and_the_command_line_wins(tmp_path, capsys):
    (tmp_path / "settings.yaml").write_text("model:\n  depth: 4\n  dim: 96\n")
    assert main(["model", "--config", str(tmp_path / "settings.yaml"), "--model.depth", "6"]) == 0
    text = capsys.readouterr().out
    assert "C=96" in text
    assert "M=6" in text


def test_the_command_works_as_a_process_and_doctor_lists_what_is_here():
    done = subprocess.run(
        [sys.executable, "-m", "istvt", "doctor"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "absent   xformers" not in done.stdout  # it is installed, and of no use without a GPU
    for part in ("torch", "GPU", "kernels", "Triton", "xformers", "DALI", "PyAV", "face detector"):
        assert part in done.stdout


def test_doctor_warns_when_kernels_is_another_distributions(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("")
    code = "import kernels; from istvt.cli.doctor import _kernels; print(_kernels())"
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=tmp_path, env={"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert "state='warning'" in done.stdout
    assert "another distribution" in done.stdout


def test_doctor_says_what_is_wrong_where_triton_is_not_installed(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == "kernels"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert main(["doctor"]) == 1
    assert "kernels         cannot be imported (import of triton halted" in capsys.readouterr().out


def test_doctor_calls_usable_only_what_it_has_tried(monkeypatch, capsys, tmp_path):
    """A yuface, a DALI and an xformers whose import fails were all "ok", because their packages were installed."""
    for name in ("yuface", "nvidia.dali"):
        for loaded in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
            monkeypatch.delitem(sys.modules, loaded)
    (tmp_path / "yuface.py").write_text("raise RuntimeError('built for another numpy')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "opencv is used" in text
    assert "warning  face detector   The face detector yuface cannot be used (yuface: built for another numpy)" in text
    assert "PyAV            cannot be imported (" in text
    assert "is installed, but NVIDIA DALI, which crops and augments clips, cannot be imported" in text


def test_doctor_promises_on_a_gpu_only_what_works_there(monkeypatch):
    """NVDEC and xformers were promised wherever there was a GPU and the package."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(decoder_choice, "has_nvdec", lambda: False)
    monkeypatch.setitem(sys.modules, "xformers", None)
    [_, decoding] = doctor._dali()
    assert decoding.detail.startswith("PyAV; NVIDIA's video decoder (libnvcuvid.so.1) is not installed")
    assert doctor._xformers().state in ("missing", "unusable")


def test_help_teaches_without_importing_torch():
    code = "import sys; from istvt.cli.main import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--training.learning_rate" in done.stdout
    assert "warm-up" in done.stdout


def test_explain_writes_videos_strips_json_and_a_page_that_opens_from_disk(trained_run, synthetic_set, tmp_path):
    video = sorted((synthetic_set / "manipulated_sequences").rglob("*/videos/*.mp4"))[0]
    assert main(["explain", str(video), f"--checkpoint={trained_run}", f"--output={tmp_path}"]) == 0
    assert json.loads((tmp_path / "explanation.json").read_text())["settings"]["detector"] == "none"  # as in training
    written = {path.name for path in tmp_path.iterdir()}
    assert {"explanation.html", "explanation.json", "explanation.mp4", "in_frame.mp4", "clip_1.png"} <= written
    assert "has only ever seen drawn faces" in (tmp_path / "explanation.html").read_text()


def test_explain_says_which_clips_were_left_out_and_that_there_are_fewer_than_asked_for(
    trained_run, synthetic_set, tmp_path, capsys, monkeypatch
):
    """Only the page knew it."""

    def read(path, clips, *arguments):
        samples = zip(clips, whole(path, clips, *arguments), strict=True)
        return ["it is damaged" if clip.frames[0] == 3 else sample for clip, sample in samples]

    whole = loader.read_decoded
    monkeypatch.setattr(loader, "read_decoded", read)
    video = sorted((synthetic_set / "manipulated_sequences").rglob("*/videos/*.mp4"))[0]
    capsys.readouterr()
    assert main(["explain", str(video), f"--checkpoint={trained_run}", "--no-detect", f"--out={tmp_path}"]) == 0
    fewer, heading, skipped, opened = capsys.readouterr().out.splitlines()[-4:]
    assert fewer.startswith("clips explained: 1 of 3 asked for; the 4 that were scored hold no more")
    assert heading == "clips that could not be decoded: 1"
    assert skipped == "  from frame 3: it is damaged"
    assert opened.startswith("open ")


@pytest.mark.parametrize("command", ["explain", "predict"])
def test_a_file_name_of_other_bytes_than_text_is_one_sentence_that_shows_them(tmp_path, capsys, command):
    """It was a sentence of Python's codec."""
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    Path(name).write_bytes(b"")
    assert f"{tmp_path}/caf\\xe9.mp4: is not UTF-8; expected a name in UTF-8" in refused(capsys, [command, name])


def test_explain_takes_the_rules_of_the_method_and_refuses_a_wrong_one(trained_run, synthetic_set, tmp_path, capsys):
    video = sorted((synthetic_set / "manipulated_sequences").rglob("*/videos/*.mp4"))[0]
    command = ["explain", str(video), f"--checkpoint={trained_run}", "--no-detect", f"--out={tmp_path}", "--clips=1"]
    assert main([*command, "--stabilizer=0.1", "--clamp=before_mean", "--order=literal"]) == 0
    settings = json.loads((tmp_path / "explanation.json").read_text())["settings"]
    assert (settings["stabilizer"], settings["clamp"], settings["order"]) == (0.1, "before_mean", "literal")
    sentence = "stabilizer is 'small'; expected \"reference\" or a number above 0, such as 0.01"
    assert sentence in refused(capsys, [*command, "--stabilizer=small"])
    sentence = "stabilizer is 0.3, but method rollout reads none; expected method lrp"
    assert sentence in refused(capsys, [*command, "--method=rollout", "--stabilizer=0.3"])


@pytest.mark.parametrize(
    ("codec", "size", "options"),
    [
        ("h264", (128, 96), {"timestamps": uneven_times(12)}),  # variable frame rate
        ("h264", (128, 96), {"pixel_format": "yuv420p10le"}),  # 10 bit
        ("h264", (128, 96), {"rotation": 90}),  # a phone held upright
        ("h264", (131, 97), {"pixel_format": "yuv444p"}),  # odd sizes
    ],
)
def test_predict_takes_unusual_videos(trained_run, tmp_path, codec, size, options):
    path = write_numbered(tmp_path, "unusual", codec, 12, *size, **options)
    assert main(["predict", f"--checkpoint={trained_run}", str(path), "--no-detect"]) == 0


def test_predict_says_that_a_file_has_sound_only(trained_run, tmp_path, capsys):
    write_sound(tmp_path / "song.mp4")
    assert main(["predict", f"--checkpoint={trained_run}", str(tmp_path / "song.mp4"), "--no-detect"]) == 1
    assert "song.mp4 is not a video: it has sound only." in capsys.readouterr().out


def test_predict_names_a_video_shorter_than_a_clip(trained_run, tmp_path, capsys):
    write_numbered(tmp_path, "blink", frames=3)
    assert main(["predict", f"--checkpoint={trained_run}", str(tmp_path / "blink.mp4"), "--no-detect"]) == 1
    assert "blink.mp4: has 3 frames; a clip needs 6." in capsys.readouterr().out


def test_evaluate_explain_measures_every_method_against_random_order(trained_run, synthetic_set, tmp_path, capsys):
    arguments = ["evaluate", f"--checkpoint={trained_run}", f"--data.root={synthetic_set}", f"--output={tmp_path}"]
    arguments += ["--explain", "--stabilizers=[0.01,reference]", "--data.evaluation_clips=1", "--bootstrap=50"]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    for method in ("lrp", "raw", "rollout", "gradient", "gradcam", "random", "reference"):
        assert method in table
    assert {path.suffix for path in (tmp_path / "explanations").iterdir()} == {".json", ".md", ".svg"}
    page = (tmp_path / "report.html").read_text()  # it said nothing of them
    assert '<a href="#explanations">' in page
    section = page.split('<section id="explanations"')[1].split("</section>")[0]
    assert section.count('<th scope="row"') == 7
    assert "data:image/svg+xml;base64," in section

    # Without --explain the report lost its section, and the explanations stayed beside it, unlinked.
    assert main([*arguments[:4], "--data.evaluation_clips=1", "--bootstrap=50"]) == 0
    again = (tmp_path / "report.html").read_text()
    assert '<a href="#explanations">' in again
    assert again.split('<section id="explanations"')[1].split("</section>")[0] == section
    other = f"--checkpoint={other_model(trained_run, tmp_path)}"
    assert "explanations holds explanations that are not known to be of this model" in refused(
        capsys, [*arguments[:1], other, *arguments[2:4]]
    )
    outdated = evaluate_checkpoint(tmp_path / "other.safetensors", DataSettings(root=synthetic_set), tmp_path)
    page = outdated.report.read_text()  # Python does as it is told, and says it
    assert "explanations holds explanations that are not known to be of this model and these videos" in page
    assert page.count('<section id="explanations"') == 1
    assert section not in page
