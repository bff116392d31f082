"""Relevance through attention in plain PyTorch: the specification of the kernels, and the path of CPU tensors.

For one head, with `z = q k^T`, `A = softmax(scale z)`, `out = A v`, `u = R_out / stabilized(out)` and `dO`
the gradient of the explained logit with respect to `out` (ratio rule, half of the relevance to each operand of a
product, identity through softmax and scaling)::

    R        = A * (u v^T) / 2                       relevance of the attention matrix
    gradient = dO v^T                                its gradient
    W        = R / stabilized(z)
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

#: A float `eps`: the denominator grows by `eps` times the sum of the absolute contributions. `"reference"`: by
#: 1e-9, as in Chefer's code; only meaningful in float64.
Stabilizer = float | str

REFERENCE = "reference"
REFERENCE_EPS = 1e-9

# A sum of absolute contributions below this counts as 0: a quotient by it would overflow float32.
SMALLEST_MAGNITUDE = 1e-30

# Elements of one tile [groups, heads, queries, keys]; a few tiles are alive at a time.
TILE_ELEMENTS = 1 << 19


def temporal_relevance(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, u: torch.Tensor, *, scale: float, stabilizer: Stabilizer
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return R_q, R_k and R_v of attention over the frame rows, at each position."""
    parts = _relevance(*(_by_position(x) for x in (q, k, v, u)), scale, stabilizer)
    return tuple(_by_position_back(x) for x in parts)


