"""Model checkpoints: weights and metadata in one safetensors file; reading of other state dict files.

A checkpoint holds the parameters under their public names and, as metadata, the model's configuration, the settings
it was trained with, the decoder of its clips and the detectors that cropped them, package versions and validation
metrics; and a checksum over all of it, because safetensors reads flipped bytes without complaint. The state from which
training resumes is in `istvt.training.checkpoint`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dataloading.dataset import FACE, REGIONS, SYNTHETIC_MODEL_NOTE, SYNTHETIC_SETTINGS, Region
from dataloading.errors import InputError
from dataloading.io import parse_json, replacing, shown
from istvt.config import DataSettings, DetectorConfig, entry_flow_sizes
from istvt.model.architectures import ARCHITECTURES, DEFAULT, build
from istvt.model.detector import Detector
from istvt.model.istvt import ISTVT
from istvt.model.xception import XceptionEntryFlow
from istvt.run_dir import model_file

_METADATA_KEY, _CHECKSUM_KEY = "istvt", "checksum"
_MISMATCHES_SHOWN = 3
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

# Modules of a full Xception beyond the entry flow: middle flow, exit flow, classifier.
BEYOND_ENTRY_FLOW = re.compile(r"^(block([4-9]|1[0-2])|conv[34]|bn[34]|fc|last_linear|classifier|head)\.")


Config = TypeVar("Config", bound=DetectorConfig)


@dataclass(frozen=True)
class Calibration:
    """What the validation videos say of a model's scores; `istvt.inference.calibration` has the meaning.

    Attributes:
        temperature: by which scores are scaled.
        real, fake: scores of the validation videos of each class, one or more.
    """

    temperature: float
    real: list[float]
    fake: list[float]

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; expected a number above 0")
        for name in ("real", "fake"):
            scores = getattr(self, name)
            if not scores or not all(0 <= score <= 1 for score in scores):
                raise ValueError(f"{name} holds {shown(scores)}; expected scores from 0 to 1, one or more")


@dataclass
class CheckpointInfo(Generic[Config]):
    """Metadata of a checkpoint.

    Attributes:
        config: the model's configuration, of the type that its architecture has.
        decoder: decoder of the training clips, "pyav", "dali" or "jpeg"; their grays differ slightly.
        settings: data, model and training settings, as values of JSON.
        versions: packages and their versions at training.
        metrics: training loss and validation metrics of the epoch it was saved at.
        detectors: detectors of the faces in the training clips (`FaceIndex.detectors`); empty where not recorded.
        synthetic: whether the training videos were those of the synthetic set; None where not recorded.
        calibration: by the validation split; None where not recorded, or where that lacks a class.
        checksum: of the file that this was read from; empty where it has none.
        format: version of this metadata.
    """

    config: Config
    decoder: str | None = None
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    detectors: list[str] = field(default_factory=list)
    synthetic: bool | None = None
    calibration: Calibration | None = None
    checksum: str = ""
    format: Literal[1] = 1

    def __post_init__(self) -> None:
        for group, name, none in (("data", "root", ()), ("training", "backbone_weights", (None,))):
            value = self.settings.get(group, {}).get(name, "")
            if value not in none and (not isinstance(value, str) or "\0" in value):
                raise ValueError(f"settings.{group}.{name} is {shown(value)}; expected text, a path")
        if self.region not in REGIONS:
            raise ValueError(f"settings.data.region is {self.region!r}; expected one of {', '.join(REGIONS)}")

    @property
    def region(self) -> Region:
        """What the training clips were cropped to: the face, where an earlier version wrote it."""
        return self.settings.get("data", {}).get("region", FACE)

    @property
    def caveats(self) -> list[str]:
        """Caveats of every verdict of the model, one sentence each."""
        synthetic = self.synthetic
        if synthetic is None:
            root = self.settings.get("data", {}).get("root")
            synthetic = root is not None and (Path(root) / SYNTHETIC_SETTINGS).is_file()
        return [SYNTHETIC_MODEL_NOTE] if synthetic else []


@dataclass
class _OfArchitecture:
    """What is read of a checkpoint's metadata to know the type of its configuration."""

    config: dict[str, Any]


