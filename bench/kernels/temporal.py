"""Time temporal attention against its peers and its byte floor. Needs a GPU.

One task for everybody: from the packed projection [B, F, S, 3, N, D] to the output [B, F, S, N, D] that the output
projection reads, and back to the gradient of the packed projection. Peers get the permutes that they need and, in mode
"fused", the explicit subtraction. The floor is the bytes that must move (4 tensors forward, 7 backward) at the copy
bandwidth measured in the same run. Head dimension 91 means: ours padded to 96 at the projection, peers as they are.
Ours come first, then peers, last what is compiled for each shape; every row is written as it comes. Writes
temporal.csv and layer_norm_difference.csv to bench/results/<gpu>/; --tune times candidate launch settings and prints
rows for kernels/temporal/configs.py instead.
"""

from __future__ import annotations

import argparse
import itertools
import time
from functools import partial
from typing import TYPE_CHECKING

from bench.common.device_needs import require_gpu
from bench.common.record import Row, add_output, output_folder, write_table
from bench.common.table import Column, cells, row_table
from bench.kernels import layer_norm as layer_norm_difference
from bench.kernels import temporal_peers as peers
from bench.kernels import temporal_tune as tune

if TYPE_CHECKING:
    import torch

_TIMES = (Column("us", "microseconds"), Column("floor us", "floor_microseconds"), Column("of floor", "share_of_floor"))
COLUMNS = (
    *map(Column, ("contender", "mode")), Column("D", "head_dim"), Column("T", "frames"), Column("B", "clips"),
    Column("pass"), *_TIMES, Column("note"),
)  # fmt: skip
NORMALIZATION_COLUMNS = (Column("contender"), Column("B", "clips"), Column("pass"), *_TIMES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much to measure."""
    parser.add_argument("--quick", action="store_true", help="B = 8 and 1 at 6 frames only")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--milliseconds", type=int, default=60, help="time spent on each measurement")
    parser.add_argument("--tune", action="store_true", help="time candidate launch settings and print the best rows")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print and write the tables."""
    import torch

    require_gpu("temporal")
    dtype = getattr(torch, arguments.dtype)
    if arguments.tune:
        for head_dim in tune.HEAD_DIMS:
            for line in tune.tune(head_dim, dtype, arguments.milliseconds):
                print(line, flush=True)
        return 0

    from bench.common.ahead import compile_ahead
    from bench.common.timing import copy_bandwidth

    bandwidth = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}: copies {bandwidth / 1e12:.2f} TB/s")
    folder = output_folder(arguments.output, "temporal", arguments.commit)
    chosen = peers.tasks(peers.QUICK_SHAPES if arguments.quick else peers.SHAPES)
    started = time.perf_counter()
    count = compile_ahead(partial(_there_and_back, task, dtype) for task in chosen if task.rank == 0)
    print(f"{count} kernels compiled in {time.perf_counter() - started:.0f} s", flush=True)
    rows: list[Row] = []
    normalization: list[Row] = []
    for rank, group in itertools.groupby(chosen, key=lambda task: task.rank):
        for task in group:
            for row in peers.measure(task, dtype, bandwidth, arguments.milliseconds):
                rows.append(row)
                print("  ".join(cells(COLUMNS, row)), flush=True)
                write_table(folder, "temporal", rows)  # what is measured is kept if the run is cut short
        if rank == 0:
            for clips in layer_norm_difference.CLIPS:
                normalization += layer_norm_difference.measure(clips, dtype, bandwidth, arguments.milliseconds)
            write_table(folder, "layer_norm_difference", normalization)
    print(row_table(COLUMNS, rows))
    print(row_table(NORMALIZATION_COLUMNS, normalization))
    print(f"\nwritten to {folder}")
    return 0


def _there_and_back(task: peers.Task, dtype: torch.dtype) -> object:
    return peers.calls_of(task, dtype)["both"]()
