"""Whether explanations are true of the model, measured: the deletion curve, the pointing game and the mass in the mask.

Deletion: the hottest pixels are removed, and the more the model's accuracy suffers, the better the order found what the
model used. Pointing game and mass: where a fake has a manipulation mask, how often the hottest cell lies in it
and how much of the heat does. A random order and random heat stand beside every method.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dataloading.clips.loader import ClipLoader
from dataloading.clips.sampling import Clip, evaluation_clips
from dataloading.dataset import CLASSES, FAKE, Dataset
from dataloading.errors import InputError
from dataloading.face_index import FaceIndex
from dataloading.video.decode import decode_frames
from dataloading.video.probe import probe
from istvt.config import DEFAULT_STABILIZER, FILLS, METHODS, Fill
from istvt.evaluation.intervals import wilson_interval
from istvt.explain import heatmap
from istvt.explain.explanation import checked_stabilizer
from istvt.explain.faithfulness.removal import remove
from istvt.explain_video.clips import explain_batch, logits_of
from istvt.inference.video_score import DEFAULT_THRESHOLD, check_finite, probability_of, verdict_of
from istvt.model.istvt import ISTVT

FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.3)
RANDOM = "random"
KINDS = ("temporal", "spatial", "both")
_IN_MASK = 0.5  # a cell counts as forged where at least half of it is
_FINE = 8  # pixels a cell in which masks are sampled before they are averaged


@dataclass(frozen=True)
class Ordering:
    """One way to rank the cells of a clip: a method of `istvt.explain.explain` with its stabilizer, or chance."""

    name: str
    method: str
    stabilizer: float | str = DEFAULT_STABILIZER


@dataclass
class Localization:
    """How well heat finds the manipulation, over clips of fakes with a mask, explained as fake.

    Attributes:
        clips: how many.
        pointing: share of clips whose hottest cell lies in the mask; a clip without heat has missed. None of no clip.
        low, high: its 95 % Wilson interval.
        mass: mean share of the heat that lies in the mask, over the clips with heat; None where there is none.
    """

    clips: int
    pointing: float | None
    low: float | None
    high: float | None
    mass: float | None


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
        masked_cells: mean share of cells in the mask, over clips with one: what pointing at random would score.
        skipped: (video name, reason) of every clip or mask that could not be used.
        settings: how it was measured.
        evaluated: with which model and on which videos (`evaluated_set`), where that is recorded.
    """

    fractions: list[float]
    orderings: list[OrderingResult]
    videos: int
    clips: int
    masked_cells: float | None
    skipped: list[tuple[str, str]]
    settings: dict[str, Any]
    evaluated: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Faithfulness:
        """What `to_dict` gave, also after it was JSON; a KeyError or TypeError where it gave something else."""

        def localizations(parts: dict[str, Any]) -> dict[str, Localization]:
            return {kind: Localization(**part) for kind, part in parts.items()}

        orderings = [
            OrderingResult(
                **{
                    **item,
                    "ordering": Ordering(**item["ordering"]),
                    "localization": localizations(item["localization"]),
                    "by_manipulation": {name: localizations(part) for name, part in item["by_manipulation"].items()},
                }
            )
            for item in values["orderings"]
        ]
        return cls(**{**values, "orderings": orderings, "skipped": [tuple(item) for item in values["skipped"]]})


def orderings_of(
    methods: Sequence[str] = METHODS, stabilizers: Sequence[float | str] = (DEFAULT_STABILIZER,)
) -> list[Ordering]:
    """The methods, `lrp` once for each stabilizer, and the random order; no two have the same name.

    Raises:
        InputError: a method or stabilizer is none or there twice, or there is none of them.
    """
    for name, values in (("methods", methods), ("stabilizers", stabilizers)):
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise InputError(f"{name} is {values!r}; expected a list of one or more")
    for method in methods:
        if method not in METHODS:
            raise InputError(f"methods holds {method!r}; expected some of {', '.join(METHODS)}")
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

    Pixels are ranked by the sum of temporal and spatial heat, brought to the size of the picture bilinearly; equal heat
    is ranked by chance. The two are summed as they are, for their unit is the same: stretched to the same range, the
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
        fill: what stands where pixels were removed; see `istvt.explain.faithfulness.removal.remove`.
        clips_per_video: clips of each video, evenly spread over its first 270 frames.
        batch_size: clips in work together.
        decoder, workers: of `ClipLoader`.
        seed: of the random order.
        advance: called with (clips done, clips in all).

    Raises:
        InputError: the split has no usable video, an argument is wrong, or a logit is not finite.
    """
    orderings = orderings_of(methods, stabilizers)
    _check(fractions, fill)
    videos = dataset.videos if split is None else dataset.select(split).videos
    clips = evaluation_clips(videos, index, model.config.frames, clips_per_video)
    if not clips:
        reason = f": {clips.skipped[0].reason}" if clips.skipped else ""
        raise InputError(f"{dataset.root} has no usable video in the {split or 'whole'} set{reason}")
    measurement = _Measurement(model, clips, orderings, fractions, fill, seed)
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


def _check(fractions: Sequence[float], fill: str) -> None:
    if len(fractions) < 2 or list(fractions) != sorted(set(fractions)) or fractions[0] != 0 or fractions[-1] > 1:
        raise InputError(f"fractions are {list(fractions)}; expected 0 and rising shares up to 1")
    if fill not in FILLS:
        raise InputError(f"fill is {fill!r}; expected one of {', '.join(FILLS)}")


@dataclass
class _Found:
    """Where one clip's heat lay: by (ordering, kind) whether the hottest cell is in the mask, and the share in it."""

    manipulation: str
    masked_cells: float
    hit: dict[tuple[str, str], bool] = field(default_factory=dict)
    mass: dict[tuple[str, str], float | None] = field(default_factory=dict)


