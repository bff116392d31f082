"""Time spatial attention against its peers, and what it costs to hand out attention and its gradient. Needs a GPU.

One task for everybody: from the packed projection [B, F, S, 3, N, D] to the output [B, F, S, N, D] that the output
projection reads, and back to the gradient of the packed projection. TFLOP/s count the useful work, 2 products forward
and 5 backward at the unpadded head dimension. Head dimension 91 means: ours padded to 96 at the projection; peers as
they are, with the padding copies that they need, and once more on our padded projection, which shows what the padding
and what the kernel is worth. A peer that is missing or refuses is a row that says why.

Writes spatial.csv (peers) and spatial_tape.csv (attention and its gradient, their byte floor, peak memory with and
without) to bench/results/<gpu>/. With --tune, times candidate launch settings and prints rows for
kernels/spatial_attention/settings.py instead.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.table import format_table

if TYPE_CHECKING:
    import torch

    from bench.record import Row
    from kernels.spatial_attention.settings import TileSetting

HEADS = 8
HEAD_DIMS = (64, 91, 128)
PASSES = ("forward", "backward", "both")
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
# Beside the paper's shape: what shows that memory grows with S, and with a tape as S squared.
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

    padded = -(-head_dim // 16) * 16
    found = [Contender("ours", padded, ours)]
    if padded == head_dim:
        return found + [Contender(name, head_dim, partial(by_peer, peer, 1)) for name, peer in PEERS.items()]
    found.append(Contender("ours, unpadded", head_dim, ours))
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


def measure(
    shape: Shape, head_dim: int, dtype: torch.dtype, milliseconds: int, *, device: str = "cuda", flex: bool = True
) -> Iterator[Row]:
    """One row a contender and pass; ``flex=False`` leaves out what has to be compiled for each shape."""
    import torch

    from bench.attention_peers import reason
    from bench.timing import peak_bytes, time_call

    for contender in contenders(head_dim):
        row = _described(shape, head_dim, dtype) | {"contender": contender.name, "width": contender.width}
        if "flex" in contender.name and not flex:
            yield from (row | {"pass": which, "note": "not timed: compiles for each shape"} for which in PASSES)
            continue
        qkv, grad_out = _inputs(shape, contender.width, dtype, device)
        qkv.requires_grad_()
        scale = head_dim**-0.5

        def both(contender=contender, qkv=qkv, grad_out=grad_out, scale=scale) -> object:
            return torch.autograd.grad(contender.function(qkv, scale), qkv, grad_out)

        refused = reason(both)
        if refused:
            yield from (row | {"pass": which, "note": refused} for which in PASSES)
            continue
        out = contender.function(qkv, scale)
        calls = {
            "forward": partial(contender.function, qkv.detach(), scale),
            "backward": partial(torch.autograd.grad, out, qkv, grad_out, retain_graph=True),
            "both": both,
        }
        for which in PASSES:
            time = time_call(calls[which], milliseconds=milliseconds)
            yield row | {
                "pass": which, "microseconds": time.median, "p20": time.low, "p80": time.high,
                "teraflops": 1e-6 * useful_operations(shape, head_dim, which) / time.median,
                "peak_bytes": peak_bytes(calls[which]),
            }  # fmt: skip
        del out


def measure_tape(
    shape: Shape, head_dim: int, dtype: torch.dtype, bandwidth: float, milliseconds: int, *, device: str = "cuda"
) -> Iterator[Row]:
    """What handing out attention (forward) and its gradient (backward) adds, over its bytes at write ``bandwidth``.

    Peak memory stands beside it, with a tape and without: the one grows as S squared, the other as S.
    """
    import torch

    from bench.attention_peers import reason
    from bench.timing import peak_bytes, time_call
    from kernels import AttentionTape, spatial_attention

    qkv, grad_out = _inputs(shape, -(-head_dim // 16) * 16, dtype, device)
    leaves = [x.detach().requires_grad_() for x in qkv.unbind(3)]

    def forward(tape: AttentionTape | None) -> torch.Tensor:
        return spatial_attention(*leaves, scale=head_dim**-0.5, tape=tape)

    def both(taped: bool) -> object:
        tape = AttentionTape() if taped else None
        return *torch.autograd.grad(forward(tape), leaves, grad_out), tape

    matrix_bytes = 4 * shape.clips * shape.rows * HEADS * shape.positions**2
    row = _described(shape, head_dim, dtype) | {"emitted_bytes": matrix_bytes}
    refused = reason(lambda: both(True))
    if refused:
        yield row | {"note": refused}
        return
    tapes = {True: AttentionTape(), False: None}
    outs = {taped: forward(tape) for taped, tape in tapes.items()}
    calls = {
        ("forward", taped): (lambda taped=taped: forward(AttentionTape() if taped else None)) for taped in tapes
    } | {
        ("backward", taped): partial(torch.autograd.grad, outs[taped], leaves, grad_out, retain_graph=True)
        for taped in tapes
    }
    floor = 1e6 * matrix_bytes / bandwidth
    for which in ("forward", "backward"):
        plain, taped = (time_call(calls[which, key], milliseconds=milliseconds).median for key in (False, True))
        added = taped - plain
        yield row | {
            "pass": which, "microseconds": plain, "microseconds_with_tape": taped, "added_microseconds": added,
            "floor_microseconds": floor, "added_over_floor": added / floor,
        }  # fmt: skip
    plain, taped = (peak_bytes(partial(both, key)) for key in (False, True))
    yield row | {"pass": "both", "peak_bytes": plain, "peak_bytes_with_tape": taped}


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
            times = _times(getattr(settings, name), number, candidates(bits), call, result, milliseconds)
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
    out, log_sum_exp, gradient = operator.empty_out(q), operator.empty_log_sum_exp(q), torch.empty_like(qkv)

    def forward() -> None:
        operator.launch_forward(q, k, v, 0.1, out, log_sum_exp, None)

    def backward() -> None:
        operator.launch_backward(q, k, v, out, log_sum_exp, grad_out, 0.1, *gradient.unbind(3), None)

    return {
        "FORWARD": (forward, out),
        "BACKWARD_QUERIES": (backward, gradient),
        "BACKWARD_KEYS": (backward, gradient),
    }


def _times(
    table: dict,
    number: int,
    tried: list[TileSetting],
    call: Callable[[], None],
    result: torch.Tensor,
    milliseconds: int,
) -> dict[TileSetting, float]:
    """Microseconds of each setting that works and agrees with the present one; ``table`` is left as it was."""
    from bench.attention_peers import reason
    from bench.timing import time_call

    call()
    expected = result.clone()
    before, times = dict(table), {}
    try:
        for setting in tried:
            table[number] = [(128, setting)]
            result.fill_(float("nan"))
            if reason(call) is None and (result - expected).norm() <= 0.01 * expected.norm():
                times[setting] = time_call(call, milliseconds=milliseconds).median
    finally:
        table.clear()
        table.update(before)
    call()
    return times


HEADER = ("attention", "contender", "dtype", "D", "B", "S", "pass", "us", "TFLOP/s", "peak MiB", "note")
TAPE_HEADER = ("D", "B", "S", "pass", "us", "us with tape", "added/floor", "peak MiB", "peak MiB with tape", "note")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much to measure."""
    parser.add_argument("--quick", action="store_true", help="the paper's shape at B = 8 and 1 only")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--milliseconds", type=int, default=60, help="time spent on each measurement")
    parser.add_argument("--tune", action="store_true", help="time candidate launch settings and print the best rows")
    parser.add_argument("--head-dims", type=int, nargs="+", default=[64, 96, 128], help="what --tune tunes for")
    parser.add_argument("--output", type=Path, help="folder for the CSV files (default: bench/results/<gpu>/...)")


