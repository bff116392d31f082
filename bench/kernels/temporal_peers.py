"""The time of temporal attention and of its peers: who is compared, on what task, in which order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

from kernels.common.launch import padded_head_dim

if TYPE_CHECKING:
    import torch

    from bench.common.record import Row
    from bench.kernels.peers import Attention

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
    from bench.kernels.peers import PEERS, over_frames
    from kernels import self_subtract, temporal_attention_packed

    def peer(attend: Attention, qkv: torch.Tensor, scale: float) -> torch.Tensor:
        q, k, v = qkv.unbind(3)
        if mode == "fused":
            q, k = self_subtract(q), self_subtract(k)
        return over_frames(attend, q, k, v, scale)

    ours = {OURS: lambda qkv, scale: temporal_attention_packed(qkv, scale=scale, self_subtract=mode)}
    if mode == "telescoped":
        return ours
    return ours | {name: partial(peer, attend) for name, attend in PEERS.items()}


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

    @property
    def is_left_out(self) -> bool:
        """What compiles for each shape is measured at a few of them alone."""
        return self.contender == FLEX and (self.clips, self.frames) not in QUICK_SHAPES


def tasks(shapes: Sequence[tuple[int, int]]) -> list[Task]:
    """All contenders at `shapes` of (clips, frames), ours first, what is left out last."""
    found = [
        Task(name, clips, frames, head_dim, mode)
        for (clips, frames), head_dim, mode in itertools.product(shapes, HEAD_DIMS, ("telescoped", "fused", "off"))
        for name in contenders(mode)
    ]
    return sorted(found, key=lambda task: (task.rank, task.is_left_out))


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
    from bench.common.timing import time_call
    from bench.kernels.peers import COMPILED_FOR_A_SHAPE, reason

    row = {
        "contender": task.contender, "mode": task.mode, "dtype": str(dtype).removeprefix("torch."),
        "clips": task.clips, "frames": task.frames, "positions": POSITIONS, "heads": HEADS, "head_dim": task.head_dim,
    }  # fmt: skip
    if task.is_left_out:
        yield row | {"pass": "all", "note": COMPILED_FOR_A_SHAPE}
        return
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
