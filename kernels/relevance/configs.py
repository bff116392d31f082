"""Launch configs of the relevance kernels, by architecture and head dimension; all of them are float32.

Not measured: no row has been timed on a GPU yet. Each is the largest tile whose resource report (`python -m bench
compile --operation relevance`) shows no spilled registers on any architecture that the row is for, but for tensors
that take 64-bit offsets. A warp has 16 rows: with more warps than that Triton lets the surplus compute the same rows
again (on sm_90, where 32 rows had 8 warps, the map took 7.8 times the instructions that it takes now).
"""

from __future__ import annotations

from triton import Config

from kernels.common.launch import ANY, Table, tile

RELEVANCE: Table = {
    90: [(128, tile(128, 32, 8, 1))],
    100: [(96, tile(128, 32, 8, 1)), (128, tile(64, 32, 4, 1))],
    ANY: [(64, tile(128, 32, 8, 1)), (96, tile(128, 16, 8, 1)), (128, tile(64, 16, 4, 1))],
}
RELEVANCE_OF_VALUES: Table = {ANY: [(128, tile(128, 32, 8, 1))]}
MAP: Table = {
    90: [(128, tile(64, 64, 4, 1))],
    100: [(128, tile(64, 64, 4, 1))],
    ANY: [(64, tile(64, 16, 4, 1)), (128, tile(64, 32, 4, 1))],
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
