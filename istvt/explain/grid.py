"""Registration of feature cells and pixels: heat on the grid to pixels, and relevance of pixels to the grid.

Cell j of the entry flow looks at pixel `16 j + 3` and not at the middle of an even division of the picture, because its
first convolutions have no padding.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from istvt.model.xception import XceptionEntryFlow


def upscale(heat: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bring heat on the feature grid to the pixels that the model sees, each cell to the middle of its receptive field.

    Between cells heat is bilinear; beyond the outermost ones it falls to 0 within the distance of two cells. A picture
    of another size takes the result resized (`heatmap.overlay` and `heatmap.paste` do it).

    Args:
        heat: [..., H, W].
        height, width: of the model's input.

    Returns:
        float32 [..., height, width].
    """
    *_, rows, columns = np.shape(heat)
    return _weights(height, rows) @ np.asarray(heat, np.float32) @ _weights(width, columns).T


def pool(relevance: Tensor, rows: int, columns: int) -> Tensor:
    """Sum relevance of pixels [..., height, width] over feature cells [..., rows, columns].

    Each pixel is divided among the cells around it by the weights with which `upscale` draws them, so that the sum
    stays the same.
    """
    height, width = relevance.shape[-2:]
    by_row, by_column = (
        torch.from_numpy(_shares(pixels, cells)).to(relevance) for pixels, cells in ((height, rows), (width, columns))
    )
    return by_row.T @ relevance @ by_column


def _weights(pixels: int, cells: int) -> np.ndarray:
    """Return the share of each cell in each pixel of one axis, float32 [pixels, cells]."""
    return np.maximum(1 - _distances(pixels, cells), 0).astype(np.float32)


def _shares(pixels: int, cells: int) -> np.ndarray:
    """Return the part of each pixel that each cell gets, float64 [pixels, cells], rows of sum 1."""
    distance = _distances(pixels, cells)
    weights = np.maximum(1 - distance, 0)
    # A pixel out of reach of all cells belongs to the nearest one.
    weights[~weights.any(1)] = np.eye(cells)[distance.argmin(1)][~weights.any(1)]
    return weights / weights.sum(1, keepdims=True)


def _distances(pixels: int, cells: int) -> np.ndarray:
    """Return the distance of each pixel to the middle of each cell, in cells."""
    return _entry_flow().cell_distances(pixels, cells).numpy()


@cache
def _entry_flow() -> XceptionEntryFlow:
    return XceptionEntryFlow((1, 1, 1, 1), 1)
