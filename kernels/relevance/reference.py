"""Relevance through attention in plain PyTorch: the specification of the kernels, and what CPU tensors use.

For one head, with ``z = q k^T``, ``A = softmax(scale z)``, ``out = A v``, ``u = R_out / stabilised(out)`` and ``dO``
the gradient of the explained logit with respect to ``out`` (ratio rule, half of the relevance to each operand of a
product, identity through softmax and scaling)::

    R        = A * (u v^T) / 2                       relevance of the attention matrix
    gradient = dO v^T                                its gradient
    W        = R / stabilised(z)
    R_q      = q * (W k) / 2
    R_k      = k * (W^T q) / 2
    R_v      = v * (A^T u) / 2
    map      = max(mean over heads of (R * gradient), 0)
    row'     = row + row map                         one step of the rollout, of which only one row is ever read

Queries are taken a few rows at a time, so that no matrix of all queries, keys and heads exists.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kernels.relevance.stabilizer import Stabilizer, check_stabilizer, ratio

CLAMPS = ("after_mean", "before_mean")

# Elements of one tile [groups, heads, queries, keys]; a few tiles are alive at a time.
TILE_ELEMENTS = 1 << 19


def temporal_relevance(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    u: torch.Tensor,
    *,
    scale: float | None = None,
    stabilizer: Stabilizer = 0.01,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Relevance of queries, keys and values of attention over the frame rows, at each position.

    Args:
        q, k, v: ``[B, F, S, N, D]``, float32 or float64; q and k as they enter the product (differences included).
        u: ``[B, F, S, N, D]``: relevance of the attention's output over its stabilised output.
        scale: of the scores before the softmax; None is ``D ** -0.5``.
        stabilizer: of ``q k^T``; see :func:`kernels.relevance.ratio`.

    Returns:
        ``R_q, R_k, R_v``, each ``[B, F, S, N, D]``.

    Raises:
        ValueError, TypeError: shapes, dtypes or the stabilizer do not fit.
    """
    _check(stabilizer=stabilizer, q=q, k=k, v=v, u=u)
    parts = _relevance(*(_by_position(x) for x in (q, k, v, u)), _scale(q, scale), stabilizer)
    return tuple(_by_position_back(x) for x in parts)