def save_model(path: str | Path, model: Detector, info: CheckpointInfo, state: dict[str, Tensor] | None = None) -> None:
    """Write a checkpoint atomically (to a temporary file that is then renamed).

    Args:
        path: the file.
        model: the model; its own state is written unless `state` is given.
        info: the metadata.
        state: the full tensors, where the model holds only a shard of each.

    Raises:
        InputError: it cannot be written, for example on a full disk.
    """
    path = Path(path)
    state = model.state_dict() if state is None else state
    # A loss over no clip is not finite, and JSON has no such number.
    metrics = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in info.metrics.items()}
    values = {**vars(info), "config": info.config.to_dict(), "metrics": metrics}
    values["calibration"] = info.calibration and asdict(info.calibration)
    del values["checksum"]
    metadata = json.dumps(values, default=str)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    checksum = _checksum(metadata, tensors)
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={_METADATA_KEY: metadata, _CHECKSUM_KEY: checksum})
    except (SafetensorError, OSError) as error:
        raise InputError(f"checkpoint {path}: cannot be written ({error})") from error


def load_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[Detector, CheckpointInfo]:
    """Load a checkpoint that `save_model` wrote: the model, in evaluation mode, and the metadata.

    Args:
        path: the file, or the directory of the training run that wrote it.
        device: of the model.

    Raises:
        InputError: no such file, not a checkpoint of this project, its tensors do not fit its configuration or are not
            finite, every clip has the same logit, or it has changed since it was written (files of versions without a
            checksum are not checked).
    """
    path = model_file(path)
    info, state = _read(path)
    config, where = info.config, f"checkpoint {path}: is of another configuration"
    # Before memory is allocated for a configuration that may be damaged.
    if (depth := getattr(config, "depth", 0)) > len(state):
        raise InputError(f"{where}: config.depth is {depth}, and there are {len(state)} tensors")
    try:
        with torch.device("meta"):
            wanted = build(config).state_dict()
    except (RuntimeError, TypeError) as error:  # of a size beyond a C++ integer
        raise InputError(f"{where}: config: has sizes that no tensor can have") from error
    if problems := state_dict_mismatches(state, wanted):
        raise InputError(f"{where}: {problems}")
    model = build(config)
    model.load_state_dict(state)
    if reason := why_no_detector(model.eval()):
        raise InputError(f"checkpoint {path}: {reason}")
    return model.to(device), info


def load_same_model(path: str | Path, checksum: str, device: str | torch.device = "cpu") -> ISTVT:
    """Load a checkpoint on another machine than that which asks for it.

    Raises:
        InputError: as `load_model`; or its checksum is another one.
    """
    model, info = load_model(path, device)
    if info.checksum != checksum:
        raise InputError(f"checkpoint {model_file(path)}: is another model here; expected the same file everywhere")
    return model


def read_info(path: str | Path) -> CheckpointInfo:
    """Return the metadata of a checkpoint without reading its tensors.

    Raises:
        InputError: no such file, or not a checkpoint of this project.
    """
    return _read(model_file(path), with_tensors=False)[0]


@dataclass(frozen=True)
class _Rehearsed:
    """What of an adaptation says which data sets were kept."""

    rehearsal: float = 0.0
    old: tuple[DataSettings, ...] = ()


@dataclass(frozen=True)
class _Learned:
    """What of a checkpoint's settings names data sets."""

    data: DataSettings | None = None
    adaptation: _Rehearsed | None = None


def learned_sets(info: CheckpointInfo, checkpoint: str | Path) -> list[DataSettings]:
    """Return the settings of the data sets that a checkpoint learned, as it knows them; none where it knows none.

    Of an adapted run (`istvt adapt`) its own set comes first, then those whose clips it rehearsed.

    Raises:
        InputError: its settings are not those of data sets.
    """
    text, where = json.dumps(info.settings).encode(), f"checkpoint {checkpoint}: settings"
    learned = parse_json(text, _Learned, where, unknown="ignore")
    old = learned.adaptation.old if learned.adaptation and learned.adaptation.rehearsal else ()
    own = [learned.data] if info.settings.get("data") else []  # empty where nothing is known
    return [*own, *old]


