"""Drawing of the explained clips of one person: heat over crops and over original frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dataloading.clips.reader import whole_pictures
from dataloading.clips.sampling import Clip
from dataloading.dataset import CLASSES, FAKE
from dataloading.face_index import FaceEntry
from dataloading.video.processes import Workers
from istvt.config import ExplanationSettings, Normalization
from istvt.explain import heatmap
from istvt.explain_video import pictures
from istvt.explain_video.clips import ExplainedClip
from istvt.explain_video.people import PersonExplanation
from istvt.inference.people import PersonScore

PANEL = 288  # pixels a side of a panel in the MP4
STRIP = 150  # and of a picture in a strip
LONGEST_SIDE = 960  # of the pasted-back frames; larger ones are shrunk before anything is drawn


def timeline(face: FaceEntry, score: PersonScore) -> pictures.Timeline:
    """Return the score of a person over the time of the video."""
    fps = face.fps or 25.0
    middles = [float(np.mean(frames) + 0.5) / fps for frames in score.clip_frames]
    cuts = [first / fps for first, _ in (face.shots or ())[1:]]
    return pictures.Timeline(middles, score.clip_probabilities, face.frames / fps, cuts)


class Drawing:
    """Pictures of the explained clips of one person: normalized heat over crops and over original frames.

    Frames are decoded one at a time, and of each only what is drawn is kept: two crops, and the whole frame shrunk to
    `LONGEST_SIDE`. Memory does not grow with the size of the picture beyond a single frame.
    """

    def __init__(
        self,
        video: Path,
        face: FaceEntry,
        person: PersonExplanation,
        settings: ExplanationSettings,
        image_size: int,
        several: bool,
        processes: Workers | None = None,
    ) -> None:
        self.fps = face.fps or 25.0
        score = person.score
        who = f", {score.name}" if several else ""
        self.title = f"{video.name}{who}: {score.verdict}, probability of fake {score.probability:.3f}"
        self.question = f"why {person.target}?"
        self.scale = f"from the coldest to the hottest cell of the {settings.normalization}, however near they are"
        self.timeline = timeline(face, score)
        self.clips = [
            (
                clip,
                _small_frames(clip.clip, processes or Workers()),
                _panels(clip, settings.normalization, image_size),
            )
            for clip in person.clips
        ]

    def portrait(self) -> np.ndarray:
        """Return the person as a picture, uint8 [s, s, 3]: the first frame of the explained clip that is the surest."""
        _, frames, _ = max(
            self.clips, key=lambda clip: clip[0].logit if clip[0].target == CLASSES[FAKE] else -clip[0].logit
        )
        return frames[0].strip

    def panel_frames(self) -> Iterator[np.ndarray]:
        """Give the frames of explanation.mp4, clip after clip."""
        for clip, frames, panels in self.clips:
            titles = _titles(clip, panels)
            for t, (number, frame) in enumerate(zip(clip.clip.frames, frames, strict=True)):
                row = [frame.panel, *_made(clip, t, frame.panel), *(panel.draw(frame.panel, t) for panel in panels)]
                caption = f"{self.title}   frame {number}, clip {clip.probability:.3f}   {self.question}"
                seconds = (number + 0.5) / self.fps
                yield pictures.explanation_frame(row, titles, caption, self.timeline, seconds, self.scale)

    def pasted_frames(self) -> Iterator[np.ndarray]:
        """Give the frames of in_frame.mp4: the original once with each map."""
        for _, frames, panels in self.clips:
            for t, frame in enumerate(frames):
                pasted = [panel.paste(frame.whole, t, frame.box) for panel in panels]
                yield np.concatenate(pasted, axis=1 if frame.whole.shape[0] >= frame.whole.shape[1] else 0)

    def strips(self) -> Iterator[np.ndarray]:
        """Give one picture a clip: frames x {crop, maps}."""
        for clip, frames, panels in self.clips:
            rows = [[frame.strip for frame in frames]]
            rows += [[made for t, f in enumerate(frames) for made in _made(clip, t, f.strip)]] * (
                clip.change is not None
            )
            rows += [[panel.draw(f.strip, t) for t, f in enumerate(frames)] for panel in panels]
            titles = _titles(clip, panels)
            labels = [f"frame {number}" for number in clip.clip.frames]
            title = f"probability of fake {clip.probability:.3f}   {self.question}"
            yield pictures.strip(rows, titles, labels, title, self.scale)


@dataclass(frozen=True)
class _SmallFrame:
    """What is drawn of one frame.

    Attributes:
        panel, strip: the crop, uint8 [s, s, 3] of side `PANEL` and `STRIP`.
        whole: uint8 [h, w, 3], no side longer than `LONGEST_SIDE`.
        box: of the crop, in pixels of `whole`.
    """

    panel: np.ndarray
    strip: np.ndarray
    whole: np.ndarray
    box: heatmap.Box


def _small_frames(clip: Clip, processes: Workers) -> list[_SmallFrame]:
    """Decode the frames of a clip, one at a time."""
    found = {}
    for number, frame in whole_pictures(clip.video, clip.frames, processes):
        crops = [heatmap.crop(frame, clip.box, size) for size in (PANEL, STRIP)]
        whole = _fitted(frame)
        scale = np.divide(whole.shape[1::-1], frame.shape[1::-1])
        # A copy, where nothing was shrunk: the decoder's memory is not held.
        found[number] = _SmallFrame(*crops, whole.copy(), tuple(np.asarray(clip.box) * np.tile(scale, 2)))
    return [found[int(number)] for number in clip.frames]


def _panels(
    clip: ExplainedClip, normalization: Normalization, image_size: int
) -> list[pictures.HeatPanel | pictures.MaskPanel]:
    """Return the maps of a clip as they are drawn, over the pixels that the model sees; its mask, if any, last."""
    panels: list[pictures.HeatPanel | pictures.MaskPanel] = []
    for name, heat in clip.maps().items():
        heat = heatmap.normalize(heat, normalization)
        panels.append(pictures.HeatPanel(name, heatmap.at_pixels(heat, image_size), clip.shares[name]))
    if clip.mask is not None:
        panels.append(pictures.MaskPanel(clip.mask))
    return panels


def _titles(clip: ExplainedClip, panels: list[pictures.HeatPanel | pictures.MaskPanel]) -> list[tuple[str, str]]:
    """Return two lines for each picture of a frame: the crop, what was made of it, and each map."""
    made = [] if clip.change is None else [(pictures.MADE, f"change \u00d7 {clip.enlargement}")]
    return [pictures.CROP_TITLE, *made, *(panel.title for panel in panels)]


def _made(clip: ExplainedClip, frame: int, crop: np.ndarray) -> list[np.ndarray]:
    """Return the crop of a frame with its change enlarged, marked as made; nothing where no change was made."""
    if clip.change is None:
        return []
    return [pictures.made_picture(crop, clip.enlargement * clip.change[frame])]


def _fitted(frame: np.ndarray) -> np.ndarray:
    """Shrink a frame so that no side is longer than `LONGEST_SIDE` and both are even."""
    height, width = frame.shape[:2]
    factor = min(1.0, LONGEST_SIDE / max(height, width))
    size = (max(2, round(width * factor) // 2 * 2), max(2, round(height * factor) // 2 * 2))
    return frame if size == (width, height) else cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
