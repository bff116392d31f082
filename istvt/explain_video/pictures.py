"""Pictures of an explanation: panels of one frame, strips of a clip, the score over time, PNG and MP4 files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dataloading.errors import InputError
from dataloading.io import replacing
from dataloading.video.reencode import REPEATABLE
from istvt.explain import heatmap

GROUND, INK, SOFT, RULE = (16, 20, 24), (231, 234, 237), (156, 168, 179), (45, 53, 60)
MARGIN = 12
CROP_TITLE = ("face crop", "")
FAINT_SHARE = 0.01  # of all heat: a map with less is drawn dim
PANEL_TITLES = {
    "pixels": "pixel relevance",
    "temporal": "temporal relevance",
    "spatial": "spatial relevance",
    "class_row": "class frame",
    "whole_clip": "whole clip",
    "tiles": "Shapley values",
    "change": "size of the change",
}
MADE = "made by the program"  # of pictures that no camera took
_MADE_COLOR = (255, 214, 10)
MASK_TITLE = "predicted mask"
_FAINT = 0.3  # brightness of its hottest cell


@dataclass(frozen=True)
class Timeline:
    """The score of one person over time: probability of "fake" of every clip, where it lies in the video.

    Attributes:
        centers: seconds, of the middle of each clip.
        probabilities: of each clip.
        seconds: length of the video.
        cuts: seconds at which shots begin, but for the first one.
    """

    centers: Sequence[float]
    probabilities: Sequence[float]
    seconds: float
    cuts: Sequence[float] = ()


@dataclass(frozen=True)
class HeatPanel:
    """One kind of heat of one clip, as it is drawn.

    Attributes:
        name: of the map, one of `PANEL_TITLES`.
        heat: [T, h, w] in 0..1 over the model's input; [1, h, w] where all frames have the same.
        share: of all heat.
    """

    name: str
    heat: np.ndarray
    share: float

    @property
    def is_faint(self) -> bool:
        """Whether the map holds almost none of the heat, so that full contrast would show noise."""
        return self.share < FAINT_SHARE

    @property
    def title(self) -> tuple[str, str]:
        """Two short lines: what the map is, and how much of all heat it holds."""
        if not self.share:
            return PANEL_TITLES[self.name], "no heat"
        if self.share == 1:
            return PANEL_TITLES[self.name], ""
        share = "under 0.1 %" if self.share < 0.001 else f"{self.share:.1%}".replace("%", " %")
        return PANEL_TITLES[self.name], f"{share} of heat" + (", dim" if self.is_faint else "")

    def frame(self, number: int) -> np.ndarray:
        """Return the heat [h, w] to draw over frame `number` of the clip."""
        return self.heat[number % len(self.heat)] * (_FAINT if self.is_faint else 1)

    def draw(self, picture: np.ndarray, number: int) -> np.ndarray:
        """Lay the heat of frame `number` of the clip over its picture."""
        return heatmap.overlay(picture, self.frame(number))

    def paste(self, frame: np.ndarray, number: int, box: heatmap.Box) -> np.ndarray:
        """Lay the heat of frame `number` over the part of a whole frame that was cropped."""
        return heatmap.paste(frame, self.frame(number), box)


@dataclass(frozen=True)
class MaskPanel:
    """The predicted mask of one clip, as it is drawn.

    Attributes:
        mask: [T, h, w], probability of each pixel of the model's input of being forged.
    """

    mask: np.ndarray

    @property
    def title(self) -> tuple[str, str]:
        """Two short lines: that it is no heat, and how much is called forged."""
        return MASK_TITLE, f"{(self.mask >= 0.5).mean():.1%} of pixels".replace("%", " %")

    def draw(self, picture: np.ndarray, number: int) -> np.ndarray:
        """Mark the mask of frame `number` of the clip on its picture."""
        return heatmap.outline(picture, self.mask[number])

    def paste(self, frame: np.ndarray, number: int, box: heatmap.Box) -> np.ndarray:
        """Mark the mask of frame `number` on the part of a whole frame that was cropped."""
        return heatmap.paste(frame, self.mask[number], box, heatmap.outline)


def explanation_frame(
    pictures: Sequence[np.ndarray],
    titles: Sequence[tuple[str, str]],
    caption: str,
    timeline: Timeline,
    at_seconds: float,
    scale_note: str,
) -> np.ndarray:
    """Draw one frame of the MP4: panels side by side, their titles, and the score over time below.

    Args:
        pictures: uint8 [s, s, 3], all of one size.
        titles: two lines for each.
        caption: the line above the panels.
        timeline: the score over time.
        at_seconds: where this frame lies in the video.
        scale_note: what the colors are relative to.

    Returns:
        uint8 [h, w, 3] with even sides.
    """
    size, columns = pictures[0].shape[0], len(pictures)
    width = columns * size + (columns + 1) * MARGIN
    top, chart_height, legend_height = 72, 120, 30
    height = top + size + legend_height + chart_height + 2 * MARGIN
    width, height = width + width % 2, height + height % 2  # 4:2:0 video has even sides
    canvas = Image.new("RGB", (width, height), GROUND)
    draw = ImageDraw.Draw(canvas)
    _text(draw, (MARGIN, 8), caption, INK, 15)
    for column, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        left = MARGIN + column * (size + MARGIN)
        for line, words in enumerate(title):
            _text(draw, (left, 34 + 17 * line), words, SOFT, 13)
        canvas.paste(Image.fromarray(picture), (left, top))
    _legend(canvas, draw, MARGIN, top + size + 8, scale_note)
    chart_top = top + size + legend_height + MARGIN
    _draw_timeline(draw, (MARGIN, chart_top, width - MARGIN, chart_top + chart_height), timeline, at_seconds)
    return np.asarray(canvas)


def strip(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[tuple[str, str]],
    frame_labels: Sequence[str],
    title: str,
    scale_note: str,
) -> np.ndarray:
    """Draw one clip: a column a frame, a row each for the crop and for every map.

    Args:
        rows: of T pictures of one size.
        titles: two lines for each row.
        frame_labels: T.
        title: the line above.
        scale_note: what the colors are relative to.
    """
    size, columns = rows[0][0].shape[0], len(rows[0])
    left, top, gap = 92, 58, 4
    width = left + max(columns * (size + gap), round(_length(title, 15)), _legend_width(scale_note)) + MARGIN
    canvas = Image.new("RGB", (width, top + len(rows) * (size + gap) + 40), GROUND)
    draw = ImageDraw.Draw(canvas)
    _text(draw, (left, 8), title, INK, 15)
    for row, (pictures, lines) in enumerate(zip(rows, titles, strict=True)):
        y = top + row * (size + gap)
        words = [*lines[0].split(" "), "", *lines[1].replace(" of ", "\nof ").replace(", ", ",\n").split("\n")]
        for line, word in enumerate(words):
            _text(draw, (MARGIN, y + size / 2 - 8 * len(words) + 16 * line), word, SOFT, 12)
        for column, picture in enumerate(pictures):
            canvas.paste(Image.fromarray(picture), (left + column * (size + gap), y))
    for column, label in enumerate(frame_labels):
        _text(draw, (left + column * (size + gap), 36), label, SOFT, 13)
    _legend(canvas, draw, left, top + len(rows) * (size + gap) + 8, scale_note)
    return np.asarray(canvas)


def made_picture(crop: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Add a change to a crop, and mark it as made: a bright border, and a line of text in the picture itself.

    Args:
        crop: uint8 [s, s, 3].
        change: [3, h, w] of colors in [-1, 1], which is resized to the crop.
    """
    size = crop.shape[0]
    added = cv2.resize(np.ascontiguousarray(change.transpose(1, 2, 0), np.float32), (size, size)) * (255 / 2)
    picture = Image.fromarray(np.clip(np.rint(crop + added), 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, size - 1, size - 1), outline=_MADE_COLOR, width=3)
    width = _length(MADE, 11)
    draw.rectangle((3, size - 20, 11 + width, size - 4), fill=GROUND)
    _text(draw, (7, size - 19), MADE, _MADE_COLOR, 11)
    return np.asarray(picture)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a picture, uint8 [h, w, 3] RGB."""
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, "PNG", optimize=True)


def write_mp4(path: Path, frames: Iterable[np.ndarray], fps: int) -> int:
    """Write H.264 in yuv420p, which every browser and player shows; the number of frames is returned.

    Args:
        path: of the file.
        frames: uint8 [h, w, 3] RGB, all of one size; an odd last row or column is left out.
        fps: frames a second.

    Raises:
        InputError: there is no frame.
    """
    count = 0
    options = {"movflags": "+faststart"}
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18", "preset": "medium", **REPEATABLE})
        stream.pix_fmt = "yuv420p"
        # Converted and tagged as BT.709: an untagged file is shown in other colors by every player.
        stream.codec_context.color_range, stream.codec_context.colorspace = 1, 1
        stream.codec_context.color_primaries, stream.codec_context.color_trc = 1, 1
        for picture in frames:
            height, width = (side - side % 2 for side in picture.shape[:2])
            if not count:
                stream.height, stream.width = height, width
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
            container.mux(
                stream.encode(rgb.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"))
            )
            count += 1
        if not count:
            raise InputError(f"{path} would hold no frame; expected at least one")
        container.mux(stream.encode())
    return count


def _legend(canvas: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int, note: str) -> None:
    """Draw the colors from cold to hot."""
    ramp = heatmap.colorize(np.tile(np.linspace(0, 1, 120), (10, 1)))
    _text(draw, (left, top), "low", SOFT, 12)
    canvas.paste(Image.fromarray(ramp), (left + 28, top + 3))
    _text(draw, (left + 154, top), f"high, {note}", SOFT, 12)


def _legend_width(note: str) -> int:
    return 154 + round(_length(f"high, {note}", 12))


def _draw_timeline(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], timeline: Timeline, at_seconds: float
) -> None:
    """Draw the probability of "fake" of each clip over the length of the video, with a cursor."""
    left, top, right, bottom = box[0] + 34, box[1] + 20, box[2] - 8, box[3] - 20
    _text(draw, (box[0], box[1] - 2), "probability of fake, by clip, over the video", SOFT, 13)

    def place(seconds: float, probability: float) -> tuple[float, float]:
        return left + seconds / max(timeline.seconds, 1e-9) * (right - left), bottom - probability * (bottom - top)

    for probability in (0.0, 0.5, 1.0):
        y = place(0, probability)[1]
        draw.line((left, y, right, y), SOFT if probability == 0.5 else RULE)
        _text(draw, (left - 30, y - 8), f"{probability:.1f}", SOFT, 12)
    _text(draw, (left, bottom + 4), "0 s", SOFT, 12)
    end = f"{timeline.seconds:.1f} s"
    _text(draw, (right - _length(end, 12), bottom + 4), end, SOFT, 12)
    for cut in timeline.cuts:
        x = place(cut, 0)[0]
        draw.line((x, top, x, bottom), SOFT)
    points = [place(*point) for point in zip(timeline.centers, timeline.probabilities, strict=True)]
    shots = np.searchsorted(timeline.cuts, timeline.centers, side="right")
    for shot in np.unique(shots):
        inside = [point for point, other in zip(points, shots, strict=True) if other == shot]
        if len(inside) > 1:
            draw.line(inside, INK, 2)
    for x, y in points:
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), INK)
    x = place(at_seconds, 0)[0]
    draw.line((x, top, x, bottom), tuple(int(c) for c in heatmap.colorize(np.array(0.8))), 2)


def _text(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, color: tuple[int, int, int], size: int
) -> None:
    draw.text(at, printable(text), color, _font(size))


def _length(text: str, size: int) -> float:
    """Return the width of a line of text in pixels."""
    return _font(size).getlength(printable(text))


def printable(text: str) -> str:
    """Return one line of text, with U+FFFD for what no font can lay out: control characters, bytes that are no text."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which matplotlib brings along: the pictures look the same everywhere."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
