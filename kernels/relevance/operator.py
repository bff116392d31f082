"""Relevance through attention as PyTorch operators: what is launched for CUDA tensors of float32.

They are not differentiable: an explanation is an end, and its own gradient is nobody's loss.
"""

from __future__ import annotations

from typing import Any

import torch

from kernels.common.launch import (
    Setting,
    Table,
    TileSetting,
    architecture,
    choose,
    launch,
    next_power_of_two,
    split_head_dim,
    wide_offsets,
)
from kernels.common.registry import register
from kernels.common.strides import LOG2_E, float32_precision, strides, wide_positions
from kernels.relevance import configs as settings
from kernels.relevance import reference
from kernels.relevance.spatial_kernels import (
    spatial_map,
    spatial_normalizer,
    spatial_relevance_keys,
    spatial_relevance_queries,
    spatial_relevance_values,
)
from kernels.relevance.temporal_kernels import temporal_map, temporal_relevance_rows

Tensor = torch.Tensor

CLAMPS = ("after_mean", "before_mean")


def _sizes(k: Tensor) -> dict[str, Any]:
    return {
        "heads": k.shape[3],
        "positions": k.shape[2],
        "HEAD_DIM": k.shape[-1],
        "PRECISION": float32_precision(k),
    }


def _halves(k: Tensor) -> dict[str, int]:
    left, right = split_head_dim(k.shape[-1])
    return {"LEFT": left, "RIGHT": right}


def _spatial(
    kernel: Any, table: Table[TileSetting], q: Tensor, k: Tensor, programs_of: Any, matrix: int = 0, **arguments: Any
) -> None:
    """Launch a spatial kernel with the setting of its table; `arguments` are its own besides q, k and sizes."""
    setting = choose(table, architecture(q), k.shape[-1])
    tensors = [x for x in (q, k, *arguments.values()) if isinstance(x, Tensor) and x.ndim == 5]
    launch(
        kernel,
        programs_of(setting),
        setting,
        q.device,
        q=q,
        k=k,
        frames=k.shape[1],
        ROWS=setting.rows,
        COLUMNS=setting.columns,
        WIDE=wide_positions(matrix, *tensors),
        **_sizes(k),
        **arguments,
    )