def is_checkpoint(path: str | Path) -> bool:
    """Return whether a file is a safetensors file with the metadata of a checkpoint, whatever that metadata is."""
    try:
        with safe_open(path, framework="pt") as file:
            return _METADATA_KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _read(path: Path, with_tensors: bool = True) -> tuple[CheckpointInfo, dict[str, Tensor]]:
    try:
        path.open("rb").close()  # safetensors reports a file without permission to read as one that does not exist
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()} if with_tensors else {}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise InputError(f"checkpoint {path}: not a readable safetensors file ({error})") from error
    if _METADATA_KEY not in metadata:
        raise InputError(f"checkpoint {path}: holds no ISTVT configuration; expected a file written by istvt train")
    text, checksum = metadata[_METADATA_KEY], metadata.get(_CHECKSUM_KEY, "")
    if with_tensors and checksum and checksum != _checksum(text, state):
        raise InputError(f"checkpoint {path}: is damaged (its content does not match its checksum); copy it again")
    where = f"checkpoint {path}"
    name = parse_json(text.encode(), _OfArchitecture, where, unknown="ignore").config.get("architecture", DEFAULT)
    if not isinstance(name, str) or name not in ARCHITECTURES:  # a list has no place in a dict
        raise InputError(f"{where}: config.architecture: {shown(name)}; expected one of {', '.join(ARCHITECTURES)}")
    info = parse_json(text.encode(), CheckpointInfo[ARCHITECTURES[name].config], where)
    info.checksum = checksum
    return info, state


def _checksum(metadata: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the digest of the metadata and of every tensor's name, type, shape and bytes."""
    digest = hashlib.blake2b(metadata.encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def state_dict_mismatches(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """Describe the first few tensors of `state` that cannot be those of `wanted`; None if there are none.

    They differ in name or shape, or they are not of the kind of number, or not finite in the dtype, of `wanted`.
    """
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} is not in this model" for name in state if name not in wanted]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    odd = {
        name: f"{name} is {_kind(state[name])}, not {tensor.dtype}"
        for name, tensor in wanted.items()
        if name in state and not _may_become(state[name], tensor)
    }
    problems += odd.values()
    problems += [
        f"{name} holds numbers that are not finite"
        for name, tensor in wanted.items()
        if name in state and name not in odd and not state[name].to(tensor.dtype).isfinite().all()
    ]
    more = [f"and {len(problems) - _MISMATCHES_SHOWN} more"] if len(problems) > _MISMATCHES_SHOWN else []
    return "; ".join(problems[:_MISMATCHES_SHOWN] + more) or None


def _kind(value: Tensor) -> str:
    return f"of {value.dtype}" if value.layout == torch.strided else f"of {value.dtype} in {value.layout}"


def _may_become(value: Tensor, wanted: Tensor) -> bool:
    """Return whether a tensor holds numbers of the kind of `wanted`: floating point of 16 bits or more, or integers."""
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        return False
    return value.dtype in (_FLOATS if wanted.is_floating_point() else _INTEGERS)


@torch.inference_mode()
def why_no_detector(model: Detector) -> str | None:
    """Return why a model in evaluation mode cannot tell clips apart, or None.

    Two clips of noise go through it; of ISTVT through a copy that shares its weights and takes smaller pictures.

    Returns:
        A sentence where their logits are the same, as those of weights of zero are, or not finite.
    """
    probe, sides = _small_copy(model) if isinstance(model, ISTVT) else (model, [model.config.image_size] * 2)
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, model.config.frames, 3, *sides, generator=generator) * 2 - 1
    first, second = probe(noise.to(next(model.parameters()).device)).tolist()
    if not math.isfinite(first - second):
        return f"its weights give noise a logit of {first if math.isfinite(second) else second}; expected a finite one"
    if first == second:
        return f"its weights give any clip a logit of {first:g}, whatever it shows; expected those of a trained model"
    return None


def _small_copy(model: ISTVT) -> tuple[ISTVT, list[int]]:
    """Return a model of the same weights for at most 2x2 feature cells, and the height and width of its pictures."""
    config, sides = model.config, []
    for cells in config.feature_grid:
        sides.append(next(side for side in range(7, 100) if entry_flow_sizes(side)[-1] == min(cells, 2)))
    small = replace(config, grid=tuple(min(cells, 2) for cells in config.feature_grid))
    with torch.device("meta"):
        probe = ISTVT(small)
    state = model.state_dict()
    state["position_embedding"] = state["position_embedding"][:, : small.positions]
    probe.load_state_dict(state, assign=True)
    return probe.eval(), sides


