"""Launching Triton kernels: one place that starts them, or records what would be started.

A recorded launch holds the very arguments a GPU would get, so ahead-of-time compilation (`bench compile`) builds
what runs and not a copy of it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import triton

# Offsets are computed in 32 bits as long as every element of every operand is reachable with them.
LARGEST_32_BIT_OFFSET = 2**31 - 1

# What a table of launch settings is keyed by when no row of it names the architecture.
ANY = "any"


@dataclass(frozen=True)
class Setting:
    """How one kernel is launched: rows of a tile (kernels define what a row is), warps, software pipeline stages.

    `max_registers` of a thread, where given, lets one more program run on a processor at the same time.
    """

    rows: int
    num_warps: int
    num_stages: int = 1
    max_registers: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class TileSetting(Setting):
    """A tile of `rows` by `columns`."""

    columns: int = 64


@dataclass(frozen=True)
class Launch:
    """One kernel start: what is started, how often, with which arguments."""

    kernel: Any
    programs: int
    arguments: dict[str, Any]
    setting: Setting


SomeSetting = TypeVar("SomeSetting", bound=Setting)


@dataclass
class _Recording:
    architecture: int
    launches: list[Launch]


_recording: _Recording | None = None


# Read once: Triton decides when a kernel is defined, and torch.compile cannot trace the look-up.
_INTERPRETED = bool(triton.knobs.runtime.interpret)


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter (`TRITON_INTERPRET=1` before import), on CPU tensors."""
    return _INTERPRETED


def runs_kernels(x: torch.Tensor) -> bool:
    """Whether Triton kernels take `x`: CUDA tensors (CPU ones in the interpreter) of at most float32."""
    device_runs = x.device.type == "cuda" or (x.device.type == "cpu" and interpreted())
    return device_runs and x.dtype != torch.float64


def architecture(x: torch.Tensor) -> int:
    """Compute capability as one number (90 for an H200) of the device of `x`; 0 in the interpreter."""
    if _recording is not None:
        return _recording.architecture
    return _architecture_of(x.device) if x.device.type == "cuda" else 0


@functools.cache  # a step asks a hundred times, and PyTorch takes as long to answer as to launch a kernel
def _architecture_of(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@contextlib.contextmanager
def recorded(architecture: int) -> Iterator[list[Launch]]:
    """Inside, launches are recorded and not run (tensors may be on the meta device), as if for `architecture`."""
    global _recording
    previous, _recording = _recording, _Recording(architecture, [])
    try:
        yield _recording.launches
    finally:
        _recording = previous


def launch(kernel: Any, programs: int, setting: Setting, device: torch.device, /, **arguments: Any) -> None:
    """Start `programs` instances of `kernel` on grid axis 0 (the others stop at 65,535); none is fine."""
    if _recording is not None:
        _recording.launches.append(Launch(kernel, programs, arguments, setting))
        return
    if programs == 0:
        return
    # Backward runs on a thread of its own, whose current device may be another (pytorch#124565).
    elsewhere = device.type == "cuda" and device.index != torch.cuda.current_device()
    with torch.cuda.device(device) if elsewhere else contextlib.nullcontext():
        kernel[(programs,)](**arguments, **launch_options(setting))


def launch_options(setting: Setting) -> dict[str, Any]:
    """What Triton is given beside the arguments: the one place for what is launched and what is compiled ahead."""
    return {
        "num_warps": setting.num_warps,
        "num_stages": setting.num_stages,
        "maxnreg": setting.max_registers,
        "enable_fp_fusion": True,
    }


def wide_offsets(*tensors: torch.Tensor) -> bool:
    """Whether an element of one of `tensors` is too far from its first for a 32-bit offset."""
    furthest = 0
    for x in tensors:
        furthest = max(furthest, sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True)))
    return furthest > LARGEST_32_BIT_OFFSET


def next_power_of_two(n: int) -> int:
    """The smallest power of two that is at least `n`."""
    return 1 << max(n - 1, 0).bit_length()


def padded_head_dim(head_dim: int) -> int:
    """The next multiple of 16: what products take, and where 16-bit heads begin at addresses that loads are wide at."""
    return -(-head_dim // 16) * 16


def split_head_dim(head_dim: int) -> tuple[int, int]:
    """Two powers of two that cover `head_dim`: 64 = 64 + 0, 96 = 64 + 32, 91 = 64 + 32, 8 = 16 + 0.

    Padding 96 to 128 would waste a third of every product and register.
    """
    covered = padded_head_dim(head_dim)
    left = 1 << (covered.bit_length() - 1)
    return left, 0 if left == covered else next_power_of_two(covered - left)


# Settings by architecture (or ANY), each row of a table a bound on the size of the problem and what to launch up to it.
Table = Mapping[int | str, Sequence[tuple[int, SomeSetting]]]


def choose(table: Table[SomeSetting], architecture: int, size: int) -> SomeSetting | None:
    """The first setting of the architecture's row whose bound is at least `size`; None where the row ends below."""
    return next((setting for bound, setting in table.get(architecture, table[ANY]) if size <= bound), None)
