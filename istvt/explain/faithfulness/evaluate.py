"""Evaluation of explanation methods on the videos of a data set: deletion, insertion, where and when."""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dataloading.clips.loader import ClipLoader
from dataloading.clips.sampling import Clip, evaluation_clips
from dataloading.dataset import CLASSES, FAKE, Dataset
from dataloading.errors import InputError
from dataloading.face_index import FaceIndex
from dataloading.synthetic.dataset import FORGERIES, forgeries
from dataloading.synthetic.forgery import WHOLE
from istvt.config import INTEGRATED_GRADIENTS, FaithfulnessSettings
from istvt.explain.explanation import logits_of, require_measurable
from istvt.explain.faithfulness.deletion import curve, hottest_first
from istvt.explain.faithfulness.heat import heat_of, marginals
from istvt.explain.faithfulness.localization import hottest_hit, mask_of, mass_in, rank_accuracy
from istvt.explain.faithfulness.results import CURVES, Faithfulness, MeasuredClip, MethodValues, Sanity
from istvt.explain.faithfulness.sanity import check_sanity
from istvt.inference.video_score import check_finite, probability_of
from istvt.model.istvt import ISTVT


class Sample(NamedTuple):
    """A clip [T, 3, H_i, W_i] with its place in the list, and the same frames before they were forged, if known."""

    index: int
    pictures: Tensor
    original: Tensor | None


def evaluate_explanations(
    model: ISTVT,
    dataset: Dataset,
    index: FaceIndex,
    settings: FaithfulnessSettings | None = None,
    *,
    split: str | None = "test",
    decoder: str = "auto",
    workers: int = 2,
    advance: Callable[[int, int], None] | None = None,
) -> Faithfulness:
    """Measure how faithful each method is on the videos of a data set.

    Every clip is explained as fake: of a real clip it is the evidence against it. The forms of heat and the orders of
    removal are those of `istvt.explain.faithfulness.heat` and `deletion`.

    Args:
        model: on the device to use.
        dataset: its videos, their masks where it has any, and the originals of its fakes where they are in it.
        index: their face boxes.
        settings: what is measured; the defaults if None.
        split: "train", "val", "test", or None for all videos.
        decoder, workers: of `ClipLoader`.
        advance: called with (clips done, clips in all).

    Raises:
        InputError: the split has no usable video, or a logit is not finite.
    """
    settings = settings or FaithfulnessSettings()
    require_measurable(model.config)
    # A copy: with its channels last the convolutions take half the time on a CPU.
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    videos = dataset.videos if split is None else dataset.select(split).videos
    clips = evaluation_clips(videos, index, model.config.frames, settings.clips_per_video)
    if not clips:
        reason = f": {clips.skipped[0].reason}" if clips.skipped else ""
        raise InputError(f"{dataset.root} has no usable video in the {split or 'whole'} set{reason}")
    samples = _Samples(model, clips, dataset, settings.batch_size, decoder, workers)
    measurement = _Measurement(model, clips, _halves(dataset), settings)
    done = 0
    for batch in samples:
        measurement.add(batch)
        done += len(batch)
        if advance:
            advance(done, len(clips))
    skipped = [(item.video.name, item.reason) for item in clips.skipped] + samples.skipped + measurement.skipped
    if not measurement.clips:
        raise InputError(f"None of the {len(clips)} clips could be decoded: {skipped[-1][1]}")
    return Faithfulness(
        fractions=list(settings.fractions),
        frames=model.config.frames,
        clips=measurement.clips,
        methods=measurement.methods,
        skipped=skipped,
        settings={"split": split, **json.loads(json.dumps(asdict(settings)))},  # as they are read back
        sanity=measurement.sanity(),
    )


def _halves(dataset: Dataset) -> set[str]:
    """Return names of the fakes of which half the face was forged, which the synthetic set alone knows."""
    if not (Path(dataset.root) / FORGERIES).is_file():
        return set()
    return {name for name, forgery in forgeries(dataset.root).items() if forgery.region != WHOLE}


