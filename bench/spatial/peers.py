"""Time spatial attention against its peers, and what it costs to hand out attention and its gradient. Needs a GPU.

One task for everybody: from the packed projection [B, F, S, 3, N, D] to the output [B, F, S, N, D] that the output
projection reads, and back to the gradient of the packed projection. TFLOP/s count the useful work, 2 products forward
and 5 backward at the unpadded head dimension. Head dimension 91 means: ours padded to 96 at the projection; peers as
they are, with the padding copies that they need, and once more on our padded projection, which shows what the padding
and what the kernel is worth. A peer that is missing or refuses is a row that says why.

Ours come first, then peers, last what is compiled for each shape; every row is written as it comes. Writes
spatial.csv (peers), spatial_tape.csv (attention and its gradient, their byte floor), spatial_memory.csv and
spatial_memory_exponents.csv (peak memory against S, with a tape and without) to bench/results/<gpu>/. --memory measures
the last alone, without a GPU too: see bench/spatial_memory.py. --tune times candidate launch settings and prints rows
for kernels/spatial_attention/settings.py instead.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import spatial_memory
from bench.record import add_output, output_folder, write_table
from bench.table import format_table
from kernels.launch import padded_head_dim

if TYPE_CHECKING:
    import torch

    from bench.record import Row
    from kernels.spatial_attention.settings import TileSetting

HEADS = 8
HEAD_DIMS = (64, 91, 128)
OURS, FLEX = "ours", "flex compiled"
# Products of S x S x D that a pass cannot do without.
PRODUCTS = {"forward": 2, "backward": 5, "both": 7}


@dataclass(frozen=True)
class Shape:
    """``rows`` frame rows of ``positions`` each; joint attention is one row that holds every token of a clip."""

    attention: str
    clips: int
    rows: int
    positions: int


def spatial(clips: int, cells: int, frames: int = 6) -> Shape:
    """Spatial attention over a grid of ``cells`` = H * W and a class token, in each frame row of ``clips`` clips."""
    return Shape("spatial", clips, frames + 1, cells + 1)


def joint(clips: int, cells: int, frames: int = 6) -> Shape:
    """Joint attention over all ``(T + 1) (H W + 1)`` tokens."""
    return Shape("joint", clips, 1, (frames + 1) * (cells + 1))


PAPER = spatial(8, 361)
SHAPES = [
    PAPER, spatial(1, 361), spatial(32, 361),
    *(spatial(8, cells) for cells in (49, 100, 196, 576, 1024)), spatial(2, 2304), spatial(1, 4096),
    joint(1, 361),
]  # fmt: skip
QUICK_SHAPES = [PAPER, spatial(1, 361)]
# Beside the paper's shape.
TAPE_SHAPES = [spatial(1, cells) for cells in (49, 196, 361, 1024, 2304)]


@dataclass(frozen=True)
class Contender:
    """One way from the packed projection and a scale to the output, at the width of head that it is given."""

    name: str
    width: int
    function: Callable[[torch.Tensor, float], torch.Tensor]


def contenders(head_dim: int) -> list[Contender]:
    """Everybody who may try at this head dimension."""
    from bench.attention_peers import PEERS
    from kernels import spatial_attention_packed

    def ours(qkv: torch.Tensor, scale: float) -> torch.Tensor:
        return spatial_attention_packed(qkv, scale=scale)

    padded = padded_head_dim(head_dim)
    found = [Contender(OURS, padded, ours)]
    if padded == head_dim:
        return found + [Contender(name, head_dim, partial(by_peer, peer, 1)) for name, peer in PEERS.items()]
    found.append(Contender(f"{OURS}, unpadded", head_dim, ours))
    found += [Contender(name, head_dim, partial(by_peer, peer, 1)) for name, peer in PEERS.items()]
    for name in ("sdpa flash", "sdpa efficient", "sdpa cudnn", "xformers"):
        found.append(Contender(f"{name}, pads by copies", head_dim, partial(by_peer, PEERS[name], 16)))
        found.append(Contender(f"{name}, our padded projection", padded, partial(by_peer, PEERS[name], 1)))
    return found


def by_peer(attention: Any, multiple: int, qkv: torch.Tensor, scale: float) -> torch.Tensor:
    """A peer's attention of ``[sequences, heads, length, D]``, after padding D to a ``multiple`` by copies."""
    import torch

    head_dim = qkv.shape[-1]
    q, k, v = (x.flatten(0, 1).transpose(1, 2) for x in qkv.unbind(3))
    if head_dim % multiple:
        q, k, v = (torch.nn.functional.pad(x, (0, -head_dim % multiple)) for x in (q, k, v))
    out = attention(q, k, v, scale)[..., :head_dim]
    return out.transpose(1, 2).unflatten(0, qkv.shape[:2]).contiguous()


