"""Launch configs of the relevance kernels, by architecture and head dimension; of float32 operands.

Not measured: no row has been timed on a GPU yet. Each is the largest tile whose resource report (`python -m bench
compile --operation relevance`) shows no spilled registers on any architecture that the row is for, but for tensors
that take 64-bit offsets. A warp has 16 rows: with more warps than that Triton lets the surplus compute the same rows
again.
"""

from __future__ import annotations

from triton import Config

from kernels.common.launch import ANY, Table, tile

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
# A program reads three operands of its queries and two of its keys for each head: tiles of 64 x 128 read each 4.2
# times, those of 128 x 64 4.8 times. The sum over heads, u v^T, do v^T and the product of a step of columns are in
# registers at once. Of 128 x 128, which would read 3 times, they are 256 a thread: this spills 368 bytes on sm_90, 248
# on sm_80; added up by tensor cores alone, without the last, 128 and 552. Tiles of 128 x 96 (3.6 times) spill 64 and
# 104. Of 64 x 128 both warp groups of sm_90 make two of the three products; transposed, as 128 keys by 64 queries, it
# reads 4.6 to 4.8 times, as each warp then loads the row stats of all its queries.
MAP: Table = {
    80: [(96, tile(64, 128, 8, 3)), (128, tile(64, 128, 8, 2))],
    90: [(64, tile(128, 64, 8, 3)), (128, tile(128, 64, 8, 2))],
    100: [(128, tile(64, 64, 8, 2))],
    ANY: [(128, tile(64, 128, 8, 2))],
}

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
