"""Time relevance through attention against its stored form and its byte floor, and weigh a whole explanation.

Three operations over time and over space, in float32: `relevance` of q, k and v; the head-mean `map`; and the
`rollout step`, which multiplies a row by I + map. *stored* is the reference in plain PyTorch with attention, gradient
and relevance of every head in memory. The floor is the bytes that must move (7 tensors; 5 and the result) at the copy
bandwidth of the same run. TFLOP/s count the necessary products at the unpadded head dimension; ours pads 91 to 96.

Then explaining one clip is weighed against the published method's storage, and explaining a batch timed against a
training step of it (bench/kernels/explanation.py). What runs out of memory or refuses is a record that says why.

Writes relevance.csv, explanation_memory.csv and explanation_time.csv to bench/results/<device>/. Without a GPU only
memory is measured, of the preset seed: it takes minutes and 6 GB.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from unittest.mock import patch

import torch

import kernels
from bench.common import ahead, timing
from bench.common.record import Row, add_output, output_folder, write_as_measured
from bench.common.table import Column, row_table
from bench.kernels import explanation, peers
from bench.kernels.peers import HEADS, OURS
from istvt.config import PRESETS
from kernels.common.launch import padded_head_dim
from kernels.relevance import reference

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

POSITIONS = peers.POSITIONS
# Clips and frames; the paper's first.
SHAPES = [(8, 6), (1, 6), (32, 6), (8, 16)]
QUICK_SHAPES = SHAPES[:1]
HEAD_DIMS = (64, 91)
KINDS = ("temporal", "spatial")
# Products of length x length x D that a pass cannot do without.
PRODUCTS = {"relevance": 6, "map": 3, "rollout step": 3}
# By pass: the end of the function's name, the tensors that it takes, and an option that the kernels share.
FUNCTIONS = {
    "relevance": ("relevance", ("q", "k", "v", "u"), {"stabilizer": 0.01}),
    "map": ("relevance_map", ("q", "k", "v", "u", "grad_out"), {"clamp": "after_mean"}),
    "rollout step": ("rollout_step", ("row", "q", "k", "v", "u", "grad_out"), {"clamp": "after_mean"}),
}
Tensors = dict[str, torch.Tensor]


def call(
    source: ModuleType, kind: str, which: str, tensors: Tensors, scale: float, **changed: str
) -> tuple[torch.Tensor, ...] | torch.Tensor:
    """Call one of the six functions of `source` (`kernels`, or its reference) with what it takes of `tensors`."""
    name, taken, options = FUNCTIONS[which]
    return getattr(source, f"{kind}_{name}")(*(tensors[x] for x in taken), scale=scale, **(options | changed))


ours = partial(call, kernels)


def stored(*arguments, **options) -> tuple[torch.Tensor, ...] | torch.Tensor:
    """Call the reference with one tile for all queries, so that every matrix of every head is in memory."""
    with patch.object(reference, "TILE_ELEMENTS", sys.maxsize):
        return call(reference, *arguments, **options)


CONTENDERS: dict[str, Callable[..., object]] = {OURS: ours, "stored": stored}


def inputs(kind: str, shape: tuple[int, ...], width: int, device: torch.device | str) -> Tensors:
    """Return random q, k, v (views of one packed product), u, grad_out, of `shape` (B, F, S, N, D), and a row.

    From D to `width` there are zeros; the row is `[B, F, S]` for spatial attention and `[B, S, F]` for temporal.
    """
    options = {"generator": torch.Generator(device).manual_seed(0), "device": device}
    clips, frames, positions, heads, head_dim = shape
    qkv = torch.randn(clips, frames, positions, 3, heads, head_dim, **options)
    u, grad_out = torch.randn(2, *shape, **options)
    row = torch.rand(clips, *((frames, positions) if kind == "spatial" else (positions, frames)), **options)
    if width > head_dim:
        qkv, u, grad_out = (torch.nn.functional.pad(x, (0, width - head_dim)) for x in (qkv, u, grad_out))
    return dict(zip("qkv", qkv.unbind(3), strict=True)) | {"u": u, "grad_out": grad_out, "row": row}


def floors(kind: str, clips: int, frames: int, width: int) -> dict[str, int]:
    """Return by pass the bytes that must move."""
    row = 4 * clips * (frames + 1) * POSITIONS
    tensor, matrix = row * HEADS * width, row * (POSITIONS if kind == "spatial" else frames + 1)
    return {"relevance": 7 * tensor, "map": 5 * tensor + matrix, "rollout step": 5 * tensor + 2 * row}


def useful_operations(kind: str, clips: int, frames: int, head_dim: int) -> dict[str, int]:
    """Return by pass the floating-point operations of the products that it cannot do without."""
    scores = clips * HEADS * (frames + 1) * POSITIONS * (POSITIONS if kind == "spatial" else frames + 1)
    return {which: count * 2 * scores * head_dim for which, count in PRODUCTS.items()}


def _width(name: str, head_dim: int) -> int:
    return padded_head_dim(head_dim) if name == OURS else head_dim


def calls(name: str, kind: str, clips: int, frames: int, head_dim: int) -> peers.Calls:
    """Return a call a pass of a contender, on random tensors of the device."""
    shape = clips, frames + 1, POSITIONS, HEADS, head_dim
    tensors = inputs(kind, shape, _width(name, head_dim), peers.DEVICE)
    return {which: partial(CONTENDERS[name], kind, which, tensors, head_dim**-0.5) for which in PRODUCTS}


def measure(kind: str, clips: int, frames: int, head_dim: int, bandwidth: float, milliseconds: int) -> Iterator[Row]:
    """Yield a record a contender and pass."""
    operations = useful_operations(kind, clips, frames, head_dim)
    for name in CONTENDERS:
        columns = {
            "contender": name, "mode": kind, "dtype": "float32", "clips": clips, "frames": frames,
            "positions": POSITIONS, "heads": HEADS, "head_dim": head_dim,
        }  # fmt: skip
        moved = floors(kind, clips, frames, _width(name, head_dim))
        needed = {which: 1e6 * least / bandwidth for which, least in moved.items()}
        given = columns, calls(name, kind, clips, frames, head_dim), milliseconds
        yield from peers.measure(*given, floors=needed, operations=operations)


def measure_operations(quick: bool, milliseconds: int) -> Iterator[Row]:
    """Yield the records of all operations at the shapes of a quick or a whole run."""
    bandwidth = timing.copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}: copies {bandwidth / 1e12:.2f} TB/s")
    sizes = list(itertools.product(QUICK_SHAPES if quick else SHAPES, HEAD_DIMS, KINDS))
    at_paper = sizes[: len(HEAD_DIMS) * len(KINDS)]
    ahead.compile_ahead(
        call for shape, head_dim, kind in at_paper for call in calls(OURS, kind, *shape, head_dim).values()
    )
    for shape, head_dim, kind in sizes:
        yield from measure(kind, *shape, head_dim, bandwidth, milliseconds)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how much to measure."""
    parser.add_argument("--quick", action="store_true", help="the paper's shape, one preset, no training step")
    parser.add_argument("--milliseconds", type=int, default=60, help="time spent on each measurement")
    parser.add_argument("--preset", action="append", choices=PRESETS, help="only this (repeatable; default by device)")
    parser.add_argument("--batch", type=int, default=8, help="clips of the batch that is explained and trained")
    parser.add_argument(
        "--execution", choices=("eager", "compile", "cuda_graphs"), default="compile", help="of the training step"
    )
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print and write the tables."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    presets = arguments.preset or (["seed", "published"] if on_gpu and not arguments.quick else ["seed"])
    folder = output_folder(arguments.output, "relevance", arguments.commit)
    if on_gpu:
        operations = measure_operations(arguments.quick, arguments.milliseconds)
        print(row_table(COLUMNS, write_as_measured(folder, "relevance", operations, COLUMNS)), end="\n\n")
    else:
        print("PyTorch finds no NVIDIA GPU here: what an explanation stores is measured, and no time.")

    storages = explanation.QUICK_STORAGES if arguments.quick else tuple(explanation.STORAGES)
    rows = (row for preset in presets for row in explanation.measure_memory(preset, device, storages))
    memory = write_as_measured(folder, "explanation_memory", rows, MEMORY_COLUMNS)
    print(row_table(MEMORY_COLUMNS, memory), end="\n\n")
    if on_gpu:
        given = arguments.batch, device, arguments.milliseconds, None if arguments.quick else arguments.execution
        times = (row for preset in presets for row in explanation.measure_time(preset, *given))
        print(row_table(TIME_COLUMNS, write_as_measured(folder, "explanation_time", times)))
    print(f"\nwritten to {folder}")
    return 0
