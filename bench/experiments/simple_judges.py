"""Judges that know next to nothing: a logistic regression on the mean color of a clip, or on how much frames differ.

They stand beside detectors to show what of a result is due to a trace that a number or three would find as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from istvt.config import DataSettings, DetectorConfig

PLAIN = "plain"  # in place of a perturbation
CONFIG = DetectorConfig(frames=6, image_size=64)  # of the clips that they see


def mean_color(clips: Tensor) -> Tensor:
    """Return the mean of each channel: [B, T, 3, H, W] in [-1, 1] -> [B, 3]."""
    return clips.mean((1, 3, 4))


def frame_difference(clips: Tensor) -> Tensor:
    """Return the mean absolute difference of neighboring frames: [B, T, 3, H, W] in [-1, 1] -> [B, 1]."""
    return clips.diff(dim=1).abs().mean((1, 2, 3, 4)).unsqueeze(1)


JUDGES: dict[str, Callable[[Tensor], Tensor]] = {"mean color": mean_color, "frame difference": frame_difference}


class SimpleJudge(nn.Module):
    """A logistic regression on a few numbers of a clip.

    Args:
        features: clips [B, T, 3, H, W] in [-1, 1] -> [B, K].
        weight: [K].
        bias: of the logit.
    """

    config = CONFIG

    def __init__(self, features: Callable[[Tensor], Tensor], weight: Tensor, bias: float) -> None:
        super().__init__()
        self.features, self.weight, self.bias = features, nn.Parameter(weight), bias

    def forward(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H, W] in [-1, 1] -> [B]."""
        return self.features(clips) @ self.weight + self.bias


@dataclass(frozen=True)
class JudgedVideo:
    """Score of a test video by a judge; as it is, `perturbation` is `PLAIN` and `strength` 0.

    Not `istvt.report`'s `PerturbedRow`, which has these fields: its import needs pydantic, which a bare GPU machine
    lacks.
    """

    perturbation: str
    strength: float
    video: str
    label: int
    manipulation: str
    probability_fake: float


@dataclass(frozen=True)
class SimpleScores:
    """Scores of the test videos by a judge: as they are and perturbed."""

    rows: list[JudgedVideo]

    def held(self) -> set[tuple[str, float]]:
        """Return the perturbations and strengths that are there."""
        return {(row.perturbation, row.strength) for row in self.rows}


def fit(name: str, data: DataSettings) -> SimpleJudge:
    """Fit a judge to the clips of the training videos, taken as those of an evaluation are."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from dataloading.clips.loader import ClipLoader
    from dataloading.layouts import open_dataset
    from istvt.evaluation.evaluate import split_clips

    dataset, index = open_dataset(**data.source)
    clips = split_clips(dataset, index, data, "train", CONFIG.frames)
    loader = ClipLoader(list(clips), 16, CONFIG.image_size, decoder=data.decoder, workers=data.workers)
    found, labels = zip(*((JUDGES[name](batch.clips.double()), batch.labels) for batch in loader), strict=True)
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(torch.cat(found), torch.cat(labels))
    scaler, regression = fitted[0], fitted[1]
    weight = regression.coef_[0] / scaler.scale_
    return SimpleJudge(
        JUDGES[name], torch.tensor(weight).float(), float(regression.intercept_[0] - weight @ scaler.mean_)
    )


def score(name: str, data: DataSettings, perturbations: Sequence[str], path: Path) -> None:
    """Score the test videos as they are and perturbed by a judge, as far as the file lacks it, and write the file."""
    from dataloading.io import read_json, write_json
    from dataloading.layouts import open_dataset
    from dataloading.perturbations import parse_sweeps
    from istvt.evaluation.evaluate import SplitScoring, split_clips
    from istvt.evaluation.robustness import passes_of, score_pass

    scores = read_json(path, SimpleScores) if path.is_file() else SimpleScores([])
    sweeps = [
        sweep
        for sweep in parse_sweeps(perturbations)
        if not {(sweep.name, strength) for strength in sweep.strengths} <= scores.held()
    ]
    if scores.rows and not sweeps:
        return
    judge = fit(name, data)
    dataset, index = open_dataset(**data.source)
    clips = split_clips(dataset, index, data, "test", CONFIG.frames)
    how = SplitScoring(16, "float32", data.decoder, data.workers)
    found = {} if scores.rows else {(PLAIN, 0.0): [outcome.score for outcome in how.score(judge, clips)]}
    for of in passes_of(sweeps):
        outcomes = list(score_pass(judge, of.clips(clips, index), of, how))
        found |= {point: [video.points[n].score for video in outcomes] for n, point in enumerate(of.points)}
    rows = [row for row in scores.rows if (row.perturbation, row.strength) not in found]
    rows += [
        JudgedVideo(*key, video.name, video.label, video.manipulation, video.probability)
        for key, videos in found.items()
        for video in videos
        if video is not None
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(SimpleScores(rows)))
