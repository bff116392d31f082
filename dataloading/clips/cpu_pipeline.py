"""Crop, resize, augmentation and normalization of clips on a CPU: what DALI's graph does on a GPU.

A frame is resized by two products with banded matrices, along its rows and then along its columns. The filter is that
of the graph: triangular, as wide as an output pixel where the picture shrinks, and centered at the box's sub-pixel
places. Weights are multiples of 2^-16 and 2^-12, and what lies between the products is rounded to 1/16 of a gray level.
Every sum of a product is then exact in float32 in any order, so that a clip is the same with any number of threads, in
any batch and on any processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dataloading.clips.pipeline import MID_GRAY, UNCOMPRESSED, Draw, Sample
from dataloading.video.memory import ArrayPool

if TYPE_CHECKING:
    import torch

    # Output pixels, the input pixels that they read, and the matrix [outputs, inputs] between them.
    _Blocks = list[tuple[slice, slice, torch.Tensor]]

# float32 holds integers up to 2^24: 8 bits of a pixel and 16 of a weight, then 12 of a pixel and 12 of a weight.
_COLUMN_WEIGHT, _ROW_WEIGHT, _LEVEL = 1 << 16, 1 << 12, 1 << 4
_BLOCK = 32  # output pixels of a product
_STRIP = 1 << 18  # pixels that are converted to float at once
_NARROW = 1 << 22  # pixels that are resized along their rows before the products along columns


class CpuPipeline:
    """Decoded frames to clips on a CPU, as `dataloading.clips.pipeline.ClipGraph` does by DALI."""

    decodes = False

    def __init__(self, image_size: int, augment: bool, memory: ArrayPool | None = None) -> None:
        """`augment`: samples' draws are applied, otherwise ignored. `memory`: of the clips."""
        self._size, self._augments = image_size, augment
        self._buffers: dict[str, torch.Tensor] = {}
        self._memory = memory or ArrayPool(0)

    def run(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Return float32 [B, T, 3, image_size, image_size] in [-1, 1]."""
        import torch

        shape = len(samples), len(samples[0].data), 3, self._size, self._size
        clips = torch.from_numpy(self._memory.empty(shape, np.float32))
        levels = self._buffer("levels", torch.float32, 3, self._size, self._size)
        gray = self._buffer("gray", torch.float32, self._size, self._size)
        for sample, clip in zip(samples, clips, strict=True):
            draw = sample.draw if self._augments else Draw()
            compressed = draw.quality < UNCOMPRESSED
            height, width = sample.data.shape[1:3]
            x0, y0, x1, y1 = map(float, sample.box)
            columns, of_columns = _weights(x0, x1, width, self._size, _COLUMN_WEIGHT)
            rows, of_rows = _weights(y0, y1, height, self._size, _ROW_WEIGHT)
            if draw.flip and not compressed:  # the blocks of JPEG begin at the left of the picture that is not mirrored
                columns, of_columns = columns[::-1], of_columns[::-1]
            products = (
                _blocks(columns, of_columns * (_LEVEL / _COLUMN_WEIGHT)),
                _blocks(rows, of_rows * (1 / _LEVEL / _ROW_WEIGHT)),
            )
            for picture, frame in zip(sample.data, clip, strict=True):
                self._resize(picture, *products, levels)
                if not draw.changes_colors:
                    torch.sub(levels, MID_GRAY, out=frame).mul_(1 / MID_GRAY)
                else:
                    _change_colors(levels, draw, gray, frame)
                if compressed:
                    _compress(frame, draw)
        return clips

    def _resize(self, picture: np.ndarray, columns: _Blocks, rows: _Blocks, target: torch.Tensor) -> None:
        """Write a picture, uint8 [h, w, 3], resized to gray levels, float32 [3, size, size]."""
        import torch

        height, width = picture.shape[:2]
        step, group = max(_STRIP // width, 1), max(_NARROW // (height * _BLOCK), 1)
        for some in (columns[i : i + group] for i in range(0, len(columns), group)):  # all, but in very high pictures
            left, right = some[0][0].start, some[-1][0].stop
            narrow = self._buffer("narrow", torch.float32, 3, height, right - left)
            for top in range(0, height, step):
                strip = picture[top : top + step]
                planes = self._buffer("planes", torch.uint8, 3, *strip.shape[:2])
                cv2.split(strip, list(planes.numpy()))
                wide = self._buffer("wide", torch.float32, *planes.shape).copy_(planes)
                for part, reach, matrix in some:
                    place = narrow[:, top : top + step, part.start - left : part.stop - left]
                    torch.bmm(wide[..., reach], matrix.T.expand(3, -1, -1), out=place)
            narrow.round_()
            for part, reach, matrix in rows:
                torch.bmm(matrix.expand(3, -1, -1), narrow[:, reach], out=target[:, part, left:right])

    def _buffer(self, name: str, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """Return memory for a tensor, that of the last call with this name where it was large enough."""
        import torch

        count = int(np.prod(shape))
        if name not in self._buffers or self._buffers[name].numel() < count:
            self._buffers[name] = torch.empty(count, dtype=dtype)
        return self._buffers[name][:count].view(shape)


def _weights(start: float, end: float, length: int, size: int, unit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how pixels of an axis make up those of its part [start, end] resized to `size`, with antialiasing.

    Pixel `i` is the mean of the pixels `k` around `start + (i + 1/2) s - 1/2` with `s = (end - start) / size`, weighted
    by a triangle that is 0 at a distance of `max(s, 1)`. Beyond its ends the axis is continued by its first and its
    last pixel.

    Returns:
        The places of the pixels in the axis, int64 [size, n], and their weights, float32 [size, n], whole numbers whose
        sum is `unit` in each row.
    """
    scale = (end - start) / size
    radius = max(scale, 1.0)
    centers = start + (np.arange(size) + 0.5) * scale - 0.5
    first = np.floor(centers - radius).astype(np.int64) + 1
    places = first[:, None] + np.arange(int(np.ceil(2 * radius)))
    triangle = np.maximum(1 - np.abs(places - centers[:, None]) / radius, 0)
    exact = triangle * (unit / triangle.sum(axis=1, keepdims=True))
    whole = np.floor(exact)
    missing = np.rint(unit - whole.sum(axis=1, keepdims=True))  # goes to those that lost the most by rounding
    whole += np.argsort(np.argsort(whole - exact, axis=1, kind="stable"), axis=1) < missing
    return places.clip(0, length - 1), whole.astype(np.float32)


def _blocks(places: np.ndarray, weights: np.ndarray) -> _Blocks:
    """Return the parts of the banded matrix of an axis outside which it is 0."""
    import torch

    parts = []
    for begin in range(0, len(places), _BLOCK):
        at, of_block = places[begin : begin + _BLOCK], weights[begin : begin + _BLOCK]
        first, last = int(at[:, 0].min()), int(at[:, -1].max()) + 1
        matrix, rows = np.zeros((len(at), last - first), np.float32), np.arange(len(at))
        for column, of_column in zip(at.T - first, of_block.T, strict=True):
            matrix[rows, column] += of_column
        parts.append((slice(begin, begin + len(at)), slice(first, last), torch.from_numpy(matrix)))
    return parts


def _change_colors(levels: torch.Tensor, draw: Draw, gray: torch.Tensor, target: torch.Tensor) -> None:
    """Write gray levels [3, H, W] with the colors of a draw, in [-1, 1]; `gray` is memory for [H, W].

    The matrix of `Draw.colors` is a multiple of the identity and one of each color's gray.
    """
    import torch

    matrix, offset = draw.colors()
    red, green, blue = (float(matrix[row, column]) for row, column in ((1, 0), (0, 1), (0, 2)))
    own = float(matrix[0, 0]) - red
    constant = torch.tensor(offset - own - red - green - blue)
    torch.add(constant, levels[0], alpha=red / MID_GRAY, out=gray)
    gray.add_(levels[1], alpha=green / MID_GRAY).add_(levels[2], alpha=blue / MID_GRAY)
    torch.add(gray, levels, alpha=own / MID_GRAY, out=target).clamp_(-1, 1)


def _compress(frame: torch.Tensor, draw: Draw) -> None:
    """Round a frame in [-1, 1], [3, H, W], to gray levels, and compress and mirror it as drawn, in place."""
    import torch

    planes = ((frame + 1) * MID_GRAY).round_().to(torch.uint8).numpy()
    _, data = cv2.imencode(".jpg", cv2.merge(list(planes[::-1])), [cv2.IMWRITE_JPEG_QUALITY, draw.quality])
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    for plane, channel in zip(cv2.split(cv2.flip(picture, 1) if draw.flip else picture), frame, strict=True):
        torch.sub(torch.from_numpy(plane), MID_GRAY, out=channel).mul_(1 / MID_GRAY)
