"""Time temporal attention against its peers and its byte floor. Needs a GPU.

One task for everybody: from the packed projection [B, F, S, 3, N, D] to the output [B, F, S, N, D] that the output
projection reads, and back to the gradient of the packed projection. Peers get the permutes that they need and, in mode
"fused", the explicit subtraction. The floor is the bytes that must move (4 tensors forward, 7 backward) at the copy
bandwidth measured in the same run. Head dimension 91 means: ours padded to 96 at the projection, peers as they are.
Ours come first, then peers, last what is compiled for each shape; every row is written as it comes. Writes
temporal.csv and layer_norm_difference.csv to bench/results/<gpu>/; --tune tries launch settings instead.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from bench.record import add_output, output_folder, write_table
from bench.table import format_table
from kernels.launch import padded_head_dim

if TYPE_CHECKING:
    import torch

    from bench.record import Row

HEADS, POSITIONS = 8, 362
# Frames at a batch of 8, and batches at the paper's 6 frames.
SHAPES = [(8, frames) for frames in (2, 4, 6, 8, 16, 32, 64)] + [(clips, 6) for clips in (1, 2, 16, 32, 64)]
QUICK_SHAPES = [(8, 6), (1, 6)]
HEAD_DIMS = (64, 91, 96)
OURS, FLEX = "ours", "flex compiled"
# Tensors of the size of q that each pass must move: q k v o, then q k v dO dq dk dv.
TENSORS = {"forward": 4, "backward": 7, "both": 11}


def contenders(mode: str) -> dict[str, Callable[[torch.Tensor, float], torch.Tensor]]:
    """By name: from a packed projection and a scale to the output."""
    from bench.attention_peers import PEERS
    from kernels import self_subtract, temporal_attention_packed

    def peer(attention: Any, qkv: torch.Tensor, scale: float) -> torch.Tensor:
        q, k, v = qkv.unbind(3)
        if mode == "fused":
            q, k = self_subtract(q), self_subtract(k)
        clips, frames, positions, heads, head_dim = q.shape
        q, k, v = (x.permute(0, 2, 3, 1, 4).reshape(-1, heads, frames, head_dim) for x in (q, k, v))
        out = attention(q, k, v, scale).reshape(clips, positions, heads, frames, head_dim)
        return out.permute(0, 3, 1, 2, 4).contiguous()

    ours = {OURS: lambda qkv, scale: temporal_attention_packed(qkv, scale=scale, self_subtract=mode)}
    if mode == "telescoped":
        return ours
    return ours | {name: partial(peer, attention) for name, attention in PEERS.items()}


@dataclass(frozen=True)
class Task:
    """One contender at one shape."""

    contender: str
    clips: int
    frames: int
    head_dim: int
    mode: str

    @property
    def width(self) -> int:
        """Columns of a head in memory."""
        return padded_head_dim(self.head_dim) if self.contender == OURS else self.head_dim

    @property
    def rank(self) -> int:
        """What is worth more comes first, and a peer that breaks the GPU's context breaks nothing of ours."""
        return {OURS: 0, FLEX: 2}.get(self.contender, 1)


def tasks(shapes: Sequence[tuple[int, int]]) -> list[Task]:
    """All contenders at ``shapes`` of (clips, frames), ours first; what compiles for each shape at a few of them."""
    found = [
        Task(name, clips, frames, head_dim, mode)
        for (clips, frames), head_dim, mode in itertools.product(shapes, HEAD_DIMS, ("telescoped", "fused", "off"))
        for name in contenders(mode)
        if name != FLEX or (clips, frames) in QUICK_SHAPES
    ]
    return sorted(found, key=lambda task: task.rank)


