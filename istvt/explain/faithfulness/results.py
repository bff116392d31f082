"""Results of a faithfulness measurement: what was measured of every clip, and means with intervals over videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from dataloading.dataset import CLASSES, FAKE
from dataloading.io import shown
from istvt.explain.faithfulness.localization import hottest_hit
from istvt.inference.video_score import DEFAULT_THRESHOLD, EvaluatedSet

CURVES = ("deletion", "insertion", "counterfactual_deletion", "counterfactual_insertion")
FRAME_SHIFTS = {"before": (-1,), "when": (0,), "after": (1,), "either": (0, 1)}  # frames from a forged one
CONFIDENCE = 0.95


@dataclass
class MeasuredClip:
    """One clip, as far as it does not depend on a method.

    Attributes:
        video, label, manipulation: of its video.
        probability: of fake, by the whole clip.
        original: whether the clip is known as it was before it was forged.
        forged: the forged frames of the clip, counted from 0, by its mask; None without a mask.
        mask_share: of the pixels of a frame that are forged in any frame; None without a mask.
        half: whether half of the face was forged, in a synthetic set, which knows it.
    """

    video: str
    label: int
    manipulation: str
    probability: float
    original: bool = False
    forged: list[int] | None = None
    mask_share: float | None = None
    half: bool = False

    @property
    def detected(self) -> bool:
        """Whether it is a fake that the model calls one."""
        return self.label == FAKE and self.probability > DEFAULT_THRESHOLD


@dataclass
class MethodValues:
    """What one method gave for each clip, in the order of the clips; None where it does not apply.

    Attributes:
        deletion, insertion: probability of fake after each fraction of pixels was taken away, or was all that was left,
            filled from the surroundings; insertion of detected fakes alone.
        counterfactual_deletion, counterfactual_insertion: the same of detected fakes with the original's pixels.
        hottest: whether the hottest pixel is in the mask; a share where several are equally hot.
        rank: relevance rank accuracy.
        mass: share of the heat in the mask.
        by_frame: heat of each frame, of clips of which some frames are forged and some are not. Read from it: `when`,
            whether the hottest frame is a forged one, `before` and `after`, whether it is a neighbor of one, and
            `either`, whether it is a forged one or the one after it; a share where several are equally hot.
    """

    deletion: list[list[float] | None] = field(default_factory=list)
    insertion: list[list[float] | None] = field(default_factory=list)
    counterfactual_deletion: list[list[float] | None] = field(default_factory=list)
    counterfactual_insertion: list[list[float] | None] = field(default_factory=list)
    hottest: list[float | None] = field(default_factory=list)
    rank: list[float | None] = field(default_factory=list)
    mass: list[float | None] = field(default_factory=list)
    by_frame: list[list[float] | None] = field(default_factory=list)

    def check(self, name: str, clips: Sequence[MeasuredClip], fractions: int, frames: int) -> None:
        """Refuse values that are not of these clips.

        Raises:
            ValueError: there are more or fewer than clips, or a curve or the heat of frames has another length.
        """
        for column, length in (*((name, fractions) for name in CURVES), ("by_frame", frames)):
            if any(one is not None and len(one) != length for one in getattr(self, column)):
                raise ValueError(f"methods.{name}.{column} has other lengths than {length}; expected that many numbers")
        counts = {column: len(values) for column, values in vars(self).items()}
        if set(counts.values()) != {len(clips)}:
            raise ValueError(f"methods.{name} has {counts} values; expected {len(clips)}, one a clip")
        if any(heat is not None and clip.forged is None for clip, heat in zip(clips, self.by_frame, strict=True)):
            raise ValueError(f"methods.{name}.by_frame is of a clip whose forged frames are not known")


@dataclass
class SanityRow:
    """Sanity checks of one method (`istvt.explain.faithfulness.sanity` says what each is).

    Attributes:
        cascade: rank correlation with the trained model's heat after each stage of randomization, last layer first.
        other_clip: rank correlation with the heat of another clip.
        other_target: rank correlation with the evidence for "real".
        sensitivity: largest relative change of the heat under noise of a gray level or two.
        conservation: what arrives over what was explained; None where the method promises nothing of the kind.
    """

    cascade: list[list[float]]
    other_clip: list[float]
    other_target: list[float]
    sensitivity: list[float]
    conservation: list[float] | None

    @property
    def lists(self) -> list[list[float]]:
        """All lists with an entry a clip; an empty one where there is no stage."""
        return [*(self.cascade or [[]]), self.other_clip, self.other_target, self.sensitivity,
                *([] if self.conservation is None else [self.conservation])]  # fmt: skip


@dataclass
class Sanity:
    """Sanity checks of all methods on the same clips.

    Attributes:
        stages: of the cascade.
        videos: of the clips.
        methods: by name; each list has an entry a clip.
    """

    stages: list[str]
    videos: list[str]
    methods: dict[str, SanityRow]


@dataclass
class Faithfulness:
    """The measurements of all methods on the same clips.

    Attributes:
        fractions: of the pixels that were taken away or left.
        frames: T.
        clips: what was judged.
        methods: by name.
        skipped: (video name, reason) of every clip or mask that could not be used.
        settings: how it was measured.
        evaluated: with which model and on which videos, where that is recorded.
        sanity: the sanity checks, where they were asked for.
    """

    fractions: list[float]
    frames: int
    clips: list[MeasuredClip]
    methods: dict[str, MethodValues]
    skipped: list[tuple[str, str]]
    settings: dict[str, Any]
    evaluated: EvaluatedSet | None = None
    sanity: Sanity | None = None

    def __post_init__(self) -> None:
        if len(self.fractions) < 2 or any(after <= before for before, after in pairwise(self.fractions)):
            raise ValueError(f"fractions are {shown(self.fractions)}; expected two or more, ascending")
        if self.frames < 1 or not self.clips or not self.methods:
            counts = f"{len(self.clips)} clips of {self.frames} frames and {len(self.methods)} methods"
            raise ValueError(f"{counts}; expected one or more of each")
        for name, of_method in self.methods.items():
            of_method.check(name, self.clips, len(self.fractions), self.frames)
        rows = self.sanity.methods.values() if self.sanity else ()
        if any(len(each) != len(self.sanity.videos) or not each for row in rows for each in row.lists):
            raise ValueError("sanity checks do not have a value for each of their videos; expected one or more of each")

    @property
    def videos(self) -> int:
        """Number of videos."""
        return len({clip.video for clip in self.clips})


@dataclass(frozen=True)
class VideoMean:
    """A mean over videos with its 95 % interval, by bootstrap over the videos.

    Attributes:
        value, low, high: None where there is no video.
        videos: how many count in it; with several models, the mean over them.
    """

    value: float | None
    low: float | None
    high: float | None
    videos: float

    def __str__(self) -> str:
        return "none" if self.value is None else f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


Select = Callable[[MeasuredClip], bool]
SUBSETS: dict[str, Select] = {
    "detected": lambda clip: clip.detected,
    "halves": lambda clip: clip.detected and clip.half,
    "one frame": lambda clip: clip.detected and clip.forged is not None and len(clip.forged) == 1,
    "two frames": lambda clip: clip.detected and clip.forged is not None and len(clip.forged) == 2,
    "one frame, detected or not": lambda clip: clip.forged is not None and len(clip.forged) == 1,
} | {name: (lambda clip, label=label: clip.label == label) for label, name in enumerate(CLASSES)}


def mean_height(fractions: Sequence[float], values: Sequence[float]) -> float:
    """Return the mean height of a curve (trapezoids)."""
    return float(np.trapezoid(values, fractions) / (fractions[-1] - fractions[0]))


def column(result: Faithfulness, method: str, name: str) -> list[float | None]:
    """Return one number a clip: the mean height of a curve, a place, or a key of `FRAME_SHIFTS`."""
    of_method = result.methods[method]
    if name in FRAME_SHIFTS:
        pairs = zip(result.clips, of_method.by_frame, strict=True)
        return [_hottest_frame(clip, heat, FRAME_SHIFTS[name]) for clip, heat in pairs]
    values = getattr(of_method, name)
    if name not in CURVES:
        return values
    return [None if one is None else mean_height(result.fractions, one) for one in values]


def _hottest_frame(clip: MeasuredClip, by_frame: Sequence[float] | None, shifts: Sequence[int]) -> float | None:
    """Return whether the hottest frame is so far behind a forged one; None where the clip has no such frame."""
    if by_frame is None:
        return None
    frames = np.isin(np.arange(len(by_frame)), [frame + shift for frame in clip.forged for shift in shifts])
    return hottest_hit(np.array(by_frame), frames) if frames.any() else None


def estimate(
    results: Sequence[Faithfulness],
    method: str,
    name: str,
    subset: str,
    *,
    minus: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> VideoMean:
    """Return the mean of a column over the videos of a subset and over models, with its interval.

    A resample draws videos with replacement, the same for all models: more models do not narrow the interval, because
    they see the same videos.

    Args:
        results: of one model or of several, on the same videos.
        method, name: as of `column`.
        subset: one of `SUBSETS`.
        minus: another method, whose value of the same clip is subtracted.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    values = [column(result, method, name) for result in results]
    if minus is not None:
        others = [column(result, minus, name) for result in results]
        values = [
            [None if a is None or b is None else a - b for a, b in zip(mine, theirs, strict=True)]
            for mine, theirs in zip(values, others, strict=True)
        ]
    return pooled(results, values, subset, resamples=resamples, seed=seed)


