"""Time and peak memory of a call on a GPU with cold caches or on a CPU, and the bandwidth of GPU memory."""

import gc
import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch

from bench.common.record import Row

COPY_BYTES = 1 << 30  # more than any cache holds, and less than any GPU has
CACHE_BYTES = 1 << 28  # read between two samples: more than any second-level cache holds
CYCLES_A_SECOND = 2.5e9  # no GPU counts faster; one that counts slower waits longer
WARM_UP_SECONDS = 0.02
FEWEST_SAMPLES = {"cuda": 5, "cpu": 3}
SECONDS_TO_RELEASE = 0.02  # the thread of a backward pass releases gradients a moment after the call has returned


def time_call(function: Callable[[], object], *, milliseconds: int = 100, device: str = "cuda") -> Row:
    """Return the microseconds of one call and their 20th and 80th percentile, measured for about `milliseconds`.

    On a GPU caches are cold, and each call is queued behind a wait that is longer than the host takes to queue it: the
    host takes longer to launch many a kernel than the GPU to run it, and the way through PyTorch differs between peers.
    On a CPU it is the processor time of all threads: other processes spend most of the time on the clock.
    """
    microseconds = (_times_on_gpu if device == "cuda" else _times_on_cpu)(function, 1e-3 * milliseconds)
    return dict(zip(("microseconds", "p20", "p80"), np.quantile(microseconds, (0.5, 0.2, 0.8)).tolist(), strict=True))


def _times_on_cpu(function: Callable[[], object], seconds: float) -> Sequence[float]:
    function()
    microseconds: list[float] = []
    began = time.perf_counter()
    while len(microseconds) < FEWEST_SAMPLES["cpu"] or time.perf_counter() - began < seconds:
        started = time.process_time()
        function()
        microseconds.append(1e6 * (time.process_time() - started))
    return microseconds


def _times_on_gpu(function: Callable[[], object], seconds: float) -> Sequence[float]:
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
    samples = [sample() for _ in range(FEWEST_SAMPLES["cuda"])]
    torch.cuda.synchronize()
    each = (time.perf_counter() - started) / len(samples)
    samples += [sample() for _ in range(int(seconds / each) - len(samples))]
    torch.cuda.synchronize()
    return [1e3 * began.elapsed_time(ended) for began, ended in samples]


def peak_bytes(function: Callable[[], object], device: str = "cuda") -> int:
    """Return the most memory that PyTorch held during `function` beyond what it held before, results included.

    On a CPU it is summed over every allocation and release that the allocator reports, also within an operator.
    """
    gc.collect()  # what earlier calls left in cycles, as Triton's interpreter does, would be released meanwhile
    if device == "cuda":
        function()  # what stays after the first call, such as workspaces of libraries, is not the call's
        torch.cuda.synchronize()
        time.sleep(SECONDS_TO_RELEASE)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = function()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        del result
        return peak
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # two lines on stderr for every call otherwise
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = function()
    del result
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate((event.nbytes() for event in events), initial=0))


def time_and_memory(function: Callable[[], object], milliseconds: int, device: str = "cuda") -> Row:
    """Return what `time_call` and `peak_bytes` find, as columns of a record."""
    times = time_call(function, milliseconds=milliseconds, device=device)
    return times | {"peak_bytes": peak_bytes(function, device)}


def let_go() -> bool:
    """Release the cached memory of tensors that are gone; return whether the GPU still answers.

    After some errors, such as a read beyond a tensor, every call in this process fails, this one included.
    """
    if not torch.cuda.is_available():
        return True
    gc.collect()
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except Exception:
        return False
    return True


@cache
def copy_bandwidth() -> float:
    """Return bytes a second, read and written together, of a device-to-device copy: what a byte floor divides by."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / (1e-6 * time_call(lambda: target.copy_(source))["microseconds"])


@cache
def write_bandwidth() -> float:
    """Return bytes a second of filling memory: the floor of emitting a matrix."""
    target = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    return COPY_BYTES / (1e-6 * time_call(target.zero_)["microseconds"])
