"""Time relevance through attention against its stored form and its byte floor, and weigh a whole explanation.

Three operations for attention over time and over space, in float32, from q, k, v, the relevance u and the gradient dO
[B, F, S, N, D]: `relevance` of q, k and v; the head-mean `map`; and the `rollout step`, which multiplies a row by
I + map. *stored* is plain PyTorch with attention, gradient and relevance of every head in memory. The floor is the
bytes that must move (7 tensors; 5 and the result) at the copy bandwidth measured in the same run; the stored form has
one of its own, with three matrices of every head written and read. TFLOP/s count the products that cannot be done
without at the unpadded head dimension. Head dimension 91 means: ours padded to 96, the stored form as it is.

Then explaining one clip is weighed against the published method's storage, and explaining a batch timed against a
training step of it (bench/explanation_cost.py). Who runs out of memory or refuses is a row that says why.

Writes relevance.csv, explanation_memory.csv and explanation_time.csv to bench/results/<device>/. Without a GPU only
memory is measured, of the preset seed: it takes minutes and 6 GB.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.record import add_output, output_folder, write_table
from bench.table import format_table
from kernels.launch import padded_head_dim

if TYPE_CHECKING:
    import torch

    from bench.record import Row

HEADS, POSITIONS = 8, 362
# Clips and frames; the paper's first.
SHAPES = [(8, 6), (1, 6), (32, 6), (8, 16)]
QUICK_SHAPES = [(8, 6)]
HEAD_DIMS = (64, 91)
KINDS = ("temporal", "spatial")
PASSES = ("relevance", "map", "rollout step")
# Products of length x length x D that a pass cannot do without.
PRODUCTS = {"relevance": 6, "map": 3, "rollout step": 3}
STABILIZER = 0.01
# What brings [B, F, S, N, D] to [B, groups, N, length, D], and back.
ORDERS = {"temporal": ((0, 2, 3, 1, 4), (0, 3, 1, 2, 4)), "spatial": ((0, 1, 3, 2, 4), (0, 1, 3, 2, 4))}

Tensors = dict[str, "torch.Tensor"]


def ours(kind: str, which: str, tensors: Tensors, scale: float) -> object:
    """The kernels (on a CPU their reference)."""
    import kernels

    q, k, v, u, gradient, row = (tensors[name] for name in ("q", "k", "v", "u", "dO", "row"))
    if which == "relevance":
        return getattr(kernels, f"{kind}_relevance")(q, k, v, u, scale=scale, stabilizer=STABILIZER)
    if which == "map":
        return getattr(kernels, f"{kind}_relevance_map")(q, k, v, u, gradient, scale=scale)
    return getattr(kernels, f"{kind}_rollout_step")(row, q, k, v, u, gradient, scale=scale)


def stored(kind: str, which: str, tensors: Tensors, scale: float) -> object:
    """What a user would write: every matrix of every head in memory."""
    import torch

    order, back = ORDERS[kind]
    q, k, v, u, gradient = (tensors[name].permute(order) for name in ("q", "k", "v", "u", "dO"))
    scores = q @ k.mT
    attention = torch.softmax(scale * scores, -1)
    relevance = attention * (u @ v.mT) / 2
    if which == "relevance":
        weight = relevance / (scores + STABILIZER * scores.sign() * (q.abs() @ k.abs().mT))
        parts = q * (weight @ k) / 2, k * (weight.mT @ q) / 2, v * (attention.mT @ u) / 2
        return tuple(part.permute(back) for part in parts)
    mean = (relevance * (gradient @ v.mT)).mean(2).clamp(min=0)
    if which == "map":
        return mean
    row = tensors["row"]
    return row + (row.unsqueeze(2) @ mean).squeeze(2)


CONTENDERS: dict[str, Callable[[str, str, Tensors, float], object]] = {"ours": ours, "stored": stored}


def inputs(kind: str, clips: int, frames: int, head_dim: int, width: int, device: str) -> Tensors:
    """Random q, k and v (views of one packed product), u, dO and a row; zeros from ``head_dim`` to ``width``."""
    import torch

    generator = torch.Generator(device).manual_seed(0)
    size = (clips, frames + 1, POSITIONS)
    qkv = torch.randn(*size, 3, HEADS, head_dim, generator=generator, device=device)
    u, gradient = torch.randn(2, *size, HEADS, head_dim, generator=generator, device=device)
    groups_and_length = size[1:] if kind == "spatial" else (size[2], size[1])
    row = torch.rand(clips, *groups_and_length, generator=generator, device=device)
    qkv, u, gradient = (torch.nn.functional.pad(x, (0, width - head_dim)) for x in (qkv, u, gradient))
    return dict(zip("qkv", qkv.unbind(3), strict=True)) | {"u": u, "dO": gradient, "row": row}


def floors(kind: str, which: str, clips: int, frames: int, width: int) -> tuple[int, int]:
    """Bytes that must move, and those of the stored form: attention, gradient (or weight) and relevance too."""
    rows = frames + 1
    tensor = 4 * clips * rows * POSITIONS * HEADS * width
    groups, length = (rows, POSITIONS) if kind == "spatial" else (POSITIONS, rows)
    matrix, row = 4 * clips * groups * length**2, 4 * clips * groups * length
    needed = {"relevance": 7 * tensor, "map": 5 * tensor + matrix, "rollout step": 5 * tensor + 2 * row}[which]
    return needed, needed + 2 * 3 * HEADS * matrix


def useful_operations(kind: str, which: str, clips: int, frames: int, head_dim: int) -> int:
    """Floating-point operations of the products that a pass cannot do without."""
    groups, length = (frames + 1, POSITIONS) if kind == "spatial" else (POSITIONS, frames + 1)
    return PRODUCTS[which] * 2 * clips * groups * HEADS * length**2 * head_dim


def measure(
    kind: str, clips: int, frames: int, head_dim: int, bandwidth: float, milliseconds: int, *, device: str = "cuda"
) -> Iterator[Row]:
    """One row a contender and pass."""
    from bench.attention_peers import reason
    from bench.timing import peak_bytes, time_call

    for name, function in CONTENDERS.items():
        width = padded_head_dim(head_dim) if name == "ours" else head_dim
        tensors = inputs(kind, clips, frames, head_dim, width, device)
        for which in PASSES:
            row = {
                "contender": name, "mode": kind, "dtype": "float32", "clips": clips, "frames": frames,
                "positions": POSITIONS, "heads": HEADS, "head_dim": head_dim, "pass": which,
            }  # fmt: skip
            call = partial(function, kind, which, tensors, head_dim**-0.5)
            refused = reason(call)
            if refused:
                yield row | {"note": refused}
                continue
            time = time_call(call, milliseconds=milliseconds)
            floor, stored_floor = (1e6 * x / bandwidth for x in floors(kind, which, clips, frames, width))
            operations = useful_operations(kind, which, clips, frames, head_dim)
            yield row | {
                "microseconds": time.median, "p20": time.low, "p80": time.high,
                "floor_microseconds": floor, "share_of_floor": floor / time.median,
                "stored_floor_microseconds": stored_floor, "teraflops": 1e-6 * operations / time.median,
                "peak_bytes": peak_bytes(call),
            }  # fmt: skip


HEADER = ("contender", "kind", "D", "T", "B", "pass", "us", "floor us", "of floor", "TFLOP/s", "peak MiB", "note")
COLUMNS = (
    "contender", "mode", "head_dim", "frames", "clips", "pass", "microseconds", "floor_microseconds",
    "share_of_floor", "teraflops", "peak_bytes", "note",
)  # fmt: skip
MEMORY_HEADER = ("preset", "from", "storage", "peak MiB", "over this project's", "note")
MEMORY_COLUMNS = ("preset", "from", "storage", "peak_bytes", "over_light", "note")
TIME_HEADER = ("preset", "B", "explained in", "trained in", "explain ms", "step ms", "ratio", "note")
TIME_COLUMNS = ("preset", "clips", "arithmetic", "training", "explain_ms", "training_ms", "ratio", "note")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much to measure."""
    parser.add_argument("--quick", action="store_true", help="the paper's shape, one preset, no training step")
    parser.add_argument("--milliseconds", type=int, default=60, help="time spent on each measurement")
    parser.add_argument(
        "--preset", action="append", help="to explain with (repeatable; default seed, published on a GPU)"
    )
    parser.add_argument("--batch", type=int, default=8, help="clips of the batch that is explained and trained")
    parser.add_argument("--execution", default="compile", help="of the training step, as in bench training")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print and write the tables."""
    import torch

    from bench import explanation_cost

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    presets = arguments.preset or (["seed", "published"] if on_gpu and not arguments.quick else ["seed"])
    folder = output_folder(arguments.output, "relevance", arguments.commit)
    if on_gpu:
        rows = list(_operations(arguments, folder))
        print(format_table(HEADER, [_cells(row, COLUMNS) for row in rows]), end="\n\n")
    else:
        print("PyTorch finds no NVIDIA GPU here: what an explanation stores is measured, and no time.")

    storages = explanation_cost.QUICK_STORAGES if arguments.quick else tuple(explanation_cost.STORAGES)
    memory: list[Row] = []
    for row in itertools.chain.from_iterable(
        explanation_cost.measure_memory(preset, device, storages) for preset in presets
    ):
        memory.append(row)
        print("  ".join(_cells(row, MEMORY_COLUMNS)), flush=True)
        write_table(folder, "explanation_memory", memory)  # what is measured is kept if the run is cut short
    print(format_table(MEMORY_HEADER, [_cells(row, MEMORY_COLUMNS) for row in memory]), end="\n\n")

    if on_gpu:
        execution = None if arguments.quick else arguments.execution
        times: list[Row] = []
        for preset in presets:
            for row in explanation_cost.measure_time(
                preset, arguments.batch, device, arguments.milliseconds, execution
            ):
                times.append(row)
                write_table(folder, "explanation_time", times)
        print(format_table(TIME_HEADER, [_cells(row, TIME_COLUMNS) for row in times]))
    print(f"\nwritten to {folder}")
    return 0


def _operations(arguments: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Time the operations; what is measured is in relevance.csv if the run is cut short."""
    import torch

    from bench.ahead import compile_ahead
    from bench.timing import copy_bandwidth

    bandwidth = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}: copies {bandwidth / 1e12:.2f} TB/s")
    compile_ahead(_kernels())
    rows: list[Row] = []
    shapes = QUICK_SHAPES if arguments.quick else SHAPES
    for (clips, frames), head_dim, kind in itertools.product(shapes, HEAD_DIMS, KINDS):
        for row in measure(kind, clips, frames, head_dim, bandwidth, arguments.milliseconds):
            rows.append(row)
            print("  ".join(_cells(row, COLUMNS)), flush=True)
            yield row
        write_table(folder, "relevance", rows)


def _kernels(device: str = "cuda") -> Iterator[Callable[[], object]]:
    """Calls that launch what the paper's shape needs."""
    clips, frames = QUICK_SHAPES[0]
    for kind, head_dim in itertools.product(KINDS, HEAD_DIMS):
        tensors = inputs(kind, clips, frames, head_dim, padded_head_dim(head_dim), device)
        yield from (partial(ours, kind, which, tensors, head_dim**-0.5) for which in PASSES)


def _cells(row: Row, columns: tuple[str, ...]) -> list[str]:
    return [_text(name, row.get(name)) for name in columns]


def _text(name: str, value: object) -> str:
    if value is None:
        return ""
    if name == "peak_bytes":
        return f"{int(value) / 2**20:.1f}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
