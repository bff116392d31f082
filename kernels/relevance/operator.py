"""Relevance through attention as PyTorch operators: kernel launches and registration, for float32.

They are not differentiable: nothing is trained on an explanation.
"""

from __future__ import annotations

from typing import Any

import torch
import triton

from kernels.common.launch import Table, architecture, choose, launch, needs_int64_offsets, split_head_dim
from kernels.common.registry import register
from kernels.common.strides import LOG2_E, empty_like_contiguous, float32_precision, needs_int64_positions, with_strides
from kernels.relevance import configs, spatial_kernels, temporal_kernels
from kernels.spatial import operator as spatial

Tensor = torch.Tensor


def _launch_spatial(
    kernel: Any, table: Table, operands: dict[str, Tensor | None], *, over_heads: bool = False,
    matrix: Tensor | None = None, **arguments: Any,
) -> None:  # fmt: skip
    """Launch a spatial kernel: a program for each tile of rows of each head, or of the map with a loop over heads.

    `operands` `[B, F, S, N, D]` go in with their strides; `matrix` is `[..., S, S]`, where one is written.
    """
    x = next(iter(operands.values()))
    clips, frames, positions, heads, head_dim = x.shape
    config = choose(table, architecture(x), head_dim)
    rows, columns = (triton.cdiv(positions, config.kwargs[name]) for name in ("BLOCK_M", "BLOCK_N"))
    tensors = [x for x in (*operands.values(), *arguments.values()) if isinstance(x, Tensor) and x.ndim == 5]
    launch(
        kernel,
        clips * frames * rows * (columns if over_heads else heads),
        config,
        x.device,
        positions=positions,
        heads=heads,
        frames=frames,
        HEAD_DIM=head_dim,
        PRECISION=float32_precision(x),
        INT64_OFFSETS=needs_int64_positions(matrix, *tensors),
        **with_strides(**operands),
        **arguments,
    )


def launch_row_stats(q: Tensor, k: Tensor, scale: float) -> dict[str, Tensor]:
    """Return row_max and inv_row_sum of the softmax, `[B, F, N, S]` each, as kernel arguments."""
    row_stats = spatial.empty_row_stats(q)
    q, scale = spatial.with_positive_scale(q, scale)
    spatial.launch_forward(q, k, None, scale, None, row_stats, None)
    return {"row_max": row_stats[0], "inv_row_sum": row_stats[1]}


