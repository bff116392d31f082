"""Time temporal attention against its peers and its byte floor. Needs a GPU.

One task for everybody: from the packed projection [B, F, S, 3, N, D] to the output [B, F, S, N, D] that the output
projection reads, and back to the gradient of the packed projection. Peers get the permutes that they need and, in mode
"fused", the explicit subtraction. The floor is the bytes that must move (4 tensors forward, 7 backward) at the copy
bandwidth measured in the same run. Head dimension 91 means: ours padded to 96 at the projection, peers as they are.
Writes temporal.csv and layer_norm_difference.csv to bench/results/<gpu>/; --tune tries launch settings instead.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.table import format_table

if TYPE_CHECKING:
    import torch

    from bench.record import Row

HEADS, POSITIONS = 8, 362
# Frames at a batch of 8, and batches at the paper's 6 frames.
SHAPES = [(8, frames) for frames in (2, 4, 6, 8, 16, 32, 64)] + [(clips, 6) for clips in (1, 2, 16, 32, 64)]
QUICK_SHAPES = [(8, 6), (1, 6)]
HEAD_DIMS = (64, 91, 96)
PASSES = ("forward", "backward", "both")
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

    ours = {"ours": lambda qkv, scale: temporal_attention_packed(qkv, scale=scale, self_subtract=mode)}
    if mode == "telescoped":
        return ours
    return ours | {name: partial(peer, attention) for name, attention in PEERS.items()}


def measure(
    clips: int, frames: int, head_dim: int, dtype: torch.dtype, mode: str, bandwidth: float, milliseconds: int
) -> Iterator[Row]:
    """One row a contender and pass."""
    import torch

    from bench.attention_peers import reason
    from bench.timing import time_call

    for name, function in contenders(mode).items():
        width = 96 if name == "ours" and head_dim == 91 else head_dim
        torch.manual_seed(0)
        qkv = torch.randn(clips, frames + 1, POSITIONS, 3, HEADS, width, device="cuda").to(dtype).requires_grad_()
        grad_out = torch.randn(clips, frames + 1, POSITIONS, HEADS, width, device="cuda").to(dtype)
        scale = head_dim**-0.5
        row = {
            "contender": name, "mode": mode, "dtype": str(dtype).removeprefix("torch."), "clips": clips,
            "frames": frames, "positions": POSITIONS, "heads": HEADS, "head_dim": head_dim,
        }  # fmt: skip

        if name == "flex compiled" and (clips, frames) not in QUICK_SHAPES:
            yield from (row | {"pass": which, "note": "not timed: compiles for each shape"} for which in PASSES)
            continue

        def both(function=function, qkv=qkv, grad_out=grad_out, scale=scale) -> object:
            return torch.autograd.grad(function(qkv, scale), qkv, grad_out)

        refused = reason(both)
        if refused:
            yield from (row | {"pass": which, "note": refused} for which in PASSES)
            continue
        out = function(qkv, scale)
        calls = {
            "forward": partial(function, qkv.detach(), scale),
            "backward": partial(torch.autograd.grad, out, qkv, grad_out, retain_graph=True),
            "both": both,
        }
        floor_bytes = grad_out.numel() * grad_out.element_size()
        for which in PASSES:
            time = time_call(calls[which], milliseconds=milliseconds)
            floor = 1e6 * TENSORS[which] * floor_bytes / bandwidth
            yield row | {
                "pass": which, "microseconds": time.median, "p20": time.low, "p80": time.high,
                "floor_microseconds": floor, "share_of_floor": floor / time.median,
                "terabytes_per_second": 1e-6 * TENSORS[which] * floor_bytes / time.median,
            }  # fmt: skip
        del out


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
            time = time_call(call, milliseconds=milliseconds)
            floor = 1e6 * tensors * x.numel() * x.element_size() / bandwidth
            yield {
                "contender": name, "dtype": str(dtype).removeprefix("torch."), "clips": clips, "frames": 6,
                "positions": POSITIONS, "channels": 728, "pass": which, "microseconds": time.median,
                "p20": time.low, "p80": time.high, "floor_microseconds": floor, "share_of_floor": floor / time.median,
            }  # fmt: skip


def tune(head_dim: int, dtype: torch.dtype, milliseconds: int) -> str:
    """Time every candidate setting at the paper's shape; a row of ``settings.py`` for the fastest."""
    import torch

    from bench.attention_peers import reason
    from bench.timing import time_call
    from kernels.launch import Setting, architecture
    from kernels.temporal_attention import operator, settings

    qkv = torch.randn(8, 7, POSITIONS, 3, HEADS, head_dim, device="cuda").to(dtype)
    grad_out, gradient = torch.randn_like(qkv[:, :, :, 0]), torch.empty_like(qkv)
    q, k, v = qkv.unbind(3)
    mode = "fused" if dtype == torch.float32 else "telescoped"
    form = "EXACT" if dtype == torch.float32 else "MATRIX"
    out = operator.empty_out(q)
    calls = {
        "FORWARD": lambda: operator.launch_forward(q, k, v, 0.1, mode, out, None),
        "BACKWARD": lambda: operator.launch_backward(q, k, v, grad_out, 0.1, mode, *gradient.unbind(3), None),
    }
    number, lines = architecture(q), []
    for which, call in calls.items():
        table = getattr(settings, f"{form}_{which}")
        before, times = dict(table), {}
        for rows, warps in itertools.product((16, 32, 64, 128), (1, 2, 4, 8)):
            table[number] = [(128, Setting(rows, warps))]
            if reason(call) is None:
                times[rows, warps] = time_call(call, milliseconds=milliseconds).median
        table.clear()
        table.update(before)
        lines += [f"# {form}_{which} rows={r} warps={w}: {time:.1f} us" for (r, w), time in sorted(times.items())]
        (rows, warps), time = min(times.items(), key=lambda item: item[1])
        where = f"{torch.cuda.get_device_name()}, B=8 T=6 D={head_dim} {mode}: {time:.1f} us"
        lines.append(f"{form}_{which}: {number}: [(8, Setting(rows={rows}, num_warps={warps})), ...]  # {where}")
    return "\n".join(lines)


