"""What spatial attention is measured on: its shapes, and the tensors of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from bench.common.record import Row

HEADS = 8


@dataclass(frozen=True)
class Shape:
    """`rows` frame rows of `positions` each; joint attention is one row that holds every token of a clip."""

    attention: str
    clips: int
    rows: int
    positions: int


def spatial(clips: int, cells: int, frames: int = 6) -> Shape:
    """Spatial attention over a grid of `cells` = H * W and a class token, in each frame row of `clips` clips."""
    return Shape("spatial", clips, frames + 1, cells + 1)


def joint(clips: int, cells: int, frames: int = 6) -> Shape:
    """Joint attention over all `(T + 1) (H W + 1)` tokens."""
    return Shape("joint", clips, 1, (frames + 1) * (cells + 1))


PAPER = spatial(8, 361)
SHAPES = [
    PAPER, spatial(1, 361), spatial(32, 361),
    *(spatial(8, cells) for cells in (49, 100, 196, 576, 1024)), spatial(2, 2304), spatial(1, 4096),
    joint(1, 361),
]  # fmt: skip
QUICK_SHAPES = [PAPER, spatial(1, 361)]


def described(shape: Shape, head_dim: int, dtype: torch.dtype) -> Row:
    """The columns of every row that say what was measured."""
    return {
        "attention": shape.attention, "dtype": str(dtype).removeprefix("torch."), "clips": shape.clips,
        "rows": shape.rows, "positions": shape.positions, "heads": HEADS, "head_dim": head_dim,
    }  # fmt: skip


def inputs(shape: Shape, width: int, dtype: torch.dtype, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A packed projection [B, F, S, 3, N, width], and the gradient of the output [B, F, S, N, width]."""
    import torch

    torch.manual_seed(0)
    size = (shape.clips, shape.rows, shape.positions)
    qkv = torch.randn(*size, 3, HEADS, width, device=device).to(dtype)
    return qkv, torch.randn(*size, HEADS, width, device=device).to(dtype)
