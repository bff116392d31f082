"""State dicts of the ISTVT authors' released code: conversion to `istvt.ISTVT` and back, bit for bit.

    model, ignored = load_authors("authors.pth")
    save_model("published.safetensors", model, CheckpointInfo(model.config))
    save_authors("authors-again.pth", model)

Their names are those of the code that Zhao et al. (IEEE TIFS 18, 2023) released: a whole Xception under `xcep.model`,
of which the entry flow is used, and the transformer under `vit`. Only tensors are read; no code of theirs is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dataloading.errors import InputError
from dataloading.io import replacing
from istvt.config import ISTVTConfig, preset
from istvt.model.checkpoint import BEYOND_ENTRY_FLOW, read_state_dict, state_dict_mismatches
from istvt.model.istvt import ISTVT

EXPECTED = "a state dict of the ISTVT authors' code"
_BACKBONE = "xcep.model."
_LAYERS = "vit.transformer.layers."
_NAMES = {
    "spatial_class_token": "vit.space_token",
    "temporal_class_token": "vit.temporal_token",
    "position_embedding": "vit.pos_embedding",
    "norm": "vit.transformer.norm",
    "head_norm": "vit.mlp_head.0",
    "head": "vit.mlp_head.1",
}
_BLOCK_NAMES = {
    "norm_temporal": "0.norm",
    "temporal.proj": "0.fn.to_out.0",
    "norm_spatial": "1.norm",
    "spatial.qkv": "1.fn.to_qkv",
    "spatial.proj": "1.fn.to_out.0",
    "norm_mlp": "2.norm",
    "mlp.fc1": "2.fn.net.0",
    "mlp.fc2": "2.fn.net.3",
}
# Fields of a configuration that are fixed in the authors' network.
_FIXED = ("attention", "self_subtract", "position_embedding", "layer_norm_eps", "head_norm")


def load_authors(path: str | Path, heads: int = 8) -> tuple[ISTVT, list[str]]:
    """Load a state dict of the authors' code as a model, in evaluation mode.

    Args:
        path: a file as `istvt.model.checkpoint.read_state_dict` takes it.
        heads: N, which no tensor's shape gives; the authors' 8.

    Returns:
        The model, and the names of the tensors that were ignored: Xception beyond the entry flow.

    Raises:
        InputError: the file cannot be read, or tensors are missing, unknown or misshapen (the first few are named).
    """
    state = read_state_dict(path, "authors' checkpoint", EXPECTED)
    ignored = [n for n in state if n.startswith(_BACKBONE) and BEYOND_ENTRY_FLOW.match(n.removeprefix(_BACKBONE))]
    for name in ignored:
        del state[name]
    try:
        config = authors_config(state, heads)
        with torch.device("meta"):  # shapes are checked on the meta device, before memory is allocated
            wanted = ISTVT(config).state_dict()
        weights = from_authors(state, wanted)
    except ValueError as error:
        raise InputError(f"authors' checkpoint {path}: {error}; expected {EXPECTED}") from error
    model = ISTVT(config)
    model.load_state_dict(weights)
    return model.eval(), ignored


def save_authors(path: str | Path, model: ISTVT) -> None:
    """Write a model as a state dict of the authors' code, by torch.save, whole or not at all.

    Raises:
        InputError: the model is not the authors' network, or the file cannot be written.
    """
    if (name := model.config.architecture) != "istvt":
        raise InputError(f"authors' checkpoint {path}: cannot be written (the model is {name}; expected istvt)")
    for name in _FIXED:
        value, theirs = getattr(model.config, name), getattr(preset("published"), name)
        if value != theirs:
            raise InputError(
                f"authors' checkpoint {path}: cannot be written (model.{name} is {value!r}; expected {theirs!r}, as in "
                "their network)"
            )
    state = {name: value.cpu() for name, value in to_authors(model.state_dict()).items()}
    try:
        with replacing(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"authors' checkpoint {path}: cannot be written ({reason})") from error


def authors_config(state: Mapping[str, Tensor], heads: int = 8) -> ISTVTConfig:
    """Return the configuration that the shapes of an authors' state dict give.

    Raises:
        ValueError: a tensor that it is read from is missing, or the shapes are those of no such network.
    """
    read = {
        "positions": ("vit.pos_embedding", 4),
        "to_v": (f"{_LAYERS}0.0.fn.to_v.weight", 2),
        "fc1": (f"{_LAYERS}0.2.fn.net.0.weight", 2),
        "conv1": (f"{_BACKBONE}conv1.weight", 4),
        "conv2": (f"{_BACKBONE}conv2.weight", 4),
        "skip1": (f"{_BACKBONE}block1.skip.weight", 4),
        "skip2": (f"{_BACKBONE}block2.skip.weight", 4),
    }
    if missing := [name for name, _ in read.values() if name not in state]:
        raise ValueError(f"{', '.join(missing[:3])} missing among {', '.join(list(state)[:3]) or 'no tensors'}, ...")
    for name, dimensions in read.values():
        if state[name].dim() != dimensions:
            raise ValueError(f"{name} has shape {tuple(state[name].shape)}, not {dimensions} dimensions")
    shapes = {key: state[name].shape for key, (name, _) in read.items()}
    _, frames, positions, dim = shapes["positions"]
    side = math.isqrt(max(0, positions - 1))
    if side < 1 or side * side != positions - 1:
        raise ValueError(f"vit.pos_embedding has {positions} positions, not a class token and a square grid")
    inner = shapes["to_v"][0]
    if heads < 1 or inner % heads:
        raise ValueError(f"heads is {heads}, not a divisor of the {inner} rows of {read['to_v'][0]}")
    return ISTVTConfig(
        frames=frames,
        image_size=16 * side - 4,  # 300 for their 19 x 19 cells; a size that gives this grid for any other
        dim=dim,
        heads=heads,
        head_dim=inner // heads,
        depth=len({name.removeprefix(_LAYERS).split(".")[0] for name in state if name.startswith(_LAYERS)}),
        mlp_dim=shapes["fc1"][0],
        backbone_dims=tuple(shapes[key][0] for key in ("conv1", "conv2", "skip1", "skip2")),
        **{name: getattr(preset("published"), name) for name in _FIXED},
    )


def to_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a model, [all Q, all K, all V] packed, as the authors' names and shapes have it."""
    theirs = {}
    for name, value in state.items():
        names = authors_names(name)
        if len(names) == 2:
            rows = len(value) // 3
            theirs |= zip(names, (value[: 2 * rows].clone(), value[2 * rows :].clone()), strict=True)
        elif name.endswith("class_token"):
            theirs[names[0]] = value[None, None]
        else:
            theirs[names[0]] = value[None] if name == "position_embedding" else value
    return theirs


