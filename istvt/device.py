"""Which arithmetic a run uses: float32, or autocast to bfloat16 or float16 with master weights in float32."""

from __future__ import annotations

import contextlib

import torch

from dataloading.errors import InputError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of `precision` on `device`; "auto" is bfloat16 on a GPU that has it, float32 elsewhere.

    Raises:
        InputError: an unknown name.
    """
    if precision == "auto":
        has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bfloat16 else torch.float32
    if precision not in _DTYPES:
        raise InputError(f"precision is {precision!r}; expected auto, {', '.join(_DTYPES)}")
    return _DTYPES[precision]


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Autocast to `dtype` on `device`; nothing at all for float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def allow_tf32(allowed: bool) -> None:
    """Whether float32 products and convolutions of this process may round their factors to TF32 on a GPU."""
    # Not by the newer fp32_precision: once it is set, reading these names, as torch.compile does, is an error.
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def pick_device(device: str = "auto") -> torch.device:
    """The device named, or a GPU where there is one.

    From here on float32 is float32 in this process, until `allow_tf32`: PyTorch by itself lets a GPU round the factors
    of convolutions to TF32.

    Raises:
        InputError: the device is not here.
    """
    allow_tf32(False)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device is {device!r}; expected auto, cpu, cuda or cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise InputError(f"device is {device!r}; expected auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device is {device!r}, but PyTorch finds no usable NVIDIA GPU here; use cpu or auto")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device is {device!r}, but there are {torch.cuda.device_count()} GPUs here, counted from 0")
    return chosen
