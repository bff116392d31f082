"""Relevance (Chefer's layer-wise relevance propagation) through attention, without ever storing an attention map.

CUDA tensors of float32 take the Triton kernels; CPU tensors, float64 and the stabilizer "reference" take plain PyTorch,
which goes through a few queries at a time. Either way no matrix of all heads, queries and keys exists.
"""

from __future__ import annotations

import torch
import triton

from kernels.common.launch import architecture, choose, runs_kernels
from kernels.common.validation import LARGEST_HEAD_DIM, attention_scale, check_alike, check_last_dimension, check_tensor
from kernels.relevance import configs, operator, reference
from kernels.relevance.reference import REFERENCE, Stabilizer, check_stabilizer, ratio

__all__ = [
    "CLAMPS",
    "Stabilizer",
    "ratio",
    "spatial_relevance",
    "spatial_relevance_map",
    "spatial_rollout_step",
    "temporal_relevance",
    "temporal_relevance_map",
    "temporal_rollout_step",
]

Tensor = torch.Tensor

CLAMPS = ("after_mean", "before_mean")
_SHAPE = "[B, F, S, N, D]"


def temporal_relevance(
    q: Tensor, k: Tensor, v: Tensor, u: Tensor, *, scale: float | None = None, stabilizer: Stabilizer = 0.01
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the relevance of queries, keys and values of attention over the frame rows, at each position.

    Args:
        q, k, v: `[B, F, S, N, D]`, float32 or float64; q and k as they enter the product (differences included).
        u: `[B, F, S, N, D]`: relevance of the attention's output over its stabilized output.
        scale: of the scores before the softmax; None is `D ** -0.5`. Give the unpadded one where `D` is padded.
        stabilizer: of `q k^T`; see `kernels.relevance.ratio`.

    Returns:
        `R_q, R_k, R_v`, each `[B, F, S, N, D]`.

    Raises:
        TypeError: a tensor is neither float32 nor float64, or dtypes differ.
        ValueError: shapes or devices differ, the stabilizer or scale is no finite number, or (on a GPU) a last
            dimension is not contiguous.
    """
    return _relevance("temporal", q, k, v, u, scale, stabilizer)


def spatial_relevance(
    q: Tensor, k: Tensor, v: Tensor, u: Tensor, *, scale: float | None = None, stabilizer: Stabilizer = 0.01
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the relevance of queries, keys and values of attention over the positions, in each frame row.

    Arguments, result and errors as for `temporal_relevance`.
    """
    return _relevance("spatial", q, k, v, u, scale, stabilizer)


def temporal_relevance_map(
    q: Tensor, k: Tensor, v: Tensor, u: Tensor | None, grad_out: Tensor | None, *,
    scale: float | None = None, clamp: str = "after_mean",
) -> Tensor:  # fmt: skip
    """Return `max(mean over heads of (R * gradient), 0)` of attention over the frame rows.

    Args:
        q, k, v, u, scale: as for `temporal_relevance`; without `u` the attention itself stands for R.
        grad_out: `[B, F, S, N, D]`, gradient of the explained logit with respect to the attention's output; without
            it the gradient of the attention matrix counts as 1.
        clamp: `"after_mean"`, or `"before_mean"` for the mean over heads of the positive parts.

    Returns:
        `[B, S, F, F]`, queries before keys.

    Raises:
        TypeError, ValueError: as for `temporal_relevance`, or `clamp` is unknown.
    """
    return _map("temporal", "relevance_map", q, k, v, u, grad_out, scale=scale, clamp=clamp)


def spatial_relevance_map(
    q: Tensor, k: Tensor, v: Tensor, u: Tensor | None, grad_out: Tensor | None, *,
    scale: float | None = None, clamp: str = "after_mean",
) -> Tensor:  # fmt: skip
    """Return the same map of attention over the positions: `[B, F, S, S]`; see `temporal_relevance_map`."""
    return _map("spatial", "relevance_map", q, k, v, u, grad_out, scale=scale, clamp=clamp)


def temporal_rollout_step(
    row: Tensor, q: Tensor, k: Tensor, v: Tensor, u: Tensor | None, grad_out: Tensor | None, *,
    scale: float | None = None, clamp: str = "after_mean",
) -> Tensor:  # fmt: skip
    """Return `row (I + map)` with the map of `temporal_relevance_map`, which is never stored.

    Args:
        row: `[B, S, F]`, the row of the rollout that is carried, at each position.
        q, k, v, u, grad_out, scale, clamp: as for `temporal_relevance_map`.

    Returns:
        `[B, S, F]`.

    Raises:
        TypeError, ValueError: as for `temporal_relevance_map`, or `row` does not fit.
    """
    return _map("temporal", "rollout_step", row, q, k, v, u, grad_out, scale=scale, clamp=clamp)


def spatial_rollout_step(
    row: Tensor, q: Tensor, k: Tensor, v: Tensor, u: Tensor | None, grad_out: Tensor | None, *,
    scale: float | None = None, clamp: str = "after_mean",
) -> Tensor:  # fmt: skip
    """Return `row (I + map)` with the map of `spatial_relevance_map`: `[B, F, S]` to `[B, F, S]`."""
    return _map("spatial", "rollout_step", row, q, k, v, u, grad_out, scale=scale, clamp=clamp)


def _relevance(
    kind: str, q: Tensor, k: Tensor, v: Tensor, u: Tensor, scale: float | None, stabilizer: Stabilizer
) -> tuple[Tensor, Tensor, Tensor]:
    scale = _checked(q, scale, k=k, v=v, u=u)
    check_stabilizer(stabilizer)
    if stabilizer == REFERENCE or not _runs_kernels(kind, q, k, v, u):
        return getattr(reference, f"{kind}_relevance")(q, k, v, u, scale=scale, stabilizer=stabilizer)
    return getattr(operator, f"{kind}_relevance")(q, k, v, u, scale, float(stabilizer))


def _map(kind: str, name: str, *tensors: Tensor | None, scale: float | None, clamp: str) -> Tensor:
    row, q, k, v, u, grad_out = tensors if name == "rollout_step" else (None, *tensors)
    scale = _checked(q, scale, k=k, v=v, u=u, grad_out=grad_out)
    if clamp not in CLAMPS:
        raise ValueError(f"clamp is {clamp!r}; it takes one of {', '.join(CLAMPS)}.")
    if name == "rollout_step":
        check_tensor("row", row, "[B, groups, length]")
        check_alike("row", row, "q", q)
        clips, frames, positions = q.shape[:3]
        shape = [clips, positions, frames] if kind == "temporal" else [clips, frames, positions]
        if list(row.shape) != shape:
            raise ValueError(f"row has shape {list(row.shape)}; it takes {shape}, as q is {list(q.shape)}.")
    if not _runs_kernels(kind, q, k, v, u, grad_out):
        return getattr(reference, f"{kind}_{name}")(*tensors, scale=scale, clamp=clamp)
    return getattr(operator, f"{kind}_relevance_map")(row, q, k, v, u, grad_out, scale, clamp == "before_mean")


def _checked(q: Tensor, scale: float | None, **others: Tensor | None) -> float:
    """Check that every tensor has the shape, dtype and device of q; return the scale."""
    for name, x in {"q": q, **others}.items():
        if x is None:
            continue
        check_tensor(name, x, _SHAPE)
        if x.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name} is {x.dtype}; relevance takes float32 (or float64): lower precision loses it.")
        check_alike(name, x, "q", q)
        if x.shape != q.shape:
            raise ValueError(f"{name} has shape {list(x.shape)} and q {list(q.shape)}; they take the same {_SHAPE}.")
    if q.shape[-1] < 1:
        raise ValueError(f"q has shape {list(q.shape)}; head_dim D takes 1 or more.")
    return attention_scale(scale, q.shape[-1])


def _runs_kernels(kind: str, *tensors: Tensor | None) -> bool:
    """Return whether the kernels take these; beyond their largest D or F the reference does."""
    q = tensors[0]
    if not runs_kernels(q) or q.shape[-1] > LARGEST_HEAD_DIM:
        return False
    frames = triton.next_power_of_2(q.shape[1])
    if kind == "temporal" and choose(configs.TEMPORAL, architecture(q), frames) is None:
        return False
    for name, x in zip(("q", "k", "v", "u", "grad_out"), tensors, strict=False):
        if x is not None:
            check_last_dimension(name, x)
    return True
