"""What this GPU can do at most: bytes copied and written, multiply-adds of large products in each precision, a launch.

Every "percent of" in the other tables is relative to these.
"""

import argparse
from collections.abc import Iterator
from functools import partial

import torch

from bench.common import timing
from bench.common.environment import require_gpu
from bench.common.tasks import Task
from istvt.device import allow_tf32

PRECISIONS = ("float32", "tf32", "bfloat16", "float16")


def product_rate(precision: str) -> float:
    """Return the floating-point operations a second of a large square matrix product on the current GPU."""
    side = 4096 if precision == "float32" else 8192  # large enough for the highest rate, small enough to repeat
    dtype = torch.float32 if precision in ("float32", "tf32") else getattr(torch, precision)
    allow_tf32(precision == "tf32")
    try:
        # Random: products of zeros draw less power and clock higher than any real one.
        a, b = torch.randn(2, side, side, device="cuda").to(dtype)
        return 2 * side**3 / (1e-6 * timing.time_call(lambda: a @ b)["microseconds"])
    finally:
        allow_tf32(False)


# By ceiling: its unit, what a measurement is multiplied by for it, and how it is measured.
CEILINGS = {
    "copy, read and write": ("TB/s", 1e-12, timing.copy_bandwidth),
    "write": ("TB/s", 1e-12, timing.write_bandwidth),
    **{f"matrix product, {name}": ("TFLOP/s", 1e-12, partial(product_rate, name)) for name in PRECISIONS},
    "smallest kernel": ("us", 1, lambda: timing.time_call(torch.zeros(1, device="cuda").zero_)["microseconds"]),
}


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """Yield a record a ceiling."""
    require_gpu("ceilings")
    for name, (unit, factor, measure) in CEILINGS.items():
        measured = lambda factor=factor, measure=measure: {"value": factor * measure()}  # noqa: E731
        yield Task("ceilings", {"ceiling": name, "unit": unit}, measured)
