"""Scoring of clips, for validation, evaluation and prediction."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dataloading.clips.loader import ClipLoader
from dataloading.clips.sampling import Clip
from dataloading.video.processes import Workers
from istvt.device import autocast, in_evaluation_mode
from istvt.inference.clip_quality import detail, motion
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
    """

    clips: list[Clip]
    logits: np.ndarray
    skipped: list[tuple[Clip, str]]
    decoder: str
    motion: np.ndarray
    detail: np.ndarray

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
    device = next(model.parameters()).device
    size, how = model.config.image_size, {"device": device, "decoder": decoder, "workers": workers}
    loader = ClipLoader(list(clips), batch_size, size, processes=processes, **how)
    positions, logits, qualities = [], [], []
    scorer = for_scoring(model) if device.type == "cpu" else model
    with in_evaluation_mode(scorer):
        for batch in loader:
            with autocast(device, dtype):
                logits.append(scorer(batch.clips).float())  # read at the end: a read would wait for the device
            qualities.append(torch.stack([motion(batch.clips), detail(batch.clips)]))
            positions.append(batch.indices)
            if advance:
                advance(len(batch.indices))
    order = torch.cat(positions).tolist() if positions else []
    values = torch.cat(logits).double().cpu().numpy() if logits else np.empty(0)
    of_clips = torch.cat(qualities, dim=1).double().cpu().numpy() if qualities else np.empty((2, 0))
    return ScoredClips([clips[i] for i in order], values, list(loader.skipped), loader.decoder, *of_clips)


def for_scoring(model: Detector) -> Detector:
    """Return a model of the same parameters, but of ISTVT with a backbone whose batch normalizations are folded."""
    if not isinstance(model, ISTVT):
        return model
    folded = copy.copy(model)
    folded._modules = {**model._modules, "backbone": model.backbone.folded()}
    return folded