def run(arguments: argparse.Namespace) -> int:
    """Print and write the tables; 2 without a GPU."""
    import torch

    if not torch.cuda.is_available():
        print("bench spatial needs an NVIDIA GPU, and PyTorch finds none here.")
        return 2
    dtype = getattr(torch, arguments.dtype)
    if arguments.tune:
        for line in tune(dtype, arguments.head_dims, arguments.milliseconds):
            print(line, flush=True)
        return 0

    from bench.record import new_folder, write_table
    from bench.timing import write_bandwidth

    bandwidth = write_bandwidth()
    print(f"{torch.cuda.get_device_name()}: writes {bandwidth / 1e12:.2f} TB/s")
    folder = arguments.output or new_folder("spatial")
    folder.mkdir(parents=True, exist_ok=True)
    taped: list[Row] = []
    rows: list[Row] = []

    def add_tapes(shapes: Sequence[Shape]) -> None:
        for shape, head_dim in itertools.product(shapes, (64, 91)):
            taped.extend(measure_tape(shape, head_dim, dtype, bandwidth, arguments.milliseconds))
        write_table(folder, "spatial_tape", taped)

    tasks = list(itertools.product(QUICK_SHAPES if arguments.quick else SHAPES, HEAD_DIMS, (dtype,)))
    # After the paper's shape in the dtype asked for: float32, which peers compute without tensor cores.
    tasks[len(HEAD_DIMS) : len(HEAD_DIMS)] = [(PAPER, head_dim, torch.float32) for head_dim in (64, 91)]
    add_tapes([PAPER])
    for shape, head_dim, working in tasks:
        flex = shape == PAPER and working == dtype
        for row in measure(shape, head_dim, working, arguments.milliseconds, flex=flex):
            rows.append(row)
            print("  ".join(_cells(row)), flush=True)
        write_table(folder, "spatial", rows)  # what is measured is kept if the run is cut short
    if not arguments.quick:
        add_tapes(TAPE_SHAPES)
    print(format_table(HEADER, [_cells(row) for row in rows]))
    print(format_table(TAPE_HEADER, [_tape_cells(row) for row in taped]))
    print(f"\nwritten to {folder}")
    return 0


def _cells(row: Row) -> list[str]:
    names = (
        "attention", "contender", "dtype", "head_dim", "clips", "positions",
        "pass", "microseconds", "teraflops", "peak_bytes", "note",
    )  # fmt: skip
    return [_text(name, row.get(name, "")) for name in names]


def _tape_cells(row: Row) -> list[str]:
    names = (
        "head_dim", "clips", "positions", "pass", "microseconds", "microseconds_with_tape", "added_over_floor",
        "peak_bytes", "peak_bytes_with_tape", "note",
    )  # fmt: skip
    return [_text(name, row.get(name, "")) for name in names]


def _text(name: str, value: object) -> str:
    if name.startswith("peak_bytes") and value != "":
        return f"{int(value) / 2**20:.1f}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