def useful_operations(shape: Shape, head_dim: int, which: str) -> int:
    """Floating-point operations of the products that a pass cannot do without."""
    heads = shape.clips * shape.rows * HEADS
    return PRODUCTS[which] * 2 * heads * shape.positions**2 * head_dim


@dataclass(frozen=True)
class Task:
    """One contender at one shape."""

    contender: Contender
    shape: Shape
    head_dim: int
    dtype: torch.dtype

    @property
    def rank(self) -> int:
        """What is worth more comes first, and a peer that breaks the GPU's context breaks nothing of ours."""
        return 0 if self.contender.name.startswith(OURS) else 2 if self.contender.name == FLEX else 1


def tasks(shapes: Sequence[Shape], dtype: torch.dtype) -> list[Task]:
    """All contenders at ``shapes``, ours first; what compiles for each shape at the paper's alone.

    At the paper's shape in float32 too, which peers compute without tensor cores.
    """
    import torch

    cases = list(itertools.product(shapes, HEAD_DIMS, (dtype,)))
    cases[len(HEAD_DIMS) : len(HEAD_DIMS)] = [(PAPER, head_dim, torch.float32) for head_dim in (64, 91)]
    found = [
        Task(contender, shape, head_dim, working)
        for shape, head_dim, working in dict.fromkeys(cases)
        for contender in contenders(head_dim)
        if contender.name != FLEX or (shape == PAPER and working == dtype)
    ]
    return sorted(found, key=lambda task: task.rank)


def calls_of(task: Task, *, device: str = "cuda") -> dict[str, Callable[[], object]]:
    """For each pass a call of the contender, on tensors of the GPU."""
    import torch

    qkv, grad_out = _inputs(task.shape, task.contender.width, task.dtype, device)
    qkv.requires_grad_()
    function = partial(task.contender.function, scale=task.head_dim**-0.5)

    @cache
    def out() -> torch.Tensor:
        return function(qkv)

    return {
        "forward": lambda: function(qkv.detach()),
        "backward": lambda: torch.autograd.grad(out(), qkv, grad_out, retain_graph=True),
        "both": lambda: torch.autograd.grad(function(qkv), qkv, grad_out),
    }


def measure(task: Task, milliseconds: int, *, device: str = "cuda") -> Iterator[Row]:
    """One row a pass."""
    from bench.attention_peers import reason
    from bench.timing import peak_bytes, time_call

    row = _described(task.shape, task.head_dim, task.dtype)
    row |= {"contender": task.contender.name, "width": task.contender.width}
    for which, call in calls_of(task, device=device).items():
        if refused := reason(call):
            yield row | {"pass": which, "note": refused}
            continue
        time = time_call(call, milliseconds=milliseconds)
        yield row | {
            "pass": which, "microseconds": time.median, "p20": time.low, "p80": time.high,
            "teraflops": 1e-6 * useful_operations(task.shape, task.head_dim, which) / time.median,
            "peak_bytes": peak_bytes(call),
        }  # fmt: skip


def measure_tape(
    shape: Shape, head_dim: int, dtype: torch.dtype, bandwidth: float, milliseconds: int, *, device: str = "cuda"
) -> Iterator[Row]:
    """What handing out attention (forward) and its gradient (backward) adds, over its bytes at write ``bandwidth``."""
    import torch

    from bench.attention_peers import reason
    from bench.timing import time_call
    from kernels import AttentionTape, spatial_attention

    qkv, grad_out = _inputs(shape, padded_head_dim(head_dim), dtype, device)
    leaves = [x.detach().requires_grad_() for x in qkv.unbind(3)]

    def forward(tape: AttentionTape | None) -> torch.Tensor:
        return spatial_attention(*leaves, scale=head_dim**-0.5, tape=tape)

    matrix_bytes = 4 * shape.clips * shape.rows * HEADS * shape.positions**2
    row = _described(shape, head_dim, dtype) | {"emitted_bytes": matrix_bytes}
    refused = reason(lambda: torch.autograd.grad(forward(AttentionTape()), leaves, grad_out))
    if refused:
        yield row | {"note": refused}
        return
    outs = {taped: forward(AttentionTape() if taped else None) for taped in (False, True)}
    calls = {
        ("forward", taped): (lambda taped=taped: forward(AttentionTape() if taped else None)) for taped in outs
    } | {
        ("backward", taped): partial(torch.autograd.grad, out, leaves, grad_out, retain_graph=True)
        for taped, out in outs.items()
    }
    floor = 1e6 * matrix_bytes / bandwidth
    for which in ("forward", "backward"):
        plain, taped = (time_call(calls[which, key], milliseconds=milliseconds).median for key in (False, True))
        added = taped - plain
        yield row | {
            "pass": which, "microseconds": plain, "microseconds_with_tape": taped, "added_microseconds": added,
            "floor_microseconds": floor, "added_over_floor": added / floor,
        }  # fmt: skip


