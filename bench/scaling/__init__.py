"""How attention grows with the number of frames T and of feature cells HW: work, time and memory.

Compares attention over all (T+1)(HW+1) tokens at once with attention over frames and then over positions, naive and
fused. Work is counted by torch's FLOP counter (bench/training/flops.py tells it what fused attention does) and by
formula; exponents are fitted on log-log axes over the sizes of the sweep (time and memory over its larger half, where
fixed costs weigh least), in T + 1 and HW + 1. Writes scaling.csv, from which a report fits again, and at the end
scaling.png. On a CPU the sizes are small and the run takes under 2 minutes; what it says is then about that CPU, and
time is processor time.
"""

from __future__ import annotations

import argparse
import math
import time

from bench.common.environment import device_name
from bench.common.plots import draw_growth
from bench.common.record import add_output, output_folder, write_as_measured
from bench.common.table import Column, row_table
from bench.scaling import growth, sweep

COLUMNS = (
    *map(Column, ("T", "HW", "method", "pass")), Column("Mmac counted", "macs_counted", ".3f", 1e6),
    Column("Mmac formula", "macs_formula", ".3f", 1e6), Column("ms", "time_us", ".3f", 1e3),
    Column("peak MB", "peak_bytes", ".2f", 1e6), Column("note"),
)  # fmt: skip
EXPONENT_COLUMNS = (
    *map(Column, ("axis", "method", "pass", "quantity")), *(Column(x, form=".3f") for x in ("exponent", "low", "high")),
    Column("sizes"),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where to write and how long to measure."""
    add_output(parser)
    parser.add_argument("--milliseconds", type=int, default=50, help="measuring time of each call (default 50)")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds after which no size is measured")


def run(arguments: argparse.Namespace) -> int:
    """Measure, fit, judge, draw, write; return 1 if counted and predicted work differ anywhere."""
    import torch

    started, on_gpu = time.perf_counter(), torch.cuda.is_available()
    sizes, device = sweep.ON_GPU if on_gpu else sweep.ON_CPU, device_name()
    folder = output_folder(arguments.output, "scaling", arguments.commit)
    if on_gpu:
        sweep.compile_kernels(sizes, arguments.budget / 2)
    left = arguments.budget - (time.perf_counter() - started)
    rows = write_as_measured(folder, "scaling", sweep.measure(sizes, arguments.milliseconds, left), COLUMNS)
    fitted = growth.exponents(rows)
    draw_growth(rows, sweep.PASSES[1], device, folder / "scaling.png")
    print(row_table(COLUMNS, rows), row_table(EXPONENT_COLUMNS, fitted), sep="\n\n", end="\n\n")
    print(*growth.claims(rows, fitted, device), "", folder, sep="\n")
    return 1 if any(map(growth.miscounted, rows)) else 0
