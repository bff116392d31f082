"""Scoring of clips, for validation, evaluation and prediction."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dataloading.clips.loader import ClipLoader
from dataloading.clips.sampling import Clip
from istvt.device import autocast, in_evaluation_mode
from istvt.inference.video_score import VideoScore, score_videos
from istvt.model.istvt import ISTVT


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
    scorer = for_scoring(model) if device.type == "cpu" else model
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


def for_scoring(model: ISTVT) -> ISTVT:
    """Return a model of the same parameters, but for a backbone whose batch normalizations are folded."""
    folded = copy.copy(model)
    folded._modules = {**model._modules, "backbone": model.backbone.folded()}
    return folded
