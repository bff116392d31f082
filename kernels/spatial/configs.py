"""Launch configs of the spatial attention kernels, by width of the dtype, architecture and head dimension.

A tile is `BLOCK_M` (what a program owns: queries, or keys in `BACKWARD_KEYS`) by `BLOCK_N` (what it loops over).
128 rows halve how often keys and values are read from the second-level cache, which 64 rows would saturate.

No row has been measured yet. Each is the largest tile tried whose resource report (`python -m bench compile`) shows
no spilled register (a handful in float32 with heads wider than 64) and fits the shared memory of its chips: `ANY`
fits the 99 KiB of sm_89. `python -m bench tune spatial` measures the candidates.
"""

from __future__ import annotations

import torch
import triton
from triton import Config

from kernels.common.launch import ANY, Table, choose, tile
from kernels.common.strides import NARROW_HEAD

# Bound: head dimension. tile(BLOCK_M, BLOCK_N, num_warps, num_stages).
# Not measured; from the resource report. With 4 warps two programs of 64 columns share a processor; wider heads spill.
_AMPERE_FORWARD = [(64, tile(128, 64, 4, 3)), (128, tile(128, 64, 8, 3))]
FORWARD_16: Table = {
    80: _AMPERE_FORWARD,
    89: _AMPERE_FORWARD,
    ANY: [(128, tile(128, 64, 8, 3))],  # not measured; from the resource report
    90: [  # not measured; from the resource report: at 128 registers two programs share a processor
        (64, tile(128, 64, 8, 3)),
        (96, tile(128, 64, 8, 3, maxnreg=128)),
        (128, tile(128, 64, 8, 3)),
    ],
    100: [  # not measured; from the resource report
        (64, tile(128, 64, 4, 3)),
        (96, tile(128, 64, 8, 2)),
        (128, tile(128, 64, 8, 3)),
    ],
}
# With a second pass over the keys, which writes the attention matrix: more registers, and bound by memory.
FORWARD_16_CAPTURE: Table = {
    ANY: [(128, tile(128, 64, 8, 2))],  # not measured; from the resource report
    90: [(128, tile(128, 64, 8, 3))],  # not measured; from the resource report
}
FORWARD_32: Table = {
    ANY: [(64, tile(128, 32, 8, 2)), (128, tile(64, 16, 8, 2))],  # not measured; from the resource report
    90: [(128, tile(128, 32, 8, 2))],  # not measured; from the resource report
}
ROW_STATS: Table = {  # of relevance, float32, without values; not measured; from the resource report
    ANY: [(64, tile(128, 32, 8, 2)), (96, tile(64, 16, 8, 2)), (128, tile(64, 16, 4, 2))],
    90: FORWARD_32[90],
    100: FORWARD_32[ANY],
}
_AMPERE_QUERIES = [  # not measured; from the resource report
    (64, tile(128, 64, 8, 2)),
    (96, tile(128, 32, 8, 3)),
    (128, tile(64, 32, 4, 3)),
]
# One pass over a head of a frame row, 16-bit. 128 keys and 64 queries give both warp groups of sm_90 work; a third
# stage spills 32 bytes there. On sm_80 the products hold the queries in registers: 64 of them spill 680 bytes. Beyond
# 64 columns dv has a launch of its own (`leaves_values`): that takes 7.50 M instructions a clip instead of the 10.65 M
# of two passes on sm_90, and 11.48 M instead of 12.65 M on sm_80. sm_100 takes two passes.
_AMPERE_BACKWARD = [(96, tile(128, 32, 8, 3))]  # not measured; from the resource report
BACKWARD_16: Table = {
    80: _AMPERE_BACKWARD,
    89: _AMPERE_BACKWARD,
    90: [(96, tile(128, 64, 8, 2))],  # not measured; from the resource report
    0: [(96, tile(128, 64, 8, 2))],  # of the interpreter
    ANY: [],
}
# dv alone, beside the one pass. Without the sums of dk a tile has 128 queries on sm_90, and on sm_80 four warps do:
# 2.31 and 3.24 M instructions a clip; with the tiles of dk and dv together they were 3.66 and 4.15 M.
_AMPERE_VALUES = [(96, tile(128, 32, 4, 3))]  # not measured; from the resource report
BACKWARD_VALUES_16: Table = {
    80: _AMPERE_VALUES,
    89: _AMPERE_VALUES,
    90: [(96, tile(128, 128, 8, 2))],  # not measured; from the resource report
    0: [(96, tile(128, 32, 8, 3))],  # of the interpreter
    ANY: [],
}
# Multiprocessors of the largest chip of an architecture: A100, RTX 4090, H200.
MULTIPROCESSORS = {80: 108, 89: 128, 90: 132}
BACKWARD_QUERIES_16: Table = {
    80: _AMPERE_QUERIES,
    89: _AMPERE_QUERIES,
    ANY: [(64, tile(128, 64, 8, 2)), (128, tile(128, 32, 8, 3))],  # not measured; from the resource report
}
# With the store of the gradient of the attention matrix the tiles above spill 288 bytes at 64 columns and 32 at 96.
_AMPERE_QUERIES_CAPTURE = [(64, tile(128, 32, 8, 3)), (96, tile(128, 16, 8, 4)), (128, tile(64, 32, 4, 3))]
BACKWARD_QUERIES_16_CAPTURE: Table = {
    **BACKWARD_QUERIES_16,
    80: _AMPERE_QUERIES_CAPTURE,  # not measured; from the resource report
    89: _AMPERE_QUERIES_CAPTURE,  # not measured; from the resource report
}
BACKWARD_QUERIES_32: Table = {
    ANY: [(64, tile(64, 16, 8, 2)), (128, tile(32, 16, 8, 2))],  # not measured; from the resource report
    80: [(96, tile(64, 16, 8, 2)), (128, tile(32, 16, 8, 2))],  # not measured; from the resource report
    90: [  # not measured; from the resource report; narrower than 64 without tensor cores
        (63, tile(128, 16, 8, 2)),
        (64, tile(128, 32, 8, 2)),
        (96, tile(128, 16, 8, 2)),
        (128, tile(64, 16, 8, 2)),
    ],
    100: [(96, tile(64, 16, 8, 2)), (128, tile(32, 16, 8, 2))],  # not measured; from the resource report
}
BACKWARD_KEYS_16: Table = {
    ANY: [(96, tile(128, 32, 8, 3)), (128, tile(64, 32, 8, 3))],  # not measured; from the resource report
    90: [(128, tile(128, 32, 8, 3))],  # not measured; from the resource report
}
BACKWARD_KEYS_32: Table = {
    ANY: [  # not measured; from the resource report
        (64, tile(32, 16, 4, 2)),
        (96, tile(32, 16, 8, 1)),
        (128, tile(32, 32, 8, 2)),
    ],
    90: [  # not measured; from the resource report; narrower than 64 without tensor cores
        (63, tile(128, 16, 8, 2)),
        (64, tile(128, 32, 8, 2)),
        (96, tile(128, 16, 8, 2)),
        (128, tile(64, 16, 8, 2)),
    ],
    100: [(64, tile(64, 32, 8, 2)), (128, tile(32, 16, 8, 1))],  # not measured; from the resource report
}

