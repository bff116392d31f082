"""Evaluation of explanation methods on the videos of a data set: deletion curves and localization, beside chance."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from dataloading.clips.loader import ClipLoader
from dataloading.clips.sampling import Clip, evaluation_clips
from dataloading.dataset import CLASSES, FAKE, Dataset
from dataloading.errors import InputError, as_input_error
from dataloading.face_index import FaceIndex
from istvt.config import DEFAULT_STABILIZER, FILLS, METHODS, Fill, checked_stabilizer
from istvt.evaluation.results import EvaluatedSet
from istvt.explain.explanation import explain, logits_of
from istvt.explain.faithfulness.deletion import curves, delete, mean_height
from istvt.explain.faithfulness.localization import Localization, MaskedClip, localizations, mask_of
from istvt.inference.video_score import check_finite, probability_of, verdict_of
from istvt.model.istvt import ISTVT

FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.3)
RANDOM = "random"


@dataclass(frozen=True)
class Ordering:
    """One way to rank the cells of a clip: a method of `istvt.explain.explain` with its stabilizer, or chance."""

    name: str
    method: str
    stabilizer: float | str = DEFAULT_STABILIZER


@dataclass
class OrderingResult:
    """The measurements of one ordering.

    Attributes:
        ordering: which.
        accuracy: of videos, mean over the two classes, after each fraction of pixels was removed: one half is what is
            left when the model says the same of every video.
        confidence: mean probability of the class that the model first gave to each clip, after the same.
        accuracy_area, confidence_area: mean height of the two curves (trapezoids), lower is better.
        localization: by kind of heat: temporal, spatial, both.
        by_manipulation: the same for each manipulation.
    """

    ordering: Ordering
    accuracy: list[float]
    confidence: list[float]
    accuracy_area: float
    confidence_area: float
    localization: dict[str, Localization]
    by_manipulation: dict[str, dict[str, Localization]]


@dataclass
class Faithfulness:
    """The measurements of all orderings on the same clips.

    Attributes:
        fractions: of the pixels of a clip that were removed.
        orderings: each one's results.
        videos, clips: how many were judged.
        mask_share: mean share of pixels in the mask, over clips with one: what pointing at random would score.
        skipped: (video name, reason) of every clip or mask that could not be used.
        settings: how it was measured.
        evaluated: with which model and on which videos, where that is recorded.
    """

    fractions: list[float]
    orderings: list[OrderingResult]
    videos: int
    clips: int
    mask_share: float | None
    skipped: list[tuple[str, str]]
    settings: dict[str, Any]
    evaluated: EvaluatedSet | None = None


def orderings_of(
    methods: Sequence[str] = METHODS, stabilizers: Sequence[float | str] = (DEFAULT_STABILIZER,)
) -> list[Ordering]:
    """Return the methods, `lrp` once for each stabilizer, and the random order; no two have the same name.

    Raises:
        InputError: a method or stabilizer is none or there twice, or there is none of them.
    """
    for name, values in (("methods", methods), ("stabilizers", stabilizers)):
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise InputError(f"{name} is {values!r}; expected a list of one or more")
    for method in methods:
        if method not in METHODS:
            raise InputError(f"methods holds {method!r}; expected some of {', '.join(METHODS)}")
    with as_input_error():
        stabilizers = [checked_stabilizer(stabilizer) for stabilizer in stabilizers]
    for name, values in (("methods", methods), ("stabilizers", stabilizers)):
        for place, value in enumerate(values):
            if value in values[:place]:
                raise InputError(f"{name} holds {value!r} twice; expected each once")
    found = []
    for method in methods:
        if method == "lrp" and len(stabilizers) > 1:
            found += [Ordering(f"lrp {stabilizer}", method, stabilizer) for stabilizer in stabilizers]
        else:
            found.append(Ordering(method, method, stabilizers[0]))
    return [*found, Ordering(RANDOM, RANDOM)]


def evaluate_explanations(
    model: ISTVT,
    dataset: Dataset,
    index: FaceIndex,
    *,
    split: str | None = "test",
    methods: Sequence[str] = METHODS,
    stabilizers: Sequence[float | str] = (DEFAULT_STABILIZER,),
    fractions: Sequence[float] = FRACTIONS,
    fill: Fill = "surroundings",
    clips_per_video: int = 2,
    batch_size: int = 8,
    decoder: str = "auto",
    workers: int = 2,
    seed: int = 0,
    advance: Callable[[int, int], None] | None = None,
) -> Faithfulness:
    """Measure how faithful each method is on the videos of a data set.

    Pixels are ranked by the sum of temporal and spatial heat (`istvt.explain.heatmap.upscale`); equal heat is ranked by
    chance. The two are summed as they are, for their unit is the same: stretched to the same range, the
    map that says little would count as much as the one that says nearly everything. For the deletion curve every clip
    is explained by what the model says of it, for the localization fakes are explained as fake.

    Args:
        model: on the device to use.
        dataset: its videos, and their masks where it has any.
        index: their face boxes.
        split: "train", "val", "test", or None for all videos.
        methods: of `istvt.explain.explain`; the random order is always measured.
        stabilizers: `lrp` is measured with each; the first serves everywhere else.
        fractions: of the pixels of a clip to remove, the first being 0.
        fill: what stands where pixels were removed; see `istvt.explain.faithfulness.deletion.remove`.
        clips_per_video: clips of each video, evenly spread over its first 270 frames.
        batch_size: clips in work together.
        decoder, workers: of `ClipLoader`.
        seed: of the random order.
        advance: called with (clips done, clips in all).

    Raises:
        InputError: the split has no usable video, an argument is wrong, or a logit is not finite.
    """
    orderings = orderings_of(methods, stabilizers)
    if len(fractions) < 2 or list(fractions) != sorted(set(fractions)) or fractions[0] != 0 or fractions[-1] > 1:
        raise InputError(f"fractions are {list(fractions)}; expected 0 and rising shares up to 1")
    if fill not in FILLS:
        raise InputError(f"fill is {fill!r}; expected one of {', '.join(FILLS)}")
    videos = dataset.videos if split is None else dataset.select(split).videos
    clips = evaluation_clips(videos, index, model.config.frames, clips_per_video)
    if not clips:
        reason = f": {clips.skipped[0].reason}" if clips.skipped else ""
        raise InputError(f"{dataset.root} has no usable video in the {split or 'whole'} set{reason}")
    measurement = _Measurement(model, clips, orderings, list(fractions), fill, seed)
    loader = ClipLoader(
        clips,
        batch_size,
        model.config.image_size,
        device=next(model.parameters()).device,
        decoder=decoder,
        workers=workers,
    )
    done = 0
    for batch in loader:
        measurement.add(batch.clips, batch.indices.tolist())
        done += len(batch.indices)
        if advance:
            advance(done, len(clips))
    skipped = [(item.video.name, item.reason) for item in clips.skipped]
    skipped += [(clip.video.name, reason) for clip, reason in loader.skipped] + measurement.skipped
    if not measurement.judged:
        raise InputError(f"None of the {len(clips)} clips could be decoded: {skipped[-1][1]}")
    settings = {"split": split, "clips_per_video": clips_per_video, "seed": seed, "fill": fill}
    return measurement.result(skipped, settings)


@dataclass
class _Measurement:
    """Logits after deletion, and localization, collected batch by batch."""

    model: ISTVT
    clips: Sequence[Clip]
    orderings: list[Ordering]
    fractions: list[float]
    fill: Fill
    seed: int
    judged: list[Clip] = field(default_factory=list)
    logits: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    masked: list[MaskedClip] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # A stream each: what chance says of one ordering does not depend on which others are measured.
        names = [ordering.name for ordering in self.orderings]
        self.random = {name: np.random.default_rng([self.seed, zlib.crc32(name.encode())]) for name in names}

    def add(self, pictures: Tensor, indices: list[int]) -> None:
        """Measure clips [B, T, 3, H_i, W_i] by their places in the list."""
        clips = [self.clips[index] for index in indices]
        masks = {place: mask for place, clip in enumerate(clips) if (mask := self._mask(clip)) is not None}
        masked = {
            place: MaskedClip(clips[place].video.manipulation, float(mask.mean())) for place, mask in masks.items()
        }
        whole = self._logits(pictures, clips)
        verdicts = [verdict_of(probability) for probability in probability_of(whole)]
        for ordering in self.orderings:
            heat, as_fake = self._heat(ordering, pictures, verdicts, list(masked))
            remaining = delete(pictures, heat, self.fractions[1:], self.fill, self.random[ordering.name])
            logits = [whole, *(self._logits(part, clips) for part in remaining)]
            self.logits[ordering.name].append(np.stack(logits, axis=1))
            for place, pair in as_fake.items():
                masked[place].locate(ordering.name, *pair, masks[place])
        self.judged += clips
        self.masked += masked.values()

    def _heat(
        self, ordering: Ordering, pictures: Tensor, verdicts: list[str], masked: list[int]
    ) -> tuple[np.ndarray, dict[int, tuple[np.ndarray, np.ndarray]]]:
        """Return heat to rank pixels by, [B, T, H, W], and (temporal, spatial) of masked clips explained as fake."""
        shape = (self.model.config.frames, *self.model.config.feature_grid)
        if ordering.method == RANDOM:
            random = self.random[ordering.name].random
            heat = np.stack([random(shape) for _ in verdicts])
            as_fake = {place: (random(shape), random(shape)) for place in masked}
        else:
            temporal, spatial = self._maps(ordering, pictures, verdicts)
            heat = temporal + spatial
            as_fake = {place: (temporal[place], spatial[place]) for place in masked}
            if missed := [place for place in masked if verdicts[place] != CLASSES[FAKE]]:
                again = self._maps(ordering, pictures[missed], [CLASSES[FAKE]] * len(missed))
                as_fake |= zip(missed, zip(*again, strict=True), strict=True)
        return heat, as_fake

    def _maps(self, ordering: Ordering, pictures: Tensor, targets: list[str]) -> tuple[np.ndarray, np.ndarray]:
        result = explain(self.model, pictures, target=targets, method=ordering.method, stabilizer=ordering.stabilizer)
        return result.temporal.float().cpu().numpy(), result.spatial.float().cpu().numpy()

    def _logits(self, pictures: Tensor, clips: Sequence[Clip]) -> np.ndarray:
        logits = logits_of(self.model, pictures)
        check_finite(clips, logits)
        return logits

    def _mask(self, clip: Clip) -> np.ndarray | None:
        """Return the mask of a clip; None where it has none or nothing in it."""
        video = clip.video
        if video.label != FAKE or video.mask is None:
            return None
        try:
            mask = mask_of(clip, self.model.config.image_size)
        except InputError as error:
            self.skipped.append((video.name, str(error)))
            return None
        return mask if mask.any() else None

    def result(self, skipped: list[tuple[str, str]], settings: dict[str, Any]) -> Faithfulness:
        """Return everything that was collected, as metrics."""
        of_manipulation: dict[str, list[MaskedClip]] = {}
        for clip in sorted(self.masked, key=lambda clip: clip.manipulation):
            of_manipulation.setdefault(clip.manipulation, []).append(clip)
        results = []
        for ordering in self.orderings:
            accuracy, confidence = curves(self.judged, np.concatenate(self.logits[ordering.name]))
            results.append(
                OrderingResult(
                    ordering,
                    accuracy,
                    confidence,
                    mean_height(self.fractions, accuracy),
                    mean_height(self.fractions, confidence),
                    localizations(self.masked, ordering.name),
                    {name: localizations(clips, ordering.name) for name, clips in of_manipulation.items()},
                )
            )
        shares = [clip.mask_share for clip in self.masked]
        return Faithfulness(
            fractions=self.fractions,
            orderings=results,
            videos=len({clip.video.name for clip in self.judged}),
            clips=len(self.judged),
            mask_share=float(np.mean(shares)) if shares else None,
            skipped=skipped,
            settings=settings,
        )