def from_authors(theirs: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an authors' state dict under the names and in the shapes of the model whose own is `state`.

    Raises:
        ValueError: tensors are missing, unknown or misshapen; the first few are named.
    """
    if problems := state_dict_mismatches(theirs, to_authors(state)):
        raise ValueError(problems)
    parts = {name: [theirs[of] for of in authors_names(name)] for name in state}
    return {
        name: (tensors[0] if len(tensors) == 1 else torch.cat(tensors)).reshape(state[name].shape)
        for name, tensors in parts.items()
    }


def authors_names(name: str) -> tuple[str, ...]:
    """Return the authors' name of a parameter or buffer; two for temporal QKV, which they hold as QK and V."""
    if name.startswith("backbone."):
        return (_BACKBONE + name.removeprefix("backbone."),)
    if name in _NAMES:
        return (_NAMES[name],)
    module, _, last = name.rpartition(".")
    if module in _NAMES:
        return (f"{_NAMES[module]}.{last}",)
    _, index, module = module.split(".", 2)
    if module == "temporal.qkv":
        return f"{_LAYERS}{index}.0.fn.to_qk.{last}", f"{_LAYERS}{index}.0.fn.to_v.{last}"
    return (f"{_LAYERS}{index}.{_BLOCK_NAMES[module]}.{last}",)
