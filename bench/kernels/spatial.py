"""Time spatial attention against its peers, and what it costs to hand out attention and its gradient. Needs a GPU.

Every contender does one task: from the packed projection [B, F, S, 3, N, D] to the output [B, F, S, N, D] that the
output projection reads, and back to the gradient of the packed projection. TFLOP/s count 2 products forward and 5
backward at the unpadded head dimension. Of head dimension 91 ours is padded to 96 at the projection; peers come as they
are, with the padding copies that they need, and on our padded projection. What refuses is a record with the reason.

Writes spatial.csv, spatial_capture.csv (attention and its gradient over their byte floor), spatial_memory.csv and
spatial_memory_exponents.csv (peak memory against S) to bench/results/<gpu>/, ours first, every record as it comes.
--memory measures the last alone, without a GPU too; --tune times candidate launch configs instead and prints rows for
kernels/spatial/configs.py.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bench.common import timing
from bench.common.environment import gpu_or_interpreter, require_gpu
from bench.common.record import Row, output_folder, write_as_measured, write_table
from bench.common.table import Column, row_table
from bench.kernels import memory, peers, tune
from bench.kernels.peers import HEADS, OURS, POSITIONS, Contender, Task, over_positions
from kernels import AttentionCapture, spatial_attention, spatial_attention_packed
from kernels.common.launch import padded_head_dim

COLUMNS = (
    *map(Column, ("attention", "contender", "dtype")), Column("D", "head_dim"), Column("B", "clips"),
    Column("S", "positions"), Column("pass"), Column("us", "microseconds"), Column("TFLOP/s", "teraflops"),
    Column("peak MiB", "peak_bytes", ".1f", 2**20), Column("note"),
)  # fmt: skip
CAPTURE_COLUMNS = (
    Column("D", "head_dim"), Column("B", "clips"), Column("S", "positions"), Column("pass"),
    Column("us", "microseconds"), Column("us with capture", "microseconds_with_capture"),
    Column("added/floor", "added_over_floor"), Column("note"),
)  # fmt: skip


class Shape(NamedTuple):
    """`rows` frame rows of `positions` each; joint attention is one row that holds every token of a clip."""

    attention: str
    clips: int
    rows: int
    positions: int


PAPER = Shape("spatial", 8, 7, POSITIONS)
SHAPES = [
    *(Shape("spatial", clips, 7, POSITIONS) for clips in (8, 1, 32)),
    *(Shape("spatial", 8, 7, cells + 1) for cells in (49, 100, 196, 576, 1024)),
    Shape("spatial", 2, 7, 2305), Shape("spatial", 1, 7, 4097), Shape("joint", 1, 1, 7 * POSITIONS),
]  # fmt: skip
QUICK_SHAPES = SHAPES[:2]
CAPTURE_SHAPES = [Shape("spatial", 1, 7, cells + 1) for cells in (49, 196, 361, 1024, 2304)]
HEAD_DIMS = (64, 91, 128)
CAPTURE_HEAD_DIMS = (64, 91)
# Products of S x S x D that a pass cannot do without.
PRODUCTS = {"forward": 2, "backward": 5, "both": 7}


def columns(shape: Shape, head_dim: int, dtype: torch.dtype) -> Row:
    """Return what every record says of the shape."""
    return {
        "attention": shape.attention, "dtype": str(dtype).removeprefix("torch."), "clips": shape.clips,
        "rows": shape.rows, "positions": shape.positions, "heads": HEADS, "head_dim": head_dim,
    }  # fmt: skip


def contenders(head_dim: int) -> list[Contender]:
    """Return what is compared at this head dimension."""

    def peer(name: str, width: int, attend: peers.Attention) -> Contender:
        return Contender(name, width, lambda qkv, scale: over_positions(attend, *qkv.unbind(3), scale))

    padded = padded_head_dim(head_dim)
    ours = Contender(OURS, padded, spatial_attention_packed)
    others = [peer(name, head_dim, attend) for name, attend in peers.PEERS.items()]
    if padded == head_dim:
        return [ours, *others]
    for name in ("sdpa flash", "sdpa efficient", "sdpa cudnn", "xformers"):
        attend = peers.PEERS[name]
        others.append(peer(f"{name}, pads by copies", head_dim, partial(peers.padded_by_copies, attend)))
        others.append(peer(f"{name}, our padded projection", padded, attend))
    return [ours, ours._replace(name=f"{OURS}, unpadded", width=head_dim), *others]


def tasks(shapes: Sequence[Shape], dtype: torch.dtype) -> list[Task]:
    """Return all contenders at `shapes`; at the paper's in float32 too, which peers compute without tensor cores."""
    cases = list(itertools.product(shapes, HEAD_DIMS, (dtype,)))
    cases[len(HEAD_DIMS) : len(HEAD_DIMS)] = [(PAPER, head_dim, torch.float32) for head_dim in (64, 91)]
    found = []
    for shape, head_dim, working in dict.fromkeys(cases):
        product = 2 * shape.clips * shape.rows * HEADS * shape.positions**2 * head_dim
        operations = {which: count * product for which, count in PRODUCTS.items()}
        at_paper = shape == PAPER and working.itemsize == 2
        for one in contenders(head_dim):
            described = columns(shape, head_dim, working) | {"contender": one.name, "width": one.width}
            found.append(Task(one, shape[1:], head_dim, working, described, at_paper, operations=operations))
    return found


