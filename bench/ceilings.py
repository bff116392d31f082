"""What this GPU can do at most: bytes copied and written, multiply-adds of large products in each precision, a launch.

Every "percent of" in the other tables is relative to these.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial

import torch

from bench.common import timing
from bench.common.environment import require_gpu
from bench.common.record import Row, add_output, output_folder, write_as_measured
from bench.common.table import Column, row_table
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
        return 2 * side**3 / (1e-6 * timing.time_call(lambda: a @ b).median)
    finally:
        allow_tf32(False)


# By ceiling: its unit, what a measurement is multiplied by for it, and how it is measured.
CEILINGS = {
    "copy, read and write": ("TB/s", 1e-12, timing.copy_bandwidth),
    "write": ("TB/s", 1e-12, timing.write_bandwidth),
    **{f"matrix product, {name}": ("TFLOP/s", 1e-12, partial(product_rate, name)) for name in PRECISIONS},
    "smallest kernel": ("us", 1, lambda: timing.time_call(partial(torch.zeros(1, device="cuda").add_, 1)).median),
}


def measure() -> Iterator[Row]:
    """Yield a record a ceiling; one that fails says why, and the others are measured."""
    for ceiling, (unit, factor, measured) in CEILINGS.items():
        value, note = timing.attempt(measured)
        yield {"ceiling": ceiling, "value": value and factor * value, "unit": unit, "note": note}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where to write."""
    add_output(parser, "none, the table is only printed")


def run(arguments: argparse.Namespace) -> int:
    """Print the table and write it record by record; 1 if a ceiling could not be measured."""
    require_gpu("ceilings")
    folder = output_folder(arguments.output, "ceilings", arguments.commit) if arguments.output else None
    rows = write_as_measured(folder, "ceilings", measure())
    print(row_table(tuple(map(Column, ("ceiling", "value", "unit", "note"))), rows))
    return 1 if any(row["value"] is None for row in rows) else 0