class _Measurement:
    """Collects logits after deletion and localization, batch by batch."""

    def __init__(
        self,
        model: ISTVT,
        clips: Sequence[Clip],
        orderings: list[Ordering],
        fractions: Sequence[float],
        fill: Fill,
        seed: int,
    ) -> None:
        self.model, self.clips, self.orderings = model, clips, orderings
        self.fractions, self.fill = list(fractions), fill
        # A stream each: what chance says of one ordering does not depend on which others are measured.
        self.random = {
            ordering.name: np.random.default_rng([seed, zlib.crc32(ordering.name.encode())]) for ordering in orderings
        }
        self.judged: list[Clip] = []
        self.logits: dict[str, list[np.ndarray]] = {ordering.name: [] for ordering in orderings}
        self.found: list[_Found] = []
        self.skipped: list[tuple[str, str]] = []

    def add(self, pictures: Tensor, indices: list[int]) -> None:
        """Clips [B, T, 3, H_i, W_i] and their places in the list."""
        clips = [self.clips[index] for index in indices]
        masks = [self._mask(clip) for clip in clips]
        found = [
            None if mask is None else _Found(clip.video.manipulation, float((mask >= _IN_MASK).mean()))
            for clip, mask in zip(clips, masks, strict=True)
        ]
        whole = self._logits(pictures, clips)
        verdicts = [verdict_of(probability) for probability in probability_of(whole)]
        for ordering in self.orderings:
            heats, as_fake = self._heats(ordering, pictures, verdicts, [mask is not None for mask in masks])
            after = [self._logits(remaining, clips) for remaining in self._deleted(pictures, heats, ordering.name)]
            self.logits[ordering.name].append(np.stack([whole, *after], axis=1))
            for place, heat in as_fake.items():
                _localize(found[place], ordering.name, heat, masks[place])
        self.judged += clips
        self.found += [item for item in found if item is not None]

    def _heats(
        self, ordering: Ordering, pictures: Tensor, verdicts: list[str], masked: list[bool]
    ) -> tuple[list[np.ndarray], dict[int, tuple[np.ndarray, np.ndarray]]]:
        """Heat to rank pixels by, [T, H, W] each, and (temporal, spatial) of masked clips explained as fake."""
        config = self.model.config
        shape = (config.frames, *config.feature_grid)
        if ordering.method == RANDOM:
            random = self.random[ordering.name].random
            heats = [random(shape) for _ in masked]
            pairs = {place: (random(shape), random(shape)) for place, yes in enumerate(masked) if yes}
            return heats, pairs
        settings = {"method": ordering.method, "stabilizer": ordering.stabilizer}
        maps = [parts[2:] for parts in explain_batch(self.model, pictures, verdicts, settings)]
        pairs = {place: maps[place] for place, yes in enumerate(masked) if yes}
        missed = [place for place in pairs if verdicts[place] != CLASSES[FAKE]]
        if missed:
            again = explain_batch(self.model, pictures[missed], [CLASSES[FAKE]] * len(missed), settings)
            pairs |= {place: parts[2:] for place, parts in zip(missed, again, strict=True)}
        return [temporal + spatial for temporal, spatial in maps], pairs

    def _deleted(self, pictures: Tensor, heats: list[np.ndarray], name: str) -> Iterator[Tensor]:
        """The clips without their hottest pixels, for each fraction but the first, which is 0."""
        batch, frames, _, height, width = pictures.shape
        heat = torch.from_numpy(np.stack(heats)).to(pictures.device, torch.float32)
        heat = functional.interpolate(heat, (height, width), mode="bilinear", align_corners=False).flatten(1)
        chance = torch.from_numpy(self.random[name].random(heat.shape, np.float32)).to(heat.device)
        # Chance decides between equal heat and nothing else: far below a gray level of the color scale.
        largest = heat.abs().amax(1, keepdim=True).clamp(min=torch.finfo(heat.dtype).tiny)
        order = (heat / largest + 1e-6 * chance).argsort(dim=1, descending=True)
        for fraction in self.fractions[1:]:
            removed = torch.zeros_like(heat, dtype=torch.bool)
            removed.scatter_(1, order[:, : round(fraction * order.shape[1])], True)
            yield remove(pictures, removed.view(batch, frames, height, width), self.fill)

    def _logits(self, pictures: Tensor, clips: Sequence[Clip]) -> np.ndarray:
        logits = logits_of(self.model, pictures)
        check_finite(clips, logits)
        return logits

    def _mask(self, clip: Clip) -> np.ndarray | None:
        """Share of each cell that was manipulated, [T, H, W]; None of a clip without mask or with nothing in it."""
        video = clip.video
        if video.label != FAKE or video.mask is None:
            return None
        try:
            mask = mask_on_grid(clip, self.model.config.feature_grid)
        except InputError as error:
            self.skipped.append((video.name, str(error)))
            return None
        return mask if (mask >= _IN_MASK).any() else None

    def result(self, skipped: list[tuple[str, str]], settings: dict[str, Any]) -> Faithfulness:
        """Everything that was collected, as figures."""
        manipulations = sorted({item.manipulation for item in self.found})
        results = []
        for ordering in self.orderings:
            logits = np.concatenate(self.logits[ordering.name])
            accuracy, confidence = self._curves(logits)
            results.append(
                OrderingResult(
                    ordering,
                    accuracy,
                    confidence,
                    _area(self.fractions, accuracy),
                    _area(self.fractions, confidence),
                    _localizations(self.found, ordering.name),
                    {
                        name: _localizations([item for item in self.found if item.manipulation == name], ordering.name)
                        for name in manipulations
                    },
                )
            )
        masked = [item.masked_cells for item in self.found]
        return Faithfulness(
            fractions=self.fractions,
            orderings=results,
            videos=len({clip.video.name for clip in self.judged}),
            clips=len(self.judged),
            masked_cells=float(np.mean(masked)) if masked else None,
            skipped=skipped,
            settings=settings,
        )

    def _curves(self, logits: np.ndarray) -> tuple[list[float], list[float]]:
        """Balanced accuracy of videos and mean confidence of clips, for logits [clips, fractions]."""
        probabilities = probability_of(logits)
        of_video: dict[tuple[str, int], list[int]] = {}
        for place, clip in enumerate(self.judged):
            of_video.setdefault((clip.video.name, clip.label), []).append(place)
        right: dict[int, list[np.ndarray]] = {}
        for (_, label), places in of_video.items():
            right.setdefault(label, []).append((probabilities[places].mean(0) > DEFAULT_THRESHOLD) == bool(label))
        accuracy = np.mean([np.mean(each, axis=0) for each in right.values()], axis=0)
        first = probabilities[:, :1] > DEFAULT_THRESHOLD
        confidence = np.where(first, probabilities, 1 - probabilities).mean(0)
        return accuracy.tolist(), confidence.tolist()


