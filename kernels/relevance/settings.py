"""Launch settings of the relevance kernels, by architecture and head dimension; all of them are float32.

Not measured: no row has been timed on a GPU yet. Each is the largest tile whose resource report (``python -m bench
compile --operation relevance``) shows no spilled registers on any architecture that the row is for, but for tensors
that take 64-bit offsets.
"""

from __future__ import annotations

from kernels.launch import ANY, Setting, TileSetting

NORMALISER = {ANY: [(128, TileSetting(64, 8, 2, 32))]}
QUERIES = {ANY: [(128, TileSetting(64, 8, 1, 16))]}
KEYS = {
    89: [(64, TileSetting(64, 8, 1, 16)), (128, TileSetting(16, 4, 1, 32))],  # 64 rows of D = 96 spill here
    ANY: [(128, TileSetting(64, 8, 1, 16))],
}
VALUES = {ANY: [(96, TileSetting(64, 8, 1, 32)), (128, TileSetting(32, 8, 1, 32))]}
MAP = {ANY: [(128, TileSetting(32, 8, 1, 32))]}

# Bound: frames padded to a power of two; rows are positions times padded frames. Beyond the last bound: the reference.
# 64 rows spill on the first of these and pass the shared memory of the second.
TEMPORAL_RELEVANCE = {
    80: [(32, Setting(32, 8))],
    89: [(32, Setting(32, 8))],
    ANY: [(32, Setting(32, 8)), (64, Setting(64, 8))],
}
TEMPORAL_MAP = TEMPORAL_RELEVANCE
