"""Validation: each process scores a share of the clips; metrics are by video over all of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
    sets: Sequence[Collection[str]] = (),
) -> tuple[dict[str, Any], dict[str, str], list[VideoScore]]:
    """Return the validation split's metrics by video, named `val_...`, why videos are skipped by name, and the scores.

    Of several data sets a metric is the mean over them, so that none counts for more because it has more videos.

    Args:
        model: its parameters are whole (`whole_model`).
        clips: all clips of the split, the same list in every process.
        training: batch size.
        data: decoder and workers.
        dtype: of autocast.
        processes: each scores its own share; all return the same.
        log: shows the progress of this process.
        sets: paths of the videos of each data set, where there are several.
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
    groups = [[score for score in scores if score.path in paths] for paths in sets] or [scores]
    of_sets = [epoch_metrics(group) for group in groups]
    metrics = {f"val_{name}": _mean([values[name] for values in of_sets]) for name in of_sets[0]}
    return metrics, {name: reason for _, _, skipped in shares for name, reason in skipped}, scores


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None where a value is undefined."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


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
