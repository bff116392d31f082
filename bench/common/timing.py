"""Time and memory of a call on a GPU, and what the machine can copy: every speed benchmark measures with these."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

# Large enough that no cache holds it, small enough for any GPU.
COPY_BYTES = 1 << 30
# What is read between two samples: more than any second-level cache holds.
CACHE_BYTES = 1 << 28
# No GPU counts faster; one that counts slower waits longer.
CYCLES_A_SECOND = 2.5e9
WARM_UP_SECONDS = 0.02
FEWEST_SAMPLES = 5
# After a backward pass its thread lets go of the gradients a moment later than the call returns.
SECONDS_TO_LET_GO = 0.02


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call: the median, and the 20th and 80th percentile."""

    median: float
    low: float
    high: float


def time_call(function: Callable[[], object], *, milliseconds: int = 100) -> Timing:
    """Time `function` on the GPU with cold caches, after a warm-up, for about `milliseconds`.

    Each call is queued behind a wait of the GPU that is longer than the host takes to queue it, so that the time is
    that of the GPU alone. A call of a kernel takes the host longer than many a kernel takes the GPU, and most of that
    is the way through PyTorch, which is not the same for everybody who is compared.
    """
    filling = torch.zeros(CACHE_BYTES // 4, device="cuda")
    function()  # compiles what has to be compiled
    torch.cuda.synchronize()
    host: list[float] = []
    began = time.perf_counter()
    while len(host) < 3 or time.perf_counter() - began < WARM_UP_SECONDS:
        started = time.perf_counter()
        function()
        host.append(time.perf_counter() - started)
        torch.cuda.synchronize()
    wait = int(2 * statistics.median(host) * CYCLES_A_SECOND)

    def sample() -> tuple[torch.cuda.Event, torch.cuda.Event]:
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        filling.sum()  # read, because what is written would still be on its way to memory while the call is timed
        torch.cuda._sleep(wait)
        began.record()
        function()
        ended.record()
        return began, ended

    started = time.perf_counter()
    samples = [sample() for _ in range(FEWEST_SAMPLES)]
    torch.cuda.synchronize()
    each = (time.perf_counter() - started) / FEWEST_SAMPLES
    samples += [sample() for _ in range(int(1e-3 * milliseconds / each) - FEWEST_SAMPLES)]
    torch.cuda.synchronize()
    return summary([1e3 * began.elapsed_time(ended) for began, ended in samples])


def summary(microseconds: Sequence[float]) -> Timing:
    """Of the times of single calls."""
    wanted = torch.tensor([0.5, 0.2, 0.8], dtype=torch.float64)
    return Timing(*torch.tensor(microseconds, dtype=torch.float64).quantile(wanted).tolist())


def peak_bytes(function: Callable[[], object]) -> int:
    """The most memory that PyTorch held during `function` beyond what it held before, results included."""
    torch.cuda.synchronize()
    gc.collect()
    time.sleep(SECONDS_TO_LET_GO)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = function()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del result
    return peak


def let_go() -> bool:
    """Give back what PyTorch keeps of what nobody holds any more; says whether the GPU still answers.

    After some errors, such as a read beyond a tensor, every call in this process fails, this one included.
    """
    gc.collect()
    if not torch.cuda.is_available():
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except Exception:
        return False
    return True


def copy_bandwidth() -> float:
    """Bytes a second, read and written together, of a device-to-device copy: what "byte floor" is relative to."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / (1e-6 * time_call(lambda: target.copy_(source)).median)


def write_bandwidth() -> float:
    """Bytes a second of filling memory: the floor of emitting a matrix."""
    target = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    return COPY_BYTES / (1e-6 * time_call(target.zero_).median)
