"""What this GPU can do at most: bytes copied and written, multiply-adds of large products in each precision, a launch.

Every "percent of" in the other tables is relative to these.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial

from bench.common.device_needs import require_gpu
from bench.common.record import Row, add_output, failure, output_folder, write_table
from bench.common.table import Column, row_table

PRECISIONS = ("float32", "tf32", "bfloat16", "float16")

# Side of the square product: large enough for the highest rate, small enough to be timed often.
SIDE = {"float32": 4096, "tf32": 8192, "bfloat16": 8192, "float16": 8192}


def product_rate(precision: str) -> float:
    """Floating-point operations a second of a large square matrix product on the current GPU."""
    import torch

    from bench.common.timing import time_call
    from istvt.device import allow_tf32

    side = SIDE[precision]
    dtype = torch.float32 if precision in ("float32", "tf32") else getattr(torch, precision)
    allow_tf32(precision == "tf32")
    try:
        # Random: products of zeros draw less power and clock higher than any real one.
        a, b = torch.randn(2, side, side, device="cuda").to(dtype)
        return 2 * side**3 / (1e-6 * time_call(lambda: a @ b).median)
    finally:
        allow_tf32(False)


def measure() -> Iterator[Row]:
    """One row a ceiling, as it comes; one that fails says why, and the others are measured."""
    import torch

    from bench.common.timing import copy_bandwidth, time_call, write_bandwidth

    def smallest_kernel() -> float:
        one = torch.zeros(1, device="cuda")
        return time_call(lambda: one.add_(1)).median

    ceilings = {
        "copy, read and write": ("TB/s", lambda: copy_bandwidth() / 1e12),
        "write": ("TB/s", lambda: write_bandwidth() / 1e12),
        **{f"matrix product, {name}": ("TFLOP/s", partial(_teraflops, name)) for name in PRECISIONS},
        "smallest kernel": ("us", smallest_kernel),
    }
    for ceiling, (unit, measured) in ceilings.items():
        row: Row = {"ceiling": ceiling, "value": None, "unit": unit, "note": ""}
        try:
            row["value"] = measured()
        except Exception as error:
            row["note"] = failure(error)
        yield row


def _teraflops(precision: str) -> float:
    return product_rate(precision) / 1e12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to write."""
    add_output(parser, "none, the table is only printed")


def run(arguments: argparse.Namespace) -> int:
    """Print the table and write it row by row; 1 if a ceiling could not be measured."""
    require_gpu("ceilings")
    folder = output_folder(arguments.output, "ceilings", arguments.commit) if arguments.output else None
    rows: list[Row] = []
    for row in measure():
        rows.append(row)
        if folder:
            write_table(folder, "ceilings", rows)
    print(row_table(tuple(map(Column, ("ceiling", "value", "unit", "note"))), rows))
    return 1 if any(row["value"] is None for row in rows) else 0
