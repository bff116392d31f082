"""Time spatial attention against its peers, and what it costs to hand out attention and its gradient. Needs a GPU.

One task for everybody: from the packed projection [B, F, S, 3, N, D] to the output [B, F, S, N, D] that the output
projection reads, and back to the gradient of the packed projection. TFLOP/s count the useful work, 2 products forward
and 5 backward at the unpadded head dimension. Head dimension 91 means: ours padded to 96 at the projection; peers as
they are, with the padding copies that they need, and once more on our padded projection, which shows what the padding
and what the kernel is worth. A peer that is missing or refuses is a row that says why.

Ours come first, then peers, last what is compiled for each shape; every row is written as it comes. Writes
spatial.csv (peers), spatial_capture.csv (attention and its gradient, their byte floor), spatial_memory.csv and
spatial_memory_exponents.csv (peak memory against S, with and without capture) to bench/results/<gpu>/. --memory
measures the last alone, without a GPU too: see bench/kernels/memory.py. --tune times candidate launch settings and
prints rows for kernels/spatial/configs.py instead.
"""

from __future__ import annotations

import argparse
import itertools
from functools import partial

from bench.common.device_needs import gpu_or_interpreter, require_gpu
from bench.common.record import Row, add_output, output_folder, write_table
from bench.common.table import Column, cells, row_table
from bench.kernels import capture as capture
from bench.kernels import memory, shapes
from bench.kernels import spatial_peers as peers
from bench.kernels import spatial_tune as tune

COLUMNS = (
    *map(Column, ("attention", "contender", "dtype")), Column("D", "head_dim"), Column("B", "clips"),
    Column("S", "positions"), Column("pass"), Column("us", "microseconds"), Column("TFLOP/s", "teraflops"),
    Column("peak MiB", "peak_bytes", ".1f", 2**20), Column("note"),
)  # fmt: skip
TAPE_COLUMNS = (
    Column("D", "head_dim"), Column("B", "clips"), Column("S", "positions"), Column("pass"),
    Column("us", "microseconds"), Column("us with capture", "microseconds_with_capture"),
    Column("added/floor", "added_over_floor"), Column("note"),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much to measure."""
    parser.add_argument("--quick", action="store_true", help="the paper's shape at B = 8 and 1 only")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--milliseconds", type=int, default=60, help="time spent on each measurement")
    parser.add_argument("--memory", action="store_true", help="peak memory against S alone; needs no GPU")
    parser.add_argument("--tune", action="store_true", help="time candidate launch settings and print the best rows")
    parser.add_argument("--head-dims", type=int, nargs="+", default=[64, 96, 128], help="what --tune tunes for")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print and write the tables."""
    import torch

    if arguments.memory:
        device = gpu_or_interpreter()
        folder = output_folder(arguments.output, "spatial-memory", arguments.commit)
        memory.write(folder, device)
        print(f"\nwritten to {folder}")
        return 0
    require_gpu("spatial")
    dtype = getattr(torch, arguments.dtype)
    if arguments.tune:
        for line in tune.tune(dtype, arguments.head_dims, arguments.milliseconds):
            print(line, flush=True)
        return 0

    from bench.common.ahead import compile_ahead
    from bench.common.timing import write_bandwidth

    bandwidth = write_bandwidth()
    print(f"{torch.cuda.get_device_name()}: writes {bandwidth / 1e12:.2f} TB/s")
    folder = output_folder(arguments.output, "spatial", arguments.commit)
    rows: list[Row] = []
    captured: list[Row] = []
    chosen = peers.tasks(shapes.QUICK_SHAPES if arguments.quick else shapes.SHAPES, dtype)
    count = compile_ahead(partial(_there_and_back, task) for task in chosen if task.rank == 0)
    print(f"{count} kernels compiled", flush=True)
    for rank, group in itertools.groupby(chosen, key=lambda task: task.rank):
        for task in group:
            for row in peers.measure(task, arguments.milliseconds):
                rows.append(row)
                print("  ".join(cells(COLUMNS, row)), flush=True)
                write_table(folder, "spatial", rows)  # what is measured is kept if the run is cut short
        if rank == 0:
            of_capture = [shapes.PAPER, *([] if arguments.quick else capture.SHAPES)]
            for shape, head_dim in itertools.product(of_capture, capture.HEAD_DIMS):
                captured.extend(capture.measure(shape, head_dim, dtype, bandwidth, arguments.milliseconds))
                write_table(folder, "spatial_capture", captured)
            memory.write(folder, "cuda")
    print(row_table(COLUMNS, rows))
    print(row_table(TAPE_COLUMNS, captured))
    print(f"\nwritten to {folder}")
    return 0


def _there_and_back(task: peers.Task) -> object:
    return peers.calls_of(task)["both"]()
