"""Compilation of the kernels that a benchmark is about to launch, several at a time: one by one they cost minutes."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from kernels.common.launch import Launch, architecture, launch_options, recorded


def compile_ahead(calls: Iterable[Callable[[], object]], seconds: float = math.inf) -> int:
    """Compile the kernels that `calls` launch, without launching one, and return how many these are.

    Each call runs once on tensors of the current GPU, and nothing may depend on its results. A kernel that does not
    compile, or is not begun within `seconds`, is left to the call that will need it, whose error says more.
    """
    deadline = time.monotonic() + seconds
    launches: dict[Hashable, Launch] = {}
    for call in calls:
        if time.monotonic() > deadline:
            break
        with recorded(architecture(torch.empty(0, device="cuda"))) as found:
            call()
        for launch in found:
            launch = replace(launch, arguments={name: _stand_in(x) for name, x in launch.arguments.items()})
            launches[_key(launch)] = launch

    def compile_in_time(launch: Launch) -> None:
        if time.monotonic() < deadline:
            with contextlib.suppress(Exception):
                launch.kernel.warmup(grid=(1,), **launch.arguments, **launch_options(launch.config))

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Triton and ptxas let other threads run meanwhile
        list(pool.map(compile_in_time, launches.values()))
    return len(launches)


def _stand_in(argument: Any) -> Any:
    """Return what Triton compiles alike for `argument`, and holds no memory."""
    aligned = isinstance(argument, torch.Tensor) and argument.data_ptr() % 16 == 0
    return torch.empty(0, dtype=argument.dtype, device="meta") if aligned else argument


def _key(launch: Launch) -> Hashable:
    """Return what a kernel is specialized on, or more."""
    arguments = tuple(
        (name, (value.dtype, value.is_meta) if isinstance(value, torch.Tensor) else value)
        for name, value in launch.arguments.items()
    )
    return launch.kernel, launch.config, arguments