def launch_spatial_relevance(
    q: Tensor, k: Tensor, v: Tensor, u: Tensor, scale: float, stabilizer: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return R_q, R_k and R_v, contiguous."""
    found = _empty_relevance(q, k, v)
    block_d0, block_d1 = split_head_dim(q.shape[-1])
    shared = {"scale_log2": scale * LOG2_E, "eps": stabilizer, "BLOCK_D0": block_d0, "BLOCK_D1": block_d1}
    shared |= launch_row_stats(q, k, scale)
    for of, table, (a, b, c, d), result in zip(
        "qkv",
        (configs.RELEVANCE, configs.RELEVANCE, configs.RELEVANCE_OF_VALUES),
        ((q, k, u, v), (k, q, v, u), (k, q, v, u)),
        found,
        strict=True,
    ):
        operands = {"a": a, "b": b, "c": c, "d": d}
        _launch_spatial(spatial_kernels.spatial_relevance, table, operands, relevance=result, OF=of, **shared)
    return found


def launch_spatial_map(
    row: Tensor | None, q: Tensor, k: Tensor, v: Tensor, u: Tensor | None, grad_out: Tensor | None, scale: float,
    clamp_each: bool,
) -> Tensor:  # fmt: skip
    """Return the map `[B, F, S, S]`, or with a row `[B, F, S]` that row times `I + map`."""
    clips, frames, positions, _, head_dim = q.shape
    tiles = triton.cdiv(positions, choose(configs.MAP, architecture(q), head_dim).kwargs["BLOCK_M"])
    shape = (clips, frames, positions if row is None else tiles, positions)
    result = torch.empty(shape, dtype=torch.float32, device=q.device)
    _launch_spatial(
        spatial_kernels.spatial_map,
        configs.MAP,
        {"q": q, "k": k, "v": v, "u": u, "do": grad_out},
        over_heads=True,
        matrix=result if row is None else None,
        row=None if row is None else row.contiguous(),
        result=result,
        scale_log2=scale * LOG2_E,
        CLAMP_EACH=clamp_each,
        **launch_row_stats(q, k, scale),
    )
    return result if row is None else row + result.sum(2)


def _launch_temporal(kernel: Any, operands: dict[str, Tensor | None], *, over_heads: bool, **arguments: Any) -> None:
    """Launch a temporal kernel: a program for each tile of positions, of each head or over the heads."""
    x = next(iter(operands.values()))
    clips, frames, positions, heads, head_dim = x.shape
    padded = triton.next_power_of_2(frames)
    config = choose(configs.TEMPORAL, architecture(x), padded)
    tensors = [x for x in (*operands.values(), *arguments.values()) if isinstance(x, Tensor)]
    launch(
        kernel,
        clips * triton.cdiv(positions, config.kwargs["BLOCK_M"] // padded) * (1 if over_heads else heads),
        config,
        x.device,
        positions=positions,
        heads=heads,
        FRAMES=frames,
        PADDED_FRAMES=padded,
        HEAD_DIM=head_dim,
        PRECISION=float32_precision(x),
        INT64_OFFSETS=needs_int64_offsets(*tensors),
        **with_strides(**operands),
        **arguments,
    )


def launch_temporal_relevance(
    q: Tensor, k: Tensor, v: Tensor, u: Tensor, scale: float, stabilizer: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return R_q, R_k and R_v, contiguous."""
    found = _empty_relevance(q, k, v)
    _launch_temporal(
        temporal_kernels.temporal_relevance,
        {"q": q, "k": k, "v": v, "u": u},
        over_heads=False,
        relevance_q=found[0],
        relevance_k=found[1],
        relevance_v=found[2],
        scale_log2=scale * LOG2_E,
        eps=stabilizer,
    )
    return found


def launch_temporal_map(
    row: Tensor | None, q: Tensor, k: Tensor, v: Tensor, u: Tensor | None, grad_out: Tensor | None, scale: float,
    clamp_each: bool,
) -> Tensor:  # fmt: skip
    """Return the map `[B, S, F, F]`, or with a row `[B, S, F]` that row times `I + map`."""
    clips, frames, positions, _, _ = q.shape
    shape = (clips, positions, frames, frames) if row is None else (clips, positions, frames)
    result = torch.empty(shape, dtype=torch.float32, device=q.device)
    _launch_temporal(
        temporal_kernels.temporal_map,
        {"q": q, "k": k, "v": v, "u": u, "do": grad_out},
        over_heads=True,
        row=None if row is None else row.contiguous(),
        result=result,
        scale_log2=scale * LOG2_E,
        CLAMP_EACH=clamp_each,
    )
    return result


def _empty_relevance(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return empty_like_contiguous(q), empty_like_contiguous(k), empty_like_contiguous(v)


def _fake_map(groups: int) -> Any:
    """Return the fake of a map or row: `groups` is the dimension of q that stays, the other of F and S is attended."""

    def fake(row: Tensor | None, q: Tensor, *_: Any) -> Tensor:
        if row is not None:
            return empty_like_contiguous(row)
        length = q.shape[3 - groups]
        return torch.empty((q.shape[0], q.shape[groups], length, length), dtype=q.dtype, device=q.device)

    return fake


_RELEVANCE = "(Tensor q, Tensor k, Tensor v, Tensor u, float scale, float stabilizer) -> (Tensor, Tensor, Tensor)"
_MAP = (
    "(Tensor? row, Tensor q, Tensor k, Tensor v, Tensor? u, Tensor? grad_out, float scale, bool clamp_each) -> Tensor"
)

spatial_relevance = register(f"spatial_relevance{_RELEVANCE}", kernel=launch_spatial_relevance, fake=_empty_relevance)
temporal_relevance = register(
    f"temporal_relevance{_RELEVANCE}", kernel=launch_temporal_relevance, fake=_empty_relevance
)
spatial_relevance_map = register(f"spatial_relevance_map{_MAP}", kernel=launch_spatial_map, fake=_fake_map(1))
temporal_relevance_map = register(f"temporal_relevance_map{_MAP}", kernel=launch_temporal_map, fake=_fake_map(2))
