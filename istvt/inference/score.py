"""Scoring of clips and of single videos, for validation, evaluation and prediction."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dataloading.clips.loader import ClipLoader
from dataloading.clips.sampling import Clip, evaluation_clips
from dataloading.dataset import Video
from dataloading.errors import InputError
from dataloading.face_index import FaceEntry, FaceIndex
from istvt.device import autocast, in_evaluation_mode, resolve_precision
from istvt.inference.video_score import VideoScore, score_videos
from istvt.model.istvt import ISTVT

UNLABELED = "unlabeled"  # manipulation of a video without a label


@dataclass
class ScoredClips:
    """Logits of a list of clips.

    Attributes:
        clips: the clips that could be decoded.
        logits: float64 [clips], positive = fake.
        skipped: (clip, reason) of every clip that could not be decoded.
        decoder: decoder of the clips, "pyav" or "dali".
    """

    clips: list[Clip]
    logits: np.ndarray
    skipped: list[tuple[Clip, str]]
    decoder: str

    def videos(self) -> list[VideoScore]:
        """Return one score a video, the mean of its clips' probabilities."""
        return score_videos(self.clips, self.logits)


@torch.inference_mode()
def score_clips(
    model: ISTVT,
    clips: Sequence[Clip],
    *,
    batch_size: int = 16,
    decoder: str = "auto",
    workers: int = 2,
    dtype: torch.dtype = torch.float32,
    advance: Callable[[int], None] | None = None,
) -> ScoredClips:
    """Score clips with `model`, on the device its parameters are on.

    Args:
        model: put into evaluation mode, and back as it was.
        clips: of videos prepared for it.
        batch_size: clips a forward pass.
        decoder: "auto", "pyav" or "dali".
        workers: threads that decode.
        dtype: autocast to this dtype; float32 is plain.
        advance: called with the number of clips done after each batch.
    """
    device = next(model.parameters()).device
    loader = ClipLoader(
        list(clips), batch_size, model.config.image_size, device=device, decoder=decoder, workers=workers
    )
    positions, logits = [], []
    scorer = _folded(model) if device.type == "cpu" else model
    with in_evaluation_mode(scorer):
        for batch in loader:
            with autocast(device, dtype):
                logits.append(scorer(batch.clips).float())  # read at the end: a read would wait for the device
            positions.append(batch.indices)
            if advance:
                advance(len(batch.indices))
    order = torch.cat(positions).tolist() if positions else []
    values = torch.cat(logits).double().cpu().numpy() if logits else np.empty(0)
    return ScoredClips([clips[i] for i in order], values, list(loader.skipped), loader.decoder)


def _folded(model: ISTVT) -> ISTVT:
    """Return a model of the same parameters, but for a backbone whose batch normalizations are folded."""
    folded = copy.copy(model)
    folded._modules = {**model._modules, "backbone": model.backbone.folded()}
    return folded


def score_video(
    model: ISTVT,
    path: Path,
    face: FaceEntry,
    *,
    clips: int = 8,
    batch_size: int = 8,
    workers: int = 2,
    precision: str = "auto",
    advance: Callable[[int, int], None] | None = None,
) -> tuple[VideoScore, ScoredClips]:
    """Score one video that belongs to no data set; return its score and its clips.

    Args:
        model: on the device to use.
        path: the video.
        face: boxes of its face.
        clips: how many are scored, evenly spread over all of it.
        batch_size: clips a forward pass.
        workers: threads that decode.
        precision: "auto" is bfloat16 where the hardware multiplies it; or "float32", "bfloat16", "float16".
        advance: called with (clips done, clips in all) after each batch.

    Raises:
        InputError: it is too short for a clip, or damaged.
    """
    # The loader's batch needs a label; it is not read.
    video = Video(path, 0, UNLABELED, None, face.video, face.video)
    chosen = evaluation_clips([video], FaceIndex({face.video: face}), model.config.frames, clips, None)
    if chosen.skipped:
        raise InputError(chosen.skipped[0].reason)
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        if advance:
            advance(done, len(chosen))

    dtype = resolve_precision(precision, next(model.parameters()).device)
    scored = score_clips(model, chosen, batch_size=batch_size, workers=workers, dtype=dtype, advance=count)
    if not scored.clips:
        raise InputError(scored.skipped[0][1])
    [score] = scored.videos()
    return replace(score, label=None), scored
