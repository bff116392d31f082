"""Relevance through attention as PyTorch operators: kernel launches and registration, for float32.

They are not differentiable: nothing is trained on an explanation.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch.nn.functional import pad
from triton import Config

from kernels.common.launch import (
    architecture,
    choose,
    launch,
    needs_int64_offsets,
)
from kernels.common.registry import register
from kernels.common.strides import (
    LOG2_E,
    NARROW_HEAD,
    empty_like_contiguous,
    float32_precision,
    needs_int64_positions,
    with_strides,
)
from kernels.relevance import configs, spatial_kernels, temporal_kernels
from kernels.spatial import operator as spatial

Tensor = torch.Tensor


def launch_row_stats(q: Tensor, k: Tensor, scale: float) -> dict[str, Tensor]:
    """Return row_max and inv_row_sum of the softmax, `[B, F, N, S]` each, as kernel arguments."""
    row_stats = spatial.empty_row_stats(q)
    q, scale = spatial.with_positive_scale(q, scale)
    spatial.launch_forward(q, k, None, scale, None, row_stats, None)
    return {"row_max": row_stats[0], "inv_row_sum": row_stats[1]}


def _padded(x: Tensor) -> tuple[int, int]:
    """Return positions and columns of the parts of a head of `x`."""
    return triton.cdiv(x.shape[2], configs.LARGEST_TILE) * configs.LARGEST_TILE, triton.cdiv(x.shape[-1], 32) * 32


def split_heads(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return `x` as two float16 parts `[2, B, F, N, S, D]` and the power of two that they are multiples of.

    S is padded with zeros to a multiple of every tile, D to one of 32; powers are float32 `[B, F, N]`. Heads narrower
    than `NARROW_HEAD` are one part, float32.
    """
    clips, frames, positions, heads, head_dim = x.shape
    padded, width = _padded(x)
    count, dtype = (1, torch.float32) if head_dim < NARROW_HEAD else (2, torch.float16)
    parts = torch.empty((count, clips, frames, heads, padded, width), dtype=dtype, device=x.device)
    scales = torch.empty((clips, frames, heads), dtype=torch.float32, device=x.device)
    block_d = triton.next_power_of_2(width)
    launch(
        spatial_kernels.split_heads,
        scales.numel(),
        configs.split_heads(block_d),
        x.device,
        parts=parts,
        scales=scales,
        positions=positions,
        padded=padded,
        heads=heads,
        frames=frames,
        distance=parts[0].numel(),
        BLOCK_D=block_d,
        WIDTH=width,
        HEAD_DIM=head_dim,
        INT64_OFFSETS=needs_int64_positions(None, x),
        **with_strides(x=x),
    )
    return parts, scales


def _launch_on_parts(
    kernel: Any, config: Config, tiles: int, operands: dict[str, tuple[Tensor, Tensor] | None], x: Tensor,
    matrix: Tensor | None = None, **arguments: Any,
) -> None:  # fmt: skip
    """Launch `tiles` programs a frame row of `x` `[B, F, S, N, D]`; `operands` by `split_heads` go in with scales.

    `matrix` is `[..., S, S]`, where one is written.
    """
    clips, frames, positions, heads, _ = x.shape
    padded, width = _padded(x)
    launch(
        kernel,
        clips * frames * tiles,
        config,
        x.device,
        positions=positions,
        padded=padded,
        heads=heads,
        frames=frames,
        distance=clips * frames * heads * padded * width,
        WIDTH=width,
        INT64_OFFSETS=needs_int64_positions(matrix, empty_like_contiguous(x[:, :, :1]).expand(x.shape)),
        **{name: parts and parts[0] for name, parts in operands.items()},
        **{f"{name}_scale": parts and parts[1] for name, parts in operands.items()},
        **arguments,
    )


def launch_spatial_relevance(
    q: Tensor, k: Tensor, v: Tensor, u: Tensor, scale: float, stabilizer: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return R_q, R_k and R_v, contiguous."""
    found = _empty_relevance(q, k, v)
    row_stats = launch_row_stats(q, k, scale)
    split_q, split_k, split_v, split_u = (split_heads(x) for x in (q, k, v, u))
    of_queries, of_keys = (split_q, split_k, split_u, split_v), (split_k, split_q, split_v, split_u)
    block_d0, block_d1 = spatial.split_columns(_padded(q)[1], "", halves=True)
    for of, operands, result in zip("qkv", (of_queries, of_keys, of_keys), found, strict=True):
        config = choose(configs.RELEVANCE[of], architecture(q), q.shape[-1])
        _launch_on_parts(
            spatial_kernels.spatial_relevance,
            config,
            q.shape[3] * triton.cdiv(q.shape[2], config.kwargs["BLOCK_M"]),
            dict(zip("abcd", operands, strict=True)),
            result,
            relevance=result,
            scale_log2=scale * LOG2_E,
            eps=stabilizer,
            HEAD_DIM=q.shape[-1],
            BLOCK_D0=block_d0,
            BLOCK_D1=block_d1,
            OF=of,
            **row_stats,
        )
    return found


def launch_spatial_map(
    row: Tensor | None, q: Tensor, k: Tensor, v: Tensor, u: Tensor | None, grad_out: Tensor | None, scale: float,
    clamp_each: bool,
) -> Tensor:  # fmt: skip
    """Return the map `[B, F, S, S]`, or with a row `[B, F, S]` that row times `I + map`."""
    clips, frames, positions = q.shape[:3]
    config = configs.spatial_map(q, architecture(q))
    key_tiles, query_tiles = configs.map_tiles(positions, config)
    block_d0, block_d1 = spatial.split_columns(_padded(q)[1], "", halves=True)
    shape = (clips, frames, positions if row is None else query_tiles, positions)
    result = torch.empty(shape, dtype=torch.float32, device=q.device)
    operands = {"q": q, "k": k, "v": v, "u": u, "do": grad_out}
    row_stats = {name: pad(x, (0, _padded(q)[0] - positions)) for name, x in launch_row_stats(q, k, scale).items()}
    if row is not None:
        padded_row = pad(row.contiguous(), (0, query_tiles * configs.map_queries(config) - positions))
    _launch_on_parts(
        spatial_kernels.spatial_map,
        config,
        key_tiles * query_tiles,
        {name: None if x is None else split_heads(x) for name, x in operands.items()},
        q,
        matrix=result if row is None else None,
        row=None if row is None else padded_row,
        result=result,
        scale_log2=scale * LOG2_E,
        BLOCK_D0=block_d0,
        BLOCK_D1=block_d1,
        CLAMP_EACH=clamp_each,
        **row_stats,
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
