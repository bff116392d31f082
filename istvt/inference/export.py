"""Export to other runtimes: a `torch.export` program (.pt2) or ONNX, with its preprocessing in the file's metadata.

    input   clips  float32 [clips, T, 3, S, S], RGB in [-1, 1], any number of clips
    output  logits float32 [clips], positive = fake

The network is traced on its plain PyTorch path, in float32 on a CPU; nothing in it is code of this project. A file
stays only if its own logits, read back by the other runtime, are those of the model: to 1e-4, and to a hundredth of
what they differ among themselves.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dataloading.dataset import FACE
from dataloading.errors import InputError
from dataloading.face_index import LANDMARKS, MARGIN, PARTS, WHOLE_FRAME, crop_name
from dataloading.io import replacing
from istvt.config import __version__
from istvt.model.checkpoint import CheckpointInfo, load_model
from istvt.model.detector import Detector
from istvt.run_dir import model_file

FORMATS = {".pt2": "torch.export program", ".onnx": "ONNX"}
METADATA_KEY = "istvt"  # of ONNX's metadata_props
METADATA_FILE = "istvt.json"  # of a program's extra files
OPSET = 23  # the first with an Attention operator
TOLERANCE = 1e-4  # of logits
SHARE_OF_SPREAD = 0.01  # the most, too, that they may differ: logits of a hardly trained model are all alike
LARGEST_ONNX = (1 << 31) - (1 << 22)  # bytes of weights: a protocol buffer ends at 2 GiB
_TRACED_CLIPS = 2  # of one clip the number would become a constant
_CHECKED_CLIPS = (1, 2, 3)

Program = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exported:
    """A written file.

    Attributes:
        path: the file.
        format: what it is, in words.
        difference: the largest difference of its logits from those of the model, over `clips` clips.
        spread: the difference between the largest and the smallest of these logits.
        clips: how many were compared, in batches of 1, 2 and 3.
        metadata: what the file says of its input, its output and the checkpoint.
    """

    path: Path
    format: str
    difference: float
    spread: float
    clips: int
    metadata: dict[str, Any]


def export(
    checkpoint: str | Path, output: str | Path, advance: Callable[[str, int, int], None] | None = None
) -> Exported:
    """Write a checkpoint as a program of another runtime, whole or not at all, and compare its logits.

    Args:
        checkpoint: the file, or the directory of the run.
        output: the file; its suffix is the format, `.pt2` or `.onnx`.
        advance: called with (what is being done, step, number of steps).

    Raises:
        InputError: another suffix, no such checkpoint, packages of the format are not installed, the weights are too
            large for it, or the logits differ.
    """
    checkpoint, output = model_file(checkpoint), Path(output)
    if output.suffix not in FORMATS:
        raise InputError(f"{output}: has the suffix {output.suffix!r}; expected {' or '.join(FORMATS)}")
    if output.suffix == ".onnx":
        _require_onnx()
    step = advance or (lambda what, done, total: None)
    step("tracing the network", 0, 3)
    model, info = load_model(checkpoint)
    model.set_backend("sdpa")
    if output.suffix == ".onnx" and (size := _bytes_of(model)) > LARGEST_ONNX:
        raise InputError(f"{output}: {size / 2**30:.1f} GiB of weights, and a file of ONNX holds 2; use .pt2")
    metadata = describe(info, checkpoint)
    with _quiet():
        traced = torch.export.export(
            model, (example_clips(model, _TRACED_CLIPS),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
        )
        step(f"writing {FORMATS[output.suffix]}", 1, 3)
        write, read = (_write_onnx, _read_onnx) if output.suffix == ".onnx" else (_write_program, _read_program)
        with replacing(output) as temporary:
            write(temporary, traced, metadata)
            step("comparing its logits", 2, 3)
            difference, spread = compare(model, read(temporary))
            allowed = min(TOLERANCE, SHARE_OF_SPREAD * spread)
            if not difference <= allowed:
                raise InputError(
                    f"{output}: the exported network's logits differ from the model's by {difference:.2g}; expected at "
                    f"most {allowed:.2g}, so nothing is written"
                )
    step("comparing its logits", 3, 3)
    return Exported(output, FORMATS[output.suffix], difference, spread, sum(_CHECKED_CLIPS), metadata)


def describe(info: CheckpointInfo, checkpoint: Path) -> dict[str, Any]:
    """Return what another program has to know of a checkpoint to feed it and to read its logits, as values of JSON."""
    config, found_by = info.config, info.detectors
    crop: dict[str, Any] = {"trained_on": crop_name(found_by) if found_by else None, "margin": None}
    if info.region != FACE:
        points, side = PARTS[info.region]
        crop |= {
            "region": info.region,
            "rule": f"one square for all frames of a clip: {side} times the largest of the faces' scales, around the "
            f"median of the middles between {LANDMARKS[points[0]]} and {LANDMARKS[points[1]]}; a face's scale is the "
            "distance of its eyes, or of their middle from that of the corners of its mouth, whichever is longer; "
            "beyond the picture its border is repeated",
        }
    elif set(found_by) == {WHOLE_FRAME}:
        crop["rule"] = "the whole upright picture, stretched to a square"
    else:
        crop |= {
            "margin": MARGIN,
            "rule": f"one square for all frames of a clip: {MARGIN} times the largest of the face boxes' longer sides, "
            "around the median of their centers (the nose tip where the detector finds it); beyond the picture its "
            "border is repeated",
        }
    return {
        "format": 1,
        "istvt": __version__,
        "architecture": config.architecture,
        "config": config.to_dict(),
        "input": {
            "name": "clips",
            "dtype": "float32",
            "shape": ["clips", config.frames, 3, config.image_size, config.image_size],
            "axes": "clip, frame, channel, row, column",
            "color_order": "RGB",
            "range": [-1.0, 1.0],
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "normalization": "(x / 255 - mean) / std of 8-bit pictures that were resized without rounding",
            "resize": "linear with antialiasing",
            "size": config.image_size,
            "frames": config.frames,
            "interval": 1,
            "sampling": "consecutive frames of the video, none left out",
            "crop": crop,
        },
        "output": {
            "name": "logits",
            "dtype": "float32",
            "shape": ["clips"],
            "meaning": "positive = fake; the probability that a clip is fake is 1 / (1 + exp(-logit))",
            "video": "the mean of the probabilities of its clips; fake above 0.5",
        },
        "calibration": info.calibration
        and {
            "temperature": info.calibration.temperature,
            "meaning": "the calibrated score of a video is sigmoid(log(p / (1 - p)) / temperature) of its score p",
            "real_videos": len(info.calibration.real),
            "fake_videos": len(info.calibration.fake),
        },
        "checkpoint": {
            "file": checkpoint.name,
            "sha256": sha256_of(checkpoint),
            "metrics": info.metrics,
            "versions": info.versions,
            "caveats": info.caveats,
        },
    }


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def example_clips(model: Detector, count: int, seed: int = 0) -> Tensor:
    """Return drawn clips [count, T, 3, S, S] in [-1, 1]: colored patches of several sizes, some of which move."""
    generator, side = torch.Generator().manual_seed(seed), model.config.image_size
    frames = model.config.frames
    clips = torch.zeros(count * frames, 3, side, side)
    for cells, still in ((2, True), (8, True), (8, False), (side, False)):
        patches = torch.rand(count, 1 if still else frames, 3, cells, cells, generator=generator) * 2 - 1
        patches = patches.expand(-1, frames, -1, -1, -1).flatten(0, 1)
        clips += functional.interpolate(patches, size=(side, side), mode="bilinear") / 4
    return clips.clamp(-1, 1).unflatten(0, (count, frames))


@torch.inference_mode()
def compare(model: Detector, program: Program) -> tuple[float, float]:
    """Return the largest difference of a program's logits from those of the model, and the spread of these."""
    differences, logits = [], []
    for count in _CHECKED_CLIPS:
        clips = example_clips(model, count, seed=count)
        expected = model(clips)
        differences.append(float((program(clips) - expected).abs().max()))
        logits += expected.tolist()
    return max(differences), max(logits) - min(logits)


