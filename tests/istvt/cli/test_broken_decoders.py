"""Commands on a data set of which some files crash the decoder, hang it, or make it fail in an unknown way."""

import json
import re
import shutil
from pathlib import Path

import pytest
from broken_decoders import break_video
from commands import refused

from istvt.cli.main import main

KINDS = ("segfault", "hang", "exception")
CRASH = "made the decoder or the face detector crash (segmentation fault)."
STANDSTILL = "made the decoder or the face detector stand still: nothing was decoded for 60 s."
FAILURE = "failed (KeyError: 'a table of the decoder')."


@pytest.fixture
def broken_set(synthetic_set, tmp_path, broken_decoders) -> tuple[Path, list[Path]]:
    """A prepared set, in every split three videos of which break the decoder, and these videos."""
    root, broken = Path(shutil.copytree(synthetic_set, tmp_path / "videos")), []
    for split in ("train", "val", "test"):
        pairs = json.loads((root / "splits" / f"{split}.json").read_text())
        fakes = [f"{a}_{b}" for pair in pairs for a, b in (pair, pair[::-1])]
        for name, kind in zip(("blend", "flicker", "both"), KINDS, strict=True):
            path = root / "manipulated_sequences" / name / "c23" / "videos" / f"{fakes[0]}.mp4"
            broken.append(break_video(path, kind))
    return root, broken


def test_training_names_files_that_break_the_decoder_and_goes_on(broken_set, train_arguments, tmp_path, capsys):
    root, broken = broken_set
    assert main(train_arguments(root, tmp_path / "run", "--training.epochs=1")) == 0
    text = capsys.readouterr().out
    for path, why in zip(broken[:6], (CRASH, STANDSTILL, FAILURE) * 2, strict=True):  # of train and val
        assert f"{path} {why}" in text
    assert (tmp_path / "run" / "best.safetensors").is_file()


def test_evaluation_leaves_out_files_that_break_the_decoder_and_names_them(broken_set, trained_run, tmp_path):
    root, broken = broken_set
    arguments = ["evaluate", f"--checkpoint={trained_run}", f"--data.root={root}", f"--output={tmp_path}/out"]
    assert main([*arguments, "--bootstrap=20"]) == 0
    evaluation = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert evaluation["videos"]["count"] == 8 - 3
    reasons = dict(evaluation["skipped"])
    assert {reason.split(" ", 1)[1] for reason in reasons.values()} == {CRASH, STANDSTILL, FAILURE}
    assert {reason.split(" ", 1)[0] for reason in reasons.values()} == set(map(str, broken[6:]))


@pytest.mark.parametrize("detect", ["--detect", "--no-detect"])
def test_predict_scores_the_other_files_and_explain_refuses_in_a_sentence(
    broken_set, trained_run, tmp_path, capsys, detect
):
    root, broken = broken_set
    folder = tmp_path / "some"
    folder.mkdir()
    for path in broken[:3]:
        shutil.copy(path, folder / f"{path.parts[-4]}.mp4")
    shutil.copy(next((root / "original_sequences").rglob("*.mp4")), folder / "good.mp4")
    assert main(["predict", f"--checkpoint={trained_run}", str(folder), detect]) == 1
    text = capsys.readouterr().out
    assert "1 of 4 videos scored" in text
    for name, why in (("blend", CRASH), ("flicker", STANDSTILL), ("both", FAILURE)):
        assert f"not scored  {folder / name}.mp4 {why}" in text
    sentence = refused(capsys, ["explain", f"{folder}/blend.mp4", f"--checkpoint={trained_run}", detect])
    assert sentence == f"istvt: {folder / 'blend.mp4'} {CRASH}"


def test_isolated_videos_have_the_scores_of_others_and_one_that_breaks_its_decoder_is_a_sentence(
    broken_set, trained_run, tmp_path, capsys
):
    root, broken = broken_set
    good = next((root / "original_sequences").rglob("*.mp4"))
    rows = []
    for name, more in (("plain", []), ("isolated", [str(broken[0]), "--isolate"])):
        command = ["predict", str(good), *more, f"--checkpoint={trained_run}", "--no-detect"]
        assert main([*command, f"--json={tmp_path / name}"]) == (1 if more else 0)
        rows.append(json.loads((tmp_path / name).read_text()))
    assert rows[0][0] == rows[1][0]
    assert f"not scored  {broken[0]} {CRASH}" in capsys.readouterr().out


def test_synthesize_names_the_file_whose_process_is_killed_and_draws_no_half_of_it(tmp_path, capsys, monkeypatch):
    """A worker that was killed ended it with a traceback of `concurrent.futures`."""
    from dataloading.video import processes

    broken = "import os, dataloading.synthetic.dataset as module; module.write_video = lambda *_: os.abort(); "
    monkeypatch.setattr(processes, "COMMAND", processes.COMMAND.replace("from", broken + "from"))
    arguments = ["synthesize", f"{tmp_path}/new", "--identities=6", "--frames=8", "--size=32"]
    videos = re.escape(f"{tmp_path}/new/original_sequences/youtube/c23/videos/")
    sentence = refused(capsys, arguments)
    assert re.fullmatch(rf"istvt: {videos}\d{{3}}\.mp4 made the encoder crash \(aborted\)\.", sentence)
    monkeypatch.undo()
    assert main(arguments) == 0
    assert len(list(tmp_path.rglob("*.mp4"))) == 24 + 18
