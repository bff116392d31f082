"""Launch settings of the spatial attention kernels, by width of the dtype, architecture and head dimension."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.launch import ANY, Setting, choose


@dataclass(frozen=True)
class TileSetting(Setting):
    """A tile of ``rows`` (what a program owns) by ``columns`` (what it walks over, a tile at a time)."""

    columns: int = 64


# A last block asks for the class token alone: larger query tiles would be padding.
FEW_QUERIES = 16

Table = dict[int | str, list[tuple[int, TileSetting]]]

FORWARD_16: Table = {
    ANY: [
        (64, TileSetting(128, 8, 3, 64)),
        (96, TileSetting(128, 8, 3, 64)),
        (128, TileSetting(128, 8, 3, 64)),
    ],
}
FORWARD_32: Table = {
    ANY: [
        (64, TileSetting(64, 8, 2, 32)),
        (96, TileSetting(64, 8, 2, 32)),
        (128, TileSetting(64, 8, 2, 32)),
    ],
}
BACKWARD_QUERIES_16: Table = {
    ANY: [
        (64, TileSetting(128, 8, 2, 64)),
        (96, TileSetting(128, 8, 2, 64)),
        (128, TileSetting(128, 8, 2, 64)),
    ],
}
BACKWARD_QUERIES_32: Table = {
    ANY: [
        (64, TileSetting(64, 8, 2, 32)),
        (96, TileSetting(64, 8, 2, 32)),
        (128, TileSetting(64, 8, 2, 32)),
    ],
}
BACKWARD_KEYS_16: Table = {
    ANY: [
        (64, TileSetting(64, 8, 2, 64)),
        (96, TileSetting(64, 8, 2, 64)),
        (128, TileSetting(64, 8, 2, 64)),
    ],
}
BACKWARD_KEYS_32: Table = {
    ANY: [
        (64, TileSetting(32, 8, 2, 32)),
        (96, TileSetting(32, 8, 2, 32)),
        (128, TileSetting(32, 8, 2, 32)),
    ],
}


# One query tile of 16 rows: bound by reading keys and values once.
FEW_FORWARD_16: Table = {ANY: [(128, TileSetting(16, 4, 2, 64))]}
FEW_FORWARD_32: Table = {ANY: [(128, TileSetting(16, 4, 2, 32))]}
FEW_BACKWARD_QUERIES_16: Table = {ANY: [(128, TileSetting(16, 4, 2, 64))]}
FEW_BACKWARD_QUERIES_32: Table = {ANY: [(128, TileSetting(16, 4, 2, 32))]}
FEW_BACKWARD_KEYS_16: Table = {ANY: [(128, TileSetting(64, 4, 1, 16))]}
FEW_BACKWARD_KEYS_32: Table = {ANY: [(128, TileSetting(32, 4, 1, 16))]}


def _select(narrow: Table, wide: Table, few_narrow: Table, few_wide: Table):
    """The function that chooses among four tables: 16-bit or float32, many queries or few."""

    def choose_for(q: torch.Tensor, k: torch.Tensor, architecture: int) -> TileSetting:
        tables = (few_narrow, few_wide) if q.shape[2] <= FEW_QUERIES else (narrow, wide)
        return choose(tables[q.element_size() == 4], architecture, k.shape[-1])

    return choose_for


forward = _select(FORWARD_16, FORWARD_32, FEW_FORWARD_16, FEW_FORWARD_32)
backward_queries = _select(BACKWARD_QUERIES_16, BACKWARD_QUERIES_32, FEW_BACKWARD_QUERIES_16, FEW_BACKWARD_QUERIES_32)
backward_keys = _select(BACKWARD_KEYS_16, BACKWARD_KEYS_32, FEW_BACKWARD_KEYS_16, FEW_BACKWARD_KEYS_32)