# The last block asks for the class token alone: one tile of 16 queries, bound by reading keys and values once.
FEW_QUERIES = 16
# Heads of float32 with fewer keys take these small tiles as well (`sums_few_keys`).
FEW_KEYS = 64
FEW_FORWARD: Table = {ANY: [(128, tile(16, 32, 4, 2))]}  # not measured; from the resource report
FEW_BACKWARD_QUERIES: Table = {ANY: [(128, tile(16, 32, 4, 2))]}  # not measured; from the resource report
FEW_BACKWARD_KEYS: Table = {ANY: [(128, tile(32, 16, 4, 1))]}  # not measured; from the resource report


def forward(q: torch.Tensor, k: torch.Tensor, architecture: int, capture: bool) -> Config:
    """Return the config of the forward kernel."""
    return _choose(FORWARD_16_CAPTURE if capture else FORWARD_16, FORWARD_32, FEW_FORWARD, q, k, architecture)


def halves_head(q: torch.Tensor, architecture: int, capture: bool) -> bool:
    """Return whether forward takes a head of 32, 64 or 128 columns as two halves, whose products are one sum.

    Where a product feeds another one, Triton gives each warp of sm_80 whole rows of both. It looks along the uses of
    the first (`AccelerateMatmul.cpp`), and the branch that masks the last keys ends its view; the second product of the
    same sum comes before that. Unsplit, probabilities cross shared memory: 4.78 M warp instructions for one clip of
    7 x 362 tokens, 8 heads of 64 columns, instead of 3.78 M (and 3.45 M with 4 warps). With a capture it would spill.
    """
    return q.element_size() == 2 and q.shape[2] > FEW_QUERIES and architecture in (80, 89) and not capture


