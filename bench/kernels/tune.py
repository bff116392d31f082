"""Time candidate launch configs of the attention kernels, as rows for their `configs.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

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

# By table: bare launches that look into it, and the buffer that they write.
Launches = dict[str, tuple[Callable[[], object], Tensor]]


def row(config: Config) -> str:
    """Return `config` as the tables of `configs.py` have it."""
    blocks = config.kwargs.values()
    if len(blocks) == 1:
        block = f'{{"BLOCK_M": {config.kwargs["BLOCK_M"]}}}'
        return f"Config({block}, num_warps={config.num_warps}, num_stages={config.num_stages})"
    capped = "" if config.maxnreg is None else f", maxnreg={config.maxnreg}"
    return f"tile({', '.join(map(str, blocks))}, {config.num_warps}, {config.num_stages}{capped})"


def candidates(kind: str, bits: int) -> list[Config]:
    """Return the configs that are worth trying for one kind of attention in a dtype of `bits` bits."""
    if kind == "temporal":
        given = product((16, 32, 64, 128), (1, 2, 4, 8), (1, 2, 3) if bits == 32 else (1,))
        return [Config({"BLOCK_M": rows}, num_warps=warps, num_stages=count) for rows, warps, count in given]
    if bits == 32:
        return [tile(*blocks) for blocks in product((32, 64, 128), (16, 32, 64), (4, 8), (1, 2))]
    tiles = list(product((64, 128), (32, 64, 128), (4, 8), (2, 3)))
    # 256 threads of at most 128 registers: two programs on a processor.
    capped = [tile(*blocks, maxnreg=128) for blocks in tiles if (blocks[0], blocks[2]) == (128, 8)]
    return [tile(*blocks) for blocks in tiles] + capped


def launches(kind: str, qkv: Tensor, grad_out: Tensor) -> Launches:
    """Return the launches of one kind of attention, in the mode that the model has in this dtype."""
    (q, k, v), out, gradient = qkv.unbind(3), empty_like_contiguous(grad_out), torch.empty_like(qkv)
    single = qkv.dtype == torch.float32
    if kind == "temporal":
        form, mode = ("FP32", "fused") if single else ("TENSOR_CORE", "telescoped")
        forward = partial(temporal.launch_forward, q, k, v, 0.1, mode, out, None)
        backward = partial(temporal.launch_backward, q, k, v, grad_out, 0.1, mode, *gradient.unbind(3), None)
        return {f"{form}_FORWARD": (forward, out), f"{form}_BACKWARD": (backward, gradient)}
    row_stats = spatial.empty_row_stats(q)
    forward = partial(spatial.launch_forward, q, k, v, 0.1, out, row_stats, None)
    backward = partial(spatial.launch_backward, q, k, v, out, row_stats, grad_out, 0.1, *gradient.unbind(3), None)
    found = {"FORWARD": (forward, out), "BACKWARD_QUERIES": (backward, gradient), "BACKWARD_KEYS": (backward, gradient)}
    return {f"{name}_{32 if single else 16}": launch for name, launch in found.items()}


def print_tuned(kind: str, dtype: torch.dtype, head_dims: Iterable[int], milliseconds: int) -> None:
    """Print the lines of `tune` as they come."""
    for line in tune(kind, dtype, head_dims, milliseconds):
        print(line, flush=True)


def tune(kind: str, dtype: torch.dtype, head_dims: Iterable[int], milliseconds: int) -> Iterator[str]:
    """Yield a line a candidate at the paper's shape, the fastest first, and a row to paste into `configs.py`.

    Each backward kernel of spatial attention is timed with the other's present config.
    """
    where = f"measured on {torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}"
    for head_dim in head_dims:
        qkv = torch.randn(8, 7, peers.POSITIONS, 3, peers.HEADS, head_dim, device=peers.DEVICE).to(dtype)
        for name, (call, result) in launches(kind, qkv, torch.randn_like(qkv[:, :, :, 0])).items():
            table = getattr(spatial_configs if kind == "spatial" else temporal_configs, name)
            times, left_out = time_configs(table, candidates(kind, 8 * dtype.itemsize), call, result, milliseconds)
            ordered = sorted(times, key=times.get)
            yield from (f"# {name} D={head_dim} {row(config)}: {times[config]:.1f} us" for config in ordered)
            yield from (f"# {name} D={head_dim} {row(config)}: left out: {why}" for config, why in left_out.items())
            bound = head_dim if kind == "spatial" else 8  # frames, padded
            sizes = f"B=8 F=7 S={peers.POSITIONS} N={peers.HEADS} D={head_dim}"
            for best in ordered[:1]:
                yield f"{name}:\n    {architecture(qkv)}: [({bound}, {row(best)})],  # {where}, {sizes}"


def time_configs(
    table: dict[Any, Any], tried: Iterable[Config], call: Callable[[], object], result: Tensor, milliseconds: int
) -> tuple[dict[Config, float], dict[Config, str]]:
    """Return the microseconds of each of `tried` that works, and why each of the others does not.

    `call` launches the kernel that looks into `table` and writes `result`. All are compiled before the first is timed.
    """

    def call_with(config: Config) -> None:
        table[architecture(result)] = [(128, config)]  # the largest bound of head dimensions and of padded frames
        call()

    call()
    expected, times, left_out = result.clone(), {}, {}
    with patch.dict(table):
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
    call()  # what the next kernel reads is of the present config again
    return times, left_out
