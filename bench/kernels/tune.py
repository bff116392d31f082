"""Time candidate launch configs of the attention kernels, as rows for their `configs.py`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import torch
import triton
from torch import Tensor
from triton import Config

from bench.common import ahead, timing
from bench.kernels import peers
from kernels.common.launch import architecture, tile
from kernels.common.strides import empty_like_contiguous
from kernels.spatial import configs as spatial_configs
from kernels.spatial import operator as spatial
from kernels.temporal import configs as temporal_configs
from kernels.temporal import operator as temporal

# Of head dimensions, and of frames padded to a power of two.
LARGEST_BOUND = 128
# By table: bare launches that look into it, and the buffer that they write.
Launches = Mapping[str, tuple[Callable[[], object], Tensor]]


def row(config: Config) -> str:
    """Return `config` as the tables of `configs.py` have it."""
    blocks = config.kwargs.values()
    if len(blocks) == 1:
        block = f'{{"BLOCK_M": {config.kwargs["BLOCK_M"]}}}'
        return f"Config({block}, num_warps={config.num_warps}, num_stages={config.num_stages})"
    capped = "" if config.maxnreg is None else f", maxnreg={config.maxnreg}"
    return f"tile({', '.join(map(str, blocks))}, {config.num_warps}, {config.num_stages}{capped})"


def spatial_candidates(bits: int) -> list[Config]:
    """Return the configs of spatial attention that are worth trying for a dtype of `bits` bits."""
    if bits == 32:
        return [tile(*blocks) for blocks in itertools.product((32, 64, 128), (16, 32, 64), (4, 8), (1, 2))]
    tiles = list(itertools.product((64, 128), (32, 64, 128), (4, 8), (2, 3)))
    # 256 threads of at most 128 registers: two programs on a processor.
    capped = [tile(*blocks, maxnreg=128) for blocks in tiles if (blocks[0], blocks[2]) == (128, 8)]
    return [tile(*blocks) for blocks in tiles] + capped


def spatial_launches(qkv: Tensor, grad_out: Tensor) -> Launches:
    """Return the launches of spatial attention; each backward kernel is timed with the other's present config."""
    q, k, v = qkv.unbind(3)
    out, row_stats, gradient = empty_like_contiguous(q), spatial.empty_row_stats(q), torch.empty_like(qkv)
    forward = partial(spatial.launch_forward, q, k, v, 0.1, out, row_stats, None)
    backward = partial(spatial.launch_backward, q, k, v, out, row_stats, grad_out, 0.1, *gradient.unbind(3), None)
    bits = 8 * qkv.element_size()
    return {
        f"FORWARD_{bits}": (forward, out),
        f"BACKWARD_QUERIES_{bits}": (backward, gradient),
        f"BACKWARD_KEYS_{bits}": (backward, gradient),
    }


def temporal_candidates(bits: int) -> list[Config]:
    """Return the configs of temporal attention that are worth trying for a dtype of `bits` bits."""
    stages = (1, 2, 3) if bits == 32 else (1,)
    return [
        Config({"BLOCK_M": block_m}, num_warps=num_warps, num_stages=num_stages)
        for block_m, num_warps, num_stages in itertools.product((16, 32, 64, 128), (1, 2, 4, 8), stages)
    ]


def temporal_launches(qkv: Tensor, grad_out: Tensor) -> Launches:
    """Return the launches of temporal attention in the mode that the model has in this dtype."""
    q, k, v = qkv.unbind(3)
    out, gradient = empty_like_contiguous(q), torch.empty_like(qkv)
    form, mode = ("FP32", "fused") if qkv.dtype == torch.float32 else ("TENSOR_CORE", "telescoped")
    forward = partial(temporal.launch_forward, q, k, v, 0.1, mode, out, None)
    backward = partial(temporal.launch_backward, q, k, v, grad_out, 0.1, mode, *gradient.unbind(3), None)
    return {f"{form}_FORWARD": (forward, out), f"{form}_BACKWARD": (backward, gradient)}


def tune_spatial(dtype: torch.dtype, head_dims: Sequence[int], milliseconds: int) -> Iterator[str]:
    """Yield a line a candidate at the paper's shape, then rows for kernels/spatial/configs.py, by head dimension."""
    launches = {head_dim: spatial_launches(*_inputs(head_dim, dtype)) for head_dim in head_dims}
    return _tune(spatial_configs, spatial_candidates(8 * dtype.itemsize), launches, milliseconds)


def tune_temporal(dtype: torch.dtype, milliseconds: int) -> Iterator[str]:
    """Yield a line a candidate at the paper's shape, then rows for kernels/temporal/configs.py, by padded frames."""
    for head_dim in (64, 96):
        launches = {8: temporal_launches(*_inputs(head_dim, dtype))}
        yield from _tune(temporal_configs, temporal_candidates(8 * dtype.itemsize), launches, milliseconds)


def _inputs(head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    qkv = torch.randn(8, 7, peers.POSITIONS, 3, peers.HEADS, head_dim, device=peers.DEVICE).to(dtype)
    return qkv, torch.randn_like(qkv[:, :, :, 0])


def _tune(
    tables: ModuleType, candidates: Sequence[Config], launches: Mapping[int, Launches], milliseconds: int
) -> Iterator[str]:
    """Time `candidates` in the `launches` of each bound of a row of the tables."""
    rows: dict[str, list[str]] = {}
    for bound, by_table in launches.items():
        for name, (call, result) in by_table.items():
            times, left_out = time_configs(getattr(tables, name), candidates, call, result, milliseconds)
            tried = [
                f"{row(config)}: {spent:.1f} us" for config, spent in sorted(times.items(), key=lambda item: item[1])
            ]
            tried += [f"{row(config)}: left out: {why}" for config, why in left_out.items()]
            yield from (f"# {name} D={result.shape[-1]} {line}" for line in tried)
            if times:
                rows.setdefault(name, []).append(f"({bound}, {row(min(times, key=times.get))})")
    where = f"measured on {torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}"
    for name, found in rows.items():
        sizes = f"B=8 F=7 S={peers.POSITIONS} N={peers.HEADS}"
        yield f"{name}:\n    {architecture(result)}: [{', '.join(found)}],  # {where}, {sizes}"


def time_configs(
    table: dict[Any, Any], tried: Sequence[Config], call: Callable[[], object], result: Tensor, milliseconds: int
) -> tuple[dict[Config, float], dict[Config, str]]:
    """Return the microseconds of each config that works, and why each of the others does not.

    Args:
        table: of configs; it is left as it was.
        tried: the candidates; they are compiled several at a time before the first is timed.
        call: launches the kernel that looks into the table.
        result: what it writes.
        milliseconds: measuring time of each.
    """

    def call_with(config: Config) -> None:
        table[architecture(result)] = [(LARGEST_BOUND, config)]
        call()

    call()
    expected = result.clone()
    before, times, left_out = dict(table), {}, {}
    try:
        ahead.compile_ahead(partial(call_with, config) for config in tried)
        for config in tried:
            result.fill_(float("nan"))
            refused = peers.reason(partial(call_with, config))
            if refused is not None:
                left_out[config] = refused
            elif not (result - expected).norm() <= 0.01 * expected.norm():
                left_out[config] = "other numbers than those of the present config"
            else:
                times[config] = timing.time_call(call, milliseconds=milliseconds).median
    finally:
        table.clear()
        table.update(before)
    call()
    return times, left_out
