"""Evaluation of a model on one split of a data set: clips are scored, gathered into videos, and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from dataloading.clips.sampling import Clip, Clips, evaluation_clips
from dataloading.dataset import SYNTHETIC_NOTE, Dataset
from dataloading.errors import InputError
from dataloading.face_index import FaceIndex
from istvt.config import DataSettings, DetectorConfig
from istvt.device import resolve_precision
from istvt.evaluation.metrics import compute_metrics, mask_metrics
from istvt.evaluation.reliability import with_reliability
from istvt.evaluation.results import ConfusionMatrix, Evaluation, MaskCounts
from istvt.inference.crop import crop_difference
from istvt.inference.masks import mean_mask
from istvt.inference.score import ScoredClips, score_by_video
from istvt.inference.video_score import VideoScore, check_probabilities
from istvt.model.checkpoint import CheckpointInfo
from istvt.model.detector import Detector


@dataclass(frozen=True)
class ScoredVideo:
    """What scoring one video of a split gives.

    Attributes:
        score: None where not one clip could be decoded.
        skipped: why clips could not be decoded, one sentence each.
        decoder: of the clips.
        masks: pixels of the model's masks; None where it makes none, or the video's mask is not known.
    """

    score: VideoScore | None
    skipped: list[str]
    decoder: str = ""
    masks: MaskCounts | None = None

    def __post_init__(self) -> None:
        if self.score is not None:
            check_probabilities(self.score.probability, *self.score.clip_probabilities)


def scored_video(scored: ScoredClips) -> ScoredVideo:
    """Return the outcome of one video from its scored clips."""
    score = scored.videos()[0] if scored.clips else None
    # Reasons hold file names, which need not be valid Unicode: invalid bytes are written as escapes.
    reasons = [reason.encode(errors="backslashreplace").decode() for _, reason in scored.skipped]
    return ScoredVideo(score, reasons, scored.decoder, _mask_counts(scored))


def _mask_counts(scored: ScoredClips) -> MaskCounts | None:
    if scored.masks is None or not scored.masks.sum():
        return None
    model, *others = (ConfusionMatrix(*map(int, cells)) for cells in scored.masks.sum(0))
    return MaskCounts(model, others[0] if others else None)


@dataclass(frozen=True)
class SplitScoring:
    """How the videos of a split are scored: what a process needs beside the model. See `evaluate_split`.

    Attributes:
        precision: a name, see `resolve_precision`.
        decoder: of `ClipLoader`.
        masks: whether masks are compared, of a model that makes them.
        mean_mask: of `istvt.inference.masks`, with which they are compared too.
    """

    batch_size: int
    precision: str
    decoder: str
    workers: int
    masks: bool = False
    mean_mask: np.ndarray | None = None

    def score(self, model: Detector, clips: Sequence[Clip]) -> Iterator[ScoredVideo]:
        """Yield the outcome of each video of the clips, in order."""
        dtype = resolve_precision(self.precision, next(model.parameters()).device)
        how = {"batch_size": self.batch_size, "decoder": self.decoder, "workers": self.workers, "dtype": dtype}
        others = None if not self.masks else [] if self.mean_mask is None else [self.mean_mask]
        for [scored] in score_by_video(model, clips, **how, other_masks=others):
            yield scored_video(scored)


def evaluate_split(
    model: Detector,
    info: CheckpointInfo,
    dataset: Dataset,
    index: FaceIndex,
    data: DataSettings,
    *,
    split: str = "test",
    batch_size: int = 16,
    precision: str = "float32",
    bootstrap: int = 2000,
    advance: Callable[[int, int], None] | None = None,
) -> tuple[Evaluation, list[VideoScore]]:
    """Score the clips of a split and compute every metric by video.

    Clips are taken evenly from the first 270 frames of each video, as the paper does. They are scored video by video,
    so that the scores of one do not depend on the others.

    Args:
        model: on the device to use.
        info: of the model's file.
        dataset: whose videos are scored.
        index: of their faces.
        data: clips a video, decoder and workers.
        split: train, val or test.
        batch_size: clips a forward pass, at most.
        precision: "auto", "float32", "bfloat16" or "float16".
        bootstrap: resamples behind the intervals.
        advance: called with (clips done, clips in all).

    Returns:
        The evaluation, and every video's score.

    Raises:
        InputError: not one video can be scored.
    """
    clips = split_clips(dataset, index, data, split, model.config.frames)
    how = split_scoring(model.config, dataset, index, data, batch_size, precision)
    scored, done = [], 0
    for outcome, group in zip(how.score(model, clips), clips_by_video(clips), strict=True):
        scored.append(outcome)
        done += len(group)
        if advance:
            advance(done, len(clips))
    return summarize(info, dataset, index, data, split, clips, scored, bootstrap)


def split_scoring(
    config: DetectorConfig, dataset: Dataset, index: FaceIndex, data: DataSettings, batch_size: int, precision: str
) -> SplitScoring:
    """Return how the videos of a data set are scored by a model of a configuration; see `evaluate_split`."""
    how = SplitScoring(batch_size, precision, data.decoder, data.workers, masks=config.makes_masks)
    if not how.masks:
        return how
    found = mean_mask(dataset, index, config.frames, config.image_size, data.workers)
    return how if found is None else replace(how, mean_mask=found[0])


def split_clips(dataset: Dataset, index: FaceIndex, data: DataSettings, split: str, frames: int) -> Clips:
    """Return the clips of T `frames` of a split that are scored, video by video."""
    return evaluation_clips(dataset.split_videos(split), index, frames, data.evaluation_clips)


def clips_by_video(clips: Sequence[Clip]) -> list[list[Clip]]:
    """Return the clips of each video."""
    return [list(group) for _, group in groupby(clips, key=lambda clip: clip.video.path)]


def summarize(
    info: CheckpointInfo,
    dataset: Dataset,
    index: FaceIndex,
    data: DataSettings,
    split: str,
    clips: Clips,
    scored: Sequence[ScoredVideo],
    bootstrap: int,
) -> tuple[Evaluation, list[VideoScore]]:
    """Return the evaluation, and every video's score, from the outcome of each video of `split_clips`.

    Raises:
        InputError: not one video could be scored.
    """
    skipped = [(item.video.name, item.reason) for item in clips.skipped]
    names = [group[0].video.name for group in clips_by_video(clips)]
    skipped += [(name, reason) for name, item in zip(names, scored, strict=True) for reason in item.skipped]
    scores = [item.score for item in scored if item.score is not None]
    if not scores:
        _, first = skipped[0]
        raise InputError(f"{data.root}: no video of the {split} split could be scored; the first reason: {first}")
    # File names again.
    skipped = [tuple(text.encode(errors="backslashreplace").decode() for text in item) for item in skipped]
    detectors = index.detectors({score.name for score in scores})
    decoder = next(item.decoder for item in scored if item.score is not None)
    notes = [*dataset.notes, *_differences_to_training(info, decoder, detectors)]
    notes += _unknown_shots(index, scores)
    notes += [SYNTHETIC_NOTE] if dataset.synthetic else info.caveats
    evaluation = with_reliability(compute_metrics(scores, bootstrap=bootstrap), scores, info.calibration)
    scored = [item for item in scored if item.score is not None]
    if info.config.makes_masks:
        masks = mask_metrics([item.score.label for item in scored], [item.masks for item in scored], bootstrap)
        evaluation = replace(evaluation, masks=masks)
        if masks is None:
            notes.append("The model's masks are not measured: no mask of an evaluated fake is known.")
    return replace(evaluation, skipped=skipped, notes=notes), scores


def _unknown_shots(index: FaceIndex, scores: Sequence[VideoScore]) -> list[str]:
    """Return the note on videos with faces whose shots are not known, as `istvt prepare` has it."""
    faces = [score.name for score in scores if not index.entry(score.name).whole_frame]
    unknown = len(index.without_shots(faces))
    if not unknown:
        return []
    return [f"The shots of {unknown} of the {len(scores)} videos are not known: a clip of theirs may span a cut."]


def _differences_to_training(info: CheckpointInfo, decoder: str, detectors: Sequence[str]) -> list[str]:
    crops = crop_difference(info.detectors, detectors, info.region)
    notes = [] if crops is None else [crops]
    if info.decoder and decoder and info.decoder != decoder:
        notes.append(
            f"Training decoded with {info.decoder} and this evaluation with {decoder}; "
            "the two differ by a few gray levels."
        )
    return notes
