"""Whole files from which damaged ones are made: videos of many encoders and containers, sets, runs, lists, weights."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file

from dataloading.errors import InputError
from dataloading.synthetic.rendering import VideoPlan, render
from istvt import ISTVT
from istvt.cli.main import main
from istvt.comparison.adaptation import adapt
from istvt.config import ISTVTConfig
from istvt.model.authors import save_authors
from istvt.model.xception import XceptionEntryFlow
from istvt.report.evaluate_checkpoint import evaluate_checkpoint

os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder reports errors alone
FRAMES, SIDE = 16, 96
# Encoder, options and pixel format by the name of the file.
VIDEOS = {
    "h264.mp4": ("libx264", {"preset": "ultrafast", "g": "6", "bf": "2"}, "yuv420p"),
    "h264_open.mkv": ("libx264", {"x264-params": "keyint=6:min-keyint=6:open-gop=1:bframes=2"}, "yuv420p"),
    "h264.ts": ("libx264", {"preset": "ultrafast", "g": "6"}, "yuv420p"),
    "h264.flv": ("libx264", {"preset": "ultrafast", "g": "6"}, "yuv420p"),
    "hevc.mp4": ("libx265", {"x265-params": "keyint=6:min-keyint=6:log-level=none", "preset": "ultrafast"}, "yuv420p"),
    "vp8.webm": ("libvpx", {"cpu-used": "8", "g": "6"}, "yuv420p"),
    "vp9.webm": ("libvpx-vp9", {"cpu-used": "8", "deadline": "realtime", "g": "6"}, "yuv420p"),
    "av1.mkv": ("libsvtav1", {"preset": "12", "svtav1-params": "keyint=6"}, "yuv420p"),
    "mpeg4.avi": ("mpeg4", {"g": "6", "qmin": "1", "qmax": "5"}, "yuv420p"),
    "mpeg2.mpg": ("mpeg2video", {"g": "6", "qmin": "1", "qmax": "5"}, "yuv420p"),
    "mjpeg.mov": ("mjpeg", {"qmin": "1", "qmax": "5"}, "yuvj420p"),
    "ffv1.mkv": ("ffv1", {}, "yuv420p"),
}
_MODEL = {"image_size": 40, "dim": 16, "heads": 2, "mlp_dim": 24, "backbone_dims": (4, 4, 8, 8)}
MODEL = [f"--model.{name}={list(value) if isinstance(value, tuple) else value}" for name, value in _MODEL.items()]
AUTHORS = ISTVTConfig(
    image_size=28, dim=16, heads=2, head_dim=8, depth=1, mlp_dim=24, backbone_dims=(4, 4, 8, 8),
    position_embedding="frames", layer_norm_eps=1e-5, head_norm=True,
)  # fmt: skip
# Lists of data sets, each in the root of a tree with the (empty) videos that it names.
LISTS = {
    "dfdc/part/metadata.json": json.dumps(
        {
            "a.mp4": {"label": "REAL", "split": "train", "original": None},
            "b.mp4": {"label": "FAKE", "split": "train", "original": "a.mp4"},
            "c.mp4": {"label": 1, "is_fake": 1, "split": "test"},
        }
    ),
    "dfdc_test/labels.csv": "filename,label\na.mp4,0\nb.mp4,1\nc.mp4,1\n",
    "preview/dataset.json": json.dumps(
        {
            "method_A/1/1_A/a.mp4": {"label": "fake", "set": "train", "target_id": 1, "swapped_id": "2"},
            "original_videos/1/b.mp4": {"label": "real", "set": "train"},
            "original_videos/3/c.mp4": {"label": "real", "set": "test"},
        }
    ),
    "ff/splits/train.json": json.dumps([["000", "001"], "002"]),
    "ff/splits/test.json": json.dumps([["003", "004"]]),
    "celeb/List_of_testing_videos.txt": "1 Celeb-real/id0_0000.mp4\n0 Celeb-synthesis/id0_id1_0000.mp4\n",
    "deeper/lists/splits/train.txt": "000_M101.mp4\n001_M102.mp4\n",
}
LISTED = (
    "dfdc/part/a.mp4", "dfdc/part/b.mp4", "dfdc/part/c.mp4", "dfdc_test/a.mp4", "dfdc_test/b.mp4", "dfdc_test/c.mp4",
    "preview/method_A/1/1_A/a.mp4", "preview/original_videos/1/b.mp4", "preview/original_videos/3/c.mp4",
    *(f"ff/original_sequences/youtube/c23/videos/00{i}.mp4" for i in range(5)),
    "ff/manipulated_sequences/FaceSwap/c23/videos/000_001.mp4", "celeb/Celeb-real/id0_0000.mp4",
    "celeb/Celeb-real/id1_0000.mp4", "celeb/Celeb-synthesis/id0_id1_0000.mp4",
    "deeper/manipulated_videos/end_to_end/000_M101.mp4", "deeper/manipulated_videos/end_to_end/001_M102.mp4",
)  # fmt: skip


@dataclass(frozen=True)
class Seeds:
    """Whole files.

    Attributes:
        videos: by the names of `VIDEOS`.
        set: a synthetic set of 32 videos, prepared as whole pictures.
        run: a finished run on it, evaluated.
        half_run: the same with the checkpoints of its first epoch alone.
        adapted: the run, adapted to a part of the set and stopped before the validation of the only epoch; with the
            model file that it ends with, an evaluation that is finished and one that is not.
        compared: the output of a comparison of the run with itself.
        small: a prepared plain set of a video a split and class.
        crops: a crop store of it.
        lists: the trees of `LISTS`.
        weights: backbones and authors' state dicts, .pth and .safetensors.
    """

    videos: dict[str, Path]
    set: Path
    run: Path
    half_run: Path
    adapted: Path
    compared: Path
    small: Path
    crops: Path
    lists: Path
    weights: Path


def make_seeds(place: Path, root: Path | None = None, run: Path | None = None) -> Seeds:
    """Write all that is not given into `place`."""
    from video_fixtures import write_video  # only where the folder of it is on the path, which targets do without

    found = {name: place / name for name in ("set", "run", "half_run", "small", "crops", "lists", "weights")}
    if root is None:
        _istvt("synthesize", found["set"], "--identities=8", "--frames=10", "--size=48", "--workers=1")
        _istvt("prepare", found["set"], "--no-detect", "--workers=1")
    root = root or found["set"]
    copy_tree(run, found["run"]) if run else _istvt(*training(root, found["run"]))
    run = found["run"]
    _istvt("evaluate", f"--checkpoint={run}", f"--data.root={root}", "--bootstrap=9", "--data.evaluation_clips=2")
    whole = ["--bootstrap=9", "--data.evaluation_clips=2", "--perturb=jpeg:50", "--shard=1/1"]
    _istvt("evaluate", f"--checkpoint={run}", f"--data.root={root}", *whole)
    videos = sorted((root / "original_sequences").rglob("*.mp4"))[:2]
    _istvt("predict", *videos, f"--checkpoint={run}", f"--json={run}/scores.json", "--clips=1", "--shard=1/1")
    half = copy_tree(run, found["half_run"])
    for checkpoint in (half / "checkpoints").glob("epoch-0002-*"):
        shutil.rmtree(checkpoint)
    adapted = _stopped_adaptation(root, run, place / "adapted")
    compared = place / "compared"
    write(place / "compare.yaml", json.dumps(comparing(root, run)).encode())
    _istvt("compare", place / "compare.yaml", f"--output={compared}")
    (place / "videos").mkdir()
    pictures = [picture for picture, _ in render(VideoPlan(0, 0, 0, 1, 1, "original", FRAMES, SIDE))]
    videos = {name: place / "videos" / name for name in VIDEOS}
    for name, path in videos.items():
        write_video(path, pictures, *VIDEOS[name], threads=1)
    small = [
        found["small"] / split / kind / f"{split}_{kind}.mp4" for split in ("train", "val") for kind in ("real", "fake")
    ]
    for path in small:
        path.parent.mkdir(parents=True)
        os.link(videos["h264.mp4"], path)
    _istvt("prepare", found["small"], "--no-detect", "--workers=1")
    _istvt("prepare", found["small"], "--no-detect", "--workers=1", "--shard=1/1")
    _istvt(*cutting(found["small"], found["crops"]))
    _istvt(*cutting(found["small"], found["crops"]), "--shard=1/1")
    for name, content in LISTS.items():
        (found["lists"] / name).parent.mkdir(parents=True, exist_ok=True)
        (found["lists"] / name).write_text(content)
    for name in LISTED:
        (found["lists"] / name).parent.mkdir(parents=True, exist_ok=True)
        (found["lists"] / name).touch()
    found["weights"].mkdir()
    torch.manual_seed(0)
    backbone = XceptionEntryFlow(_MODEL["backbone_dims"], _MODEL["dim"]).state_dict()
    torch.save(backbone, found["weights"] / "backbone.pth")
    save_file(backbone, found["weights"] / "backbone.safetensors")
    save_authors(found["weights"] / "authors.pth", ISTVT(AUTHORS))
    sets = found["small"], found["crops"], found["lists"], found["weights"]
    return Seeds(videos, root, run, half, adapted, compared, *sets)


def _stopped_adaptation(root: Path, run: Path, output: Path) -> Path:
    """Adapt a run until its first evaluation is finished, and take away what was written after its last step."""
    evaluated: list[object] = []

    def evaluate_once(*arguments: object, **options: object) -> None:
        if evaluated:
            raise InputError("it is stopped")
        evaluated.append(evaluate_checkpoint(*arguments, **options))

    with patch.object(adapt, "evaluate_checkpoint", evaluate_once):
        _istvt(*adapting(run, root, output), status=2)
    for checkpoint in (output / "checkpoints").glob("epoch-0001-*"):
        shutil.rmtree(checkpoint)
    old, options = output / "evaluations" / "before-old", ["--data.evaluation_clips=2", "--bootstrap=9", "--shard=1/1"]
    _istvt("evaluate", f"--checkpoint={run}/best.safetensors", f"--data.root={root}", f"--output={old}", *options)
    (old / "evaluation.json.shard-1-of-1").rename(old / "evaluation.json.unfinished")
    return output


def training(root: Path, output: Path, *more: str) -> list[str]:
    """Return the command that trains the small model for two epochs."""
    arguments = ["train", f"--data.root={root}", f"--output={output}", "--training.epochs=2"]
    return [*arguments, "--training.batch_size=8", "--data.evaluation_clips=2", *MODEL, *more]


def adapting(run: Path, root: Path, output: Path, *more: str) -> list[str]:
    """Return the command that adapts a run to a part of a set in one epoch."""
    arguments = ["adapt", f"--from={run}", f"--data={root}", f"--output={output}", "--data.manipulations=[flicker]"]
    fast = ["--data.evaluation_clips=1", "--training.epochs=1", "--training.batch_size=8", "--bootstrap=9"]
    return [*arguments, *fast, "--training.tracker=none", *more]


def comparing(root: Path, run: Path) -> dict[str, Any]:
    """Return the settings of a comparison whose detectors are there already: nothing is trained."""
    return {
        "title": "one",
        "data": {"drawn": {"root": str(root), "split": "val", "manipulations": ["blend"]}},
        "detectors": {
            "a": {"checkpoints": [str(run)], "trained_on": "drawn"},
            "b": {"checkpoints": [str(run / "best.safetensors")], "trained_on": "drawn", "variant_of": "a"},
        },
        "train": ["drawn"],
        "test": ["drawn"],
        "seeds": [0],
        "perturb": ["jpeg:50"],
        "against": "a",
        "clips": 2,
        "bootstrap": 10,
    }


def cutting(root: Path, store: Path) -> list[str]:
    """Return the command that writes the crop store of a set."""
    return ["prepare", str(root), "--no-detect", f"--crops={store}", "--workers=1"]


def copy_tree(source: Path, target: Path) -> Path:
    """Copy a tree by hard links; a file that is to be another one is replaced by `write`."""
    return Path(shutil.copytree(source, target, copy_function=os.link))


def write(path: Path, data: bytes) -> Path:
    """Write a file, in the place of a link to a whole one."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path


def _istvt(*arguments: object, status: int = 0) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        found = main([str(argument) for argument in arguments])
    if found != status:
        raise RuntimeError(f"istvt {arguments[0]} ended with {found}: {errors.getvalue()}")