def _described(shape: Shape, head_dim: int, dtype: torch.dtype) -> Row:
    return {
        "attention": shape.attention, "dtype": str(dtype).removeprefix("torch."), "clips": shape.clips,
        "rows": shape.rows, "positions": shape.positions, "heads": HEADS, "head_dim": head_dim,
    }  # fmt: skip


def _inputs(shape: Shape, width: int, dtype: torch.dtype, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    torch.manual_seed(0)
    size = (shape.clips, shape.rows, shape.positions)
    qkv = torch.randn(*size, 3, HEADS, width, device=device).to(dtype)
    return qkv, torch.randn(*size, HEADS, width, device=device).to(dtype)


def candidates(bits: int) -> list[TileSetting]:
    """The launch settings that are worth trying for a dtype of ``bits`` bits."""
    from kernels.spatial_attention.settings import TileSetting

    if bits == 32:
        tiles = itertools.product((32, 64, 128), (4, 8), (1, 2), (16, 32, 64))
        return [TileSetting(*tile) for tile in tiles]
    tiles = list(itertools.product((64, 128), (4, 8), (2, 3), (32, 64, 128)))
    # 256 threads of at most 128 registers: two programs on a processor.
    capped = [TileSetting(*tile, max_registers=128) for tile in tiles if tile[:2] == (128, 8)]
    return [TileSetting(*tile) for tile in tiles] + capped


def tune(
    dtype: torch.dtype, head_dims: Sequence[int], milliseconds: int, shape: Shape = PAPER, *, device: str = "cuda"
) -> Iterator[str]:
    """Time every candidate at ``shape``; last come rows to paste into settings.py.

    A candidate that does not compile, does not fit or does not give the numbers of the present setting is left out.
    The two backward kernels are tuned one after the other, each timed together with the other's present setting.
    """
    import torch
    import triton

    from bench.tune import time_settings
    from kernels.launch import architecture
    from kernels.spatial_attention import settings

    bits = 8 * dtype.itemsize
    best: dict[str, list[str]] = {}
    number = 0
    for head_dim in head_dims:
        qkv, grad_out = _inputs(shape, head_dim, dtype, device)
        number = architecture(qkv)
        for kernel, (call, result) in _calls(qkv, grad_out).items():
            name = f"{kernel}_{bits}"
            times = time_settings(getattr(settings, name), number, candidates(bits), call, result, milliseconds)
            for tried, spent in sorted(times.items(), key=lambda item: item[1]):
                yield f"# {name} D={head_dim} {tried}: {spent:.1f} us"
            if times:
                best.setdefault(name, []).append(f"({head_dim}, {min(times, key=times.get)})")
    where = (
        f"measured on {torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, "
        f"B={shape.clips} F={shape.rows} S={shape.positions} N={HEADS}"
    )
    for name, found in best.items():
        yield f"{name}:\n    {number}: [{', '.join(found)}],  # {where}"


def _calls(qkv: torch.Tensor, grad_out: torch.Tensor) -> dict[str, tuple[Callable[[], None], torch.Tensor]]:
    """For each table of settings: bare launches that use it, and the buffer that they write."""
    import torch

    from kernels.spatial_attention import operator

    q, k, v = qkv.unbind(3)
    out, normaliser, gradient = operator.empty_out(q), operator.empty_normaliser(q), torch.empty_like(qkv)

    def forward() -> None:
        operator.launch_forward(q, k, v, 0.1, out, normaliser, None)

    def backward() -> None:
        operator.launch_backward(q, k, v, out, normaliser, grad_out, 0.1, *gradient.unbind(3), None)

    return {
        "FORWARD": (forward, out),
        "BACKWARD_QUERIES": (backward, gradient),
        "BACKWARD_KEYS": (backward, gradient),
    }


HEADER = ("attention", "contender", "dtype", "D", "B", "S", "pass", "us", "TFLOP/s", "peak MiB", "note")
TAPE_HEADER = ("D", "B", "S", "pass", "us", "us with tape", "added/floor", "note")
MEMORY_HEADER = ("S", "tape", "dtype", "rows", "heads", "D", "peak KiB")


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
    """Print and write the tables; 2 without a GPU."""
    import torch

    if arguments.memory:
        return _run_memory(arguments)
    if not torch.cuda.is_available():
        print("bench spatial needs an NVIDIA GPU, and PyTorch finds none here.")
        return 2
    dtype = getattr(torch, arguments.dtype)
    if arguments.tune:
        for line in tune(dtype, arguments.head_dims, arguments.milliseconds):
            print(line, flush=True)
        return 0

    from bench.ahead import compile_ahead
    from bench.timing import write_bandwidth

    bandwidth = write_bandwidth()
    print(f"{torch.cuda.get_device_name()}: writes {bandwidth / 1e12:.2f} TB/s")
    folder = output_folder(arguments.output, "spatial", arguments.commit)
    taped: list[Row] = []
    rows: list[Row] = []
    chosen = tasks(QUICK_SHAPES if arguments.quick else SHAPES, dtype)
    count = compile_ahead(partial(_there_and_back, task) for task in chosen if task.rank == 0)
    print(f"{count} kernels compiled", flush=True)
    for rank, group in itertools.groupby(chosen, key=lambda task: task.rank):
        for task in group:
            for row in measure(task, arguments.milliseconds):
                rows.append(row)
                print("  ".join(_cells(row)), flush=True)
                write_table(folder, "spatial", rows)  # what is measured is kept if the run is cut short
        if rank == 0:
            for shape, head_dim in itertools.product([PAPER] if arguments.quick else [PAPER, *TAPE_SHAPES], (64, 91)):
                taped.extend(measure_tape(shape, head_dim, dtype, bandwidth, arguments.milliseconds))
                write_table(folder, "spatial_tape", taped)
            _write_memory(folder, spatial_memory.ON_GPU, "cuda")
    print(format_table(HEADER, [_cells(row) for row in rows]))
    print(format_table(TAPE_HEADER, [_tape_cells(row) for row in taped]))
    print(f"\nwritten to {folder}")
    return 0


def _there_and_back(task: Task) -> object:
    return calls_of(task)["both"]()


def _run_memory(arguments: argparse.Namespace) -> int:
    import torch

    from kernels.launch import interpreted

    if torch.cuda.is_available():
        sizes, device = spatial_memory.ON_GPU, "cuda"
    elif interpreted():
        sizes, device = spatial_memory.IN_THE_INTERPRETER, "cpu"
    else:
        sys.stdout.flush()
        environment = os.environ | {"TRITON_INTERPRET": "1"}
        os.execve(sys.executable, [sys.executable, "-m", "bench", *sys.argv[1:]], environment)
    folder = output_folder(arguments.output, "spatial-memory", arguments.commit)
    _write_memory(folder, sizes, device)
    print(f"\nwritten to {folder}")
    return 0


def _write_memory(folder: Path, sizes: spatial_memory.Sizes, device: str) -> None:
    rows = []
    for row in spatial_memory.measure(sizes, device):
        rows.append(row)
        write_table(folder, "spatial_memory", rows)
    fitted = spatial_memory.exponents(rows)
    write_table(folder, "spatial_memory_exponents", fitted)
    names = ("positions", "tape", "dtype", "rows", "heads", "head_dim")
    cells = [[*(row[name] for name in names), f"{row['peak_bytes'] / 2**10:.1f}"] for row in rows]
    print(format_table(MEMORY_HEADER, cells))
    for row in fitted:
        print(f"{row['tape']}: grows as S to the {row['exponent']:.2f} [{row['low']:.2f}, {row['high']:.2f}]")


def _cells(row: Row) -> list[str]:
    names = (
        "attention", "contender", "dtype", "head_dim", "clips", "positions",
        "pass", "microseconds", "teraflops", "peak_bytes", "note",
    )  # fmt: skip
    return [_text(name, row.get(name, "")) for name in names]


def _tape_cells(row: Row) -> list[str]:
    names = (
        "head_dim", "clips", "positions", "pass", "microseconds", "microseconds_with_tape", "added_over_floor", "note",
    )  # fmt: skip
    return [_text(name, row.get(name, "")) for name in names]


def _text(name: str, value: object) -> str:
    if name == "peak_bytes" and value != "":
        return f"{int(value) / 2**20:.1f}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
