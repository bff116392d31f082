"""Scoring of clips, for validation, evaluation and prediction."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch

from dataloading.clips.loader import Batch, ClipLoader
from dataloading.clips.sampling import Clip
from dataloading.video.processes import Workers
from istvt.device import autocast, in_evaluation_mode, keep_freed_memory
from istvt.inference.clip_quality import detail, motion
from istvt.inference.masks import count_pixels
from istvt.inference.video_score import VideoScore, score_videos
from istvt.model.detector import Detector
from istvt.model.istvt import ISTVT


@dataclass
class ScoredClips:
    """Logits of a list of clips.

    Attributes:
        clips: the clips that could be decoded.
        logits: float64 [clips], positive = fake.
        skipped: (clip, reason) of every clip that could not be decoded.
        decoder: decoder of the clips, "pyav" or "dali".
        motion: gray levels by which neighboring frames differ, float64 [clips], see `clip_quality.motion`.
        detail: part of the model's input that is sharp, float64 [clips], see `clip_quality.detail`.
        masks: where masks are compared, pixels int64 [clips, masks, 4], as of `count_pixels`; see `score_by_video`.
    """

    clips: list[Clip]
    logits: np.ndarray
    skipped: list[tuple[Clip, str]]
    decoder: str
    motion: np.ndarray
    detail: np.ndarray
    masks: np.ndarray | None = None

    def videos(self) -> list[VideoScore]:
        """Return one score a video, the mean of its clips' probabilities."""
        return score_videos(self.clips, self.logits)


@torch.inference_mode()
def score_clips(
    model: Detector,
    clips: Sequence[Clip],
    *,
    batch_size: int = 16,
    decoder: str = "auto",
    workers: int = 2,
    dtype: torch.dtype = torch.float32,
    processes: Workers | None = None,
    advance: Callable[[int], None] | None = None,
) -> ScoredClips:
    """Score clips with `model`, on the device its parameters are on.

    Args:
        model: put into evaluation mode, and back as it was.
        clips: of videos prepared for it.
        batch_size: clips a forward pass.
        decoder: "auto", "pyav" or "dali".
        workers: processes that decode.
        dtype: autocast to this dtype; float32 is plain.
        processes: of `ClipLoader`.
        advance: called with the number of clips done after each batch.
    """
    loader = _loader(model, clips, batch_size, decoder, workers, processes)
    batches = []
    for batch in _score(model, loader, dtype):
        batches.append(batch)
        if advance:
            advance(len(batch[0]))
    return _gathered(clips, batches, list(loader.skipped), loader.decoder)


# A change of a batch [B, T, 3, H, W] in [-1, 1] of these clips, into a batch like it.
Variant = Callable[[torch.Tensor, Sequence[Clip]], torch.Tensor]
AS_THEY_ARE: tuple[Variant, ...] = (lambda batch, _: batch,)


