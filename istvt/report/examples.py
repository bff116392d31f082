"""Example videos of a report: their choice, and their frames as the model saw them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from operator import itemgetter

import cv2
import numpy as np

from dataloading.clips.loader import ClipLoader
from dataloading.clips.sampling import Clip
from dataloading.dataset import ORIGINAL, Dataset
from dataloading.errors import InputError
from dataloading.face_index import FaceIndex
from istvt.inference.video_score import DEFAULT_THRESHOLD, VideoScore
from istvt.report.html import data_address

_THUMBNAIL = 160
_JPEG_QUALITY = 82
_EXAMPLES = 6


@dataclass(frozen=True)
class Example:
    """A video to show with its verdict.

    Attributes:
        score: of the video.
        frames: as the model saw them, RGB uint8 `[n, height, width, 3]`.
        frame_numbers: of `frames` in the video, n of them; None where they are not known.
    """

    score: VideoScore
    frames: np.ndarray
    frame_numbers: Sequence[int] | None = None


def choose_examples(scores: Sequence[VideoScore]) -> list[VideoScore]:
    """Choose examples: the most confident wrong verdicts and ordinary right ones, `_EXAMPLES` of each.

    Both are taken in turn from the real videos and from each manipulation, so that none crowds out the others. The
    wrong ones come first.
    """
    groups: dict[str, list[VideoScore]] = {}
    for score in scores:
        groups.setdefault(score.manipulation, []).append(score)
    mistakes, ordinary = [], []
    for _, group in sorted(groups.items(), key=lambda item: (item[0] != ORIGINAL, item[0])):
        missed = [score for score in group if not score.is_correct()]
        mistakes.append(sorted(missed, key=lambda score: (-abs(score.probability - DEFAULT_THRESHOLD), score.name)))
        found = [score for score in group if score.is_correct()]
        middle = float(np.median([score.probability for score in found])) if found else 0.0
        ordinary.append(sorted(found, key=lambda score, m=middle: (abs(score.probability - m), score.name)))
    return _round_robin(mistakes)[:_EXAMPLES] + _round_robin(ordinary)[:_EXAMPLES]


def _round_robin(groups: Iterable[Sequence[VideoScore]]) -> list[VideoScore]:
    return [score for turn in zip_longest(*groups) for score in turn if score is not None]


def load_examples(scores: Sequence[VideoScore], dataset: Dataset, index: FaceIndex, image_size: int) -> list[Example]:
    """Return the frames, as the model saw them, of the clip that speaks most for the verdict of each video to show."""
    videos = {video.name: video for video in dataset.videos}
    chosen = [score for score in choose_examples(scores) if score.name in videos]
    clips = []
    for score in chosen:
        pick = max if score.verdict == "fake" else min
        _, frames = pick(zip(score.clip_probabilities, score.clip_frames, strict=True), key=itemgetter(0))
        box = index.box(score.name, frames)
        clips.append(Clip(videos[score.name], np.array(frames), box, score.label, len(clips)))
    examples = []
    for batch in ClipLoader(clips, 1, image_size, decoder="pyav"):
        place = int(batch.indices[0])
        frames = batch.clips[0].permute(0, 2, 3, 1).add(1).mul(127.5).round().clamp(0, 255).numpy().astype(np.uint8)
        examples.append(Example(chosen[place], frames, clips[place].frames.tolist()))
    return examples


def encoded_frames(example: Example) -> list[dict[str, str]]:
    """Return each frame, made small, as the attributes of its element in a page: source, number, width, height.

    Raises:
        InputError: the frames are not uint8 `[n, height, width, 3]`, or not n of them have a number.
    """
    frames, name = np.asarray(example.frames), example.score.name
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise InputError(
            f"The frames of {name} must be uint8 [frames, height, width, 3], got {frames.dtype} {list(frames.shape)}"
        )
    numbers = example.frame_numbers
    if numbers is not None and len(numbers) != len(frames):
        raise InputError(f"{name} has {len(frames)} frames to show but {len(numbers)} frame numbers")
    height, width = frames.shape[1:3]
    factor = min(1.0, _THUMBNAIL / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    encoded = []
    for position, frame in enumerate(frames):
        small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA) if factor < 1 else frame
        _, data = cv2.imencode(
            ".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        )
        number = f"frame {numbers[position]}" if numbers is not None else f"frame {position + 1} of {len(frames)} shown"
        source = data_address(data.tobytes(), "image/jpeg")
        encoded.append({"source": source, "number": number, "width": str(size[0]), "height": str(size[1])})
    return encoded
