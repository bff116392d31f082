"""Launch settings of the temporal attention kernels, by architecture and number of frames.

`rows` is positions times padded frames of one tile. Not measured: no row has been timed on a GPU yet. Each is the
largest tile whose resource report (`python -m bench compile`) shows no spilled registers on that architecture,
but for the matrix kernels beyond 64 frames. An architecture's row, once timed, says where.
"""

from kernels.common.launch import ANY, Setting

# Bound: key frames padded to a power of two.
MATRIX_FORWARD = {
    80: [(64, Setting(rows=64, num_warps=4))],  # beyond: the exact kernel; 128 rows spill or pass shared memory
    89: [(64, Setting(rows=64, num_warps=4))],
    100: [(64, Setting(rows=64, num_warps=8)), (128, Setting(rows=128, num_warps=8))],
    ANY: [(64, Setting(rows=64, num_warps=4)), (128, Setting(rows=128, num_warps=8))],
}
MATRIX_BACKWARD = {
    80: [(32, Setting(rows=32, num_warps=4)), (64, Setting(rows=64, num_warps=8))],
    89: [(32, Setting(rows=32, num_warps=4)), (64, Setting(rows=64, num_warps=8))],
    ANY: [(64, Setting(rows=64, num_warps=4)), (128, Setting(rows=128, num_warps=8))],
}
# Bound: query frames padded to a power of two. Stages: key frames in flight in the loop over them.
EXACT_FORWARD = {
    ANY: [
        (32, Setting(rows=32, num_warps=4, num_stages=3)),
        (64, Setting(rows=64, num_warps=8, num_stages=3)),
        (128, Setting(rows=128, num_warps=8)),
    ],
}
EXACT_BACKWARD = {
    ANY: [
        (32, Setting(rows=32, num_warps=4, num_stages=2)),
        (64, Setting(rows=64, num_warps=8, num_stages=2)),
        (128, Setting(rows=128, num_warps=8)),
    ],
}