def spatial_relevance(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, u: torch.Tensor, *, scale: float, stabilizer: Stabilizer
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return R_q, R_k and R_v of attention over the positions, in each frame row."""
    parts = _relevance(*(_by_frame(x) for x in (q, k, v, u)), scale, stabilizer)
    return tuple(_by_frame(x) for x in parts)


def temporal_relevance_map(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, u: torch.Tensor | None, grad_out: torch.Tensor | None, *,
    scale: float, clamp: str,
) -> torch.Tensor:  # fmt: skip
    """Return the map of attention over the frame rows: `[B, S, F, F]`."""
    tiles = _map_tiles(*(_by_position(x) for x in (q, k, v, u, grad_out)), scale, clamp)
    return torch.cat([tile for _, tile in tiles], -2)


def spatial_relevance_map(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, u: torch.Tensor | None, grad_out: torch.Tensor | None, *,
    scale: float, clamp: str,
) -> torch.Tensor:  # fmt: skip
    """Return the map of attention over the positions: `[B, F, S, S]`."""
    tiles = _map_tiles(*(_by_frame(x) for x in (q, k, v, u, grad_out)), scale, clamp)
    return torch.cat([tile for _, tile in tiles], -2)


def temporal_rollout_step(
    row: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, u: torch.Tensor | None,
    grad_out: torch.Tensor | None, *, scale: float, clamp: str,
) -> torch.Tensor:  # fmt: skip
    """Return `row (I + map)` over the frame rows: `[B, S, F]`."""
    return _rollout(row, _map_tiles(*(_by_position(x) for x in (q, k, v, u, grad_out)), scale, clamp))


def spatial_rollout_step(
    row: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, u: torch.Tensor | None,
    grad_out: torch.Tensor | None, *, scale: float, clamp: str,
) -> torch.Tensor:  # fmt: skip
    """Return `row (I + map)` over the positions: `[B, F, S]`."""
    return _rollout(row, _map_tiles(*(_by_frame(x) for x in (q, k, v, u, grad_out)), scale, clamp))


def _relevance(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, u: torch.Tensor, scale: float, stabilizer: Stabilizer
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return R_q, R_k, R_v of [..., N, L, D]."""
    r_q, weighted_q, weighted_u = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for rows in _query_rows(q, k):
        q_rows, u_rows = q[..., rows, :], u[..., rows, :]
        scores = q_rows @ k.transpose(-1, -2)
        attention = torch.softmax(scale * scores, -1)
        relevance = attention_relevance(attention, u_rows, v)
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
    grad_out: torch.Tensor | None,
    scale: float,
    clamp: str,
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the head-mean positive map, some query rows at a time: (rows, [..., rows, L]) of inputs [..., N, L, D]."""
    for rows in _query_rows(q, k):
        weighted = torch.softmax(scale * (q[..., rows, :] @ k.transpose(-1, -2)), -1)
        if u is not None:
            weighted = attention_relevance(weighted, u[..., rows, :], v)
        gradient = None if grad_out is None else grad_out[..., rows, :] @ v.transpose(-1, -2)
        yield rows, head_mean(weighted, gradient, clamp)


def attention_relevance(attention: torch.Tensor, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return `R = A * (u v^T) / 2` of an attention matrix `[..., N, Q, L]`, u `[..., N, Q, D]`, v `[..., N, L, D]`."""
    return attention * (u @ v.transpose(-1, -2)) / 2


def head_mean(weighted: torch.Tensor, gradient: torch.Tensor | None, clamp: str) -> torch.Tensor:
    """Return `max(mean over heads of (R * gradient), 0)`: `[..., N, Q, L]` to `[..., Q, L]`; None counts as 1."""
    if gradient is not None:
        weighted = weighted * gradient
    if clamp == "before_mean":
        weighted = weighted.clamp(min=0)
    return weighted.mean(-3).clamp(min=0)


def _rollout(row: torch.Tensor, tiles: Iterator[tuple[slice, torch.Tensor]]) -> torch.Tensor:
    result = row.clone()
    for rows, tile in tiles:
        result += (row[..., None, rows] @ tile).squeeze(-2)
    return result


def _query_rows(q: torch.Tensor, k: torch.Tensor) -> Iterator[slice]:
    """Yield slices of query rows of [..., N, L, D] whose tile of scores stays small."""
    queries, keys = q.shape[-2], k.shape[-2]
    count = max(1, TILE_ELEMENTS // max(1, q.shape[:-2].numel() * keys))
    for start in range(0, queries, count):
        yield slice(start, min(start + count, queries))


def _by_position(x: torch.Tensor | None) -> torch.Tensor | None:
    """Permute [B, F, S, N, D] -> [B, S, N, F, D]."""
    return None if x is None else x.permute(0, 2, 3, 1, 4)


def _by_position_back(x: torch.Tensor) -> torch.Tensor:
    """Permute [B, S, N, F, D] -> [B, F, S, N, D]."""
    return x.permute(0, 3, 1, 2, 4)


def _by_frame(x: torch.Tensor | None) -> torch.Tensor | None:
    """Exchange S and N: [B, F, S, N, D] <-> [B, F, N, S, D]."""
    return None if x is None else x.transpose(2, 3)


def check_stabilizer(stabilizer: Stabilizer) -> None:
    """Raise ValueError unless `stabilizer` is `"reference"` or a number above 0."""
    if stabilizer == REFERENCE or (not isinstance(stabilizer, str) and 0 < stabilizer < float("inf")):
        return
    raise ValueError(f'stabilizer is {stabilizer!r}; expected "reference" or a number above 0, such as 0.01.')


def ratio(
    relevance: torch.Tensor, total: torch.Tensor, magnitude: torch.Tensor, stabilizer: Stabilizer
) -> torch.Tensor:
    """Return `relevance / stabilized(total)`, the common factor of all contributions to `total`.

    With `total = sum_j z_j` and `magnitude = sum_j |z_j|` the relevance of contribution j is `z_j` times this:

    - `stabilizer = eps`: `R / (z + eps * sign(z) * sum_j |z_j|)`. No step amplifies by more than `1 / eps`.
    - `stabilizer = "reference"`: `R / (z + 1e-9)` (0 where z is 0), Chefer's `safe_divide`.

    Args:
        relevance: any shape.
        total: same shape.
        magnitude: same shape; not read for `"reference"`.
        stabilizer: as above.
    """
    if stabilizer == REFERENCE:
        return safe_divide(relevance, total)
    denominator = total + stabilizer * torch.sign(total) * magnitude
    something = denominator.abs() > SMALLEST_MAGNITUDE
    return torch.where(something, relevance / torch.where(something, denominator, 1.0), 0.0)


def safe_divide(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """Return `numerator / (denominator + 1e-9)`, and 0 where the denominator is 0 (Chefer's rule, sign and all)."""
    shifted = denominator + REFERENCE_EPS
    shifted = torch.where(shifted == 0, REFERENCE_EPS, shifted)
    return torch.where(denominator == 0, 0.0, numerator / shifted)