def measure_capture(
    shape: Shape, head_dim: int, dtype: torch.dtype, bandwidth: float, milliseconds: int
) -> Iterator[Row]:
    """Yield what handing out attention (forward) and its gradient (backward) adds, over writing them at `bandwidth`."""
    qkv = torch.randn(*shape[1:], 3, HEADS, padded_head_dim(head_dim), device=peers.DEVICE).to(dtype)
    leaves = [x.requires_grad_() for x in qkv.unbind(3)]

    def attend(captured: bool, *qkv: Tensor) -> Tensor:
        capture = AttentionCapture() if captured else None
        return spatial_attention(*qkv, scale=head_dim**-0.5, capture=capture)

    grad_out = torch.randn_like(leaves[0]).contiguous()
    emitted = 4 * shape.clips * shape.rows * HEADS * shape.positions**2
    row = columns(shape, head_dim, dtype) | {"emitted_bytes": emitted}
    calls = [peers.passes(partial(attend, captured), leaves, grad_out) for captured in (False, True)]
    if refused := peers.reason(calls[1]["both"]):
        yield row | {"note": refused}
        return
    floor = 1e6 * emitted / bandwidth
    for which in ("forward", "backward"):
        plain, captured = (timing.time_call(both[which], milliseconds=milliseconds).median for both in calls)
        added = captured - plain
        yield row | {
            "pass": which, "microseconds": plain, "microseconds_with_capture": captured, "added_microseconds": added,
            "floor_microseconds": floor, "added_over_floor": added / floor,
        }  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how much to measure."""
    peers.add_speed_arguments(parser, "the paper's shape at B = 8 and 1 only")
    parser.add_argument("--memory", action="store_true", help="peak memory against S alone; needs no GPU")
    parser.add_argument("--head-dims", type=int, nargs="+", default=[64, 96, 128], help="what --tune tunes for")


def run(arguments: argparse.Namespace) -> int:
    """Print and write the tables."""
    if arguments.memory:
        device = gpu_or_interpreter()
        folder = output_folder(arguments.output, "spatial-memory", arguments.commit)
        memory.write(folder, device)
        print(f"\nwritten to {folder}")
        return 0
    require_gpu("spatial")
    dtype = getattr(torch, arguments.dtype)
    if arguments.tune:
        tune.print_tuned("spatial", dtype, arguments.head_dims, arguments.milliseconds)
        return 0
    bandwidth = timing.write_bandwidth()
    print(f"{torch.cuda.get_device_name()}: writes {bandwidth / 1e12:.2f} TB/s")
    folder = output_folder(arguments.output, "spatial", arguments.commit)
    captured: list[Row] = []

    def measure_capture_and_memory() -> None:
        shapes = [PAPER, *([] if arguments.quick else CAPTURE_SHAPES)]
        for shape, head_dim in itertools.product(shapes, CAPTURE_HEAD_DIMS):
            captured.extend(measure_capture(shape, head_dim, dtype, bandwidth, arguments.milliseconds))
            write_table(folder, "spatial_capture", captured)
        memory.write(folder, "cuda")

    chosen = tasks(QUICK_SHAPES if arguments.quick else SHAPES, dtype)
    rows = peers.measure_tasks(chosen, arguments.milliseconds, measure_capture_and_memory)
    print(row_table(COLUMNS, write_as_measured(folder, "spatial", rows, COLUMNS)))
    print(row_table(CAPTURE_COLUMNS, captured))
    print(f"\nwritten to {folder}")
    return 0
