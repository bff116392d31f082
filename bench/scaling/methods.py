"""Joint attention over all tokens, and factorized attention over frames and then over positions.

Each method takes q, k and v `[B, F, S, N, D]` and returns `[B, F, S, N, D]`. The factorized ones attend over
frames first and give the result to attention over positions as its values, with the same queries and keys: the two
attentions of a block without the projections between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import kernels
from bench.training.baseline_model import naive_attention
from bench.training.flops import BACKWARD, FORWARD, counting

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def joint_pairs(frames: int, cells: int) -> int:
    """Return the query-key pairs of joint attention for T frames of HW cells: `((T + 1)(HW + 1))**2`."""
    return ((frames + 1) * (cells + 1)) ** 2


def factorized_pairs(frames: int, cells: int) -> int:
    """Return the query-key pairs of both factorized attentions: `(HW + 1)(T + 1)**2 + (T + 1)(HW + 1)**2`."""
    return (cells + 1) * (frames + 1) ** 2 + (frames + 1) * (cells + 1) ** 2


def counted_multiply_accumulates(attend: Attend, shape: Sequence[int], dtype: str) -> tuple[int, int]:
    """Return what torch's FLOP counter finds in `attend` of [B, F, S, 3, N, D]: forward, and forward and backward."""
    with counting() as counter:
        qkv = torch.empty(tuple(shape), dtype=getattr(torch, dtype), requires_grad=True)
        out = attend(*qkv.unbind(3))
        forward = counter.get_total_flops() // 2
        torch.autograd.grad(out, qkv, torch.empty_like(out))
        return forward, counter.get_total_flops() // 2


def joint(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend over all F * S tokens of a clip at once."""
    joined = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))  # [B, N, F * S, D]
    return attend(*joined).transpose(1, 2).unflatten(1, q.shape[1:3])


def kernel_joint(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend by this project's flash kernel: one frame row that holds every token."""
    joined = (x.flatten(1, 2).unsqueeze(1) for x in (q, k, v))
    return kernels.spatial_attention(*joined).squeeze(1).unflatten(1, q.shape[1:3])


def naive_factorized(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend over frames, then over positions, every matrix stored."""
    by_position = [x.permute(0, 2, 3, 1, 4) for x in (q, k, v)]
    v = naive_attention(*by_position).permute(0, 3, 1, 2, 4)
    return naive_attention(*(x.transpose(2, 3) for x in (q, k, v))).transpose(2, 3)


def kernel_factorized(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend over frames, then over positions by this project's kernels."""
    return kernels.spatial_attention(q, k, kernels.temporal_attention(q, k, v))


@dataclass(frozen=True)
class Method:
    """One line of every plot.

    Attributes:
        name: in tables and legends.
        attend: what is timed, and counted (bench/training/flops.py).
        factorized: whether it attends over frames and positions apart.
        fused: whether the scores are not stored, so that the way back computes them again.
        needs_gpu: Triton kernels run on a CPU only in the interpreter, which is no measure of time.
    """

    name: str
    attend: Attend
    factorized: bool
    fused: bool
    needs_gpu: bool = False

    def pairs(self, frames: int, cells: int) -> int:
        """Return the query-key pairs by formula."""
        return (factorized_pairs if self.factorized else joint_pairs)(frames, cells)

    def products(self, backward: bool) -> int:
        """Return the products over all pairs: 2 forward, 4 backward, and of fused attention the scores once more."""
        return FORWARD + (BACKWARD if self.fused else 2 * FORWARD) * backward


METHODS = (
    Method("naive joint", partial(joint, naive_attention), factorized=False, fused=False),
    # PyTorch's: flash on a CPU, whichever it picks on a GPU.
    Method("SDPA joint", partial(joint, scaled_dot_product_attention), factorized=False, fused=True),
    Method("joint flash kernel", kernel_joint, factorized=False, fused=True, needs_gpu=True),
    Method("naive factorized", naive_factorized, factorized=True, fused=False),
    Method("factorized kernels", kernel_factorized, factorized=True, fused=True, needs_gpu=True),
)