@torch.inference_mode()
def score_by_video(
    model: Detector,
    clips: Sequence[Clip],
    variants: Sequence[Variant] = AS_THEY_ARE,
    *,
    batch_size: int = 16,
    decoder: str = "auto",
    workers: int = 2,
    dtype: torch.dtype = torch.float32,
    crf: int | None = None,
    other_masks: Sequence[np.ndarray] | None = None,
) -> Iterator[list[ScoredClips]]:
    """Yield the scored clips of each video, in order, while the next one is decoded; see `score_clips`.

    A batch holds clips of one video alone: logits of a video are the same, bit for bit, whichever videos stand beside
    it.

    Args:
        model, batch_size, decoder, workers, dtype: as of `score_clips`.
        clips: those of a video follow each other.
        variants: of each batch, which is decoded once for all of them; by default the clips as they are.
        crf: of `ClipLoader`.
        other_masks: compare the masks of the model with those of the data set, and after them these, bool [H_i, W_i],
            which are the same in all frames; None compares none.

    Yields:
        For each video a list with the clips of each variant.
    """
    loader = _loader(model, clips, batch_size, decoder, workers, by_video=True, crf=crf, masks=other_masks is not None)
    groups = [list(group) for _, group in groupby(range(len(clips)), key=lambda at: clips[at].video.path)]
    number_of = [number for number, group in enumerate(groups) for _ in group]
    place = {id(clip): at for at, clip in enumerate(clips)}
    batches: list[list[_ScoredBatch]] = [[] for _ in variants]
    current = 0

    def finished() -> list[ScoredClips]:
        # The loader is ahead: of this video it has skipped all that it will.
        skipped = [(clip, reason) for clip, reason in loader.skipped if number_of[place[id(clip)]] == current]
        return [_gathered(clips, of_variant, skipped, loader.decoder) for of_variant in batches]

    changed = (
        replace(batch, clips=variant(batch.clips, [clips[i] for i in batch.indices.tolist()]))
        for batch in loader
        for variant in variants
    )
    for number, batch in enumerate(_score(model, changed, dtype, other_masks)):
        while current < number_of[int(batch[0][0])]:
            yield finished()
            batches, current = [[] for _ in variants], current + 1
        batches[number % len(variants)].append(batch)
    while current < len(groups):
        yield finished()
        batches, current = [[] for _ in variants], current + 1


# Positions of clips, on the CPU, their logits, their qualities, and where masks are compared their pixels.
_ScoredBatch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]


def _loader(
    model: Detector,
    clips: Sequence[Clip],
    batch_size: int,
    decoder: str,
    workers: int,
    processes: Workers | None = None,
    by_video: bool = False,
    crf: int | None = None,
    masks: bool = False,
) -> ClipLoader:
    device, size = next(model.parameters()).device, model.config.image_size
    how = {"device": device, "decoder": decoder, "workers": workers, "processes": processes, "by_video": by_video}
    return ClipLoader(list(clips), batch_size, size, **how, crf=crf, masks=masks)


def _score(
    model: Detector, loader: Iterable[Batch], dtype: torch.dtype, other_masks: Sequence[np.ndarray] | None = None
) -> Iterator[_ScoredBatch]:
    """Yield a batch after another; what is on a GPU is not read there, which would wait for it."""
    device = next(model.parameters()).device
    scorer = for_scoring(model) if device.type == "cpu" else model
    keep_freed_memory(device)
    with in_evaluation_mode(scorer):
        for batch in loader:
            pixels = None
            with autocast(device, dtype):
                if other_masks is None:
                    logits = scorer(batch.clips)
                else:
                    logits, predicted = scorer.segment(batch.clips)
                    compared = [predicted >= 0.5, *(torch.from_numpy(mask).to(device) for mask in other_masks)]
                    masks = batch.masks.to(device)
                    pixels = torch.stack([count_pixels(mask, masks) for mask in compared], dim=1)
            yield batch.indices, logits.float(), torch.stack([motion(batch.clips), detail(batch.clips)]), pixels


def _gathered(
    clips: Sequence[Clip], batches: Sequence[_ScoredBatch], skipped: list[tuple[Clip, str]], decoder: str
) -> ScoredClips:
    order = torch.cat([positions for positions, *_ in batches]).tolist() if batches else []
    values = torch.cat([logits for _, logits, *_ in batches]).double().cpu().numpy() if batches else np.empty(0)
    of_clips = [qualities for _, _, qualities, _ in batches]
    pixels = [counts for *_, counts in batches if counts is not None]
    qualities = torch.cat(of_clips, dim=1).double().cpu().numpy() if batches else np.empty((2, 0))
    masks = torch.cat(pixels).cpu().numpy() if pixels else None
    return ScoredClips([clips[i] for i in order], values, skipped, decoder, *qualities, masks)


def for_scoring(model: Detector) -> Detector:
    """Return a model of the same parameters, but of ISTVT with a backbone whose batch normalizations are folded."""
    if not isinstance(model, ISTVT):
        return model
    folded = copy.copy(model)
    folded._modules = {**model._modules, "backbone": model.backbone.folded()}
    return folded
