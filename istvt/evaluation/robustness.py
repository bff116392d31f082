"""Robustness: metrics of a detector on perturbed videos, against the strength of the perturbation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from dataloading.clips.loader import decoder_of
from dataloading.clips.sampling import Clip
from dataloading.dataset import FAKE, REAL, Dataset
from dataloading.errors import InputError
from dataloading.face_index import FaceIndex
from dataloading.perturbations import Sweep, generator_of, perturb_clip, perturb_pictures
from istvt.config import DataSettings
from istvt.device import resolve_precision
from istvt.evaluation.evaluate import split_clips
from istvt.evaluation.intervals import resample_counts
from istvt.evaluation.metrics import CONFIDENCE, Samples, estimate, proportion_estimate
from istvt.evaluation.results import Estimate, Robustness, RobustnessCurve, RobustnessPoint
from istvt.inference.score import ScoredClips, score_variants
from istvt.inference.video_score import DEFAULT_THRESHOLD, EvaluatedSet, VideoScore
from istvt.model.detector import Detector


@dataclass(frozen=True)
class PerturbedVideos:
    """Scores of videos at one strength of a perturbation, and sentences on how they came about."""

    scores: list[VideoScore]
    notes: list[str]


Perturbed = dict[tuple[str, float], PerturbedVideos]  # by the name of the perturbation and its strength


def evaluate_robustness(
    model: Detector,
    dataset: Dataset,
    index: FaceIndex,
    data: DataSettings,
    sweeps: Sequence[Sweep],
    plain: Sequence[VideoScore],
    evaluated: EvaluatedSet,
    *,
    bootstrap: int = 2000,
    seed: int = 0,
    batch_size: int = 16,
    precision: str = "float32",
    advance: Callable[[int, int], None] | None = None,
) -> tuple[Robustness, Perturbed]:
    """Score the clips of an evaluation under perturbations and compute the metrics by video at each strength.

    Args:
        model: on the device to use.
        dataset: whose videos were evaluated.
        index: of their faces.
        data: clips a video, decoder and workers, as of the evaluation.
        sweeps: the perturbations and their strengths.
        plain: scores of the unperturbed videos, from `evaluate_split`.
        evaluated: identity of that evaluation.
        bootstrap: resamples behind the intervals.
        seed: of what perturbations draw, and of the bootstrap.
        advance: called with (clips done, clips in all).
        batch_size: clips a forward pass, at most.
        precision: "auto", "float32", "bfloat16" or "float16".

    Raises:
        InputError: not one video can be scored at some strength.
    """
    clips = split_clips(dataset, index, data, evaluated.split, model.config.frames)
    total, done = len(clips) * sum(len(sweep.strengths) for sweep in sweeps), 0

    def count(scored: int) -> None:
        nonlocal done
        done += scored
        if advance:
            advance(done, total)

    how = {"batch_size": batch_size, "dtype": resolve_precision(precision, next(model.parameters()).device)}
    reading = {"decoder": data.decoder, "workers": data.workers}
    perturbed = score_perturbed(model, clips, index, sweeps, seed=seed, advance=count, **reading, **how)
    curves = [curve_of(sweep, plain, perturbed, bootstrap, seed) for sweep in sweeps]
    return Robustness(evaluated, data.evaluation_clips, seed, bootstrap, curves), perturbed


def score_perturbed(
    model: Detector,
    clips: Sequence[Clip],
    index: FaceIndex,
    sweeps: Sequence[Sweep],
    *,
    seed: int = 0,
    decoder: str = "auto",
    workers: int = 2,
    advance: Callable[[int], None] | None = None,
    **how: Any,
) -> Perturbed:
    """Score clips under each perturbation at each strength.

    All perturbations of pictures share one pass over the videos; each strength of the others has its own.

    Args:
        model: on the device to use.
        clips: unperturbed, of consecutive frames.
        index: of the faces of their videos.
        sweeps: what is done to them.
        seed: of what is drawn.
        decoder, workers: of the clips.
        advance: called with the number of clips done, of `len(clips)` times the number of strengths.
        how: `batch_size` and `dtype` of `score_variants`.

    Returns:
        Scores of the videos of which a clip could be made and read.
    """
    scored: dict[tuple[str, float], ScoredClips] = {}
    reading = {"decoder": decoder, "workers": workers}
    pictures = [(s.name, strength) for s in sweeps if s.perturbation.stage == "picture" for strength in s.strengths]
    with ThreadPoolExecutor(workers, thread_name_prefix="perturb") as threads:
        if pictures:
            variants = [partial(_perturb_batch, threads, *point, seed) for point in pictures]
            found = score_variants(model, clips, variants, advance=advance, **how, **reading)
            scored |= zip(pictures, found, strict=True)
    for sweep in sweeps:
        for strength in sweep.strengths if sweep.perturbation.stage != "picture" else ():
            crf = int(strength) if sweep.perturbation.stage == "video" else None
            changed = list(clips) if crf is not None else perturbed_clips(sweep.name, clips, index, strength, seed)
            [point] = score_variants(model, changed, crf=crf, advance=advance, **how, **reading)
            scored[sweep.name, strength] = point
            if advance:  # what could not be made or read counts as done
                advance(len(clips) - len(point.clips))
    device = next(model.parameters()).device
    plain = decoder_of((clip.video for clip in clips), decoder, device)
    return {
        (name, strength): PerturbedVideos(found.videos(), _notes(clips, plain, found, name == "h264"))
        for (name, strength), found in scored.items()
    }


def curve_of(
    sweep: Sweep, plain: Sequence[VideoScore], perturbed: Perturbed, bootstrap: int = 2000, seed: int = 0
) -> RobustnessCurve:
    """Return the metrics by video of a sweep against its strength.

    Args:
        sweep: the perturbation and its strengths.
        plain: scores of the unperturbed videos.
        perturbed: scores that `score_perturbed` returned.
        bootstrap: resamples behind the intervals.
        seed: of the bootstrap.
    """
    points, notes = [], []
    for strength in sweep.strengths:
        found = perturbed[sweep.name, strength]
        points.append(robustness_point(plain, found.scores, strength, bootstrap, seed))
        lost = [f"without {points[-1].lost} of the {len(plain)} videos."] if points[-1].lost else []
        notes += [f"At {strength:g}: {note}" for note in (*lost, *found.notes)]
    unperturbed = robustness_point(plain, plain, None, bootstrap, seed)
    both = sweep.perturbation.order == "both"
    place = sum(strength < 1 for strength in sweep.strengths) if both else 0
    points.insert(place, unperturbed)
    return RobustnessCurve(sweep.name, sweep.perturbation.what, sweep.perturbation.unit, points, notes)


def robustness_point(
    plain: Sequence[VideoScore],
    perturbed: Sequence[VideoScore],
    strength: float | None,
    bootstrap: int = 2000,
    seed: int = 0,
) -> RobustnessPoint:
    """Return the metrics of perturbed videos, and how they differ from those of the same videos unperturbed.

    Raises:
        InputError: not one video has both scores.
    """
    both = {score.name: score for score in perturbed}
    before = [score for score in plain if score.name in both]
    if not before:
        raise InputError(f"not one video can be scored at a strength of {strength:g}: all are too short, or unreadable")
    after = [both[score.name] for score in before]
    samples = [Samples("video", scores, DEFAULT_THRESHOLD) for scores in (before, after)]
    blocks: list[list[dict[str, np.ndarray]]] = [[], []]
    for counts in resample_counts(samples[0].video_labels, bootstrap, seed):
        for found, of in zip(blocks, samples, strict=True):
            found.append(of.metrics(counts)[0])
    resampled = [
        {name: np.concatenate([block[name] for block in found]) for name in ("auc", "accuracy")} for found in blocks
    ]
    values = [of.point_metrics() for of in samples]
    counts, labels = samples[1].confusion, samples[1].labels
    real, fake = (int((labels == label).sum()) for label in (REAL, FAKE))
    changes = {}
    for name in ("auc", "accuracy"):
        if strength is None:
            changes[name] = Estimate(0.0, reason="No interval: the videos are the same")
        elif values[1][name] is None:
            changes[name] = Estimate(None, reason=f"The split holds only {samples[1].only_class} videos")
        else:
            low, high = np.quantile(
                resampled[1][name] - resampled[0][name], ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
            )
            changes[name] = Estimate(values[1][name] - values[0][name], float(low), float(high), "bootstrap")
    return RobustnessPoint(
        strength=strength,
        real=real,
        fake=fake,
        auc=estimate("auc", values[1]["auc"], resampled[1]["auc"], samples[1]),
        accuracy=proportion_estimate(counts.true_negatives + counts.true_positives, real + fake),
        fakes_found=_share(counts.true_positives, fake, "fake"),
        reals_suspected=_share(counts.false_positives, real, "real"),
        auc_change=changes["auc"],
        accuracy_change=changes["accuracy"],
        lost=len(plain) - len(before),
    )


def _share(successes: int, trials: int, name: str) -> Estimate:
    return (
        proportion_estimate(successes, trials) if trials else Estimate(None, reason=f"The split has no {name} videos")
    )


def _perturb_batch(
    threads: ThreadPoolExecutor, name: str, strength: float, seed: int, batch: torch.Tensor, clips: Sequence[Clip]
) -> torch.Tensor:
    """Return a batch [B, T, 3, H, W] in [-1, 1] of pictures that are perturbed as 8-bit RGB."""
    frames = batch.permute(0, 1, 3, 4, 2).add(1).mul(127.5).round().clamp(0, 255).byte().cpu().numpy()

    def change(place: int) -> np.ndarray:
        return perturb_pictures(name, frames[place], strength, generator_of(clips[place], name, seed))

    changed = torch.from_numpy(np.stack(list(threads.map(change, range(len(clips))))))
    return changed.to(batch.device).permute(0, 1, 4, 2, 3).float().div(127.5).sub(1).contiguous()


def perturbed_clips(name: str, clips: Sequence[Clip], index: FaceIndex, strength: float, seed: int = 0) -> list[Clip]:
    """Return the clips that can be made; those of too short a shot are left out."""
    changed = []
    for clip in clips:
        try:
            changed.append(perturb_clip(name, clip, index.entry(clip.video.name), strength, seed))
        except InputError:
            continue
    return changed


def _notes(clips: Sequence[Clip], plain_decoder: str, found: ScoredClips, crf: bool) -> list[str]:
    """Return sentences on clips that could not be made or read, on another decoder, and on parts of pictures."""
    notes = []
    if missing := len(clips) - len(found.clips):
        reason = found.skipped[0][1].rstrip(".") if found.skipped else "their shots have too few frames"
        notes.append(f"without {missing} of the {len(clips)} clips: {reason}.")
    if found.decoder != plain_decoder:
        notes.append(f"{found.decoder} decoded, and {plain_decoder} without the perturbation: some gray levels differ.")
    if crf and any(clip.video.crops for clip in clips):
        notes.append("Of a crop store H.264 encoded the part of each picture that it keeps.")
    return notes
