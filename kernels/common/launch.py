"""Launch Triton kernels, or record what would be launched; tables of launch configs.

A recorded launch holds the arguments that a GPU would get, so ahead-of-time compilation (`bench compile`) builds
exactly what runs.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton import Config

# Offsets are computed in 32 bits as long as every element of every operand is reachable with them.
LARGEST_32_BIT_OFFSET = 2**31 - 1

# Key of the rows for every architecture that has none of its own.
ANY = "any"


@dataclass(frozen=True)
class Launch:
    """One kernel launch: the kernel, its grid, its arguments (those of `config` among them)."""

    kernel: Any
    programs: int
    arguments: dict[str, Any]
    config: Config


@dataclass
class _Redirection:
    architecture: int
    receive: Callable[[Launch], object]
    executes: bool


_redirection: _Redirection | None = None


# Read once: Triton decides when a kernel is defined, and torch.compile cannot trace the look-up.
_INTERPRETED = bool(triton.knobs.runtime.interpret)


def interpreted() -> bool:
    """Return whether kernels run in Triton's interpreter (`TRITON_INTERPRET=1` before import), on CPU tensors."""
    return _INTERPRETED


def runs_kernels(x: torch.Tensor) -> bool:
    """Return whether Triton kernels take `x`: CUDA tensors (CPU ones in the interpreter) of at most float32."""
    device_runs = x.device.type == "cuda" or (x.device.type == "cpu" and (interpreted() or _executes()))
    return device_runs and x.dtype != torch.float64


def architecture(x: torch.Tensor) -> int:
    """Return the compute capability as one number (90 for an H200) of the device of `x`; 0 in the interpreter."""
    if _redirection is not None:
        return _redirection.architecture
    return _architecture_of(x.device) if x.device.type == "cuda" else 0


@functools.cache  # read at each launch, and the query takes PyTorch as long as a launch
def _architecture_of(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _executes() -> bool:
    return _redirection is not None and _redirection.executes


@contextlib.contextmanager
def recorded(architecture: int) -> Iterator[list[Launch]]:
    """Record launches and run none inside (tensors may be on the meta device), as if for `architecture`."""
    launches: list[Launch] = []
    with _redirected(_Redirection(architecture, launches.append, executes=False)):
        yield launches


@contextlib.contextmanager
def executed_by(execute: Callable[[Launch], object], architecture: int) -> Iterator[None]:
    """Let kernels take CPU tensors inside, as if on `architecture`; `execute` gets each launch and runs it."""
    with _redirected(_Redirection(architecture, execute, executes=True)):
        yield


@contextlib.contextmanager
def _redirected(redirection: _Redirection) -> Iterator[None]:
    global _redirection
    previous, _redirection = _redirection, redirection
    try:
        yield
    finally:
        _redirection = previous


def launch(kernel: Any, programs: int, config: Config, device: torch.device, /, **arguments: Any) -> None:
    """Start `programs` instances of `kernel` on grid axis 0 (the other axes end at 65,535); no launch for zero."""
    arguments |= config.kwargs
    if _redirection is not None:
        _redirection.receive(Launch(kernel, programs, arguments, config))
        return
    if programs == 0:
        return
    # Backward runs on a thread of its own, whose current device may be another (pytorch#124565).
    elsewhere = device.type == "cuda" and device.index != torch.cuda.current_device()
    with torch.cuda.device(device) if elsewhere else contextlib.nullcontext():
        kernel[(programs,)](**arguments, **launch_options(config))


def launch_options(config: Config) -> dict[str, Any]:
    """Return the compiler options of a launch, which ahead-of-time compilation uses too."""
    return {
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
        "maxnreg": config.maxnreg,
        "enable_fp_fusion": True,
    }


def needs_int64_offsets(*tensors: torch.Tensor | None) -> bool:
    """Return whether an element of one of `tensors` is too far from its first for a 32-bit offset."""
    furthest = 0
    for x in tensors:
        if x is not None:
            furthest = max(furthest, sum((size - 1) * step for size, step in zip(x.shape, x.stride(), strict=True)))
    return furthest > LARGEST_32_BIT_OFFSET


def padded_head_dim(head_dim: int) -> int:
    """Return the next multiple of 16: what products take, and where 16-bit heads begin at addresses for wide loads."""
    return -(-head_dim // 16) * 16


def split_head_dim(head_dim: int) -> tuple[int, int]:
    """Return two powers of two that cover `head_dim`: 64 = 64 + 0, 96 = 64 + 32, 91 = 64 + 32, 8 = 16 + 0.

    Padding 96 to 128 would waste a third of every product and register.
    """
    covered = padded_head_dim(head_dim)
    first = 1 << (covered.bit_length() - 1)
    return first, triton.next_power_of_2(covered - first)


def tile(block_m: int, block_n: int, num_warps: int, num_stages: int, maxnreg: int | None = None) -> Config:
    """Return the `triton.Config` of a kernel with tiles of `BLOCK_M` by `BLOCK_N`."""
    blocks = {"BLOCK_M": block_m, "BLOCK_N": block_n}
    return Config(blocks, num_warps=num_warps, num_stages=num_stages, maxnreg=maxnreg)


# Configs by architecture (or ANY). Each row: the largest size of the problem that it is for, and the config.
Table = Mapping[int | str, Sequence[tuple[int, Config]]]


def choose(table: Table, architecture: int, size: int) -> Config | None:
    """Return the first config of the architecture whose bound is at least `size`; None where all are smaller."""
    return next((config for bound, config in table.get(architecture, table[ANY]) if size <= bound), None)
