"""Time and memory of a call on a GPU, and what the machine can copy: every speed benchmark measures with these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

# Large enough that no cache holds it, small enough for any GPU.
COPY_BYTES = 1 << 30


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call: the median, and the 20th and 80th percentile."""

    median: float
    low: float
    high: float


def time_call(
    function: Callable[[], object], *, grad_to_none: Sequence[torch.Tensor] = (), milliseconds: int = 100
) -> Timing:
    """Time ``function`` with cold caches, after a warm-up, for about ``milliseconds``.

    ``grad_to_none``: leaves whose gradients are dropped before each call, so that none is accumulated.
    """
    from triton.testing import do_bench

    quantiles = do_bench(
        function, warmup=25, rep=milliseconds, grad_to_none=list(grad_to_none) or None, quantiles=[0.5, 0.2, 0.8]
    )
    median, low, high = (1000 * x for x in quantiles)
    return Timing(median, low, high)


def peak_bytes(function: Callable[[], object]) -> int:
    """The most memory that PyTorch held during ``function`` beyond what it held before, results included."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = function()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del result
    return peak


def copy_bandwidth() -> float:
    """Bytes a second, read and written together, of a device-to-device copy: what "byte floor" is relative to."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / (1e-6 * time_call(lambda: target.copy_(source)).median)


def write_bandwidth() -> float:
    """Bytes a second of filling memory: the floor of emitting a matrix."""
    target = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    return COPY_BYTES / (1e-6 * time_call(target.zero_).median)