def _tiles(length: int, size: int) -> int:
    return -(-length // size)


def launch_normalizer(q: Tensor, k: Tensor, scale: float) -> dict[str, Tensor]:
    """The largest score of each softmax row and the row's sum, `[B, F, N, S]` each, as arguments of the others."""
    clips, frames, positions, heads, _ = k.shape
    shape = (clips, frames, heads, positions)
    found = {name: torch.empty(shape, device=k.device) for name in ("largest_score", "row_sum")}
    _spatial(
        spatial_normalizer,
        settings.NORMALIZER,
        q,
        k,
        lambda setting: clips * frames * heads * _tiles(positions, setting.rows),
        scale_log2=scale * LOG2_E,
        **found,
        **strides(q=q, k=k),
    )
    return found


def launch_spatial_relevance(
    q: Tensor, k: Tensor, v: Tensor, u: Tensor, scale: float, stabilizer: float
) -> tuple[Tensor, Tensor, Tensor]:
    """R_q, R_k and R_v, contiguous."""
    clips, frames, positions, heads, _ = k.shape
    r_q, r_k, r_v = (torch.empty(k.shape, dtype=torch.float32, device=k.device) for _ in range(3))
    shared = {"v": v, "u": u, "scale_log2": scale * LOG2_E}
    shared |= launch_normalizer(q, k, scale) | strides(q=q, k=k, v=v, u=u) | _halves(k)

    def programs_of(setting: TileSetting) -> int:
        return clips * frames * heads * _tiles(positions, setting.rows)

    queries, keys, values = spatial_relevance_queries, spatial_relevance_keys, spatial_relevance_values
    _spatial(queries, settings.QUERIES, q, k, programs_of, relevance_q=r_q, eps=stabilizer, **shared)
    _spatial(keys, settings.KEYS, q, k, programs_of, relevance_k=r_k, eps=stabilizer, **shared)
    _spatial(values, settings.VALUES, q, k, programs_of, relevance_v=r_v, **shared)
    return r_q, r_k, r_v


def launch_spatial_map(
    row: Tensor | None, q: Tensor, k: Tensor, v: Tensor, u: Tensor | None, grad_out: Tensor | None, scale: float,
    clamp_each: bool,
) -> Tensor:  # fmt: skip
    """The map `[B, F, S, S]`, or with a row `[B, F, S]` that row times `I + map`."""
    clips, frames, positions, _, _ = k.shape
    rows = choose(settings.MAP, architecture(q), k.shape[-1]).rows
    shape = (clips, frames, positions if row is None else _tiles(positions, rows), positions)
    result = torch.empty(shape, dtype=torch.float32, device=k.device)
    _spatial(
        spatial_map,
        settings.MAP,
        q,
        k,
        lambda setting: clips * frames * _tiles(positions, setting.rows) * _tiles(positions, setting.columns),
        matrix=positions * positions if row is None else 0,
        v=v,
        u=u,
        grad_out=grad_out,
        row=row,
        result=result,
        scale_log2=scale * LOG2_E,
        HAS_U=u is not None,
        HAS_GRAD_OUT=grad_out is not None,
        CLAMP_EACH=clamp_each,
        ROLL_OUT=row is not None,
        **launch_normalizer(q, k, scale),
        **strides(q=q, k=k, v=v, u=u, grad_out=grad_out),
    )
    return result if row is None else row + result.sum(2)


def _temporal(
    kernel: Any, table: Table[Setting], q: Tensor, k: Tensor, programs_a_tile: int, wide: list[Tensor], **arguments: Any
) -> None:
    """Launch a temporal kernel with the setting of its table."""
    padded = next_power_of_two(k.shape[1])
    setting = choose(table, architecture(q), padded)
    clips, frames, positions, _, _ = k.shape
    launch(
        kernel,
        clips * _tiles(positions, setting.rows // padded) * programs_a_tile,
        setting,
        q.device,
        q=q,
        k=k,
        FRAMES=frames,
        PADDED_FRAMES=padded,
        ROWS=setting.rows,
        WIDE=wide_offsets(q, k, *wide),
        **_sizes(k),
        **arguments,
    )


def launch_temporal_relevance(
    q: Tensor, k: Tensor, v: Tensor, u: Tensor, scale: float, stabilizer: float
) -> tuple[Tensor, Tensor, Tensor]:
    """R_q, R_k and R_v, contiguous."""
    r_q, r_k, r_v = (torch.empty(k.shape, dtype=torch.float32, device=k.device) for _ in range(3))
    _temporal(
        temporal_relevance_rows,
        settings.TEMPORAL_RELEVANCE,
        q,
        k,
        k.shape[3],
        [v, u, r_q],
        v=v,
        u=u,
        relevance_q=r_q,
        relevance_k=r_k,
        relevance_v=r_v,
        scale_log2=scale * LOG2_E,
        eps=stabilizer,
        **strides(q=q, k=k, v=v, u=u),
    )
    return r_q, r_k, r_v


def launch_temporal_map(
    row: Tensor | None, q: Tensor, k: Tensor, v: Tensor, u: Tensor | None, grad_out: Tensor | None, scale: float,
    clamp_each: bool,
) -> Tensor:  # fmt: skip
    """The map `[B, S, F, F]`, or with a row `[B, S, F]` that row times `I + map`."""
    clips, frames, positions, _, _ = k.shape
    shape = (clips, positions, frames, frames) if row is None else (clips, positions, frames)
    result = torch.empty(shape, dtype=torch.float32, device=k.device)
    _temporal(
        temporal_map,
        settings.TEMPORAL_MAP,
        q,
        k,
        1,
        [x for x in (v, u, grad_out, result) if x is not None],
        v=v,
        u=u,
        grad_out=grad_out,
        row=row,
        result=result,
        scale_log2=scale * LOG2_E,
        HAS_U=u is not None,
        HAS_GRAD_OUT=grad_out is not None,
        CLAMP_EACH=clamp_each,
        ROLL_OUT=row is not None,
        **strides(q=q, k=k, v=v, u=u, grad_out=grad_out),
    )
    return result


def _map_kernel(launcher: Any) -> Any:
    def kernel(
        row: Tensor | None, q: Tensor, k: Tensor, v: Tensor, u: Tensor | None, grad_out: Tensor | None, scale: float,
        clamp_each: bool,
    ) -> Tensor:  # fmt: skip
        return launcher(None if row is None else row.contiguous(), q, k, v, u, grad_out, scale, clamp_each)

    return kernel


def _map_reference(map_of: Any, step_of: Any) -> Any:
    def function(
        row: Tensor | None, q: Tensor, k: Tensor, v: Tensor, u: Tensor | None, grad_out: Tensor | None, scale: float,
        clamp_each: bool,
    ) -> Tensor:  # fmt: skip
        options = {"scale": scale, "clamp": CLAMPS[clamp_each]}
        if row is None:
            return map_of(q, k, v, u, grad_out, **options).contiguous()
        return step_of(row, q, k, v, u, grad_out, **options).contiguous()

    return function


def _relevance_reference(function: Any) -> Any:
    def of(q: Tensor, k: Tensor, v: Tensor, u: Tensor, scale: float, stabilizer: float) -> tuple[Tensor, ...]:
        return tuple(x.contiguous() for x in function(q, k, v, u, scale=scale, stabilizer=stabilizer))

    return of


def _three_like(k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    made = [torch.empty(k.shape, dtype=k.dtype, device=k.device) for _ in range(3)]
    return made[0], made[1], made[2]


def _fake_map(groups_first: int) -> Any:
    """Shape of a map or row: groups are dimension `groups_first` of k, and the other of F and S is the length."""

    def fake(
        row: Tensor | None, q: Tensor, k: Tensor, v: Tensor, u: Tensor | None, grad_out: Tensor | None, scale: float,
        clamp_each: bool,
    ) -> Tensor:  # fmt: skip
        if row is not None:
            return torch.empty(row.shape, dtype=row.dtype, device=row.device)
        groups, length = k.shape[groups_first], k.shape[3 - groups_first]
        return torch.empty((k.shape[0], groups, length, length), dtype=k.dtype, device=k.device)

    return fake


_RELEVANCE = "(Tensor q, Tensor k, Tensor v, Tensor u, float scale, float stabilizer) -> (Tensor, Tensor, Tensor)"
_MAP = (
    "(Tensor? row, Tensor q, Tensor k, Tensor v, Tensor? u, Tensor? grad_out, float scale, bool clamp_each) -> Tensor"
)

spatial_relevance = register(
    f"spatial_relevance{_RELEVANCE}",
    kernel=launch_spatial_relevance,
    reference=_relevance_reference(reference.spatial_relevance),
    fake=lambda q, k, v, u, scale, stabilizer: _three_like(k),
)
temporal_relevance = register(
    f"temporal_relevance{_RELEVANCE}",
    kernel=launch_temporal_relevance,
    reference=_relevance_reference(reference.temporal_relevance),
    fake=lambda q, k, v, u, scale, stabilizer: _three_like(k),
)
spatial_relevance_map = register(
    f"spatial_relevance_map{_MAP}",
    kernel=_map_kernel(launch_spatial_map),
    reference=_map_reference(reference.spatial_relevance_map, reference.spatial_rollout_step),
    fake=_fake_map(1),
)
temporal_relevance_map = register(
    f"temporal_relevance_map{_MAP}",
    kernel=_map_kernel(launch_temporal_map),
    reference=_map_reference(reference.temporal_relevance_map, reference.temporal_rollout_step),
    fake=_fake_map(2),
)
