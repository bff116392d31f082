"""Peak memory of spatial attention against the number of positions S: as S without a capture, as S squared with one.

On a GPU it is what PyTorch's allocator counts. Without a GPU the same kernels run in Triton's interpreter, and what is
counted is every tensor that PyTorch allocates meanwhile: the ones that a GPU would be asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench.common.exponent import fit_exponent, interval
from bench.common.record import Row, write_as_measured, write_table
from bench.common.table import Column, row_table
from bench.common.timing import peak_bytes
from kernels import AttentionCapture, spatial_attention

WITHOUT, WITH = "without a capture", "with a capture"


class Sizes(NamedTuple):
    """Queries, keys and values `[1, rows, S, heads, head_dim]` for each S of `positions`."""

    positions: tuple[int, ...]
    rows: int
    heads: int
    head_dim: int
    dtype: str


# A program of the interpreter takes tens of milliseconds.
IN_THE_INTERPRETER = Sizes((64, 128, 256, 512, 1024), rows=1, heads=1, head_dim=16, dtype="float16")
ON_GPU = Sizes((65, 129, 257, 513, 1025, 2049, 4097), rows=7, heads=8, head_dim=64, dtype="bfloat16")

COLUMNS = (
    Column("S", "positions"), *map(Column, ("capture", "dtype", "rows", "heads")), Column("D", "head_dim"),
    Column("peak KiB", "peak_bytes", ".1f", 2**10),
)  # fmt: skip


def write(folder: Path, device: str) -> None:
    """Measure and fit; write spatial_memory.csv and spatial_memory_exponents.csv, and print both."""
    sizes = ON_GPU if device == "cuda" else IN_THE_INTERPRETER
    rows = write_as_measured(folder, "spatial_memory", measure(sizes, device))
    fitted = exponents(rows)
    write_table(folder, "spatial_memory_exponents", fitted)
    print(row_table(COLUMNS, rows))
    for row in fitted:
        print(f"{row['capture']}: grows as S to the {interval(row)}")


def measure(sizes: Sizes, device: str) -> Iterator[Row]:
    """Yield the peak of a forward and a backward pass beyond their inputs, without a capture and with one."""

    def call(kind: str, leaves: list[Tensor], grad_out: Tensor) -> object:
        capture = AttentionCapture() if kind == WITH else None
        return torch.autograd.grad(spatial_attention(*leaves, capture=capture), leaves, grad_out), capture

    for positions in sizes.positions:
        shape = (4, 1, sizes.rows, positions, sizes.heads, sizes.head_dim)
        *leaves, grad_out = torch.randn(shape).to(device, getattr(torch, sizes.dtype)).unbind(0)
        leaves = [x.requires_grad_() for x in leaves]
        for kind in (WITHOUT, WITH):
            given = partial(call, kind, leaves, grad_out)
            if device == "cuda":
                given()  # compiles
            yield {
                "positions": positions, "capture": kind, "dtype": sizes.dtype, "clips": 1, "rows": sizes.rows,
                "heads": sizes.heads, "head_dim": sizes.head_dim, "peak_bytes": peak_bytes(given, device),
            }  # fmt: skip


def exponents(rows: list[Row]) -> list[Row]:
    """Fit the growth with S over the larger half of the sizes."""
    fitted = []
    for capture in (WITHOUT, WITH):
        points = [row for row in rows if row["capture"] == capture]
        points = points[(len(points) - 1) // 2 :]
        fit = fit_exponent([row["positions"] for row in points], [row["peak_bytes"] for row in points])
        fitted.append({"capture": capture} | fit)
    return fitted
