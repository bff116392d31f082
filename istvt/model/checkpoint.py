"""Model files: weights and what they mean in one safetensors file. What a run needs to go on is in `run_state`.

A model file holds the parameters under their public names and, as metadata, the model's configuration, the settings
it was trained with, the decoder that made its clips and the detectors that cropped them, versions and validation
figures; and a checksum over all of it, because safetensors reads flipped bytes without complaint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dataloading.dataset import SYNTHETIC_MODEL_NOTE, SYNTHETIC_SETTINGS
from dataloading.errors import InputError
from dataloading.io import replacing
from istvt.config import ISTVTConfig
from istvt.model.istvt import ISTVT
from istvt.model.state_dict_misfits import misfits
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
