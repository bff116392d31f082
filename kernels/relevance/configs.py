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
SPLIT_HEADS = Config({"BLOCK_M": 32}, num_warps=4, num_stages=2)  # not measured; from the resource report
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
# 128 x 128, which would read each operand three times instead of 4.2 or 4.8, spills 80 bytes on sm_90 and 176 on sm_80.
# Of 64 x 128 both warp groups of sm_90 make two of the three products.
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
