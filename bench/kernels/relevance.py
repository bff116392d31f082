"""Time relevance through attention against its stored form and its byte floor, and weigh a whole explanation.

Three operations for attention over time and over space, in float32, from q, k, v, the relevance u and the gradient dO
[B, F, S, N, D]: `relevance` of q, k and v; the head-mean `map`; and the `rollout step`, which multiplies a row by
I + map. *stored* is plain PyTorch with attention, gradient and relevance of every head in memory. The floor is the
bytes that must move (7 tensors; 5 and the result) at the copy bandwidth measured in the same run; the stored form has
one of its own, with three matrices of every head written and read. TFLOP/s count the products that cannot be done
without at the unpadded head dimension. Head dimension 91 means: ours padded to 96, the stored form as it is.

Then explaining one clip is weighed against the published method's storage, and explaining a batch timed against a
training step of it (bench/kernels/explanation.py). Who runs out of memory or refuses is a row that says why.

Writes relevance.csv, explanation_memory.csv and explanation_time.csv to bench/results/<device>/. Without a GPU only
memory is measured, of the preset seed: it takes minutes and 6 GB.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

from bench.common.record import Row, add_output, output_folder, write_table
from bench.common.table import Column, cells, row_table
from bench.kernels import relevance_operations as operations
from istvt.config import PRESETS

COLUMNS = (
    Column("contender"), Column("kind", "mode"), Column("D", "head_dim"), Column("T", "frames"), Column("B", "clips"),
    Column("pass"), Column("us", "microseconds"), Column("floor us", "floor_microseconds"),
    Column("of floor", "share_of_floor"), Column("TFLOP/s", "teraflops"),
    Column("peak MiB", "peak_bytes", ".1f", 2**20), Column("note"),
)  # fmt: skip
MEMORY_COLUMNS = (
    *map(Column, ("preset", "from", "storage")), Column("peak MiB", "peak_bytes", ".1f", 2**20),
    Column("over this project's", "over_light"), Column("note"),
)  # fmt: skip
TIME_COLUMNS = (
    Column("preset"), Column("B", "clips"), Column("explained in", "arithmetic"), Column("trained in", "training"),
    Column("explain ms", "explain_ms"), Column("step ms", "training_ms"), Column("ratio"), Column("note"),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much to measure."""
    parser.add_argument("--quick", action="store_true", help="the paper's shape, one preset, no training step")
    parser.add_argument("--milliseconds", type=int, default=60, help="time spent on each measurement")
    parser.add_argument(
        "--preset",
        action="append",
        choices=PRESETS,
        help="only this (repeatable; default by device)",
    )
    parser.add_argument("--batch", type=int, default=8, help="clips of the batch that is explained and trained")
    parser.add_argument(
        "--execution", choices=("eager", "compile", "cuda_graphs"), default="compile", help="of the training step"
    )
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print and write the tables."""
    import torch

    from bench.kernels import explanation as explanation_cost

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    presets = arguments.preset or (["seed", "published"] if on_gpu and not arguments.quick else ["seed"])
    folder = output_folder(arguments.output, "relevance", arguments.commit)
    if on_gpu:
        rows = list(_operations(arguments, folder))
        print(row_table(COLUMNS, rows), end="\n\n")
    else:
        print("PyTorch finds no NVIDIA GPU here: what an explanation stores is measured, and no time.")

    storages = explanation_cost.QUICK_STORAGES if arguments.quick else tuple(explanation_cost.STORAGES)
    memory: list[Row] = []
    for row in itertools.chain.from_iterable(
        explanation_cost.measure_memory(preset, device, storages) for preset in presets
    ):
        memory.append(row)
        print("  ".join(cells(MEMORY_COLUMNS, row)), flush=True)
        write_table(folder, "explanation_memory", memory)  # what is measured is kept if the run is cut short
    print(row_table(MEMORY_COLUMNS, memory), end="\n\n")

    if on_gpu:
        execution = None if arguments.quick else arguments.execution
        times: list[Row] = []
        for preset in presets:
            for row in explanation_cost.measure_time(
                preset, arguments.batch, device, arguments.milliseconds, execution
            ):
                times.append(row)
                write_table(folder, "explanation_time", times)
        print(row_table(TIME_COLUMNS, times))
    print(f"\nwritten to {folder}")
    return 0


def _operations(arguments: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Time the operations; what is measured is in relevance.csv if the run is cut short."""
    import torch

    from bench.common.ahead import compile_ahead
    from bench.common.timing import copy_bandwidth

    bandwidth = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}: copies {bandwidth / 1e12:.2f} TB/s")
    compile_ahead(operations.kernel_calls())
    rows: list[Row] = []
    shapes = operations.QUICK_SHAPES if arguments.quick else operations.SHAPES
    for (clips, frames), head_dim, kind in itertools.product(shapes, operations.HEAD_DIMS, operations.KINDS):
        for row in operations.measure(kind, clips, frames, head_dim, bandwidth, arguments.milliseconds):
            rows.append(row)
            print("  ".join(cells(COLUMNS, row)), flush=True)
            yield row
        write_table(folder, "relevance", rows)