def mask_on_grid(clip: Clip, grid: tuple[int, int]) -> np.ndarray:
    """Share of each cell of a clip's box that its mask video calls manipulated: float32 [T, H, W] in 0..1.

    Raises:
        InputError: the mask cannot be read, or lacks a frame.
    """
    video, mask = probe(clip.video.path), probe(clip.video.mask)
    scale_x, scale_y = mask.width / video.width, mask.height / video.height
    x0, y0, x1, y1 = clip.box
    box = (x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y)
    height, width = grid
    cells = []
    for frame in decode_frames(clip.video.mask, clip.frames, mask):
        fine = heatmap.crop(frame.max(2), box, (height * _FINE, width * _FINE), cv2.BORDER_CONSTANT)
        cells.append((fine >= 128).reshape(height, _FINE, width, _FINE).mean((1, 3)))
    return np.stack(cells).astype(np.float32)


def _localize(found: _Found, name: str, pair: tuple[np.ndarray, np.ndarray], mask: np.ndarray) -> None:
    for kind, heat in zip(KINDS, (*pair, pair[0] + pair[1]), strict=True):
        heat = np.maximum(heat, 0).astype(np.float64)
        total = heat.sum()
        found.hit[name, kind] = bool(total > 0 and mask.flat[int(heat.argmax())] >= _IN_MASK)
        found.mass[name, kind] = float((heat * mask).sum() / total) if total > 0 else None


def _localizations(found: Sequence[_Found], name: str) -> dict[str, Localization]:
    result = {}
    for kind in KINDS:
        hits = sum(item.hit[name, kind] for item in found)
        masses = [item.mass[name, kind] for item in found if item.mass[name, kind] is not None]
        low, high = wilson_interval(hits, len(found)) if found else (None, None)
        share = hits / len(found) if found else None
        result[kind] = Localization(len(found), share, low, high, float(np.mean(masses)) if masses else None)
    return result


def _area(fractions: Sequence[float], values: Sequence[float]) -> float:
    return float(np.trapezoid(values, fractions) / (fractions[-1] - fractions[0]))
