"""Launch configs of the temporal attention kernels, by architecture and number of frames.

`BLOCK_M` is positions times padded frames of one tile. Not measured: no row has been timed on a GPU yet. Each is the
largest tile whose resource report (`python -m bench compile`) shows no spilled registers on that architecture,
but for the tensor-core kernels beyond 64 frames. An architecture's row, once timed, says where.
"""

from triton import Config

from kernels.common.launch import ANY, Table

# Bound: key frames padded to a power of two. sm_80 and sm_89 have no tile beyond 64 frames: 128 rows spill or pass
# their shared memory, and the float32 kernels take over (in every self-subtract mode, which is why they have them all).
TENSOR_CORE_FORWARD: Table = {
    80: [(64, Config({"BLOCK_M": 64}, num_warps=4, num_stages=1))],
    89: [(64, Config({"BLOCK_M": 64}, num_warps=4, num_stages=1))],
    100: [
        (64, Config({"BLOCK_M": 64}, num_warps=8, num_stages=1)),
        (128, Config({"BLOCK_M": 128}, num_warps=8, num_stages=1)),
    ],
    ANY: [
        (64, Config({"BLOCK_M": 64}, num_warps=4, num_stages=1)),
        (128, Config({"BLOCK_M": 128}, num_warps=8, num_stages=1)),
    ],
}
_AMPERE_BACKWARD = [
    (32, Config({"BLOCK_M": 32}, num_warps=4, num_stages=1)),
    (64, Config({"BLOCK_M": 64}, num_warps=8, num_stages=1)),
]
TENSOR_CORE_BACKWARD: Table = {80: _AMPERE_BACKWARD, 89: _AMPERE_BACKWARD, ANY: TENSOR_CORE_FORWARD[ANY]}
# Bound: query frames padded to a power of two. Stages: key frames in flight in the loop over them.
FP32_FORWARD: Table = {
    ANY: [
        (32, Config({"BLOCK_M": 32}, num_warps=4, num_stages=3)),
        (64, Config({"BLOCK_M": 64}, num_warps=8, num_stages=3)),
        (128, Config({"BLOCK_M": 128}, num_warps=8, num_stages=1)),
    ],
}
# A position of up to 8 frames is one warp's: among warps, sums over query frames went through shared memory, with 3.7
# wavefronts a load and 4.7 a store where one would do.
FP32_BACKWARD: Table = {
    ANY: [
        (8, Config({"BLOCK_M": 8}, num_warps=1, num_stages=2)),
        (32, Config({"BLOCK_M": 32}, num_warps=4, num_stages=2)),
        (64, Config({"BLOCK_M": 64}, num_warps=8, num_stages=2)),
        (128, Config({"BLOCK_M": 128}, num_warps=8, num_stages=1)),
    ],
}
