"""Masks through the commands: trained where videos have them, measured by `evaluate`, shown by `explain`."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import refused

import istvt
from dataloading.clips.loader import ClipLoader
from dataloading.clips.sampling import evaluation_clips
from dataloading.layouts import open_dataset
from dataloading.synthetic.rendering import write_video
from dataloading.video.decode import decode_frames
from istvt.cli.main import main
from istvt.config import ExplanationSettings
from istvt.explain_video.video import explain_video


@pytest.fixture(scope="module")
def masked_run(synthetic_set, train_arguments, tmp_path_factory) -> Path:
    """A run of one epoch with a mask head."""
    output = tmp_path_factory.mktemp("masked") / "run"
    arguments = train_arguments(synthetic_set, output, "--model.mask_head=2", "--data.manipulations=[blend]")
    assert main([*arguments, "--training.epochs=1"]) == 0
    return output


def masks_of(root: Path, kind: str = "blend") -> list[Path]:
    return sorted((root / "manipulated_sequences" / kind / "masks" / "videos").glob("*.mp4"))


def trained(train_arguments, root: Path, output: Path, *more: str) -> list[str]:
    options = ("--model.mask_head=2", "--data.manipulations=[blend]", "--training.epochs=1", "--data.train_clips=1")
    return train_arguments(root, output, *options, *more)


def test_evaluate_measures_masks_beside_masks_that_need_no_network(masked_run, synthetic_set, tmp_path, capsys):
    command = ["evaluate", f"--checkpoint={masked_run}", f"--data.root={synthetic_set}", f"--output={tmp_path}"]
    assert main([*command, "--data.manipulations=[blend]", "--bootstrap=100"]) == 0
    printed = capsys.readouterr().out
    assert "Predicted masks" in printed and "nothing forged" in printed
    masks = json.loads((tmp_path / "evaluation.json").read_text())["masks"]
    assert (masks["real"], masks["fake"], masks["unknown"], masks["forged"]) == (2, 2, 0, 2)
    model, mean, nothing = masks["rows"]
    assert mean["name"] == "mean mask of the training fakes" and nothing["iou"]["value"] == 0
    assert mean["iou"]["value"] > 0.7  # all drawn faces stand in one place: the mean mask needs no network
    assert model["model_above"] is None
    assert mean["model_above"]["value"] == pytest.approx(model["iou"]["value"] - mean["iou"]["value"])
    page = (tmp_path / "report.html").read_text()
    assert '<section id="masks"' in page and "Where it says the forgery is" in page

    # The pixels of the JSON, counted from Python.
    detector = istvt.from_pretrained(masked_run)
    dataset, index = open_dataset(synthetic_set, manipulations=["blend"])
    videos = [video for video in dataset.split_videos("test") if video.label]
    ious = []
    for video in videos:
        [batch] = ClipLoader(evaluation_clips([video], index), 8, detector.config.image_size, masks=True)
        predicted, forged = detector.segment(batch.clips)[1] >= 0.5, batch.masks == 1
        ious.append(((predicted & forged).sum() / (predicted | forged).sum()).item())
    assert model["iou"]["value"] == pytest.approx(np.mean(ious), abs=0.02)


def test_an_explanation_shows_the_mask_beside_the_heat_and_calls_it_none(masked_run, synthetic_set, tmp_path):
    video = synthetic_set / "manipulated_sequences" / "blend" / "c23" / "videos" / masks_of(synthetic_set)[0].name
    settings = ExplanationSettings(detect=False, clips_scored=1, workers=1, clips=1)
    explained = explain_video(video, masked_run, tmp_path, settings)
    [clip] = explained.clips
    assert clip.mask.shape == (6, 40, 40) and 0 <= clip.mask.min() <= clip.mask.max() <= 1
    assert "mask" not in clip.maps()
    [person] = json.loads((tmp_path / "explanation.json").read_text())["people"]
    [summary] = person["explained_clips"]
    assert summary["mask"]["forged_share"] == pytest.approx((clip.mask >= 0.5).mean())
    assert [frame["frame"] for frame in summary["mask"]["frames"]] == summary["frames"]
    for frame, mask in zip(summary["mask"]["frames"], clip.mask >= 0.5, strict=True):
        assert (frame["box"] is None) == (not mask.any())
    page = (tmp_path / "explanation.html").read_text()
    assert "predicted mask" in page and "Not heat and no explanation" in page and "Predicted mask (no heat)" in page
    assert "temporal relevance" in page  # and the heat is still there
    shown = decode_frames(tmp_path / "explanation.mp4", [0])[0]
    assert shown.shape[1] >= 5 * 288  # crop, three maps, mask


def test_the_page_on_masks_shows_what_works(masked_run, tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs" / "masks.md").read_text()
    [code] = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "segment" in code]
    shutil.copytree(masked_run, tmp_path / "runs" / "drawn")
    monkeypatch.chdir(tmp_path)
    exec(code, found := {"clips": torch.zeros(2, 6, 3, 40, 40)})
    assert found["logits"].shape == (2,) and found["masks"].shape == (2, 6, 40, 40)


def test_a_mask_head_with_a_set_without_masks_is_refused(synthetic_set, tmp_path, capsys, train_arguments):
    root = shutil.copytree(synthetic_set, tmp_path / "set")
    for mask in masks_of(root):
        mask.unlink()
    message = refused(capsys, trained(train_arguments, root, tmp_path / "run"))
    assert f"model.mask_head learns from mask videos, and not one of the 4 training fakes of {root} has one" in message
    assert not (tmp_path / "run").exists()


def test_masks_that_are_missing_or_of_another_length_are_counted_and_said(
    synthetic_set, tmp_path, capsys, train_arguments
):
    root = shutil.copytree(synthetic_set, tmp_path / "set")
    dataset, _ = open_dataset(root, manipulations=["blend"])
    missing, short, *_ = [video.mask for video in dataset.split_videos("train") if video.mask]
    missing.unlink()
    write_video(short, list(decode_frames(short, range(9))), 25)
    assert main(trained(train_arguments, root, tmp_path / "run")) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 of the 4 training fakes has no mask video and is left out of the mask's loss." in printed
    assert "1 video left out of the mask's loss:" in printed
    assert f"{short.name} has 9 frames and its video 10; expected as many." in printed
    assert (tmp_path / "run" / "best.safetensors").is_file()


def test_where_not_one_mask_can_be_used_training_stops_with_the_reason(
    synthetic_set, tmp_path, capsys, train_arguments
):
    root = shutil.copytree(synthetic_set, tmp_path / "set")
    for mask in masks_of(root):
        write_video(mask, [np.zeros((48, 64), np.uint8)] * 10, 25)
    message = refused(capsys, trained(train_arguments, root, tmp_path / "run"))
    assert f"not one mask of the fakes of {root} can be used; the first reason: " in message
    assert "is 64x48 and its video 48x48; expected the same size" in message
