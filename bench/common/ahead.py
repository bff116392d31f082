"""Compilation of the kernels that a benchmark is about to launch, several at a time: one by one they cost minutes."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore
from types import SimpleNamespace
from typing import Any

import torch
import triton

from kernels.common.launch import architecture, launch_options, recorded


def compile_ahead(calls: Iterable[Callable[[], object]], seconds: float = math.inf) -> int:
    """Compile the kernels that `calls` launch, without launching one, and return how many these are.

    Each call runs once on tensors of the current GPU, and nothing may depend on its results. A call or kernel that
    fails, or is not begun within `seconds`, is left to the call that will need it, whose error says more.
    """
    deadline, cores = time.monotonic() + seconds, os.cpu_count() or 1
    free = BoundedSemaphore(cores)  # what waits for its turn could not be taken back

    def submit(compile_kernel: Callable[[], Any]) -> Future:
        free.acquire()
        future = pool.submit(compile_kernel)
        future.add_done_callback(lambda _: free.release())
        return future

    with ThreadPoolExecutor(cores) as pool:  # Triton and ptxas let other threads run meanwhile
        with triton.AsyncCompileMode(SimpleNamespace(submit=submit), ignore_errors=True) as mode:
            for call in calls:
                if time.monotonic() > deadline:
                    break
                with contextlib.suppress(Exception), recorded(architecture(torch.empty(0, device="cuda"))) as found:
                    call()
                    for launch in found:
                        launch.kernel.warmup(grid=(1,), **launch.arguments, **launch_options(launch.config))
        return len(mode.raw_futures)
