"""Model files: weights and what they mean in one safetensors file. What a run needs to go on is in `run_state`.

A model file holds the parameters under their public names and, as metadata, the model's configuration, the settings
it was trained with, the decoder that made its clips, versions and validation figures.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dataloading.errors import InputError

from .config import ISTVTConfig
from .model import ISTVT

_METADATA_KEY = "istvt"


@dataclass
class CheckpointInfo:
    """What a model file says about itself.

    Attributes:
        config: the model's configuration.
        decoder: which decoder made the training clips, "pyav" or "dali"; their greys differ slightly.
        settings: data and training settings, JSON-able.
        versions: packages and their versions at training.
        metrics: validation figures of the epoch it was saved at.
    """

    config: ISTVTConfig
    decoder: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


def save_model(
    path: str | Path, model: ISTVT, info: CheckpointInfo, state: dict[str, torch.Tensor] | None = None
) -> None:
    """Write the model file, whole or not at all (it is written beside its place and renamed).

    Args:
        path: the file.
        model: the model; its own state is written unless `state` is given.
        info: what the file says about itself.
        state: the model's whole tensors, where the model itself holds a share of each.
    """
    path = Path(path)
    state = model.state_dict() if state is None else state
    metadata = {**info.__dict__, "config": info.config.to_dict()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    temporary = path.with_name(path.name + ".partial")
    save_file(tensors, temporary, metadata={_METADATA_KEY: json.dumps(metadata, default=str)})
    os.replace(temporary, path)


def load_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[ISTVT, CheckpointInfo]:
    """The model of a file that `save_model` wrote, in evaluation mode, and what the file says about itself.

    Raises:
        InputError: no such file, not a checkpoint of ISTVT, or its tensors do not fit its configuration.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "best.safetensors"
    if not path.is_file():
        raise InputError(f"checkpoint {path}: no such file; expected the best.safetensors of a training run")
    try:
        path.open("rb").close()  # safetensors says of a file that may not be read that it is not there
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(_METADATA_KEY, "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise InputError(f"checkpoint {path}: not a readable safetensors file ({error})") from error
    if metadata is None:
        raise InputError(f"checkpoint {path}: holds no ISTVT configuration; expected a file written by istvt train")
    metadata["config"] = ISTVTConfig.from_dict(metadata["config"])
    model = ISTVT(metadata["config"])
    load_weights(model, state, f"checkpoint {path}")
    return model.to(device).eval(), CheckpointInfo(**metadata)


def load_weights(model: ISTVT, state: dict[str, torch.Tensor], source: str) -> None:
    """Fill `model` from `state`; what does not fit is named in one sentence that begins with `source`."""
    wanted = model.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} is not in this model" for name in state if name not in wanted]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise InputError(f"{source}: is of another configuration: {shown}")
    model.load_state_dict(state)
