"""Validation: each process scores a share of the clips; metrics are by video over all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule

from dataloading.clips.sampling import Clip
from istvt.config import DataSettings, TrainingSettings
from istvt.evaluation.metrics import epoch_metrics
from istvt.inference.score import score_clips
from istvt.inference.video_score import VideoScore, score_videos
from istvt.model.architectures import build
from istvt.model.detector import Detector
from istvt.training.compile import run_eagerly
from istvt.training.distributed import Processes
from istvt.training.logging import RunLog
from istvt.training.optim import WeightAverage


def validate(
    model: Detector,
    clips: list[Clip],
    training: TrainingSettings,
    data: DataSettings,
    dtype: torch.dtype,
    processes: Processes,
    log: RunLog,
) -> tuple[dict[str, Any], dict[str, str], list[VideoScore]]:
    """Return the validation split's metrics by video, named `val_...`, why videos are skipped by name, and the scores.

    Args:
        model: its parameters are whole (`whole_model`).
        clips: all clips of the split, the same list in every process.
        training: batch size.
        data: decoder and workers.
        dtype: of autocast.
        processes: each scores its own share; all return the same.
        log: shows the progress of this process.
    """
    # Neighbors stay together: the frames of a video are decoded once for all of its clips.
    first, stop = (len(clips) * rank // processes.world_size for rank in (processes.rank, processes.rank + 1))
    log.start_validation(stop - first)
    with run_eagerly():
        scored = score_clips(
            model,
            clips[first:stop],
            batch_size=training.batch_size,
            decoder=data.decoder,
            workers=data.workers,
            dtype=dtype,
            advance=log.advance_validation,
        )
    skipped = [(clip.video.name, reason) for clip, reason in scored.skipped]
    shares = processes.all_gather(([clip.index for clip in scored.clips], scored.logits, skipped))
    positions = [position for share, _, _ in shares for position in share]
    scores = score_videos([clips[i] for i in positions], np.concatenate([logits for _, logits, _ in shares]))
    metrics = {f"val_{name}": value for name, value in epoch_metrics(scores).items()}
    return metrics, {name: reason for _, _, skipped in shares for name, reason in skipped}, scores


def whole_model(model: Detector, backend: str, average: WeightAverage | None = None) -> Detector:
    """Return a model that a process can run and save alone: `model`, or a copy of whole parameters.

    All processes must call it together.

    Args:
        model: of the run, under FSDP this process's share of it.
        backend: of attention.
        average: of its weights, which the copy then has.
    """
    if average is not None:
        state = average.whole()
    elif isinstance(model, FSDPModule):
        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    else:
        return model
    with torch.random.fork_rng(devices=()):  # its random weights, which are replaced, are not of the run's numbers
        copy = build(model.config)
    copy.to(next(model.parameters()).device).set_backend(backend)
    copy.load_state_dict(state)
    return copy