def spatial_relevance(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    u: torch.Tensor,
    *,
    scale: float | None = None,
    stabilizer: Stabilizer = 0.01,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Relevance of queries, keys and values of attention over the positions, in each frame row.

    Arguments, result and errors as for :func:`temporal_relevance`.
    """
    _check(stabilizer=stabilizer, q=q, k=k, v=v, u=u)
    parts = _relevance(*(_by_frame(x) for x in (q, k, v, u)), _scale(q, scale), stabilizer)
    return tuple(_by_frame(x) for x in parts)


def temporal_relevance_map(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    u: torch.Tensor | None,
    dO: torch.Tensor | None,
    *,
    scale: float | None = None,
    clamp: str = "after_mean",
) -> torch.Tensor:
    """``max(mean over heads of (R * gradient), 0)`` of attention over the frame rows.

    Args:
        q, k, v, u: as for :func:`temporal_relevance`; without ``u`` the attention itself stands for R.
        dO: ``[B, F, S, N, D]``, gradient of the explained logit with respect to the attention's output; without it the
            gradient counts as 1.
        scale: of the scores before the softmax; None is ``D ** -0.5``.
        clamp: ``"after_mean"``, or ``"before_mean"`` for the mean over heads of the positive parts.

    Returns:
        ``[B, S, F, F]``, queries before keys.
    """
    _check(clamp=clamp, q=q, k=k, v=v, u=u, dO=dO)
    tiles = _map_tiles(*(_by_position(x) for x in (q, k, v, u, dO)), _scale(q, scale), clamp)
    return torch.cat([tile for _, tile in tiles], -2)


def spatial_relevance_map(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    u: torch.Tensor | None,
    dO: torch.Tensor | None,
    *,
    scale: float | None = None,
    clamp: str = "after_mean",
) -> torch.Tensor:
    """The same of attention over the positions: ``[B, F, S, S]``; see :func:`temporal_relevance_map`."""
    _check(clamp=clamp, q=q, k=k, v=v, u=u, dO=dO)
    tiles = _map_tiles(*(_by_frame(x) for x in (q, k, v, u, dO)), _scale(q, scale), clamp)
    return torch.cat([tile for _, tile in tiles], -2)


def temporal_rollout_step(
    row: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    u: torch.Tensor | None,
    dO: torch.Tensor | None,
    *,
    scale: float | None = None,
    clamp: str = "after_mean",
) -> torch.Tensor:
    """``row (I + map)`` with the map of :func:`temporal_relevance_map`, which is never stored.

    Args:
        row: ``[B, S, F]``, the row of the rollout that is carried, at each position.
        q, k, v, u, dO, scale, clamp: as for :func:`temporal_relevance_map`.

    Returns:
        ``[B, S, F]``.
    """
    _check(clamp=clamp, q=q, k=k, v=v, u=u, dO=dO)
    _check_row(row, (q.shape[0], q.shape[2], q.shape[1]), q)
    return _rollout(row, _map_tiles(*(_by_position(x) for x in (q, k, v, u, dO)), _scale(q, scale), clamp))


def spatial_rollout_step(
    row: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    u: torch.Tensor | None,
    dO: torch.Tensor | None,
    *,
    scale: float | None = None,
    clamp: str = "after_mean",
) -> torch.Tensor:
    """``row (I + map)`` with the map of :func:`spatial_relevance_map`: ``[B, F, S]`` to ``[B, F, S]``."""
    _check(clamp=clamp, q=q, k=k, v=v, u=u, dO=dO)
    _check_row(row, q.shape[:3], q)
    return _rollout(row, _map_tiles(*(_by_frame(x) for x in (q, k, v, u, dO)), _scale(q, scale), clamp))


def _relevance(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, u: torch.Tensor, scale: float, stabilizer: Stabilizer
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """R_q, R_k, R_v of [..., N, L, D]."""
    r_q, weighted_q, weighted_u = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for rows in _query_rows(q, k):
        q_rows, u_rows = q[..., rows, :], u[..., rows, :]
        scores = q_rows @ k.transpose(-1, -2)
        attention = torch.softmax(scale * scores, -1)
        relevance = attention * (u_rows @ v.transpose(-1, -2)) / 2
        magnitude = q_rows.abs() @ k.abs().transpose(-1, -2)
        weight = ratio(relevance, scores, magnitude, stabilizer)
        r_q[..., rows, :] = q_rows * (weight @ k) / 2
        weighted_q += weight.transpose(-1, -2) @ q_rows
        weighted_u += attention.transpose(-1, -2) @ u_rows
    return r_q, k * weighted_q / 2, v * weighted_u / 2


def _map_tiles(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    u: torch.Tensor | None,
    dO: torch.Tensor | None,
    scale: float,
    clamp: str,
) -> Iterator[tuple[slice, torch.Tensor]]:
    """The head-mean positive map, some query rows at a time: (rows, [..., rows, L]) of inputs [..., N, L, D]."""
    for rows in _query_rows(q, k):
        weighted = torch.softmax(scale * (q[..., rows, :] @ k.transpose(-1, -2)), -1)
        if u is not None:
            weighted = weighted * (u[..., rows, :] @ v.transpose(-1, -2)) / 2
        if dO is not None:
            weighted = weighted * (dO[..., rows, :] @ v.transpose(-1, -2))
        if clamp == "before_mean":
            weighted = weighted.clamp(min=0)
        yield rows, weighted.mean(-3).clamp(min=0)


def _rollout(row: torch.Tensor, tiles: Iterator[tuple[slice, torch.Tensor]]) -> torch.Tensor:
    result = row.clone()
    for rows, tile in tiles:
        result += (row[..., None, rows] @ tile).squeeze(-2)
    return result


def _query_rows(q: torch.Tensor, k: torch.Tensor) -> Iterator[slice]:
    """Slices of query rows of [..., N, L, D] whose tile of scores stays small."""
    queries, keys = q.shape[-2], k.shape[-2]
    count = max(1, TILE_ELEMENTS // max(1, q.shape[:-2].numel() * keys))
    for start in range(0, queries, count):
        yield slice(start, min(start + count, queries))


def _by_position(x: torch.Tensor | None) -> torch.Tensor | None:
    """[B, F, S, N, D] -> [B, S, N, F, D]."""
    return None if x is None else x.permute(0, 2, 3, 1, 4)


def _by_position_back(x: torch.Tensor) -> torch.Tensor:
    """[B, S, N, F, D] -> [B, F, S, N, D]."""
    return x.permute(0, 3, 1, 2, 4)


def _by_frame(x: torch.Tensor | None) -> torch.Tensor | None:
    """[B, F, S, N, D] <-> [B, F, N, S, D]."""
    return None if x is None else x.transpose(2, 3)


def _scale(q: torch.Tensor, scale: float | None) -> float:
    return q.shape[-1] ** -0.5 if scale is None else scale


def _check(*, stabilizer: Stabilizer | None = None, clamp: str | None = None, **tensors: torch.Tensor | None) -> None:
    """Raises before anything is computed: every tensor has the shape, dtype and device of q."""
    q = tensors["q"]
    for name, x in tensors.items():
        if x is None:
            continue
        if x.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name} is {x.dtype}; relevance takes float32 (or float64): lower precision loses it.")
        if x.ndim != 5:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; expected [B, F, S, N, D].")
        if x.shape != q.shape or x.dtype != q.dtype or x.device != q.device:
            raise ValueError(
                f"{name} is {tuple(x.shape)} {x.dtype} on {x.device}; expected the same as q, "
                f"{tuple(q.shape)} {q.dtype} on {q.device}."
            )
    if stabilizer is not None:
        check_stabilizer(stabilizer)
    if clamp is not None and clamp not in CLAMPS:
        raise ValueError(f"clamp is {clamp!r}; expected one of {', '.join(CLAMPS)}.")


def _check_row(row: torch.Tensor, shape: tuple[int, ...], q: torch.Tensor) -> None:
    if tuple(row.shape) != tuple(shape) or row.dtype != q.dtype or row.device != q.device:
        raise ValueError(
            f"row is {tuple(row.shape)} {row.dtype} on {row.device}; expected {tuple(shape)} {q.dtype} on {q.device}."
        )
