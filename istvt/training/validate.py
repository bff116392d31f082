"""Scoring the validation split: each process a share of its clips, every figure by video over all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from dataloading.clips.sampling import Clip
from istvt.config import DataSettings, TrainingSettings
from istvt.evaluation.metrics import epoch_metrics
from istvt.inference.score import score_clips
from istvt.inference.video_score import score_videos
from istvt.model.istvt import ISTVT
from istvt.training.compile import eager_for_now
from istvt.training.distributed import Processes


def validate(
    model: ISTVT,
    clips: list[Clip],
    training: TrainingSettings,
    data: DataSettings,
    dtype: torch.dtype,
    processes: Processes,
    advance: Callable[[int], None],
) -> tuple[dict[str, Any], dict[str, str]]:
    """Figures of the validation split by video, named `val_...`, and the reasons of what was skipped by video name.

    Args:
        model: holding whole parameters (`whole_model`).
        clips: all clips of the split, the same list in every process.
        training: batch size.
        data: decoder and workers.
        dtype: what forward autocasts to.
        processes: each scores its own share; all get all figures.
        advance: called with the number of clips of this process's share done after each batch.
    """
    # Neighbors stay together: the frames of a video are decoded once for all of its clips.
    first, stop = (len(clips) * rank // processes.world_size for rank in (processes.rank, processes.rank + 1))
    with eager_for_now():
        scored = score_clips(
            model,
            clips[first:stop],
            batch_size=training.batch_size,
            decoder=data.decoder,
            workers=data.workers,
            dtype=dtype,
            advance=advance,
        )
    skipped = [(clip.video.name, reason) for clip, reason in scored.skipped]
    shares = processes.all_gather(([clip.index for clip in scored.clips], scored.logits, skipped))
    positions = [position for share, _, _ in shares for position in share]
    scores = score_videos([clips[i] for i in positions], np.concatenate([logits for _, logits, _ in shares]))
    figures = {f"val_{name}": value for name, value in epoch_metrics(scores).items()}
    return figures, {name: reason for _, _, skipped in shares for name, reason in skipped}


def whole_model(model: ISTVT, state: dict[str, Tensor], backend: str) -> ISTVT:
    """A model that a process can run alone: the model itself, or a copy made of `state` where it holds shares only."""
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    copy = ISTVT(model.config).to(next(model.parameters()).device).set_backend(backend)
    copy.load_state_dict(state)
    return copy
