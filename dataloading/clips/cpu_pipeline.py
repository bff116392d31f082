"""Crop, resize, augmentation and normalization of clips on a CPU: what DALI's graph does on a GPU.

A frame is resized by two products with banded matrices, along its rows and then along its columns. The filter is that
of the graph: triangular, as wide as an output pixel where the picture shrinks, and centered at the box's sub-pixel
places. Weights are multiples of 2^-16. Every sum of the first product, in float32, and of the second, in float64, is
exact then, in any order: a resized picture is the same with any number of threads, in any batch and on any processor.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dataloading.clips.pipeline import MID_GRAY, UNCOMPRESSED, Draw, Sample

if TYPE_CHECKING:
    import torch

    # Output pixels, the input pixels that they read, and the matrix [outputs, inputs] between them.
    _Blocks = list[tuple[slice, slice, torch.Tensor]]
    _Products = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]  # two factors, and where their product goes
    # Rows of a picture with memory for their planes in uint8 and float32, and the products that write their part of the
    # next tensor; that tensor, and memory for it in float64; the products that write the next tensor; and that, with
    # the part of the resized picture that it is.
    _Strip = tuple[slice, torch.Tensor, torch.Tensor, _Products]
    _Step = tuple[list[_Strip], torch.Tensor, torch.Tensor, _Products, torch.Tensor, torch.Tensor]

_WEIGHT = 1 << 16  # float32 holds integers up to 2^24: 8 bits of a pixel and 16 of a weight; float64 16 more
_BLOCK = 32  # output pixels of a product
_STRIP = 1 << 18  # pixels that are converted to float at once
_NARROW = 1 << 20  # pixels that are resized along their rows before the products along columns


class BatchMemory:
    """Memory of batches that is used again once they are gone.

    A batch of 8 clips is 52 MB. The C library gives so much back to the system at once, whose new pages are filled with
    zeros: that takes half as long as resizing the frames.
    """

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []

    def empty(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a tensor of float32 with any content."""
        import torch

        count = math.prod(shape)
        try:
            memory = self._free.pop()
        except IndexError:
            memory = None
        if memory is None or len(memory) < 4 * count:
            memory = mmap.mmap(-1, max(4 * count, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                with contextlib.suppress(OSError):  # a kernel without huge pages, which are filled in half the time
                    memory.madvise(mmap.MADV_HUGEPAGE)
        array = np.frombuffer(memory, np.float32, count)
        # Whatever shows a part of the batch holds this array, in whose place no other can be: its memory is not an
        # array's. There are as many memories as there were batches at the same time.
        weakref.finalize(array, self._free.append, memory).atexit = False
        return torch.from_numpy(array).view(shape)


class CpuPipeline:
    """Decoded frames to clips on a CPU, as `dataloading.clips.pipeline.ClipGraph` does by DALI."""

    decodes = False

    def __init__(self, image_size: int, augment: bool, memory: BatchMemory | None = None) -> None:
        """`augment`: samples' draws are applied, otherwise ignored. `memory`: of the clips."""
        self._size, self._augments = image_size, augment
        self._buffers: dict[str, torch.Tensor] = {}
        self._memory = memory or BatchMemory()

    def run(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Return float32 [B, T, 3, image_size, image_size] in [-1, 1]."""
        import torch

        shape = len(samples), len(samples[0].data), 3, self._size, self._size
        clips = self._memory.empty(shape)
        levels = self._buffer("levels", torch.float32, 3, self._size, self._size)
        gray = self._buffer("gray", torch.float32, self._size, self._size)
        for sample, clip in zip(samples, clips, strict=True):
            draw = sample.draw if self._augments else Draw()
            compressed, steps = draw.quality < UNCOMPRESSED, self._steps(sample, draw, levels)
            colors = _constants(draw) if draw.changes_colors else None
            for picture, frame in zip(sample.data, clip, strict=True):
                _resize(picture, steps)
                if colors is None:
                    torch.sub(levels, MID_GRAY, out=frame).mul_(1 / MID_GRAY)
                else:
                    _change_colors(levels, *colors, gray, frame)
                if compressed:
                    _compress(frame, draw)
        return clips

    def _steps(self, sample: Sample, draw: Draw, target: torch.Tensor) -> list[_Step]:
        """Return how `_resize` writes the frames of a clip to `target`, float32 [3, size, size].

        There is one step, but for very large pictures. All views of memory are made here, once a clip: made for each
        frame they took a quarter of the time.
        """
        import torch

        height, width = sample.data.shape[1:3]
        x0, y0, x1, y1 = map(float, sample.box)
        columns, of_columns = _weights(x0, x1, width, self._size)
        rows, of_rows = _weights(y0, y1, height, self._size)
        if draw.flip and draw.quality == UNCOMPRESSED:  # JPEG's blocks begin at the left of the picture as it was
            columns, of_columns = columns[::-1], of_columns[::-1]
        across = _blocks(columns, of_columns * np.float32(1 / _WEIGHT))
        down = _blocks(rows, of_rows.astype(np.float64) / _WEIGHT)
        steps, group, count = [], max(_NARROW // (height * _BLOCK), 1), min(max(_STRIP // width, 1), height)
        for some in (across[i : i + group] for i in range(0, len(across), group)):
            left, right = some[0][0].start, some[-1][0].stop
            narrow = self._buffer("narrow", torch.float32, 3, height, right - left)
            exact = self._buffer("exact", torch.float64, *narrow.shape)
            resized = self._buffer("resized", torch.float64, 3, self._size, right - left)
            strips = []
            for top in range(0, height, count):
                strip = slice(top, min(top + count, height))
                planes = self._buffer("planes", torch.uint8, 3, strip.stop - top, width)
                wide, part_of = self._buffer("wide", torch.float32, *planes.shape), narrow[:, strip]
                products = [
                    (wide[..., reach], matrix.T.expand(3, -1, -1), part_of[..., part.start - left : part.stop - left])
                    for part, reach, matrix in some
                ]
                strips.append((strip, planes, wide, products))
            products = [(matrix.expand(3, -1, -1), exact[:, reach], resized[:, part]) for part, reach, matrix in down]
            steps.append((strips, narrow, exact, products, resized, target[..., left:right]))
        return steps

    def _buffer(self, name: str, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """Return memory for a tensor, that of the last call with this name where it was large enough."""
        import torch

        count = int(np.prod(shape))
        if name not in self._buffers or self._buffers[name].numel() < count:
            self._buffers[name] = torch.empty(count, dtype=dtype)
        return self._buffers[name][:count].view(shape)


def _weights(start: float, end: float, length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how pixels of an axis make up those of its part [start, end] resized to `size`, with antialiasing.

    Pixel `i` is the mean of the pixels `k` around `start + (i + 1/2) s - 1/2` with `s = (end - start) / size`, weighted
    by a triangle that is 0 at a distance of `max(s, 1)`. Beyond its ends the axis is continued by its first and its
    last pixel.

    Returns:
        The places of the pixels in the axis, int64 [size, n], and their weights, float32 [size, n], whole numbers whose
        sum is `_WEIGHT` in each row.
    """
    scale = (end - start) / size
    radius = max(scale, 1.0)
    centers = start + (np.arange(size) + 0.5) * scale - 0.5
    first = np.floor(centers - radius).astype(np.int64) + 1
    places = first[:, None] + np.arange(int(np.ceil(2 * radius)))
    triangle = np.maximum(1 - np.abs(places - centers[:, None]) / radius, 0)
    exact = triangle * (_WEIGHT / triangle.sum(axis=1, keepdims=True))
    whole = np.floor(exact)
    missing = np.rint(_WEIGHT - whole.sum(axis=1, keepdims=True))  # goes to those that lost the most by rounding
    whole += np.argsort(np.argsort(whole - exact, axis=1, kind="stable"), axis=1) < missing
    return places.clip(0, length - 1), whole.astype(np.float32)


def _blocks(places: np.ndarray, weights: np.ndarray) -> _Blocks:
    """Return the parts of the banded matrix of an axis outside which it is 0."""
    import torch

    parts = []
    for begin in range(0, len(places), _BLOCK):
        at, of_block = places[begin : begin + _BLOCK], weights[begin : begin + _BLOCK]
        first, last = int(at[:, 0].min()), int(at[:, -1].max()) + 1
        matrix, rows = np.zeros((len(at), last - first), weights.dtype), np.arange(len(at))
        for column, of_column in zip(at.T - first, of_block.T, strict=True):
            matrix[rows, column] += of_column
        parts.append((slice(begin, begin + len(at)), slice(first, last), torch.from_numpy(matrix)))
    return parts


def _resize(picture: np.ndarray, steps: list[_Step]) -> None:
    """Write a picture, uint8 [h, w, 3], resized to gray levels, where `CpuPipeline._steps` says."""
    import torch

    for strips, narrow, exact, down, resized, target in steps:
        for strip, planes, wide, across in strips:
            cv2.split(picture[strip], list(planes.numpy()))
            wide.copy_(planes)
            for pixels, weights, place in across:
                torch.bmm(pixels, weights, out=place)
        exact.copy_(narrow)
        for weights, pixels, place in down:
            torch.bmm(weights, pixels, out=place)
        target.copy_(resized)


def _constants(draw: Draw) -> tuple[torch.Tensor, list[float], float]:
    """Return a constant and the factors of red, green and blue, and of the channel itself, in a change of colors.

    The matrix of `Draw.colors` is a multiple of the identity and one of each color's gray.
    """
    import torch

    matrix, offset = draw.colors()
    of_gray = [float(matrix[row, column]) for row, column in ((1, 0), (0, 1), (0, 2))]
    own = float(matrix[0, 0]) - of_gray[0]
    constant = torch.tensor(offset - own - sum(of_gray))
    return constant, [factor / MID_GRAY for factor in of_gray], own / MID_GRAY


def _change_colors(
    levels: torch.Tensor,
    constant: torch.Tensor,
    of_gray: list[float],
    own: float,
    gray: torch.Tensor,
    target: torch.Tensor,
) -> None:
    """Write gray levels [3, H, W] with other colors, in [-1, 1]; `gray` is memory for [H, W]."""
    import torch

    red, green, blue = levels
    torch.add(constant, red, alpha=of_gray[0], out=gray)
    gray.add_(green, alpha=of_gray[1]).add_(blue, alpha=of_gray[2])
    torch.add(gray, levels, alpha=own, out=target).clamp_(-1, 1)


def _compress(frame: torch.Tensor, draw: Draw) -> None:
    """Round a frame in [-1, 1], [3, H, W], to gray levels, and compress and mirror it as drawn, in place."""
    import torch

    planes = ((frame + 1) * MID_GRAY).round_().to(torch.uint8).numpy()
    _, data = cv2.imencode(".jpg", cv2.merge(list(planes[::-1])), [cv2.IMWRITE_JPEG_QUALITY, draw.quality])
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    for plane, channel in zip(cv2.split(cv2.flip(picture, 1) if draw.flip else picture), frame, strict=True):
        torch.sub(torch.from_numpy(plane), MID_GRAY, out=channel).mul_(1 / MID_GRAY)