def read_state_dict(path: str | Path, what: str, expected: str) -> dict[str, Tensor]:
    """Read the state dict of another program, from a file of torch.save or of safetensors; no code in it is run.

    Args:
        path: a `.pth` or `.pt` file (a state dict, or a dict that holds one under `state_dict` or `model`), or a
            `.safetensors` file.
        what: beginning of an InputError, before the path.
        expected: end of an InputError: the kind of file that was expected.

    Returns:
        The tensors by name, without the prefix `module.` of nn.DataParallel.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{what} {path}: no such file; expected {expected}")
    if is_checkpoint(path):
        found = read_info(path).config.architecture
        raise InputError(f"{what} {path}: is a checkpoint of {found}; expected {expected}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.load warns about the protocol of a pickle before it refuses it
            is_safetensors = path.suffix == ".safetensors"
            state = load_file(path) if is_safetensors else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zipfile and torch raise about a dozen types
        raise InputError(
            f"{what} {path}: not a readable checkpoint; expected a .pth, .pt or .safetensors file of {expected}"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    named = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not named or not state:
        raise InputError(f"{what} {path}: expected a state dict of tensors")
    return {name.removeprefix("module."): value for name, value in state.items()}


def load_pretrained(model: Detector, path: str | Path) -> list[str]:
    """Load weights that were trained for something else into the part of a detector that they are for.

    Args:
        model: the detector; one on the meta device is only compared.
        path: a file as `model.pretrained_from` says, see `read_state_dict`; of ISTVT see `load_backbone_weights`.

    Returns:
        The keys that were ignored by name.

    Raises:
        InputError: the detector starts from random weights, the file cannot be read, it is a checkpoint, or keys are
            missing, unknown, misshapen or not finite (the first few are named).
    """
    if isinstance(model, ISTVT):
        return load_backbone_weights(model.backbone, path)
    name = model.config.architecture
    if model.pretrained_from is None:
        raise InputError(f"backbone weights {path}: {name} starts from random weights; expected none")
    state = read_state_dict(path, "backbone weights", model.pretrained_from)
    part, state, ignored = model.adapt_pretrained(state)
    if problems := state_dict_mismatches(state, part.state_dict()):
        raise InputError(f"backbone weights {path}: {problems}; expected {model.pretrained_from}")
    if not next(part.parameters()).is_meta:
        part.load_state_dict(state)
    return ignored


def load_backbone_weights(backbone: XceptionEntryFlow, path: str | Path) -> list[str]:
    """Load ImageNet weights from a timm or Cadene Xception file.

    Args:
        backbone: the entry flow to fill, at Xception's own widths; one on the meta device is only compared.
        path: see `read_state_dict`.

    Returns:
        The keys of the middle flow, exit flow and classifier, which were ignored by name.

    Raises:
        InputError: the file cannot be read, or keys are missing, unknown, misshapen or not finite (the first few are
            named).
    """
    state = read_state_dict(path, "backbone weights", "a timm or Cadene Xception checkpoint")
    state = {re.sub(r"^(module\.|model\.|backbone\.)+", "", name): value for name, value in state.items()}
    ignored = sorted(name for name in state if BEYOND_ENTRY_FLOW.match(name))
    state = {name: value for name, value in state.items() if not BEYOND_ENTRY_FLOW.match(name)}
    # Cadene's first file stores 1x1 convolutions as matrices.
    state = {n: v[:, :, None, None] if n.endswith("pointwise.weight") and v.dim() == 2 else v for n, v in state.items()}
    wanted = backbone.state_dict()
    # Files as old as Cadene's have no batch counts.
    counts = {
        name: torch.zeros_like(value, device="cpu") for name, value in wanted.items() if name.endswith("_tracked")
    }
    state = counts | state
    if problems := state_dict_mismatches(state, wanted):
        raise InputError(f"backbone weights {path}: {problems}")
    if not backbone.conv1.weight.is_meta:
        backbone.load_state_dict(state)
    return ignored
