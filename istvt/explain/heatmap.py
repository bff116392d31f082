"""Heatmaps on pictures: scale, size, colors, overlay, and the crop of a frame.

The color map is inferno: its lightness rises evenly, so hot stays brighter than cold in grayscale and for every kind
of color blindness. The picture under it is grayed and dimmed, so that a bright or red face is not taken for heat.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np

from dataloading.errors import InputError
from istvt.config import NORMALIZATIONS, Normalization
from istvt.explain.grid import upscale

__all__ = ["at_pixels", "colorize", "crop", "normalize", "outline", "overlay", "paste", "smooth", "upscale"]

Box = tuple[float, float, float, float]

COLOR_MAP = "inferno"
_SHRINK_FROM = 8  # pixels of a frame for one of a crop: above, the frame is averaged first
_SMOOTHING = 0.015  # deviation of the blur of pixels, of the side of the picture
_MARK, _TINT = (0, 229, 255), 0.3  # of a mask: cyan, which the color map does not hold
_DIM = 0.65  # of the grayed picture: less than the slope of the colors' lightness, so that more heat is never darker


def normalize(heat: np.ndarray, per: Normalization = "clip") -> np.ndarray:
    """Scale heat to 0..1, lowest to highest, however near they are: a nearly even map gets full contrast too.

    Args:
        heat: [T, H, W], any scale.
        per: "clip": one scale for all frames, which keeps them comparable; "frame": each frame has its own, which
            shows where the heat of a quiet frame is.

    Returns:
        float32 [T, H, W]; zeros where all heat is equal (with one block all spatial heat is zero).

    Raises:
        InputError: `per` is unknown, or heat is not finite.
    """
    if per not in NORMALIZATIONS:
        raise InputError(f"normalization is {per!r}; expected one of {', '.join(NORMALIZATIONS)}")
    heat = np.asarray(heat, np.float64)
    if not np.isfinite(heat).all():
        raise InputError("heat holds values that are not finite; expected a map of finite relevance")
    axes = (0, 1, 2) if per == "clip" else (1, 2)
    low, high = heat.min(axes, keepdims=True), heat.max(axes, keepdims=True)
    span = high - low
    return np.divide(heat - low, span, out=np.zeros_like(heat), where=span > 0).astype(np.float32)


def at_pixels(heat: np.ndarray, size: int) -> np.ndarray:
    """Return heat [..., H, W] over the model's input [..., size, size]: as it is, where it has a value a pixel."""
    return heat if heat.shape[-2:] == (size, size) else upscale(heat, size, size)


def smooth(relevance: np.ndarray) -> np.ndarray:
    """Return relevance of pixels as heat to look at: blurred by a Gaussian of 1.5 % of its side, positive part.

    Single pixels differ wildly from their neighbors; their sum over a spot is what means something.

    Args:
        relevance: [T, h, w].

    Returns:
        float32 [T, h, w].
    """
    sigma = max(relevance.shape[1:]) * _SMOOTHING
    blurred = [cv2.GaussianBlur(np.asarray(one, np.float32), (0, 0), sigma) for one in relevance]
    return np.maximum(np.stack(blurred), 0)


def colorize(heat: np.ndarray) -> np.ndarray:
    """Turn heat [...] in 0..1 into colors uint8 [..., 3] RGB."""
    return _color_table()[np.clip(np.rint(np.asarray(heat) * 255), 0, 255).astype(np.uint8)]


def overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay heat over a picture.

    Args:
        picture: uint8 [h, w, 3] RGB.
        heat: [h', w'] in 0..1 over the same picture, from `upscale`.

    Returns:
        uint8 [h, w, 3].
    """
    height, width = picture.shape[:2]
    heat = np.clip(_resized(heat, height, width), 0, 1)
    gray = _DIM * (1 - heat) * cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.clip(np.rint(gray[..., None] + colorize(heat)), 0, 255).astype(np.uint8)


def outline(picture: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Mark the pixels of a picture that are called forged: tinted, with a line around them.

    The picture keeps its colors, so that a mask cannot be taken for heat.

    Args:
        picture: uint8 [h, w, 3] RGB.
        probability: [h', w'] of each pixel of being forged, over the same picture.

    Returns:
        uint8 [h, w, 3].
    """
    forged = (_resized(probability, *picture.shape[:2]) >= 0.5).astype(np.uint8)
    marked = np.where(forged[..., None] > 0, picture * (1 - _TINT) + _TINT * np.array(_MARK), picture)
    marked = np.clip(np.rint(marked), 0, 255).astype(np.uint8)
    contours, _ = cv2.findContours(forged, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.ascontiguousarray(marked), contours, -1, _MARK, max(1, picture.shape[0] // 140))


def paste(
    frame: np.ndarray, heat: np.ndarray, box: Box, draw: Callable[[np.ndarray, np.ndarray], np.ndarray] = overlay
) -> np.ndarray:
    """Lay heat over the part of a whole frame that was cropped.

    Args:
        frame: uint8 [h, w, 3] RGB, not changed.
        heat: [h', w'] in 0..1 over `box`, from `upscale`.
        box: x0, y0, x1, y1 in pixels; it may reach beyond the frame.
        draw: `overlay`, or `outline` of a mask.

    Returns:
        uint8 [h, w, 3]: as the frame outside the box, overlaid inside it.
    """
    height, width = frame.shape[:2]
    x0, y0, x1, y1 = (round(value) for value in box)
    inside = slice(max(y0, 0), max(min(y1, height), 0)), slice(max(x0, 0), max(min(x1, width), 0))
    result = frame.copy()
    if result[inside].size:
        large = _resized(heat, max(y1 - y0, 1), max(x1 - x0, 1))
        part = large[inside[0].start - y0 : inside[0].stop - y0, inside[1].start - x0 : inside[1].stop - x0]
        result[inside] = draw(frame[inside], part)
    return result


def crop(frame: np.ndarray, box: Box, size: int | tuple[int, int], border: int = cv2.BORDER_REPLICATE) -> np.ndarray:
    """Cut the `box` out of a frame; beyond the frame its border is repeated, as for the model.

    Args:
        frame: uint8 [h, w, 3] or [h, w].
        box: x0, y0, x1, y1 in pixels.
        size: side of the result, or its (height, width).
        border: what lies beyond the frame, one of OpenCV's border types.
    """
    height, width = (size, size) if isinstance(size, int) else size
    frame, (x0, y0, x1, y1) = _window(frame, box, max((box[2] - box[0]) / width, (box[3] - box[1]) / height))
    scale_x, scale_y = (x1 - x0) / width, (y1 - y0) / height
    # Pixel centers: output i is at (i + 1/2) * scale + x0 - 1/2. Where it shrinks, average first.
    blurred = frame
    if max(scale_x, scale_y) > 1:
        blurred = cv2.GaussianBlur(frame, (0, 0), max(scale_x, scale_y) / 2.5)
    matrix = np.array([[scale_x, 0, x0 + scale_x / 2 - 0.5], [0, scale_y, y0 + scale_y / 2 - 0.5]], np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(blurred, matrix, (width, height), flags=flags, borderMode=border)


def _window(frame: np.ndarray, box: Box, scale: float) -> tuple[np.ndarray, Box]:
    """Return the part of a frame that a crop by `scale` reads, and the box in it; a large one in a smaller size.

    Blurring all of a frame of 16K for a crop of 150 pixels takes half a minute; averaged to within eight pixels a
    pixel of the crop, it takes milliseconds.
    """
    reach = 4 + 1.2 * scale  # the blur's kernel ends at three deviations
    (x0, y0, x1, y1), (height, width) = box, frame.shape[:2]
    left, top = (int(np.clip(low - reach, 0, side - 1)) for low, side in ((x0, width), (y0, height)))
    right, bottom = (
        int(np.clip(np.ceil(high + reach), low + 1, side)) for high, low, side in ((x1, left, width), (y1, top, height))
    )
    frame, factor = frame[top:bottom, left:right], max(1, int(scale / 4))
    if scale > _SHRINK_FROM and min(frame.shape[:2]) >= factor:
        rows, columns = (side // factor for side in frame.shape[:2])
        frame = frame[: rows * factor, : columns * factor]
        frame = cv2.resize(frame, (columns, rows), interpolation=cv2.INTER_AREA)
    else:
        factor = 1
    return frame, tuple((value - first) / factor for value, first in zip(box, (left, top) * 2, strict=True))


def _resized(heat: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a picture of heat in another size, bilinear between the middles of pixels."""
    return cv2.resize(np.asarray(heat, np.float32), (width, height), interpolation=cv2.INTER_LINEAR)


@cache
def _color_table() -> np.ndarray:
    """Return the color map, uint8 [256, 3] RGB."""
    import matplotlib

    return np.rint(matplotlib.colormaps[COLOR_MAP](np.arange(256))[:, :3] * 255).astype(np.uint8)
