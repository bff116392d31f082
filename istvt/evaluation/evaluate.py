"""Evaluation of a model on one split of a data set: clips are scored, gathered into videos, and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from dataloading.clips.sampling import evaluation_clips
from dataloading.dataset import SYNTHETIC_NOTE, Dataset
from dataloading.errors import InputError
from dataloading.face_index import FaceIndex
from istvt.config import DataSettings
from istvt.evaluation.metrics import compute_metrics
from istvt.evaluation.results import Evaluation
from istvt.inference.crop import crop_difference
from istvt.inference.score import score_clips
from istvt.inference.video_score import VideoScore
from istvt.model.checkpoint import CheckpointInfo
from istvt.model.detector import Detector


def evaluate_split(
    model: Detector,
    info: CheckpointInfo,
    dataset: Dataset,
    index: FaceIndex,
    data: DataSettings,
    *,
    split: str = "test",
    batch_size: int = 16,
    dtype: torch.dtype = torch.float32,
    bootstrap: int = 2000,
    advance: Callable[[int, int], None] | None = None,
) -> tuple[Evaluation, list[VideoScore]]:
    """Score the clips of a split and compute every metric by video.

    Clips are taken evenly from the first 270 frames of each video, as the paper does.

    Args:
        model: on the device to use.
        info: of the model's file.
        dataset: whose videos are scored.
        index: of their faces.
        data: clips a video, decoder and workers.
        split: train, val or test.
        batch_size: clips a forward pass.
        dtype: autocast to this dtype; float32 is plain.
        bootstrap: resamples behind the intervals.
        advance: called with (clips done, clips in all).

    Returns:
        The evaluation, and every video's score.

    Raises:
        InputError: not one video can be scored.
    """
    clips = evaluation_clips(dataset.split_videos(split), index, model.config.frames, data.evaluation_clips)
    done = 0

    def count(scored: int) -> None:
        nonlocal done
        done += scored
        if advance:
            advance(done, len(clips))

    scored = score_clips(
        model, clips, batch_size=batch_size, decoder=data.decoder, workers=data.workers, dtype=dtype, advance=count
    )
    skipped = [(item.video.name, item.reason) for item in clips.skipped]
    skipped += [(clip.video.name, reason) for clip, reason in scored.skipped]
    if not scored.clips:
        _, first = skipped[0]
        raise InputError(f"{data.root}: no video of the {split} split could be scored; the first reason: {first}")
    # Reasons hold file names, which need not be valid Unicode: invalid bytes are written as escapes.
    skipped = [tuple(text.encode(errors="backslashreplace").decode() for text in item) for item in skipped]
    scores = scored.videos()
    detectors = index.detectors({score.name for score in scores})
    notes = [*dataset.notes, *_differences_to_training(info, scored.decoder, detectors)]
    notes += _unknown_shots(index, scores)
    notes += [SYNTHETIC_NOTE] if dataset.synthetic else info.caveats
    return replace(compute_metrics(scores, bootstrap=bootstrap), skipped=skipped, notes=notes), scores


def _unknown_shots(index: FaceIndex, scores: Sequence[VideoScore]) -> list[str]:
    """Return the note on videos with faces whose shots are not known, as `istvt prepare` has it."""
    faces = [score.name for score in scores if not index.entry(score.name).whole_frame]
    unknown = len(index.without_shots(faces))
    if not unknown:
        return []
    return [f"The shots of {unknown} of the {len(scores)} videos are not known: a clip of theirs may span a cut."]


def _differences_to_training(info: CheckpointInfo, decoder: str, detectors: Sequence[str]) -> list[str]:
    crops = crop_difference(info.detectors, detectors)
    notes = [] if crops is None else [crops]
    if info.decoder and decoder and info.decoder != decoder:
        notes.append(
            f"Training decoded with {info.decoder} and this evaluation with {decoder}; "
            "the two differ by a few gray levels."
        )
    return notes