def _bytes_of(model: Detector) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def _write_program(path: Path, traced: torch.export.ExportedProgram, metadata: dict[str, Any]) -> None:
    with path.open("wb") as file:  # by its name it would be an archive of another suffix, which PyTorch warns of
        torch.export.save(traced, file, extra_files={METADATA_FILE: json.dumps(metadata, indent=1, default=str)})


def _read_program(path: Path) -> Program:
    with path.open("rb") as file:
        return torch.export.load(file).module()


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"{error.name}, which ONNX needs, is not installed: pip install 'istvt[export]'") from error


def _write_onnx(path: Path, traced: torch.export.ExportedProgram, metadata: dict[str, Any]) -> None:
    import onnx

    program = torch.onnx.export(
        traced, dynamo=True, opset_version=OPSET, input_names=["clips"], output_names=["logits"], verbose=False
    )
    model = program.model_proto
    [dynamic] = {d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim if d.dim_param}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = dimension.dim_param.replace(dynamic, "clips")
    texts = {METADATA_KEY: json.dumps(metadata, default=str), "sha256": metadata["checkpoint"]["sha256"]}
    onnx.helper.set_model_props(model, texts)
    model.producer_version, model.doc_string = __version__, "ISTVT: logits of clips, positive = fake"
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _read_onnx(path: Path) -> Program:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])

    def run(clips: Tensor) -> Tensor:
        [logits] = session.run(["logits"], {"clips": clips.numpy()})
        return torch.from_numpy(logits)

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporters log of packages that are not installed, and of their own future, off the console."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
