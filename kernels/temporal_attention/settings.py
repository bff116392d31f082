"""Launch settings of the temporal attention kernels, by architecture and number of frames.

``rows`` is positions times padded frames of one tile. No row has been measured yet: they are the largest tiles whose
resource report (``python -m bench compile``) shows no spills on sm_80, sm_89, sm_90 and sm_100. Add a row for an
architecture, with where it was measured, when there is a measurement.
"""

from kernels.launch import ANY, Setting

# Bound: key frames padded to a power of two.
MATRIX_FORWARD = {
    ANY: [(64, Setting(rows=64, num_warps=4)), (128, Setting(rows=128, num_warps=8))],
}
MATRIX_BACKWARD = {
    ANY: [(64, Setting(rows=64, num_warps=4)), (128, Setting(rows=128, num_warps=8))],
}
# Bound: query frames padded to a power of two.
EXACT_FORWARD = {
    ANY: [
        (32, Setting(rows=32, num_warps=4)),
        (64, Setting(rows=64, num_warps=8)),
        (128, Setting(rows=128, num_warps=8)),
    ],
}
EXACT_BACKWARD = {
    ANY: [
        (32, Setting(rows=32, num_warps=4)),
        (64, Setting(rows=64, num_warps=8)),
        (128, Setting(rows=128, num_warps=16)),
    ],
}
