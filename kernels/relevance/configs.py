"""Launch settings of the relevance kernels, by architecture and head dimension; all of them are float32.

Not measured: no row has been timed on a GPU yet. Each is the largest tile whose resource report (`python -m bench
compile --operation relevance`) shows no spilled registers on any architecture that the row is for, but for tensors
that take 64-bit offsets. A warp has 16 rows: with more warps than that Triton lets the surplus compute the same rows
again (on sm_90, where 32 rows had 8 warps, the map took 7.8 times the instructions that it takes now).
"""

from __future__ import annotations

from kernels.common.launch import ANY, Setting, TileSetting

NORMALIZER = {ANY: [(128, TileSetting(64, 4, 2, 64))]}
QUERIES = {
    90: [(128, TileSetting(128, 8, 1, 32))],
    100: [(96, TileSetting(128, 8, 1, 32)), (128, TileSetting(64, 4, 1, 32))],
    ANY: [(64, TileSetting(128, 8, 1, 32)), (96, TileSetting(128, 8, 1, 16)), (128, TileSetting(64, 4, 1, 16))],
}
KEYS = {
    90: [(128, TileSetting(128, 8, 1, 32))],
    100: [(96, TileSetting(128, 8, 1, 32)), (128, TileSetting(64, 4, 1, 32))],
    ANY: [(64, TileSetting(128, 8, 1, 32)), (96, TileSetting(128, 8, 1, 16)), (128, TileSetting(64, 4, 1, 16))],
}
VALUES = {ANY: [(128, TileSetting(128, 8, 1, 32))]}
MAP = {
    90: [(128, TileSetting(64, 4, 1, 64))],
    100: [(128, TileSetting(64, 4, 1, 64))],
    ANY: [(64, TileSetting(64, 4, 1, 16)), (128, TileSetting(64, 4, 1, 32))],
}

# Bound: frames padded to a power of two; rows are positions times padded frames. Beyond the last bound: the reference.
# 64 rows spill on the first two.
_FEW_FRAMES = [(16, Setting(16, 1)), (32, Setting(32, 2))]
TEMPORAL_RELEVANCE = {80: _FEW_FRAMES, 89: _FEW_FRAMES, ANY: [*_FEW_FRAMES, (64, Setting(64, 4))]}
TEMPORAL_MAP = TEMPORAL_RELEVANCE
