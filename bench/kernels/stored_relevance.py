"""Relevance through attention as a user would write it: every matrix of every head in memory.

The functions are those of `kernels`, with the kind of attention, "temporal" or "spatial", before their arguments
[B, F, S, N, D]; what the kernels are timed against, and the errors of float32 that theirs are compared with.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The kernels' default.
STABILIZER = 0.01
# What brings [B, F, S, N, D] to [B, groups, N, length, D], and back.
_ORDERS = {"temporal": ((0, 2, 3, 1, 4), (0, 3, 1, 2, 4)), "spatial": ((0, 1, 3, 2, 4), (0, 1, 3, 2, 4))}


def stored_relevance(
    kind: str, q: Tensor, k: Tensor, v: Tensor, u: Tensor, *, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Relevance of q, k and v."""
    order, back = _ORDERS[kind]
    q, k, v, u = (x.permute(order) for x in (q, k, v, u))
    scores = q @ k.mT
    attention = torch.softmax(scale * scores, -1)
    relevance = attention * (u @ v.mT) / 2
    weight = relevance / (scores + STABILIZER * scores.sign() * (q.abs() @ k.abs().mT))
    parts = q * (weight @ k) / 2, k * (weight.mT @ q) / 2, v * (attention.mT @ u) / 2
    of_q, of_k, of_v = (part.permute(back) for part in parts)
    return of_q, of_k, of_v


def stored_relevance_map(
    kind: str, q: Tensor, k: Tensor, v: Tensor, u: Tensor, grad_out: Tensor, *, scale: float, clamp: str = "after_mean"
) -> Tensor:
    """The mean over heads of relevance times the gradient of attention, clamped after the mean or before it."""
    order, _ = _ORDERS[kind]
    q, k, v, u, grad_out = (x.permute(order) for x in (q, k, v, u, grad_out))
    relevance = torch.softmax(scale * (q @ k.mT), -1) * (u @ v.mT) / 2
    product = relevance * (grad_out @ v.mT)
    return product.mean(2).clamp(min=0) if clamp == "after_mean" else product.clamp(min=0).mean(2)


def stored_rollout_step(
    kind: str, row: Tensor, q: Tensor, k: Tensor, v: Tensor, u: Tensor, grad_out: Tensor, **options
) -> Tensor:
    """`row` times the identity and the map; `options` as of the map."""
    return row + (row.unsqueeze(2) @ stored_relevance_map(kind, q, k, v, u, grad_out, **options)).squeeze(2)
