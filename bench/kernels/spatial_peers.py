"""The time and memory of spatial attention and of its peers: who is compared, on what task, in which order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

from bench.kernels import shapes
from bench.kernels.shapes import HEADS, Shape, described, inputs
from kernels.common.launch import padded_head_dim

if TYPE_CHECKING:
    import torch

    from bench.common.record import Row
    from bench.kernels.peers import Attention

HEAD_DIMS = (64, 91, 128)
OURS, FLEX = "ours", "flex compiled"
# Products of S x S x D that a pass cannot do without.
PRODUCTS = {"forward": 2, "backward": 5, "both": 7}


@dataclass(frozen=True)
class Contender:
    """One way from the packed projection and a scale to the output, at the width of head that it is given."""

    name: str
    width: int
    function: Callable[[torch.Tensor, float], torch.Tensor]


def contenders(head_dim: int) -> list[Contender]:
    """Everybody who may try at this head dimension."""
    from bench.kernels.peers import PEERS, over_positions, padded_by_copies
    from kernels import spatial_attention_packed

    def ours(qkv: torch.Tensor, scale: float) -> torch.Tensor:
        return spatial_attention_packed(qkv, scale=scale)

    def peer(attend: Attention, qkv: torch.Tensor, scale: float) -> torch.Tensor:
        return over_positions(attend, *qkv.unbind(3), scale)

    padded = padded_head_dim(head_dim)
    found = [Contender(OURS, padded, ours)]
    if padded == head_dim:
        return found + [Contender(name, head_dim, partial(peer, attend)) for name, attend in PEERS.items()]
    found.append(Contender(f"{OURS}, unpadded", head_dim, ours))
    found += [Contender(name, head_dim, partial(peer, attend)) for name, attend in PEERS.items()]
    for name in ("sdpa flash", "sdpa efficient", "sdpa cudnn", "xformers"):
        found.append(Contender(f"{name}, pads by copies", head_dim, partial(peer, padded_by_copies(PEERS[name]))))
        found.append(Contender(f"{name}, our padded projection", padded, partial(peer, PEERS[name])))
    return found


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

    @property
    def is_left_out(self) -> bool:
        """What compiles for each shape is measured at the paper's alone, in 16 bits."""
        return self.contender.name == FLEX and (self.shape != shapes.PAPER or self.dtype.itemsize > 2)


def tasks(chosen: Sequence[Shape], dtype: torch.dtype) -> list[Task]:
    """All contenders at the `chosen` shapes, ours first, what is left out last.

    At the paper's shape in float32 too, which peers compute without tensor cores.
    """
    import torch

    cases = list(itertools.product(chosen, HEAD_DIMS, (dtype,)))
    cases[len(HEAD_DIMS) : len(HEAD_DIMS)] = [(shapes.PAPER, head_dim, torch.float32) for head_dim in (64, 91)]
    found = [
        Task(contender, shape, head_dim, working)
        for shape, head_dim, working in dict.fromkeys(cases)
        for contender in contenders(head_dim)
    ]
    return sorted(found, key=lambda task: (task.rank, task.is_left_out))


def calls_of(task: Task, *, device: str = "cuda") -> dict[str, Callable[[], object]]:
    """For each pass a call of the contender, on tensors of the GPU."""
    import torch

    qkv, grad_out = inputs(task.shape, task.contender.width, task.dtype, device)
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
    from bench.common.timing import peak_bytes, time_call
    from bench.kernels.peers import COMPILED_FOR_A_SHAPE, reason

    row = described(task.shape, task.head_dim, task.dtype)
    row |= {"contender": task.contender.name, "width": task.contender.width}
    if task.is_left_out:
        yield row | {"pass": "all", "note": COMPILED_FOR_A_SHAPE}
        return
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