def calls_of(task: Task, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """For each pass a call of the contender, on tensors of the GPU."""
    import torch

    function = contenders(task.mode)[task.contender]
    size, scale = (task.clips, task.frames + 1, POSITIONS), task.head_dim**-0.5
    torch.manual_seed(0)
    qkv = torch.randn(*size, 3, HEADS, task.width, device="cuda").to(dtype).requires_grad_()
    grad_out = torch.randn(*size, HEADS, task.width, device="cuda").to(dtype)

    @cache
    def out() -> torch.Tensor:
        return function(qkv, scale)

    return {
        "forward": lambda: function(qkv.detach(), scale),
        "backward": lambda: torch.autograd.grad(out(), qkv, grad_out, retain_graph=True),
        "both": lambda: torch.autograd.grad(function(qkv, scale), qkv, grad_out),
    }


def measure(task: Task, dtype: torch.dtype, bandwidth: float, milliseconds: int) -> Iterator[Row]:
    """One row a pass."""
    from bench.attention_peers import reason
    from bench.timing import time_call

    row = {
        "contender": task.contender, "mode": task.mode, "dtype": str(dtype).removeprefix("torch."),
        "clips": task.clips, "frames": task.frames, "positions": POSITIONS, "heads": HEADS, "head_dim": task.head_dim,
    }  # fmt: skip
    size = task.clips * (task.frames + 1) * POSITIONS * HEADS * task.width
    for which, call in calls_of(task, dtype).items():
        moved = TENSORS[which] * size * dtype.itemsize
        if refused := reason(call):
            yield row | {"pass": which, "note": refused}
            continue
        spent = time_call(call, milliseconds=milliseconds)
        floor = 1e6 * moved / bandwidth
        yield row | {
            "pass": which, "microseconds": spent.median, "p20": spent.low, "p80": spent.high,
            "floor_microseconds": floor, "share_of_floor": floor / spent.median,
            "terabytes_per_second": 1e-6 * moved / spent.median,
        }  # fmt: skip


def _there_and_back(task: Task, dtype: torch.dtype) -> object:
    return calls_of(task, dtype)["both"]()


def measure_normalization(clips: int, dtype: torch.dtype, bandwidth: float, milliseconds: int) -> Iterator[Row]:
    """LayerNorm and difference, ours and PyTorch's two steps, against 2 and 3 tensors moved."""
    import torch

    from bench.timing import time_call
    from kernels import layer_norm_difference, self_subtract

    x = torch.randn(clips, 7, POSITIONS, 728, device="cuda").to(dtype).requires_grad_()
    weight, bias = (torch.randn(728, device="cuda").requires_grad_() for _ in range(2))
    grad_out = torch.randn_like(x)

    def eager(x: torch.Tensor) -> torch.Tensor:
        return self_subtract(torch.nn.functional.layer_norm(x, (728,), weight.to(dtype), bias.to(dtype), 1e-6))

    for name, function in (("ours", lambda x: layer_norm_difference(x, weight, bias)), ("eager", eager)):
        out = function(x)
        calls = {
            "forward": (2, partial(function, x.detach())),
            "backward": (3, partial(torch.autograd.grad, out, (x, weight, bias), grad_out, retain_graph=True)),
        }
        for which, (tensors, call) in calls.items():
            spent = time_call(call, milliseconds=milliseconds)
            floor = 1e6 * tensors * x.numel() * x.element_size() / bandwidth
            yield {
                "contender": name, "dtype": str(dtype).removeprefix("torch."), "clips": clips, "frames": 6,
                "positions": POSITIONS, "channels": 728, "pass": which, "microseconds": spent.median,
                "p20": spent.low, "p80": spent.high,
                "floor_microseconds": floor, "share_of_floor": floor / spent.median,
            }  # fmt: skip


def tune(head_dim: int, dtype: torch.dtype, milliseconds: int) -> Iterator[str]:
    """Time every candidate setting at the paper's shape; last come rows for ``settings.py``."""
    import torch

    from bench.tune import time_settings
    from kernels.launch import Setting, architecture
    from kernels.temporal_attention import operator, settings

    qkv = torch.randn(8, 7, POSITIONS, 3, HEADS, head_dim, device="cuda").to(dtype)
    grad_out, gradient = torch.randn_like(qkv[:, :, :, 0]), torch.empty_like(qkv)
    q, k, v = qkv.unbind(3)
    mode = "fused" if dtype == torch.float32 else "telescoped"
    form, stages = ("EXACT", (1, 2, 3)) if dtype == torch.float32 else ("MATRIX", (1,))
    tried = [Setting(*one) for one in itertools.product((16, 32, 64, 128), (1, 2, 4, 8), stages)]
    out = operator.empty_out(q)
    calls = {
        "FORWARD": (lambda: operator.launch_forward(q, k, v, 0.1, mode, out, None), out),
        "BACKWARD": (
            lambda: operator.launch_backward(q, k, v, grad_out, 0.1, mode, *gradient.unbind(3), None), gradient
        ),
    }  # fmt: skip
    number = architecture(q)
    for which, (call, result) in calls.items():
        times = time_settings(getattr(settings, f"{form}_{which}"), number, tried, call, result, milliseconds)
        for setting, spent in sorted(times.items(), key=lambda item: item[1]):
            yield f"# {form}_{which} {setting}: {spent:.1f} us"
        if times:
            fastest = min(times, key=times.get)
            where = f"{torch.cuda.get_device_name()}, B=8 T=6 D={head_dim} {mode}: {times[fastest]:.1f} us"
            yield f"{form}_{which}: {number}: [(8, {fastest}), ...]  # {where}"


HEADER = ("contender", "mode", "D", "T", "B", "pass", "us", "floor us", "of floor", "note")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much to measure."""
    parser.add_argument("--quick", action="store_true", help="B = 8 and 1 at 6 frames only")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--milliseconds", type=int, default=60, help="time spent on each measurement")
    parser.add_argument("--tune", action="store_true", help="time candidate launch settings and print the best rows")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print and write the tables; 2 without a GPU."""
    import torch

    if not torch.cuda.is_available():
        print("bench temporal needs an NVIDIA GPU, and PyTorch finds none here.")
        return 2
    dtype = getattr(torch, arguments.dtype)
    if arguments.tune:
        for head_dim in (64, 96):
            for line in tune(head_dim, dtype, arguments.milliseconds):
                print(line, flush=True)
        return 0

    from bench.ahead import compile_ahead
    from bench.timing import copy_bandwidth

    bandwidth = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}: copies {bandwidth / 1e12:.2f} TB/s")
    folder = output_folder(arguments.output, "temporal", arguments.commit)
    chosen = tasks(QUICK_SHAPES if arguments.quick else SHAPES)
    started = time.perf_counter()
    count = compile_ahead(partial(_there_and_back, task, dtype) for task in chosen if task.rank == 0)
    print(f"{count} kernels compiled in {time.perf_counter() - started:.0f} s", flush=True)
    rows: list[Row] = []
    normalization: list[Row] = []
    for rank, group in itertools.groupby(chosen, key=lambda task: task.rank):
        for task in group:
            for row in measure(task, dtype, bandwidth, arguments.milliseconds):
                rows.append(row)
                print(_line(row), flush=True)
                write_table(folder, "temporal", rows)  # what is measured is kept if the run is cut short
        if rank == 0:
            for clips in (1, 8):
                normalization += measure_normalization(clips, dtype, bandwidth, arguments.milliseconds)
            write_table(folder, "layer_norm_difference", normalization)
    print(format_table(HEADER, [_cells(row) for row in rows]))
    header = ("contender", "B", "pass", "us", "floor us", "of floor")
    names = ("contender", "clips", "pass", "microseconds", "floor_microseconds", "share_of_floor")
    print(format_table(header, [[_number(row[name]) for name in names] for row in normalization]))
    print(f"\nwritten to {folder}")
    return 0


def _cells(row: Row) -> list[str]:
    names = (
        "contender", "mode", "head_dim", "frames", "clips", "pass",
        "microseconds", "floor_microseconds", "share_of_floor", "note",
    )  # fmt: skip
    return [_number(row.get(name, "")) for name in names]


def _line(row: Row) -> str:
    return "  ".join(_cells(row))


def _number(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
