"""Time and memory of a call on a CPU: what `bench.common.timing` does on a GPU."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable

import torch

from bench.common.timing import Timing, summary


def time_call(function: Callable[[], object], *, milliseconds: int = 100, fewest: int = 3) -> Timing:
    """Time `function` after a warm-up, for about `milliseconds` and at least `fewest` times.

    Processor time of all threads: on a machine that others use too, time on the clock is mostly theirs.
    """
    function()
    microseconds: list[float] = []
    began = time.perf_counter()
    while len(microseconds) < fewest or time.perf_counter() - began < 1e-3 * milliseconds:
        started = time.process_time()
        function()
        microseconds.append(1e6 * (time.process_time() - started))
    return summary(microseconds)


def peak_bytes(function: Callable[[], object]) -> int:
    """The most memory that PyTorch held during `function` beyond what it held before, results included.

    Added up from every allocation and release that the allocator reports, those inside an operator too.
    """
    gc.collect()  # else what earlier calls left in cycles, as Triton's interpreter does, is released meanwhile
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # two lines on stderr for every call otherwise
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = function()
    del result
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
