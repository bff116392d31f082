"""Device, memory and precision of a run, evaluation mode, out-of-memory errors, and package versions."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import metadata

import torch
from torch import nn

from dataloading.errors import InputError
from istvt.config import __version__

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_OUT_OF_MEMORY = re.compile(r"out of memory|DefaultCPUAllocator: (can't allocate|not enough) memory")
# Values of ONEDNN_MAX_CPU_ISA below the instructions that multiply bfloat16.
_ISA_WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
# Of mallopt, by malloc.h: a block below the threshold of mapping lies in the heap, which keeps it when it is freed.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_BLOCK = 1 << 30  # bytes
# Packages, each with the distributions that provide it; the first installed one counts.
_PACKAGES = {
    "torch": ("torch",),
    "triton": ("triton",),
    "numpy": ("numpy",),
    "nvidia-dali": ("nvidia-dali-cuda130", "nvidia-dali-cuda120"),
    "av": ("av",),
    "opencv": ("opencv-python-headless", "opencv-python"),
    "scikit-learn": ("scikit-learn",),
    "xformers": ("xformers",),
}


def pick_device(device: str = "auto") -> torch.device:
    """Return the device of a name; "auto" is a GPU where there is one.

    Also turns TF32 off in this process, until `allow_tf32`: by default PyTorch lets a GPU round the factors of
    convolutions to TF32.

    Raises:
        InputError: the name is invalid, or this machine has no such device.
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


def allow_tf32(allowed: bool) -> None:
    """Set whether float32 products and convolutions of this process may round their factors to TF32 on a GPU."""
    # Not by the newer fp32_precision: once it is set, torch.compile fails when it reads these older names.
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of `precision` on `device`; "auto" is bfloat16 where the hardware multiplies it, else float32.

    Raises:
        InputError: an unknown name.
    """
    if precision == "auto":
        on_gpu = device.type == "cuda"
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else cpu_has_bfloat16()
        return torch.bfloat16 if has_bfloat16 else torch.float32
    if precision not in _DTYPES:
        raise InputError(f"precision is {precision!r}; expected auto, {', '.join(_DTYPES)}")
    return _DTYPES[precision]


def cpu_has_bfloat16() -> bool:
    """Return whether this processor multiplies bfloat16 (AMX, AVX512-BF16) and oneDNN may use it.

    Elsewhere bfloat16 is emulated and slower than float32. `ONEDNN_MAX_CPU_ISA`, oneDNN's own variable, set to a lesser
    instruction set such as AVX512_CORE keeps "auto" at float32 on any processor.
    """
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in _ISA_WITHOUT_BFLOAT16:
        return False
    found = torch.cpu.get_capabilities()
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Return autocast to `dtype` on `device`; for float32 a context that does nothing."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


@contextmanager
def in_evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for the context, and restore the mode of each of its modules after it."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def keep_freed_memory(device: torch.device) -> None:
    """Let this process keep the memory of freed tensors on a CPU, for those of the next layer, batch or step.

    By default glibc returns blocks of more than 32 MiB to the system when they are freed, and an activation of the
    paper's size is 66 MB: every layer waits for the system to clear new pages, for 6 to 14 % of a step's time. The
    process takes up to a fifth more memory. Other C libraries, and MALLOC_MMAP_THRESHOLD_ in the environment, stay as
    they are; on a GPU there is nothing to do.
    """
    if device.type != "cpu" or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_BLOCK - 1)


def memory_of(device: torch.device) -> int:
    """Return how many bytes of memory a device has, used ones among them."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is of a memory allocator, on a GPU (torch.OutOfMemoryError) or a CPU."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))
    )


def package_version(name: str) -> str | None:
    """Return the installed version of a package, or None where it is not installed."""
    for distribution in _PACKAGES.get(name, (name,)):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def versions() -> dict[str, str]:
    """Return the versions of Python, this project and the installed packages that results may depend on."""
    found = {"istvt": __version__, "python": platform.python_version()}
    return found | {name: version for name in _PACKAGES if (version := package_version(name))}
