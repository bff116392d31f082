"""Launch configs of the relevance kernels, by architecture and head dimension; of float32 operands.

Not measured: no row has been timed on a GPU yet. Each is the largest tile whose resource report (`python -m bench
compile --operation relevance`) shows no spilled registers on any architecture that the row is for, but for tensors
that take 64-bit offsets. A warp has 16 rows: with more warps than that Triton lets the surplus compute the same rows
again.
"""

from __future__ import annotations

import torch
import triton
from triton import Config

from kernels.common.launch import ANY, Table, choose, tile
from kernels.spatial import configs as spatial

LARGEST_TILE = 128  # rows


def split_heads(block_d: int) -> Config:
    """Return the config of the kernel that splits heads, of `block_d` columns with their padding.

    Four columns a thread: Triton gives the float32 loads as many columns a thread as the float16 stores, and with
    eight, of two loads, each of them asks for every sector. Not measured; from counts and the resource report.
    """
    return Config({"BLOCK_M": 32}, num_warps=block_d // 4, num_stages=2)


# Of R_q, R_k and R_v. Heads narrower than 64 are multiplied without tensor cores. On sm_100 the accumulators of larger
# tiles do not fit into tensor memory; beyond 96 columns they spill everywhere.
_SMALL = [(128, tile(32, 16, 4, 2))]
_NARROW = (63, tile(32, 16, 4, 2))
_MEDIUM = [_NARROW, (96, tile(64, 16, 4, 2)), *_SMALL]
RELEVANCE: dict[str, Table] = {
    "q": {
        80: [_NARROW, (96, tile(128, 16, 8, 2)), *_SMALL],
        90: [_NARROW, (96, tile(128, 32, 8, 2)), *_SMALL],
        100: [_NARROW, (64, tile(128, 16, 8, 2)), *_SMALL],
        ANY: _MEDIUM,
    },
    "k": {
        80: [_NARROW, (96, tile(128, 16, 8, 2)), *_SMALL],
        90: [_NARROW, (64, tile(128, 32, 8, 2)), (96, tile(128, 16, 8, 3)), *_SMALL],
        100: [_NARROW, (64, tile(128, 16, 8, 2)), *_SMALL],
        ANY: _MEDIUM,
    },
    "v": {
        80: [_NARROW, (64, tile(128, 32, 8, 2)), (96, tile(128, 16, 8, 2)), *_SMALL],
        90: [_NARROW, (128, tile(128, 32, 8, 2))],
        100: [_NARROW, (96, tile(128, 32, 8, 2)), *_SMALL],
        ANY: _MEDIUM,
    },
}


def _map(
    keys: int, queries: int, tiles: int, num_warps: int, num_stages: int, two_sums: int = 3, block_k: int = 0
) -> Config:
    """Return the config of a program of `keys` by `tiles * queries`; without `block_k` by whole rows."""
    blocks = {"BLOCK_M": keys, "BLOCK_N": queries, "TILES": tiles, "TWO_SUMS": two_sums, "BLOCK_K": block_k}
    return Config(blocks, num_warps=num_warps, num_stages=num_stages)


# A program reads two operands of its keys and three of its queries for each head: 128 keys by 192 queries read each 2.6
# times, and with the row stats, which each warp loads, 2.7 to 2.8 times. Only the sums over heads are in registers for
# all of them, 96 a thread; products are of one tile of queries.
#
# What latency that costs, from counts: no GPU has timed it. Each head begins with a wait for the rows of its keys and
# one for its first tile of queries, as loads of the next head find no room; later tiles are copied while the one before
# is multiplied. At D = 64 on sm_90 a head of a program loads 208 KiB, 64 of them before the first product, and takes
# some 7,000 cycles of the schedulers and 6,900 of the tensor cores. Programs of 128 queries by 64 keys in steps of 32
# columns, which these replace, waited twice a head at D = 64 and six times at D = 96 (two stages: a copy began when the
# step before was over), three times for what is one program now, and loaded 384 KiB.
#
# Tiles of 32 queries on sm_90 at D = 96, as three stages of 64 do not fit: a product of 32 columns reads 3 KiB of
# shared memory in 24 cycles for 16 of its tensor cores. On sm_80 rows of keys are fragments in registers, 64 or 96 a
# thread, and leave room for tiles of 16. A second sum of the last product spills 16 bytes (sm_80, D = 64) to 48 (sm_90,
# D = 96).
_NARROW_STEPS = (63, _map(128, 64, 1, 8, 3, block_k=32))
_WIDE_STEPS = (128, _map(128, 32, 1, 8, 2, block_k=32))
MAP: Table = {
    80: [
        _NARROW_STEPS, (64, _map(128, 16, 12, 8, 3, 2)), (96, _map(128, 16, 12, 8, 3)), (128, _map(128, 16, 6, 8, 2)),
    ],
    90: [
        _NARROW_STEPS, (64, _map(128, 64, 3, 8, 3, 1)), (96, _map(128, 32, 6, 8, 3, 2)),
        (128, _map(128, 32, 4, 8, 2, 2)),
    ],
    100: [(128, _map(64, 64, 1, 8, 2, block_k=32))],  # by whole rows it spills 56 bytes and more, whatever the tile
    ANY: [_NARROW_STEPS, (96, _map(64, 16, 4, 8, 3, 2)), _WIDE_STEPS],
}  # fmt: skip
# A clip of the paper's size alone is 42 programs of 192 queries, and 126 of 64.
MAP_FEW: Table = {
    **MAP,
    80: [_NARROW_STEPS, (96, _map(128, 16, 4, 8, 3, 2)), (128, _map(128, 16, 6, 8, 2))],
    90: [_NARROW_STEPS, (96, _map(128, 32, 2, 8, 3)), (128, _map(128, 32, 2, 8, 2, 2))],
}
# Where there is one tile of keys, those of queries are read once in any case. Steps of 32 columns, added up in float32,
# cut off less, and over few positions less of that is averaged out: by whole rows a rollout step of 49 positions and 91
# columns was 2.1 times as far off as eager's on sm_80.
MAP_SHORT: Table = {100: MAP[100], ANY: [_NARROW_STEPS, (96, _map(128, 32, 1, 8, 3, block_k=32)), _WIDE_STEPS]}


def map_queries(config: Config) -> int:
    """Return the queries of a program with a config of the map."""
    return config.kwargs["BLOCK_N"] * config.kwargs["TILES"]


def map_tiles(positions: int, config: Config) -> tuple[int, int]:
    """Return how many tiles of keys and of queries programs with a config of the map make of a frame row."""
    return triton.cdiv(positions, config.kwargs["BLOCK_M"]), triton.cdiv(positions, map_queries(config))


def spatial_map(q: torch.Tensor, architecture: int) -> Config:
    """Return the config of the map of `[B, F, S, N, D]`: of few queries where programs of many leave chips idle."""
    clips, frames, positions, _, head_dim = q.shape
    if positions <= LARGEST_TILE:
        return choose(MAP_SHORT, architecture, head_dim)
    config = choose(MAP, architecture, head_dim)
    key_tiles, query_tiles = map_tiles(positions, config)
    programs = clips * frames * key_tiles * query_tiles
    many = programs > spatial.MULTIPROCESSORS.get(architecture, 0)
    return config if many else choose(MAP_FEW, architecture, head_dim)


# Bound: frames padded to a power of two; rows are positions times padded frames. Beyond the last bound: the reference.
# 64 rows spill on the first two.
_FEW_FRAMES = [
    (16, Config({"BLOCK_M": 16}, num_warps=1, num_stages=1)),
    (32, Config({"BLOCK_M": 32}, num_warps=2, num_stages=1)),
]
TEMPORAL: Table = {
    80: _FEW_FRAMES,
    89: _FEW_FRAMES,
    ANY: [*_FEW_FRAMES, (64, Config({"BLOCK_M": 64}, num_warps=4, num_stages=1))],
}