class _Samples:
    """Clips as batches of `Sample`, each after its original in the loader's list.

    Attributes:
        skipped: (video name, reason) of clips that could not be decoded, once the batches were taken.
    """

    def __init__(
        self, model: ISTVT, clips: Sequence[Clip], dataset: Dataset, batch_size: int, decoder: str, workers: int
    ) -> None:
        by_name = {video.name: video for video in dataset.videos}
        self.batch_size, self.skipped = batch_size, []
        self.listed: list[Clip] = []
        self.role: list[tuple[int, bool]] = []  # the clip's index, and whether this is its original
        for number, clip in enumerate(clips):
            original = by_name.get(clip.video.source)
            if clip.label == FAKE and original is not None:
                self.listed.append(Clip(original, clip.frames, clip.box, original.label, number))
                self.role.append((number, True))
            self.listed.append(clip)
            self.role.append((number, False))
        device = next(model.parameters()).device
        options = {"device": device, "decoder": decoder, "workers": workers}
        self.loader = ClipLoader(self.listed, batch_size, model.config.image_size, **options)

    def __iter__(self) -> Iterator[list[Sample]]:
        originals: dict[int, Tensor] = {}
        ready: list[Sample] = []
        for batch in self.loader:
            for place, pictures in zip(batch.indices.tolist(), batch.clips, strict=True):
                number, is_original = self.role[place]
                if is_original:
                    originals = {number: pictures}  # the next clip is its own, unless that cannot be decoded
                else:
                    ready.append(Sample(number, pictures, originals.pop(number, None)))
            while len(ready) >= self.batch_size:
                yield ready[: self.batch_size]
                ready = ready[self.batch_size :]
        if ready:
            yield ready
        self.skipped = [(clip.video.name, reason) for clip, reason in self.loader.skipped]


@dataclass
class _Row:
    """One clip of a batch that is explained: its place in the batch, and its logit."""

    place: int
    pictures: Tensor
    original: Tensor | None
    mask: np.ndarray | None
    clip: MeasuredClip
    logit: float

    def has(self, curve: str) -> bool:
        """Return whether this kind of curve is measured: deletion of every clip, the others of detected fakes."""
        if curve == "deletion":
            return True
        return self.clip.detected and (self.original is not None or not curve.startswith("counterfactual"))


class _Starts:
    """Logits with which curves of a batch begin, which do not depend on the method."""

    def __init__(self, model: ISTVT, rows: Sequence[_Row]) -> None:
        whole = {row.place: row.logit for row in rows}
        nothing = float(logits_of(model, torch.zeros_like(rows[0].pictures).unsqueeze(0))[0])
        paired = [row for row in rows if row.has("counterfactual_insertion")]
        originals = logits_of(model, torch.stack([row.original for row in paired])) if paired else []
        self.logits = {
            "deletion": whole,
            "insertion": dict.fromkeys(whole, nothing),
            "counterfactual_deletion": whole,
            "counterfactual_insertion": {row.place: x for row, x in zip(paired, originals, strict=True)},
        }

    def of(self, curve: str, rows: Sequence[_Row]) -> np.ndarray:
        """Return the logits of some rows."""
        return np.array([self.logits[curve][row.place] for row in rows])


