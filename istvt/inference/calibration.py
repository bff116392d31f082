"""Calibration of video scores on the validation split: temperature scaling, and scores without a verdict.

A temperature T turns the score p of a video, or of a person in it, into

    p' = 1 / (1 + exp(-log(p / (1 - p)) / T))                           (Guo et al. 2017, arXiv 1706.04599)

It is applied to the score and not to the logits of clips: p' is above 1/2 exactly where p is, so verdicts, accuracy and
AUC stay what they are, while the mean of scaled clips could fall on the other side. Of several people each has the same
T; that the most suspicious of them is forged is not calibrated by it. It holds for the share of fakes in the split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dataloading.clips.sampling import Clips, evaluation_clips
from dataloading.dataset import FAKE, REAL, Video
from dataloading.errors import InputError
from dataloading.face_index import FaceIndex
from dataloading.layouts import open_dataset
from istvt.config import DataSettings
from istvt.device import pick_device, resolve_precision
from istvt.inference.score import score_by_video
from istvt.inference.video_score import VideoScore, probability_of, verdict_of
from istvt.model.checkpoint import Calibration, CheckpointInfo, learned_sets, load_model, save_model
from istvt.run_dir import model_file

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

NOT_SURE = "not sure"
RISK = 0.05  # that a validation split promises an error rate that is wrong
COVERAGES = np.arange(10, 0, -1) / 10  # shares of the validation videos that may have a verdict, each of them tried
_LIMITS = -3.0, 3.0  # of log T
_DIGITS = 6


def fit_calibration(scores: Sequence[VideoScore]) -> Calibration | None:
    """Return the calibration by the scores of a validation split; None where it lacks a class.

    The temperature has the least cross-entropy to Platt's targets, `(F + 1) / (F + 2)` for the F fakes and
    `1 / (R + 2)` for the R real videos (Platt 1999), for which it is finite also where no verdict is wrong.
    """
    real, fake = (
        [round(score.probability, _DIGITS) for score in scores if score.label == label] for label in (REAL, FAKE)
    )
    return Calibration(fit_temperature(real, fake), real, fake) if real and fake else None


def fit_temperature(real: ArrayLike, fake: ArrayLike) -> float:
    """Return the temperature for the scores of real videos and of fakes, one or more of each."""
    from scipy.optimize import minimize_scalar

    logits = _logit(np.concatenate([real, fake]))
    targets = np.repeat([1 / (len(real) + 2), (len(fake) + 1) / (len(fake) + 2)], [len(real), len(fake)])

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - targets * scaled))

    return float(np.exp(minimize_scalar(loss, bounds=_LIMITS, method="bounded").x))


def validation_clips(
    sets: Sequence[DataSettings], videos: Sequence[Sequence[Video]], indices: Sequence[FaceIndex], frames: int
) -> tuple[Clips, list[set[str]]]:
    """Return the validation clips of all data sets, each video once, and the paths of each set's videos.

    Raises:
        InputError: a set gives none.
    """
    clips, paths = Clips(), []
    for each, of_set, index in zip(sets, videos, indices, strict=True):
        found = evaluation_clips(of_set, index, frames, each.evaluation_clips)
        if not found:
            raise InputError(f"{each.root}: none of the {len(of_set)} videos to validate with gives a clip")
        known = {clip.video.path for clip in clips}  # sets may have real videos in common, which count in each
        clips += [clip for clip in found if clip.video.path not in known]
        clips.skipped += found.skipped
        paths.append({str(clip.video.path) for clip in found})
    clips[:] = [replace(clip, index=place) for place, clip in enumerate(clips)]
    return clips, paths if len(paths) > 1 else []


@dataclass(frozen=True)
class CheckpointCalibration:
    """What `calibrate_checkpoint` did: the file that holds the calibration, the scores, and why videos have none."""

    file: Path
    calibration: Calibration
    scores: list[VideoScore]
    skipped: list[tuple[Video, str]]


def calibrate_checkpoint(
    checkpoint: str | Path,
    data: Sequence[DataSettings] | None = None,
    output: str | Path | None = None,
    *,
    split: str = "val",
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 16,
    advance: Callable[[int, int], None] | None = None,
) -> CheckpointCalibration:
    """Calibrate a checkpoint by a split of its data sets, and write it with the calibration; its weights stay.

    Args:
        checkpoint: a model file, or the directory of a run.
        data: the data sets, by default those that the checkpoint says it learned; a video that several have counts
            once.
        output: the file to write, by default that of the checkpoint.
        split: val, on which the epoch was chosen too, as in training; or one that the model has not seen.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "auto", "float32", "bfloat16" or "float16".
        batch_size: clips a forward pass, at most.
        advance: called with (clips done, clips in all).

    Raises:
        InputError: the checkpoint or the data cannot be used, or the split does not have scores of both classes.
    """
    model, info = load_model(checkpoint, pick_device(device))
    sets = learned_sets(info, checkpoint) if data is None else list(data)
    if not sets:
        raise InputError(f"checkpoint {checkpoint}: does not say what it was trained on; expected --root, its data set")
    opened = [open_dataset(**replace(each, region=info.region).source) for each in sets]
    clips = validation_clips(
        sets, [dataset.split_videos(split) for dataset, _ in opened], [index for _, index in opened],
        model.config.frames,
    )[0]  # fmt: skip
    skipped = [(item.video, item.reason) for item in clips.skipped]
    scores, done = [], 0
    dtype = resolve_precision(precision, next(model.parameters()).device)
    # As in training, the first set says how videos are read.
    how = {"batch_size": batch_size, "decoder": sets[0].decoder, "workers": sets[0].workers, "dtype": dtype}
    for [scored] in score_by_video(model, clips, **how):
        scores += scored.videos()
        skipped += [(clip.video, reason) for clip, reason in scored.skipped]
        done += len(scored.clips) + len(scored.skipped)
        if advance:
            advance(done, len(clips))
    calibration = fit_calibration(scores)
    if calibration is None:
        counts = [sum(score.label == label for score in scores) for label in (REAL, FAKE)]
        roots = ", ".join(dict.fromkeys(str(each.root) for each in sets))
        raise InputError(
            f"{roots}: {counts[0]} real and {counts[1]} fake videos of the {split} split have a score; expected "
            "one or more of each, by which to calibrate"
        )
    file = model_file(checkpoint) if output is None else Path(output)
    save_model(file, model, replace(info, calibration=calibration))
    return CheckpointCalibration(file, calibration, scores, skipped)


def temperature_interval(calibration: Calibration, z: float) -> tuple[float, float]:
    """Return the interval of a temperature, `T exp(-z s)` to `T exp(z s)`.

    The slope 1/T of a logistic regression on the logits l has the standard error `(sum l^2 p' (1 - p'))^(-1/2)`, and
    log T that times T: s.
    """
    logits = _logit(np.concatenate([calibration.real, calibration.fake]))
    scaled = probability_of(logits / calibration.temperature)
    information = float(np.sum(logits**2 * scaled * (1 - scaled)))
    error = calibration.temperature / np.sqrt(max(information, 1e-12))
    return tuple(calibration.temperature * float(np.exp(np.clip(side * z * error, -50, 50))) for side in (-1, 1))


def calibrated(probability: ArrayLike, temperature: float) -> np.ndarray:
    """Return scores scaled by a temperature, float64 in the shape of `probability`."""
    return probability_of(_logit(probability) / temperature)


def _logit(probability: ArrayLike) -> np.ndarray:
    p = np.clip(np.asarray(probability, np.float64), 1e-12, 1 - 1e-12)
    return np.log(p) - np.log1p(-p)


@dataclass(frozen=True)
class Band:
    """Scores without a verdict: those between `1 - sure` and `sure`.

    Attributes:
        max_error: the error rate that was asked for.
        sure: the least score of a fake, and one minus the largest of a real video, that have a verdict.
        real, fake: how many validation videos there are of each class.
        real_withheld, fake_withheld: how many of these have no verdict.
        wrong: how many of the others have a wrong one.
        temperature: of the model.
    """

    max_error: float
    sure: float
    real: int
    fake: int
    real_withheld: int
    fake_withheld: int
    wrong: int
    temperature: float

    def verdict(self, probability: float) -> str:
        """Return "fake", "real", or "not sure" within the band."""
        return NOT_SURE if max(probability, 1 - probability) < self.sure else verdict_of(probability)

    def calibrated(self, probability: float) -> float:
        """Return a score scaled by the temperature."""
        return float(calibrated(probability, self.temperature))

    def __str__(self) -> str:
        """Return in one sentence where the band is and what validation says of it."""
        videos, withheld = self.real + self.fake, self.real_withheld + self.fake_withheld
        where = "never" if self.sure <= 0.5 else f"between {1 - self.sure:.1%} and {self.sure:.1%}"
        return (
            f"{NOT_SURE} {where}: of {videos} validation videos {withheld} ({withheld / videos:.0%}) would have no "
            f"verdict and {self.wrong} of the other {videos - withheld} a wrong one; for videos like those, with the "
            f"same share of fakes, the error rate is at most {self.max_error:g} with a confidence of {1 - RISK:.0%}"
        )


def band_of(calibration: Calibration, max_error: float) -> Band:
    """Return the narrowest band for which validation shows that at most `max_error` of the other verdicts are wrong.

    Bands that leave 100, 90, ... 10 % of the validation videos a verdict are tried; the exact upper limit of the error
    rate of these (Clopper and Pearson 1934) has a confidence of 95 % for all of them together (Bonferroni).

    Raises:
        InputError: the error rate is out of range, or the split too small, or the model too bad, for it.
    """
    if not 0 < max_error < 0.5:
        raise InputError(f"max_error is {max_error:g}; expected more than 0 and less than 0.5")
    scores = np.concatenate([calibration.real, calibration.fake])
    labels = np.repeat([REAL, FAKE], [len(calibration.real), len(calibration.fake)])
    surest = np.maximum(scores, 1 - scores)
    right = (scores > 0.5) == (labels == FAKE)
    least = 1.0
    for coverage in COVERAGES:
        kept = int(np.ceil(coverage * len(scores)))
        sure = 0.5 if coverage == 1 else float(np.sort(surest)[-kept])
        answered = surest >= sure
        wrong = int((~right[answered]).sum())
        limit = _upper_limit(wrong, int(answered.sum()))
        least = min(least, limit)
        if limit <= max_error:
            withheld = [int((~answered & (labels == label)).sum()) for label in (REAL, FAKE)]
            counts = len(calibration.real), len(calibration.fake), *withheld, wrong
            return Band(max_error, sure, *counts, calibration.temperature)
    raise InputError(
        f"max_error is {max_error:g}, and the {len(scores)} validation videos of this model support no error rate "
        f"below {np.ceil(1000 * least) / 1000:g}, whichever of them have a verdict; expected at least that, or a model "
        "with a larger validation split"
    )


def band_of_checkpoint(info: CheckpointInfo, max_error: float, path: str | Path) -> Band:
    """Return the band of a checkpoint; see `band_of`.

    Raises:
        InputError: as `band_of`, or the checkpoint has no calibration.
    """
    if info.calibration is None:
        raise InputError(
            f"checkpoint {path}: holds no scores of a validation split with both classes, which max_error needs; "
            "expected one that this version of istvt train wrote, or that istvt calibrate has completed"
        )
    return band_of(info.calibration, max_error)


def _upper_limit(wrong: int, videos: int) -> float:
    """Return the one-sided upper limit of an error rate, at the risk of one of the `COVERAGES`."""
    from scipy.stats import beta

    return 1.0 if wrong == videos else float(beta.ppf(1 - RISK / len(COVERAGES), wrong + 1, videos - wrong))
