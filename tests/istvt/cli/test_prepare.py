"""`istvt prepare`: videos that give no clip, options that are refused, and crop stores in place of data sets."""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from commands import refused
from video_fixtures import write_numbered

from dataloading.clips.sampling import evaluation_clips
from dataloading.layouts import open_dataset
from istvt.cli.main import main
from istvt.explain.faithfulness.localization import mask_of


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


# Crop stores


@pytest.fixture(scope="module")
def crop_store(synthetic_set, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("crops") / "store"
    assert main(["prepare", str(synthetic_set), "--no-detect", "--workers=1", f"--crops={target}"]) == 0
    return target


def test_training_and_evaluation_from_a_crop_store_are_those_of_the_data_set(
    synthetic_set, crop_store, trained_run, tmp_path, train_arguments, capsys
):
    assert main(train_arguments(crop_store, tmp_path / "run")) == 0
    assert "These are lossless FFV1 crops of the first 270 frames of" in "".join(capsys.readouterr().out)
    histories = [list(csv.DictReader((run / "history.csv").open())) for run in (trained_run, tmp_path / "run")]
    for row in (*histories[0], *histories[1]):
        del row["seconds"], row["clips_per_second"]
    assert histories[0] == histories[1]
    scores = []
    for root in (synthetic_set, crop_store):
        output = tmp_path / root.name
        arguments = ["evaluate", f"--checkpoint={trained_run}", f"--data.root={root}", f"--out={output}"]
        assert main([*arguments, "--bootstrap=9"]) == 0
        scores.append([line.rpartition(",")[0] for line in (output / "scores.csv").read_text().splitlines()])
    assert scores[0] == scores[1]


def test_masks_lie_in_the_crops_of_a_store_as_in_those_of_the_data_set(synthetic_set, crop_store):
    masks = []
    for root in (synthetic_set, crop_store):
        dataset, index = open_dataset(root)
        [clip] = evaluation_clips([next(video for video in dataset.videos if video.mask)], index, clips_per_video=1)
        masks.append(mask_of(clip, 40))
    assert masks[0].any()
    np.testing.assert_array_equal(*masks)


def test_prediction_and_explanation_take_files_of_a_crop_store(synthetic_set, crop_store, trained_run, tmp_path):
    def predictions(place: Path) -> dict[str, float]:
        target = tmp_path / "scores.json"
        assert main(["predict", str(place), f"--checkpoint={trained_run}", f"--json={target}"]) == 0
        return {Path(row["path"]).stem: row["probability_fake"] for row in json.loads(target.read_text())}

    parts = [place / "original_sequences" for place in (synthetic_set, crop_store / "videos")]
    expected, found = map(predictions, parts)
    assert len(expected) == 8
    assert found == expected
    video = next(parts[1].rglob("*.mkv"))
    assert main(["explain", str(video), f"--checkpoint={trained_run}", f"--out={tmp_path / 'why'}", "--clips=1"]) == 0
    assert (tmp_path / "why" / "explanation.html").is_file()


def test_verify_reads_a_crop_store_and_names_what_is_not_as_it_was_written(crop_store, synthetic_set, tmp_path, capsys):
    target = shutil.copytree(crop_store, tmp_path / "store")
    assert main(["dataset", str(target), "--verify"]) == 0
    assert "all 88 files are what was written" in capsys.readouterr().out
    victim = next((target / "masks").rglob("*.mp4"))
    victim.write_bytes(victim.read_bytes()[:-1])
    assert main(["dataset", str(target), "--verify"]) == 1
    printed = capsys.readouterr().out
    assert f"{victim}: is not what was written" in printed
    assert "1 file of 88 differ" in printed
    assert main(["prepare", str(target), "--no-detect"]) == 0  # it is prepared
    assert "is a crop store, cut for the boxes that it has" in refused(capsys, ["prepare", str(target), "--replace"])
    assert "--verify checks a crop store" in refused(capsys, ["dataset", str(synthetic_set), "--verify"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--quality=90"], "--quality is given without --crops"),
        (["--crops-format=jpeg"], "--crops-format is given without --crops"),
        (["--crops=DIR", "--quality=90"], "--quality is given with lossless crops"),
        (["--crops=DIR", "--crops-format=jpeg", "--quality=0"], "quality is 0; expected 1 to 100"),
        (["--crops=DIR", "--crops-frames=-1"], "--crops-frames is -1; expected 0 or more"),
        (["--crops=SET/crops"], "is in the data set"),
        (["--crops=SET/synthetic.json"], "expected a directory"),
    ],
)
def test_wrong_options_of_crops_are_refused_before_anything_is_read(synthetic_set, tmp_path, capsys, options, says):
    options = [option.replace("DIR", str(tmp_path / "crops")).replace("SET", str(synthetic_set)) for option in options]
    assert says in refused(capsys, ["prepare", str(synthetic_set), "--no-detect", *options])
    assert not (tmp_path / "crops").exists()


def test_a_data_set_on_a_read_only_disk_is_prepared_into_its_crop_store(synthetic_set, tmp_path, capsys):
    root = shutil.copytree(synthetic_set, tmp_path / "set")
    (root / "face_index.jsonl").unlink()
    mounted = subprocess.run(["mount", "--bind", "-o", "ro", root, root], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a read-only disk cannot be mounted here")
    subprocess.run(["mount", "-o", "remount,ro,bind", root], check=True)
    try:
        assert "cannot be written" in refused(capsys, ["prepare", str(root), "--no-detect"])
        arguments = ["prepare", str(root), "--no-detect", "--workers=1", f"--crops={tmp_path / 'store'}"]
        for cut in (32, 0):
            assert main(arguments) == 0
            assert f"{cut} cut now" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", root], check=True)
    assert not (root / "face_index.jsonl").exists()
    assert main(["dataset", str(tmp_path / "store"), "--verify"]) == 0
