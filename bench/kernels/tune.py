"""Time candidate launch configs of the attention kernels at the paper's shape, in the mode that the model has.

Each backward kernel of spatial attention is timed with the other's present config. Writes tune.csv and prints the
fastest config for each table of `configs.py`. Needs a GPU.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from triton import Config

from bench.common import peers, timing
from bench.common.environment import require_gpu
from bench.common.record import Row
from bench.common.tasks import Task
from bench.kernels import spatial, temporal
from kernels.common.launch import architecture, tile
from kernels.spatial import configs as spatial_configs
from kernels.temporal import configs as temporal_configs

MILLISECONDS = 60
# By attention and bits of the dtype: what names of its tables of configs match.
TABLES = {"temporal": {32: "^FP32_", 16: "^TENSOR_CORE_"}, "spatial": {32: "_32$", 16: "_16$"}}


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is tuned, and for which tensors."""
    parser.add_argument("kind", choices=TABLES, help="of attention")
    parser.add_argument("--head-dims", type=int, nargs="+", default=[64, 96], help="default: 64 96")
    peers.add_dtype(parser)


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """Yield a record a table of configs and candidate."""
    require_gpu("tune")
    kind, dtype = arguments.kind, getattr(torch, arguments.dtype)
    bits, configs = 8 * dtype.itemsize, vars(spatial_configs if kind == "spatial" else temporal_configs)
    tables = {name: table for name, table in configs.items() if re.search(TABLES[kind][bits], name)}
    mode = "fused" if bits == 32 else "telescoped"
    for head_dim, (name, table) in product(arguments.head_dims, tables.items()):
        ours, *_ = temporal.contenders(head_dim, mode) if kind == "temporal" else spatial.contenders(head_dim)
        which = "forward" if "FORWARD" in name else "backward"
        make = partial(lambda calls, which: calls()[which], partial(ours.calls, peers.PAPER, head_dim, dtype), which)
        made_once = cache(make)  # of its own: what is compiled ahead leaves nothing but garbage in a graph
        for config in candidates(kind, bits):
            row = {"table": name, "head_dim": head_dim, "config": str(config)}
            measure = partial(_measured, table, config, made_once, arguments.milliseconds)
            yield Task("tune", row, measure, partial(_result, table, config, make))


def _result(table: dict[Any, Any], config: Config | None, make: Callable[[], Callable[[], Any]]) -> Tensor:
    """Return what a call gives whose kernel looks into `table` and finds `config` there, or what it has at present."""
    with _alone(table, config) if config else nullcontext():
        found = make()()
        return (found if isinstance(found, Tensor) else found[0]).detach()


def _measured(table: dict[Any, Any], config: Config, make: Callable[[], Callable[[], Any]], milliseconds: int) -> Row:
    expected, found = (_result(table, given, make) for given in (None, config))
    if not (found - expected).norm() <= 0.01 * expected.norm():
        raise ValueError("other numbers than those of the present config")
    found.fill_(float("nan"))  # its memory is the next one's: what that does not write is found
    with _alone(table, config):
        return timing.time_call(make(), milliseconds=milliseconds)


@contextmanager
def _alone(table: dict[Any, Any], config: Config) -> Iterator[None]:
    """Have `table` hold `config` for all sizes; one backward pass is left out for the tables of two."""
    one_pass, chip = spatial_configs.BACKWARD_16, architecture(torch.empty(0, device=peers.DEVICE))
    takes_one_pass = table is one_pass or table is spatial_configs.BACKWARD_VALUES_16
    with (
        patch.dict(table, {chip: [(128, config)]}),  # 128: the largest bound
        patch.dict(one_pass, {} if takes_one_pass else {chip: []}),
    ):
        yield


def conclude(tables: Mapping[str, list[Row]], folder: Path) -> int:
    """Print the fastest config of each table and head dimension; 1 if none was measured."""
    timed = sorted((row for row in tables["tune"] if "microseconds" in row), key=lambda row: row["microseconds"])
    for row in {(row["table"], row["head_dim"]): row for row in reversed(timed)}.values():
        print("{table}, D={head_dim}: {config}, {microseconds:.1f} us".format(**row))
    return 0 if timed else 1
