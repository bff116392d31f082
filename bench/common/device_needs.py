"""What a command needs of the machine that it runs on."""

from __future__ import annotations

import os
import sys

from dataloading.errors import InputError


def require_gpu(command: str) -> None:
    """Say that `command` cannot run here, where there is no GPU.

    Raises:
        InputError: there is none.
    """
    import torch

    if not torch.cuda.is_available():
        raise InputError(f"{command} needs an NVIDIA GPU, and PyTorch finds none here.")


def gpu_or_interpreter() -> str:
    """The device of tensors that kernels take here: "cuda", or "cpu" in Triton's interpreter.

    Without a GPU the whole command starts over in the interpreter: Triton decides when a kernel is defined.
    """
    import torch

    from kernels.common.launch import interpreted

    if interpreted():
        return "cpu"
    if not torch.cuda.is_available():
        sys.stdout.flush()
        environment = os.environ | {"TRITON_INTERPRET": "1"}
        os.execve(sys.executable, [sys.executable, "-m", "bench", *sys.argv[1:]], environment)
    return "cuda"
