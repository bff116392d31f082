"""Launch settings of the spatial attention kernels, by width of the dtype, architecture and head dimension.

A tile is `rows` (what a program owns: queries, or keys in `BACKWARD_KEYS`) by `columns` (what it walks over).
128 rows halve how often keys and values are read from the second-level cache, which 64 rows would saturate.

No row has been measured yet. Each is the largest tile tried whose resource report (`python -m bench compile`) shows
no spilled register (a handful in float32 with heads wider than 64) and fits the shared memory of its chips: `ANY`
fits the 99 KiB of sm_89. `python -m bench spatial --tune` measures the candidates and prints rows to paste here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from kernels.common.launch import ANY, Table, TileSetting, choose

# Bound: head dimension. TileSetting(rows, num_warps, num_stages, columns).
FORWARD_16 = {
    ANY: [(128, TileSetting(128, 8, 3, 64))],  # not measured, from the resource report
    89: [(96, TileSetting(128, 8, 3, 64)), (128, TileSetting(128, 8, 2, 64))],  # not measured, resource report
    90: [  # not measured, from the resource report: at 128 registers two programs share a processor
        (64, TileSetting(128, 8, 3, 64)),
        (96, TileSetting(128, 8, 3, 64, max_registers=128)),
        (128, TileSetting(128, 8, 3, 64)),
    ],
    100: [  # not measured, from the resource report
        (64, TileSetting(128, 4, 3, 64)),
        (96, TileSetting(128, 8, 2, 64)),
        (128, TileSetting(128, 8, 3, 64)),
    ],
}
FORWARD_32 = {
    ANY: [(64, TileSetting(128, 8, 2, 32)), (128, TileSetting(64, 8, 2, 16))],  # not measured, resource report
    90: [(128, TileSetting(128, 8, 2, 32))],  # not measured, from the resource report
}
_AMPERE_QUERIES = [  # not measured, from the resource report
    (64, TileSetting(128, 8, 2, 64)),
    (96, TileSetting(128, 8, 3, 32)),
    (128, TileSetting(64, 4, 3, 32)),
]
BACKWARD_QUERIES_16 = {
    80: _AMPERE_QUERIES,
    89: _AMPERE_QUERIES,
    ANY: [(64, TileSetting(128, 8, 2, 64)), (128, TileSetting(128, 8, 3, 32))],  # not measured, resource report
}
BACKWARD_QUERIES_32 = {
    ANY: [(64, TileSetting(64, 8, 2, 16)), (128, TileSetting(32, 8, 2, 16))],  # not measured, resource report
    80: [(96, TileSetting(64, 8, 2, 16)), (128, TileSetting(32, 8, 2, 16))],  # not measured, resource report
    90: [  # not measured, from the resource report; narrower than 64 without tensor cores
        (63, TileSetting(128, 8, 2, 16)),
        (64, TileSetting(128, 8, 2, 32)),
        (96, TileSetting(128, 8, 2, 16)),
        (128, TileSetting(64, 8, 2, 16)),
    ],
    100: [(96, TileSetting(64, 8, 2, 16)), (128, TileSetting(32, 8, 2, 16))],  # not measured, resource report
}
BACKWARD_KEYS_16 = {
    ANY: [(96, TileSetting(128, 8, 3, 32)), (128, TileSetting(64, 8, 3, 32))],  # not measured, resource report
    90: [(128, TileSetting(128, 8, 3, 32))],  # not measured, from the resource report
}
BACKWARD_KEYS_32 = {
    ANY: [  # not measured, from the resource report
        (64, TileSetting(32, 4, 2, 16)),
        (96, TileSetting(32, 8, 1, 16)),
        (128, TileSetting(32, 8, 2, 32)),
    ],
    90: [  # not measured, from the resource report; narrower than 64 without tensor cores
        (63, TileSetting(128, 8, 2, 16)),
        (64, TileSetting(128, 8, 2, 32)),
        (96, TileSetting(128, 8, 2, 16)),
        (128, TileSetting(64, 8, 2, 16)),
    ],
    100: [(64, TileSetting(64, 8, 2, 32)), (128, TileSetting(32, 8, 1, 16))],  # not measured, resource report
}

# The last block asks for the class token alone: one tile of 16 queries, bound by reading keys and values once.
FEW_QUERIES = 16
FEW_FORWARD = {ANY: [(128, TileSetting(16, 4, 2, 32))]}  # not measured, from the resource report
FEW_BACKWARD_QUERIES = {ANY: [(128, TileSetting(16, 4, 2, 32))]}  # not measured, from the resource report
FEW_BACKWARD_KEYS = {ANY: [(128, TileSetting(32, 4, 1, 16))]}  # not measured, from the resource report


def _chooser(
    narrow: Table[TileSetting], wide: Table[TileSetting], few: Table[TileSetting]
) -> Callable[[torch.Tensor, torch.Tensor, int], TileSetting]:
    """What picks the setting for queries, keys and an architecture among the tables for 16 bits, 32 bits and few."""

    def choose_setting(q: torch.Tensor, k: torch.Tensor, architecture: int) -> TileSetting:
        table = few if q.shape[2] <= FEW_QUERIES else wide if q.element_size() == 4 else narrow
        return choose(table, architecture, k.shape[-1])

    return choose_setting


forward = _chooser(FORWARD_16, FORWARD_32, FEW_FORWARD)
backward_queries = _chooser(BACKWARD_QUERIES_16, BACKWARD_QUERIES_32, FEW_BACKWARD_QUERIES)
backward_keys = _chooser(BACKWARD_KEYS_16, BACKWARD_KEYS_32, FEW_BACKWARD_KEYS)


def splits_keys(k: torch.Tensor) -> bool:
    """Whether the gradients of keys and values take a launch each: 8 products in all, where one launch makes it 7.

    In float32 tensor cores want every operand as two tf32 parts; those of keys and values together spill registers.
    """
    return k.element_size() == 4 and k.shape[-1] > 64
