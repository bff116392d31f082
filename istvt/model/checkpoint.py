"""Model files: weights and what they mean in one safetensors file. What a run needs to go on is in `run_state`.

A model file holds the parameters under their public names and, as metadata, the model's configuration, the settings
it was trained with, the decoder that made its clips and the detectors that cropped them, versions and validation
figures; and a checksum over all of it, because safetensors reads flipped bytes without complaint.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dataloading.dataset import SYNTHETIC_MODEL_NOTE, SYNTHETIC_SETTINGS
from dataloading.errors import InputError
from dataloading.io import replacing
from istvt.config import ISTVTConfig
from istvt.model.istvt import ISTVT
from istvt.model.xception import XceptionEntryFlow
from istvt.run_dir import model_file

_METADATA_KEY, _CHECKSUM_KEY = "istvt", "checksum"


@dataclass
class CheckpointInfo:
    """What a model file says about itself.

    Attributes:
        config: the model's configuration.
        decoder: which decoder made the training clips, "pyav" or "dali"; their grays differ slightly.
        settings: data and training settings, JSON-able.
        versions: packages and their versions at training.
        metrics: validation figures of the epoch it was saved at.
        detectors: who found the faces of the training clips (`FaceIndex.detectors`); empty where that was not recorded.
        synthetic: whether the training videos were those of the synthetic set; None where that was not recorded.
        checksum: of the file that this was read from; empty where it has none.
    """

    config: ISTVTConfig
    decoder: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    detectors: list[str] = field(default_factory=list)
    synthetic: bool | None = None
    checksum: str = ""

    @property
    def caveats(self) -> list[str]:
        """Sentences that belong beside every verdict of the model."""
        synthetic = self.synthetic
        if synthetic is None:
            root = self.settings.get("data", {}).get("root")
            synthetic = root is not None and (Path(root) / SYNTHETIC_SETTINGS).is_file()
        return [SYNTHETIC_MODEL_NOTE] if synthetic else []


def save_model(
    path: str | Path, model: ISTVT, info: CheckpointInfo, state: dict[str, torch.Tensor] | None = None
) -> None:
    """Write the model file, whole or not at all (it is written beside its place and renamed).

    Args:
        path: the file.
        model: the model; its own state is written unless `state` is given.
        info: what the file says about itself.
        state: the model's whole tensors, where the model itself holds a share of each.

    Raises:
        InputError: it cannot be written, because the disk is full for instance.
    """
    path = Path(path)
    state = model.state_dict() if state is None else state
    values = {name: value for name, value in info.__dict__.items() if name != "checksum"}
    said = json.dumps({**values, "config": info.config.to_dict()}, default=str)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={_METADATA_KEY: said, _CHECKSUM_KEY: _checksum(said, tensors)})
    except (SafetensorError, OSError) as error:
        raise InputError(f"checkpoint {path}: cannot be written ({error})") from error


def load_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[ISTVT, CheckpointInfo]:
    """The model of a file that `save_model` wrote, in evaluation mode, and what the file says about itself.

    Raises:
        InputError: no such file, not a checkpoint of ISTVT, its tensors do not fit its configuration, or it has changed
            since it was written (files of versions that wrote no checksum are believed).
    """
    path = model_file(path)
    info, state = _read(path)
    model = ISTVT(info.config)
    load_weights(model, state, f"checkpoint {path}")
    return model.to(device).eval(), info


def read_info(path: str | Path) -> CheckpointInfo:
    """What a model file says about itself, without its tensors; raises as `load_model` does."""
    return _read(model_file(path), with_tensors=False)[0]


def _read(path: Path, with_tensors: bool = True) -> tuple[CheckpointInfo, dict[str, torch.Tensor]]:
    try:
        path.open("rb").close()  # safetensors says of a file that may not be read that it is not there
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            said = metadata.get(_METADATA_KEY, "null")
            values = json.loads(said)
            state = {name: file.get_tensor(name) for name in file.keys()} if with_tensors else {}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise InputError(f"checkpoint {path}: not a readable safetensors file ({error})") from error
    if values is None:
        raise InputError(f"checkpoint {path}: holds no ISTVT configuration; expected a file written by istvt train")
    if with_tensors and _CHECKSUM_KEY in metadata and metadata[_CHECKSUM_KEY] != _checksum(said, state):
        raise InputError(
            f"checkpoint {path}: is damaged (its content does not have the checksum it was written with); copy it again"
        )
    if not isinstance(values, dict) or not isinstance(values.get("config"), dict):
        raise InputError(
            f"checkpoint {path}: is no checkpoint of ISTVT, though it names it; expected one of istvt train"
        )
    try:
        config = ISTVTConfig.from_dict(values["config"])
    except (ValueError, TypeError) as error:
        raise InputError(f"checkpoint {path}: its ISTVT configuration cannot be used ({error})") from error
    values |= {"config": config, "checksum": metadata.get(_CHECKSUM_KEY, "")}
    known = {item.name for item in fields(CheckpointInfo)}
    return CheckpointInfo(**{name: value for name, value in values.items() if name in known}), state


def _checksum(said: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Of what the file says about itself, and of every tensor's name, type, shape and bytes."""
    digest = hashlib.blake2b(said.encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def load_weights(model: ISTVT, state: dict[str, torch.Tensor], source: str) -> None:
    """Fill `model` from `state`; what does not fit is named in one sentence that begins with `source`."""
    if problems := misfits(state, model.state_dict()):
        raise InputError(f"{source}: is of another configuration: {problems}")
    model.load_state_dict(state)


SHOWN = 3


def misfits(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """What keeps `state` from being loaded where the tensors are `wanted`: the first few; None where all of it fits."""
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} is not in this model" for name in state if name not in wanted]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return "; ".join(problems[:SHOWN] + more) or None


# What a full Xception checkpoint holds beyond the entry flow, by name: middle flow, exit flow, classifier.
_BEYOND_ENTRY_FLOW = re.compile(r"^(block([4-9]|1[0-2])|conv[34]|bn[34]|fc|last_linear|classifier|head)\.")


def load_backbone_weights(backbone: XceptionEntryFlow, path: str | Path) -> list[str]:
    """Load ImageNet weights from a timm or Cadene Xception checkpoint file.

    Args:
        backbone: the entry flow to fill, at Xception's own widths.
        path: a `.pth`/`.pt` (a state dict, or a dict holding one under `state_dict` or `model`) or `.safetensors` file.

    Returns:
        The keys of the middle flow, exit flow and classifier, which were ignored by name.

    Raises:
        InputError: the file cannot be read, or keys are missing, unknown or misshapen (the first few are named).
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"backbone weights {path}: no such file; expected a timm or Cadene Xception checkpoint")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"backbone weights {path}: not a readable checkpoint; expected a .pth, .pt or .safetensors file of a "
            "timm or Cadene Xception"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"backbone weights {path}: expected a state dict of tensors")
    state = {re.sub(r"^(module\.|model\.|backbone\.)+", "", name): value for name, value in state.items()}
    ignored = sorted(name for name in state if _BEYOND_ENTRY_FLOW.match(name))
    state = {name: value for name, value in state.items() if name not in set(ignored)}
    # Cadene's first file stores 1x1 convolutions as matrices.
    state = {n: v[:, :, None, None] if n.endswith("pointwise.weight") and v.dim() == 2 else v for n, v in state.items()}
    wanted = backbone.state_dict()
    # Checkpoints as old as Cadene's do not count batches.
    state = {name: value for name, value in wanted.items() if name.endswith("num_batches_tracked")} | state
    if problems := misfits(state, wanted):
        raise InputError(f"backbone weights {path}: {problems}")
    backbone.load_state_dict(state)
    return ignored
