"""Robustness: metrics of a detector on perturbed videos, against the strength of the perturbation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from dataloading.clips.sampling import Clip
from dataloading.dataset import FAKE, REAL
from dataloading.errors import InputError
from dataloading.face_index import FaceIndex
from dataloading.perturbations import Stage, Sweep, generator_of, perturb_clip, perturb_pictures
from istvt.device import resolve_precision
from istvt.evaluation.evaluate import ScoredVideo, SplitScoring, scored_video
from istvt.evaluation.intervals import resample_counts
from istvt.evaluation.metrics import CONFIDENCE, Samples, estimate, proportion_estimate
from istvt.evaluation.results import Estimate, RobustnessCurve, RobustnessPoint
from istvt.inference.score import AS_THEY_ARE, Variant, score_by_video
from istvt.inference.video_score import DEFAULT_THRESHOLD, VideoScore
from istvt.model.detector import Detector


@dataclass(frozen=True)
class Pass:
    """Perturbations that share one reading of the videos: all those of pictures, or another one at one strength.

    Attributes:
        points: (name of the perturbation, strength).
        stage: what they change.
    """

    points: tuple[tuple[str, float], ...]
    stage: Stage

    def __str__(self) -> str:
        return ", ".join(f"{name} {strength:g}" for name, strength in self.points)

    @property
    def crf(self) -> int | None:
        """Rate factor at which videos are encoded once more; None where they are not."""
        return int(self.points[0][1]) if self.stage == "video" else None

    def clips(self, clips: Sequence[Clip], index: FaceIndex, seed: int = 0) -> list[Clip]:
        """Return the clips that are read in place of `clips`; those that cannot be made are left out."""
        if self.stage != "clip":
            return list(clips)
        [(name, strength)] = self.points
        return perturbed_clips(name, clips, index, strength, seed)


@dataclass(frozen=True)
class PerturbedVideo:
    """What scoring one video in a pass gives: one outcome for each point of the pass."""

    points: list[ScoredVideo]


@dataclass(frozen=True)
class PerturbedVideos:
    """Scores of videos at one strength of a perturbation, and sentences on how they came about."""

    scores: list[VideoScore]
    notes: list[str]


Perturbed = dict[tuple[str, float], PerturbedVideos]  # by the name of the perturbation and its strength


def passes_of(sweeps: Sequence[Sweep]) -> list[Pass]:
    """Return the passes over the videos that perturbations take."""
    pictures = [(s.name, strength) for s in sweeps if s.perturbation.stage == "picture" for strength in s.strengths]
    passes = [Pass(tuple(pictures), "picture")] if pictures else []
    for sweep in sweeps:
        if sweep.perturbation.stage != "picture":
            passes += [Pass(((sweep.name, strength),), sweep.perturbation.stage) for strength in sweep.strengths]
    return passes


def score_pass(
    model: Detector, clips: Sequence[Clip], of: Pass, how: SplitScoring, seed: int = 0
) -> Iterator[PerturbedVideo]:
    """Yield the outcome of each video of the clips in a pass, in order.

    The outcome of a video depends neither on the videos beside it nor on the other points of the pass.

    Args:
        model: on the device to use.
        clips: from `Pass.clips`; those of a video follow each other.
        of: what is done to them.
        how: batch size, precision, decoder, workers.
        seed: of what is drawn.
    """
    if not clips:
        return
    dtype = resolve_precision(how.precision, next(model.parameters()).device)
    reading = {"batch_size": how.batch_size, "decoder": how.decoder, "workers": how.workers, "dtype": dtype}
    with ThreadPoolExecutor(how.workers, thread_name_prefix="perturb") as threads:
        variants: Sequence[Variant] = AS_THEY_ARE
        if of.stage == "picture":
            variants = [partial(_perturb_batch, threads, *point, seed) for point in of.points]
        for scored in score_by_video(model, clips, variants, crf=of.crf, **reading):
            yield PerturbedVideo([scored_video(item) for item in scored])


def gather_passes(
    clips: Sequence[Clip], plain_decoder: str, passes: Sequence[Pass], outcomes: Sequence[Sequence[PerturbedVideo]]
) -> Perturbed:
    """Return the scores of all videos by perturbation and strength.

    Args:
        clips: unperturbed.
        plain_decoder: of them.
        passes: over the videos.
        outcomes: of the videos that have clips in each pass, in order.
    """
    perturbed = {}
    for of, videos in zip(passes, outcomes, strict=True):
        for number, point in enumerate(of.points):
            found = [video.points[number] for video in videos]
            scores = [item.score for item in found if item.score is not None]
            perturbed[point] = PerturbedVideos(scores, _notes(clips, plain_decoder, found, of.stage == "video"))
    return perturbed


def curve_of(
    sweep: Sweep, plain: Sequence[VideoScore], perturbed: Perturbed, bootstrap: int = 2000, seed: int = 0
) -> RobustnessCurve:
    """Return the metrics by video of a sweep against its strength.

    Args:
        sweep: the perturbation and its strengths.
        plain: scores of the unperturbed videos.
        perturbed: scores that `gather_passes` returned.
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


def _notes(clips: Sequence[Clip], plain_decoder: str, found: Sequence[ScoredVideo], crf: bool) -> list[str]:
    """Return sentences on clips that could not be made or read, on another decoder, and on parts of pictures."""
    notes = []
    scored = sum(len(item.score.clip_probabilities) for item in found if item.score is not None)
    if missing := len(clips) - scored:
        reason = next((reason for item in found for reason in item.skipped), "their shots have too few frames")
        notes.append(f"without {missing} of the {len(clips)} clips: {reason.rstrip('.')}.")
    decoder = next((item.decoder for item in found if item.decoder), plain_decoder)
    if decoder != plain_decoder:
        notes.append(f"{decoder} decoded, and {plain_decoder} without the perturbation: some gray levels differ.")
    if crf and any(clip.video.crops for clip in clips):
        notes.append("Of a crop store H.264 encoded the part of each picture that it keeps.")
    return notes
