"""Pictures of an explanation: panels of one frame, strips of a clip, the score over time, PNG and MP4 files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dataloading.errors import InputError
from dataloading.io import replacing
from istvt.explain import heatmap

GROUND, INK, SOFT, RULE = (16, 20, 24), (231, 234, 237), (156, 168, 179), (45, 53, 60)
MARGIN = 12
PANEL_TITLES = ("face crop", "temporal relevance", "spatial relevance")


@dataclass(frozen=True)
class Timeline:
    """The score over time: probability of "fake" of every clip that was scored, where it lies in the video.

    Attributes:
        centers: seconds, of the middle of each clip.
        probabilities: of each clip.
        seconds: length of the video.
        score: of the whole video, the mean.
    """

    centers: Sequence[float]
    probabilities: Sequence[float]
    seconds: float
    score: float


def panels(crop: np.ndarray, temporal: np.ndarray, spatial: np.ndarray) -> list[np.ndarray]:
    """Return three pictures of one frame: the crop uint8 [s, s, 3], and the two heats [h, w] in 0..1 over it."""
    return [crop, heatmap.overlay(crop, temporal), heatmap.overlay(crop, spatial)]


def explanation_frame(
    pictures: Sequence[np.ndarray], caption: str, timeline: Timeline, at_seconds: float, scale_note: str
) -> np.ndarray:
    """Draw one frame of the MP4: three panels side by side, their titles, and the score over time below.

    Args:
        pictures: from `panels`, all of one size.
        caption: the line above the panels.
        timeline: the score over time.
        at_seconds: where this frame lies in the video.
        scale_note: what the colors are relative to.

    Returns:
        uint8 [h, w, 3] with even sides.
    """
    size = pictures[0].shape[0]
    width = 3 * size + 4 * MARGIN
    top, chart_height, legend_height = 58, 120, 30
    height = top + size + legend_height + chart_height + 2 * MARGIN
    width, height = width + width % 2, height + height % 2  # 4:2:0 video has even sides
    canvas = Image.new("RGB", (width, height), GROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, 8), caption, INK, _font(15))
    for column, (picture, title) in enumerate(zip(pictures, PANEL_TITLES, strict=True)):
        left = MARGIN + column * (size + MARGIN)
        draw.text((left, 34), title, SOFT, _font(13))
        canvas.paste(Image.fromarray(picture), (left, top))
    _legend(canvas, draw, MARGIN, top + size + 8, scale_note)
    chart_top = top + size + legend_height + MARGIN
    _draw_timeline(draw, (MARGIN, chart_top, width - MARGIN, chart_top + chart_height), timeline, at_seconds)
    return np.asarray(canvas)


def strip(rows: Sequence[Sequence[np.ndarray]], frame_labels: Sequence[str], title: str, scale_note: str) -> np.ndarray:
    """Draw one clip: a column a frame, a row each for crop, temporal and spatial relevance.

    Args:
        rows: three rows of T pictures of one size.
        frame_labels: T.
        title: the line above.
        scale_note: what the colors are relative to.
    """
    size, columns = rows[0][0].shape[0], len(rows[0])
    left, top, gap = 92, 58, 4
    width = left + max(columns * (size + gap), round(_font(15).getlength(title)), _legend_width(scale_note)) + MARGIN
    canvas = Image.new("RGB", (width, top + 3 * (size + gap) + 40), GROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((left, 8), title, INK, _font(15))
    for row, (pictures, name) in enumerate(zip(rows, PANEL_TITLES, strict=True)):
        y = top + row * (size + gap)
        for line, word in enumerate(name.split(" ")):
            draw.text((MARGIN, y + size / 2 - 16 + 16 * line), word, SOFT, _font(13))
        for column, picture in enumerate(pictures):
            canvas.paste(Image.fromarray(picture), (left + column * (size + gap), y))
    for column, label in enumerate(frame_labels):
        draw.text((left + column * (size + gap), 36), label, SOFT, _font(13))
    _legend(canvas, draw, left, top + 3 * (size + gap) + 8, scale_note)
    return np.asarray(canvas)


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
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18", "preset": "medium"})
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
    draw.text((left, top), "low", SOFT, _font(12))
    canvas.paste(Image.fromarray(ramp), (left + 28, top + 3))
    draw.text((left + 154, top), f"high, {note}", SOFT, _font(12))


def _legend_width(note: str) -> int:
    return 154 + round(_font(12).getlength(f"high, {note}"))


def _draw_timeline(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], timeline: Timeline, at_seconds: float
) -> None:
    """Draw the probability of "fake" of each clip over the length of the video, with a cursor."""
    left, top, right, bottom = box[0] + 34, box[1] + 20, box[2] - 8, box[3] - 20
    draw.text((box[0], box[1] - 2), "probability of fake, by clip, over the video", SOFT, _font(13))

    def place(seconds: float, probability: float) -> tuple[float, float]:
        return left + seconds / max(timeline.seconds, 1e-9) * (right - left), bottom - probability * (bottom - top)

    for probability in (0.0, 0.5, 1.0):
        y = place(0, probability)[1]
        draw.line((left, y, right, y), SOFT if probability == 0.5 else RULE)
        draw.text((left - 30, y - 8), f"{probability:.1f}", SOFT, _font(12))
    draw.text((left, bottom + 4), "0 s", SOFT, _font(12))
    end = f"{timeline.seconds:.1f} s"
    draw.text((right - _font(12).getlength(end), bottom + 4), end, SOFT, _font(12))
    points = [place(*point) for point in zip(timeline.centers, timeline.probabilities, strict=True)]
    if len(points) > 1:
        draw.line(points, INK, 2)
    for x, y in points:
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), INK)
    x = place(at_seconds, 0)[0]
    draw.line((x, top, x, bottom), tuple(int(c) for c in heatmap.colorize(np.array(0.8))), 2)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which matplotlib brings along: the pictures look the same everywhere."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