HEADER = ("contender", "mode", "D", "T", "B", "pass", "us", "floor us", "of floor", "note")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much to measure."""
    parser.add_argument("--quick", action="store_true", help="B = 8 and 1 at 6 frames only")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--milliseconds", type=int, default=60, help="time spent on each measurement")
    parser.add_argument("--tune", action="store_true", help="time candidate launch settings and print the best rows")
    parser.add_argument("--output", type=Path, help="folder for the CSV files (default: bench/results/<gpu>/...)")


def run(arguments: argparse.Namespace) -> int:
    """Print and write the tables; 2 without a GPU."""
    import torch

    if not torch.cuda.is_available():
        print("bench temporal needs an NVIDIA GPU, and PyTorch finds none here.")
        return 2
    dtype = getattr(torch, arguments.dtype)
    if arguments.tune:
        print("\n".join(tune(head_dim, dtype, arguments.milliseconds) for head_dim in (64, 96)))
        return 0

    from bench.record import new_folder, write_table
    from bench.timing import copy_bandwidth

    bandwidth = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}: copies {bandwidth / 1e12:.2f} TB/s")
    folder = arguments.output or new_folder("temporal")
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for (clips, frames), head_dim, mode in itertools.product(
        QUICK_SHAPES if arguments.quick else SHAPES, HEAD_DIMS, ("telescoped", "fused", "off")
    ):
        for row in measure(clips, frames, head_dim, dtype, mode, bandwidth, arguments.milliseconds):
            rows.append(row)
            print(_line(row), flush=True)
        write_table(folder, "temporal", rows)  # what is measured is kept if the run is cut short
    normalization = [
        row for clips in (1, 8) for row in measure_normalization(clips, dtype, bandwidth, arguments.milliseconds)
    ]
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
