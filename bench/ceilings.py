"""What this GPU can do at most: bytes copied and written, multiply-adds of large products in each precision, a launch.

Every "percent of" in the other tables is relative to these.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.record import Row, write_table
from bench.table import format_table

PRECISIONS = ("float32", "tf32", "bfloat16", "float16")

# Side of the square product: large enough for the highest rate, small enough to be timed often.
SIDE = {"float32": 4096, "tf32": 8192, "bfloat16": 8192, "float16": 8192}


def product_rate(precision: str) -> float:
    """Floating-point operations a second of a large square matrix product on the current GPU."""
    import torch

    from bench.timing import time_call
    from istvt.precision import allow_tf32

    side = SIDE[precision]
    dtype = torch.float32 if precision in ("float32", "tf32") else getattr(torch, precision)
    allow_tf32(precision == "tf32")
    try:
        # Random: products of zeros draw less power and clock higher than any real one.
        a, b = torch.randn(2, side, side, device="cuda").to(dtype)
        return 2 * side**3 / (1e-6 * time_call(lambda: a @ b).median)
    finally:
        allow_tf32(False)


def measure() -> list[Row]:
    """One row a ceiling."""
    import torch

    from bench.timing import copy_bandwidth, time_call, write_bandwidth

    rows: list[Row] = [
        {"ceiling": "copy, read and write", "value": copy_bandwidth() / 1e12, "unit": "TB/s"},
        {"ceiling": "write", "value": write_bandwidth() / 1e12, "unit": "TB/s"},
    ]
    rows += [
        {"ceiling": f"matrix product, {precision}", "value": product_rate(precision) / 1e12, "unit": "TFLOP/s"}
        for precision in PRECISIONS
    ]
    one = torch.zeros(1, device="cuda")
    rows.append({"ceiling": "smallest kernel", "value": time_call(lambda: one.add_(1)).median, "unit": "us"})
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to write."""
    parser.add_argument("--output", type=Path, help="folder to write ceilings.csv into")


def run(arguments: argparse.Namespace) -> int:
    """Print the table and write it; 2 without a GPU."""
    import torch

    if not torch.cuda.is_available():
        print("bench ceilings needs an NVIDIA GPU, and PyTorch finds none here.")
        return 2
    rows = measure()
    print(format_table(("ceiling", "value", "unit"), [(r["ceiling"], f"{r['value']:.2f}", r["unit"]) for r in rows]))
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        write_table(arguments.output, "ceilings", rows)
    return 0