def backward(q: torch.Tensor, k: torch.Tensor, architecture: int) -> Config | None:
    """Return the config of the kernel that gives all gradients in one pass, or None where two passes are taken.

    One pass executes three fifths of the instructions of two, but in a program a head instead of one a tile of keys
    (`python -m bench count`). While each program of two passes has a multiprocessor to itself they are done sooner.
    """
    if q.element_size() == 4 or q.shape[2] <= FEW_QUERIES:
        return None
    config = choose(BACKWARD_16, architecture, k.shape[-1])
    clips, frames, positions, heads, _ = k.shape
    if config is None:
        return None
    programs = clips * frames * heads * triton.cdiv(positions, config.kwargs["BLOCK_M"])
    return config if programs > MULTIPROCESSORS.get(architecture, 0) else None


def backward_queries(q: torch.Tensor, k: torch.Tensor, architecture: int, capture: bool) -> Config:
    """Return the config of the kernel that gives dq, and with a capture the gradient of the attention matrix."""
    half = BACKWARD_QUERIES_16_CAPTURE if capture else BACKWARD_QUERIES_16
    return _choose(half, BACKWARD_QUERIES_32, FEW_BACKWARD_QUERIES, q, k, architecture)


def backward_keys(q: torch.Tensor, k: torch.Tensor, architecture: int) -> Config:
    """Return the config of the kernel that gives dk and dv."""
    return _choose(BACKWARD_KEYS_16, BACKWARD_KEYS_32, FEW_BACKWARD_KEYS, q, k, architecture)


def backward_values(k: torch.Tensor, architecture: int) -> Config:
    """Return the config of the kernel that gives dv where the one pass leaves it (`leaves_values`)."""
    return choose(BACKWARD_VALUES_16, architecture, k.shape[-1])


def _choose(half: Table, single: Table, few: Table, q: torch.Tensor, k: torch.Tensor, architecture: int) -> Config:
    table = single if q.element_size() == 4 else half
    table = few if q.shape[2] <= FEW_QUERIES or sums_few_keys(k) else table
    return choose(table, architecture, k.shape[-1])


def sums_few_keys(k: torch.Tensor) -> bool:
    """Return whether float32 products are plain multiply-adds: sums over so few keys do not hide what tf32x3 loses.

    The gradients of 17 queries and 33 keys of 91 columns were 1.57 times as far off as eager's on sm_80, and are 1.14
    times so. Heads of more than 96 columns, whose sums hide more, would spill.
    """
    return k.element_size() == 4 and k.shape[2] < FEW_KEYS and NARROW_HEAD <= k.shape[-1] <= 96


def splits_keys(k: torch.Tensor) -> bool:
    """Return whether dk and dv are computed by a launch each: 8 products in all, against 7 in one launch.

    In float32 tensor cores take each operand as two tf32 parts; those of keys and values together spill registers.
    """
    return k.element_size() == 4 and k.shape[-1] > 64


def leaves_values(k: torch.Tensor) -> bool:
    """Return whether the one pass leaves dv to a launch of its own: 6 products in all, against 5 in one and 7 in two.

    The sums of dk and dv together spill registers where heads are wider than 64: 40 bytes at best on sm_90, 430 on
    sm_80. Of 64 keys sm_90 spills none, and takes 9.70 M instructions instead of 7.50 M.
    """
    return k.shape[-1] > 64