@dataclass
class _Measurement:
    """Logits of changed clips and localization, collected batch by batch."""

    model: ISTVT
    sampled: Sequence[Clip]
    halves: set[str]
    settings: FaithfulnessSettings
    clips: list[MeasuredClip] = field(default_factory=list)
    methods: dict[str, MethodValues] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    for_sanity: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.methods = {method: MethodValues() for method in self.settings.methods}
        # A stream each: what chance gives one method does not depend on which others are measured.
        seed = self.settings.seed
        self.random = {name: np.random.default_rng([seed, zlib.crc32(name.encode())]) for name in self.methods}
        chance = np.random.default_rng(seed)
        self.with_curves: set[str] = set()
        self.place: dict[str, int] = {}  # of a video in the order drawn by chance
        for label in range(len(CLASSES)):
            names = sorted({clip.video.name for clip in self.sampled if clip.label == label})
            names = chance.permutation(names).tolist()
            self.with_curves |= set(names[: self.settings.curve_videos])
            self.place |= {name: number for number, name in enumerate(names)}

    def add(self, samples: Sequence[Sample]) -> None:
        """Measure some clips by every method."""
        pictures = torch.stack([sample.pictures for sample in samples])
        sampled = [self.sampled[sample.index] for sample in samples]
        logits = logits_of(self.model, pictures)
        check_finite(sampled, logits)
        masks = [self._mask(clip) for clip in sampled]
        measured = [
            self._measured(*parts) for parts in zip(samples, sampled, masks, probability_of(logits), strict=True)
        ]
        self.clips += measured
        self._keep_for_sanity(samples, measured)
        rows = [
            _Row(place, samples[place].pictures, samples[place].original, masks[place], clip, float(logits[place]))
            for place, clip in enumerate(measured)
            if masks[place] is not None or clip.video in self.with_curves
        ]
        for values in self.methods.values():
            for column in vars(values).values():
                column.extend([None] * len(samples))
        self._measure(rows, [method for method in self.methods if method != INTEGRATED_GRADIENTS], len(samples))
        if INTEGRATED_GRADIENTS in self.methods:
            known = [row for row in rows if row.original is not None and row.clip.detected]
            self._measure(known, [INTEGRATED_GRADIENTS], len(samples))

    def _measure(self, rows: Sequence[_Row], methods: Sequence[str], of: int) -> None:
        """Add the values by some methods of clips in the last batch, which has `of` clips."""
        if not rows or not methods:
            return
        pictures = torch.stack([row.pictures for row in rows])
        chosen = replace(self.settings, methods=tuple(methods))
        originals = torch.stack([row.original for row in rows]) if methods == [INTEGRATED_GRADIENTS] else None
        heats = heat_of(self.model, pictures, chosen, self.random, originals)
        starts = _Starts(self.model, rows)
        for method, heat in heats.items():
            values, first = self.methods[method], len(self.methods[method].rank) - of
            where, when = marginals(heat)
            order = hottest_first(where, self.random[method])
            for number, row in enumerate(rows):
                if row.mask is None:
                    continue
                at, union, forged = first + row.place, row.mask.any(0), row.mask.any((1, 2))
                values.hottest[at] = hottest_hit(where[number], union)
                values.rank[at] = rank_accuracy(order[number], union)
                values.mass[at] = mass_in(where[number], union)
                if not forged.all():
                    values.by_frame[at] = when[number].tolist()
            for name in CURVES:
                use = [
                    number for number, row in enumerate(rows) if row.has(name) and row.clip.video in self.with_curves
                ]
                if use:
                    part = [rows[number] for number in use]
                    curves = self._curves(name, part, order[use], starts)
                    for row, one in zip(part, curves, strict=True):
                        getattr(values, name)[first + row.place] = one.tolist()

    def _curves(self, name: str, rows: Sequence[_Row], order: np.ndarray, starts: _Starts) -> np.ndarray:
        """Return one kind of curve, probabilities of fake [rows, fractions]."""
        originals = torch.stack([row.original for row in rows]) if name.startswith("counterfactual") else None
        return probability_of(
            curve(
                lambda clips: logits_of(self.model, clips),
                torch.stack([row.pictures for row in rows]),
                order,
                self.settings.fractions,
                starts.of(name, rows),
                insert=name.endswith("insertion"),
                originals=originals,
            )
        )

    def _measured(self, sample: Sample, clip: Clip, mask: np.ndarray | None, probability: float) -> MeasuredClip:
        video = clip.video
        return MeasuredClip(
            video=video.name,
            label=clip.label,
            manipulation=video.manipulation,
            probability=float(probability),
            original=sample.original is not None,
            forged=None if mask is None else np.flatnonzero(mask.any((1, 2))).tolist(),
            mask_share=None if mask is None else float(mask.any(0).mean()),
            half=video.name in self.halves,
        )

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

    def _keep_for_sanity(self, samples: Sequence[Sample], measured: Sequence[MeasuredClip]) -> None:
        """Keep detected fakes, the first in the order drawn by chance, each of another video."""
        kept = {self.sampled[sample.index].video.name for sample in self.for_sanity}
        for sample, clip in zip(samples, measured, strict=True):
            if clip.detected and clip.video not in kept:
                kept.add(clip.video)
                self.for_sanity.append(sample)
        self.for_sanity.sort(key=lambda sample: self.place[self.sampled[sample.index].video.name])
        del self.for_sanity[self.settings.sanity :]

    def sanity(self) -> Sanity | None:
        """Return the sanity checks of the kept clips; None where none were asked for or no fake was detected."""
        if len(self.for_sanity) < 2:
            return None
        names = [self.sampled[sample.index].video.name for sample in self.for_sanity]
        pictures = torch.stack([sample.pictures for sample in self.for_sanity])
        return check_sanity(self.model, pictures, names, self.settings)
