"""Time temporal attention against its peers and its byte floor. Needs a GPU.

Every contender does one task: from the packed projection [B, F, S, 3, N, D] to the output [B, F, S, N, D] that the
output projection reads, and back to the gradient of the packed projection. Peers get the permutes that they need and,
in mode "fused", the explicit subtraction. The floor is the bytes that must move (4 tensors forward, 7 backward) at the
copy bandwidth of the same run. Of head dimension 91 ours is padded to 96 at the projection, peers are not. Writes
temporal.csv and layer_norm_difference.csv to bench/results/<gpu>/, ours first, every record as it comes; --tune times
candidate launch configs instead and prints rows for kernels/temporal/configs.py.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from bench.common import timing
from bench.common.environment import require_gpu
from bench.common.record import Row, output_folder, write_as_measured, write_table
from bench.common.table import Column, row_table
from bench.kernels import peers, tune
from bench.kernels.peers import HEADS, OURS, POSITIONS, Contender, Task, over_frames
from kernels import layer_norm_difference, self_subtract, temporal_attention_packed
from kernels.common.launch import padded_head_dim

_TIMES = (Column("us", "microseconds"), Column("floor us", "floor_microseconds"), Column("of floor", "share_of_floor"))
COLUMNS = (
    *map(Column, ("contender", "mode")), Column("D", "head_dim"), Column("T", "frames"), Column("B", "clips"),
    Column("pass"), *_TIMES, Column("note"),
)  # fmt: skip
LAYER_NORM_COLUMNS = (Column("contender"), Column("B", "clips"), Column("pass"), *_TIMES)

# Clips and frames: frames at a batch of 8, and batches at the paper's 6 frames.
SHAPES = [(8, frames) for frames in (2, 4, 6, 8, 16, 32, 64)] + [(clips, 6) for clips in (1, 2, 16, 32, 64)]
QUICK_SHAPES = [(8, 6), (1, 6)]
HEAD_DIMS = (64, 91, 96)
# Tensors of the size of q that each pass must move: q k v o, then q k v dO dq dk dv.
TENSORS = {"forward": 4, "backward": 7, "both": 11}


def contenders(head_dim: int, mode: str) -> list[Contender]:
    """Return what is compared at this head dimension and mode of self-subtract; none but ours knows "telescoped"."""

    def peer(attend: peers.Attention, qkv: Tensor, scale: float) -> Tensor:
        q, k, v = qkv.unbind(3)
        if mode == "fused":
            q, k = self_subtract(q), self_subtract(k)
        return over_frames(attend, q, k, v, scale)

    ours = partial(temporal_attention_packed, self_subtract=mode)
    others = {} if mode == "telescoped" else peers.PEERS
    found = [Contender(name, head_dim, partial(peer, attend)) for name, attend in others.items()]
    return [Contender(OURS, padded_head_dim(head_dim), ours), *found]


def tasks(shapes: Sequence[tuple[int, int]], dtype: torch.dtype, bandwidth: float) -> list[Task]:
    """Return all contenders at `shapes` of (clips, frames), over the floor of their bytes at `bandwidth`."""
    found = []
    for (clips, frames), head_dim, mode in itertools.product(shapes, HEAD_DIMS, ("telescoped", "fused", "off")):
        size = clips, frames + 1, POSITIONS
        for one in contenders(head_dim, mode):
            described = {
                "contender": one.name, "mode": mode, "dtype": str(dtype).removeprefix("torch."), "clips": clips,
                "frames": frames, "positions": POSITIONS, "heads": HEADS, "head_dim": head_dim,
            }  # fmt: skip
            tensor = 1e6 * math.prod(size) * HEADS * one.width * dtype.itemsize / bandwidth
            floors = {which: count * tensor for which, count in TENSORS.items()}
            at_paper = (clips, frames) in QUICK_SHAPES
            found.append(Task(one, size, head_dim, dtype, described, at_paper, floors))
    return found


def measure_layer_norm(clips: int, dtype: torch.dtype, bandwidth: float, milliseconds: int) -> Iterator[Row]:
    """Yield LayerNorm and difference, in one kernel and as PyTorch's two steps, against 2 and 3 tensors moved."""
    x = torch.randn(clips, 7, POSITIONS, 728, device=peers.DEVICE).to(dtype).requires_grad_()
    weight, bias = (torch.randn(728, device=peers.DEVICE).requires_grad_() for _ in range(2))

    def eager(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self_subtract(functional.layer_norm(x, (728,), weight.to(dtype), bias.to(dtype), 1e-6))

    tensor = 1e6 * x.numel() * x.element_size() / bandwidth
    floors = {"forward": 2 * tensor, "backward": 3 * tensor}
    for name, function in ((OURS, layer_norm_difference), ("eager", eager)):
        row = {
            "contender": name, "dtype": str(dtype).removeprefix("torch."), "clips": clips, "frames": 6,
            "positions": POSITIONS, "channels": 728,
        }  # fmt: skip
        calls = peers.passes(function, (x, weight, bias), torch.randn_like(x))
        yield from peers.measure(row, {which: calls[which] for which in floors}, milliseconds, floors=floors)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how much to measure."""
    peers.add_speed_arguments(parser, "B = 8 and 1 at 6 frames only")


def run(arguments: argparse.Namespace) -> int:
    """Print and write the tables."""
    require_gpu("temporal")
    dtype = getattr(torch, arguments.dtype)
    if arguments.tune:
        tune.print_tuned("temporal", dtype, (64, 96), arguments.milliseconds)
        return 0
    bandwidth = timing.copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}: copies {bandwidth / 1e12:.2f} TB/s")
    folder = output_folder(arguments.output, "temporal", arguments.commit)
    layer_norm: list[Row] = []

    def measure_layer_norms() -> None:
        for clips in (1, 8):
            layer_norm.extend(measure_layer_norm(clips, dtype, bandwidth, arguments.milliseconds))
        write_table(folder, "layer_norm_difference", layer_norm)

    chosen = tasks(QUICK_SHAPES if arguments.quick else SHAPES, dtype, bandwidth)
    rows = peers.measure_tasks(chosen, arguments.milliseconds, measure_layer_norms)
    print(row_table(COLUMNS, write_as_measured(folder, "temporal", rows, COLUMNS)))
    print(row_table(LAYER_NORM_COLUMNS, layer_norm))
    print(f"\nwritten to {folder}")
    return 0
