"""`istvt prepare`: videos that give no clip, and options that are refused."""

import json
import shutil

from commands import refused
from video_fixtures import write_numbered

from istvt.cli.main import main


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
