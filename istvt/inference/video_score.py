"""Video scores and verdicts: a video's score is the mean of its clips' probabilities.

Labels are 0 for real and 1 for fake; fake is the positive class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dataloading.dataset import CLASSES
from dataloading.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from dataloading.clips.sampling import Clip

DEFAULT_THRESHOLD = 0.5  # of the probability: a positive logit means fake


def probability_of(logits: ArrayLike) -> np.ndarray:
    """Return the probability that a clip is fake, 1 / (1 + exp(-logit)), float64 in the shape of `logits`.

    No finite logit overflows.
    """
    return np.exp(-np.logaddexp(0.0, -np.asarray(logits, np.float64)))


def verdict_of(probability: float, threshold: float = DEFAULT_THRESHOLD) -> str:
    """Return "fake" where the probability is above `threshold`, "real" elsewhere."""
    return CLASSES[int(probability > threshold)]


def check_scored_clips(clip_probabilities: Sequence[float], clip_frames: Sequence[Sequence[int]]) -> None:
    """Raise ValueError where these are not of the same clips: scores are read back from files."""
    if not clip_frames or not all(clip_frames) or len(clip_frames) != len(clip_probabilities):
        raise ValueError(
            f"{len(clip_probabilities)} probabilities of {len(clip_frames)} clips; expected as many of each, at least "
            "one, and frames of each clip"
        )


def check_probabilities(*probabilities: float) -> None:
    """Raise ValueError where a number is no probability."""
    if not all(0 <= probability <= 1 for probability in probabilities):
        raise ValueError("a probability is not in its range; expected 0 to 1")


@dataclass(frozen=True)
class EvaluatedSet:
    """Identity of the scores of an evaluation: the model and the videos.

    `checksum` is that of the model's file: empty where it has none, None where evaluation.json does not hold it.
    """

    root: str
    compression: str
    manipulations: list[str] | None
    split: str
    checksum: str | None = None


@dataclass(frozen=True)
class VideoScore:
    """Score of one video.

    Attributes:
        name: unique in its data set (the path below the set's root, without suffix).
        path: the file.
        label: 0 real, 1 fake, None where unknown.
        manipulation: the method that made the fake, `"original"` for a real video.
        probability: that the video is fake: the mean of `clip_probabilities`.
        clip_probabilities: one for each clip, in the order of the clips' first frames.
        clip_frames: frame numbers of each clip.
    """

    name: str
    path: str
    label: int | None
    manipulation: str
    probability: float
    clip_probabilities: list[float]
    clip_frames: list[list[int]]

    def __post_init__(self) -> None:
        check_scored_clips(self.clip_probabilities, self.clip_frames)

    @property
    def verdict(self) -> str:
        """Verdict at a probability of one half, as a positive logit means fake: "fake" or "real"."""
        return verdict_of(self.probability)

    def verdict_at(self, threshold: float) -> str:
        """Return "fake" where the probability is above `threshold`, "real" elsewhere."""
        return verdict_of(self.probability, threshold)

    def is_correct(self, threshold: float = DEFAULT_THRESHOLD) -> bool:
        """Return whether the verdict at `threshold` agrees with the label."""
        return int(self.probability > threshold) == self.label


def score_videos(clips: Sequence[Clip], logits: ArrayLike) -> list[VideoScore]:
    """Return one score a video, the mean of its clips' probabilities.

    Clips belong together when their video's name and path are equal, so two videos with the same file name in different
    folders stay apart.

    Args:
        clips: in any order, those of one video need not follow each other.
        logits: one for each clip, positive for fake, `[clips]`.

    Returns:
        One score a video, in the order in which videos first appear.

    Raises:
        InputError: the numbers of clips and logits differ, or a logit is not finite.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if logits.shape != (len(clips),):
        raise InputError(f"logits must hold one number for each of the {len(clips)} clips, got shape {logits.shape}")
    check_finite(clips, logits)
    probabilities = probability_of(logits)
    gathered: dict[tuple[str, str], list[int]] = {}
    for position, clip in enumerate(clips):
        gathered.setdefault((clip.video.name, str(clip.video.path)), []).append(position)
    scores = []
    for positions in gathered.values():
        positions.sort(key=lambda position: int(clips[position].frames[0]))
        video = clips[positions[0]].video
        clip_probabilities = [float(probabilities[position]) for position in positions]
        scores.append(
            VideoScore(
                name=video.name,
                path=str(video.path),
                label=video.label,
                manipulation=video.manipulation,
                probability=float(np.mean(clip_probabilities)),
                clip_probabilities=clip_probabilities,
                clip_frames=[[int(frame) for frame in clips[position].frames] for position in positions],
            )
        )
    return scores


def check_finite(clips: Sequence[Clip], logits: np.ndarray) -> None:
    """Check that the logits [clips] of clips are finite.

    Raises:
        InputError: one is not; it names the video.
    """
    if not np.isfinite(logits).all():
        worst = int(np.flatnonzero(~np.isfinite(logits))[0])
        raise InputError(
            f"The model gave {logits[worst]} for a clip of {clips[worst].video.name}: its weights or its training have "
            "diverged, so there is no score"
        )
