"""Time temporal attention against its peers and its byte floor. Needs a GPU.

Every contender does one task: from the packed projection [B, F, S, 3, N, D] to the output [B, F, S, N, D] that the
output projection reads, and back to the gradient of the packed projection. Peers get the permutes that they need and,
in mode "fused", the explicit subtraction. The floor is the bytes that must move (4 tensors forward, 7 backward) at the
copy bandwidth of the same run. Of head dimension 91 ours is padded to 96 at the projection, peers are not. Writes
temporal.csv and layer_norm_difference.csv.
"""

import argparse
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from bench.common import peers
from bench.common.environment import require_gpu
from bench.common.peers import FLEX, HEADS, OURS, POSITIONS, Calls, Contender, over_frames
from bench.common.tasks import Task
from kernels import layer_norm_difference, self_subtract, temporal_attention_packed
from kernels.common.launch import padded_head_dim

MILLISECONDS = 60
add_arguments = peers.add_dtype

# Clips and frames: the paper's; frames at a batch of 8, and batches at the paper's 6 frames.
PAPER_SHAPES = [(8, 6), (1, 6)]
OTHER_SHAPES = [*((8, frames) for frames in (2, 4, 8, 16, 32, 64)), *((clips, 6) for clips in (2, 16, 32, 64))]
HEAD_DIMS = (64, 91, 96)
CHANNELS = 728
# Tensors of the size of q that each pass must move: q k v o, then q k v dO dq dk dv.
TENSORS = {"forward": 4, "backward": 7, "both": 11}


def contenders(head_dim: int, mode: str) -> list[Contender]:
    """Return what is compared at this head dimension and mode of self-subtract; none but ours knows "telescoped"."""

    def peer(attend: peers.Attention, qkv: Tensor, scale: float) -> Tensor:
        q, k, v = qkv.unbind(3)
        if mode == "fused":
            q, k = self_subtract(q), self_subtract(k)
        return over_frames(attend, q, k, v, scale=scale)

    ours = partial(temporal_attention_packed, self_subtract=mode)
    others = {} if mode == "telescoped" else peers.PEERS
    found = [Contender(name, head_dim, partial(peer, attend)) for name, attend in others.items()]
    return [Contender(OURS, padded_head_dim(head_dim), ours), *found]


def attention(shapes: Sequence[tuple[int, int]], dtype: torch.dtype, milliseconds: int) -> Iterator[Task]:
    """Yield all contenders at `shapes` of (clips, frames); what compiles for each shape at the paper's alone."""
    for (clips, frames), head_dim, mode in itertools.product(shapes, HEAD_DIMS, ("telescoped", "fused", "off")):
        size = clips, frames + 1, POSITIONS
        for one in contenders(head_dim, mode):
            sizes = {"clips": clips, "frames": frames, "positions": POSITIONS, "heads": HEADS, "head_dim": head_dim}
            row = peers.described(one.name, dtype, mode=mode, **sizes)
            tensor = math.prod(size) * HEADS * one.width * dtype.itemsize
            moved = {which: count * tensor for which, count in TENSORS.items()}
            make = partial(one.calls, size, head_dim, dtype)
            if one.name != FLEX or (clips, frames) in PAPER_SHAPES:
                yield from peers.speed_tasks("temporal", row, make, milliseconds, moved=moved)


def eager_layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalize in the dtype of x (PyTorch keeps its statistics in float32), then subtract in that dtype."""
    return self_subtract(functional.layer_norm(x, x.shape[-1:], weight.to(x.dtype), bias.to(x.dtype), 1e-6))


def layer_norm(clips: int, dtype: torch.dtype, milliseconds: int) -> Iterator[Task]:
    """Yield LayerNorm and difference, in one kernel and as PyTorch's two steps, against 2 and 3 tensors moved."""

    def make(function: Callable[..., Tensor]) -> Calls:
        x = torch.randn(size, device=peers.DEVICE).to(dtype).requires_grad_()
        weight, bias = (torch.randn(CHANNELS, device=peers.DEVICE).requires_grad_() for _ in range(2))
        return peers.passes(function, (x, weight, bias), torch.randn_like(x))

    size = clips, 7, POSITIONS, CHANNELS
    tensor = math.prod(size) * dtype.itemsize
    for name, function in ((OURS, layer_norm_difference), ("eager", eager_layer_norm)):
        row = peers.described(name, dtype, clips=clips, frames=6, positions=POSITIONS, channels=CHANNELS)
        moved = {"forward": 2 * tensor, "backward": 3 * tensor}
        yield from peers.speed_tasks("layer_norm_difference", row, partial(make, function), milliseconds, moved=moved)


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """Yield the records of the paper's shapes, then those of others; ours first of each."""
    require_gpu("temporal")
    given = getattr(torch, arguments.dtype), arguments.milliseconds
    norms = (task for clips in (8, 1) for task in layer_norm(clips, *given))
    yield from peers.ordered([*attention(PAPER_SHAPES, *given), *norms])
    yield from peers.ordered(attention(OTHER_SHAPES, *given))