def pooled(
    results: Sequence[Faithfulness],
    values: Sequence[Sequence[float | None]],
    subset: str,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> VideoMean:
    """Return the mean of values, one a clip of each result, as `estimate` does."""
    names = sorted({clip.video for result in results for clip in result.clips})
    place = {name: number for number, name in enumerate(names)}
    sums, counts = np.zeros((2, len(results), len(names)))
    for model, (result, of_clips) in enumerate(zip(results, values, strict=True)):
        for clip, value in zip(result.clips, of_clips, strict=True):
            if value is not None and SUBSETS[subset](clip):
                sums[model, place[clip.video]] += value
                counts[model, place[clip.video]] += 1
    present = counts > 0
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=present)  # each video counts once
    used = present.any(1)  # a model that detects none has nothing to say
    if not used.any():
        return VideoMean(None, None, None, 0)
    means, present, videos = means[used], present[used].astype(float), present[used].sum(1).mean()
    some = present.any(0)
    means, present = means[:, some], present[:, some]
    drawn = np.random.default_rng(seed).multinomial(some.sum(), np.full(some.sum(), 1 / some.sum()), size=resamples)
    with np.errstate(invalid="ignore"):
        each = np.nanmean((drawn @ (means * present).T) / (drawn @ present.T), axis=1)
    low, high = np.nanquantile(each, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    value = ((means * present).sum(1) / present.sum(1)).mean()
    return VideoMean(float(value), float(low), float(high), float(videos))


def accuracy_by_class(results: Sequence[Faithfulness], method: str, fraction: float) -> dict[str, VideoMean]:
    """Return the share of clips of each class that are called so once a fraction of their pixels was taken away."""
    found = {}
    for label, name in enumerate(CLASSES):
        right = []
        for result in results:
            at = result.fractions.index(fraction)
            curves = result.methods[method].deletion
            right.append(
                [None if one is None else float((one[at] > DEFAULT_THRESHOLD) == bool(label)) for one in curves]
            )
        found[name] = pooled(results, right, name)
    return found
