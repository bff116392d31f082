"""Files of an evaluation: metrics, scores and robustness, their directory, and which model and videos they are of."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from dataloading.dataset import FAKE, REAL
from dataloading.errors import InputError
from dataloading.io import read_csv, read_json, replacing, shown, write_json
from istvt.config import DataSettings
from istvt.evaluation.results import Evaluation, Robustness
from istvt.evaluation.robustness import Perturbed
from istvt.explain.faithfulness.report import read_faithfulness
from istvt.inference.video_score import EvaluatedSet, VideoScore, check_probabilities
from istvt.model.checkpoint import CheckpointInfo
from istvt.run_dir import MODEL_FILE

METRICS, SCORES, REPORT = "evaluation.json", "scores.csv", "report.html"
ROBUSTNESS, PERTURBED_SCORES = "robustness.json", "robustness.csv"
EXPLANATIONS = "explanations"  # the directory beside them
_MAX_BYTES = 1 << 28  # scores.csv has a line a video
_LONGEST_CLIP = 1000


@dataclass(frozen=True)
class StoredEvaluation(Evaluation):
    """Content of evaluation.json. Fields with a default are missing in files of earlier versions.

    Attributes:
        checkpoint: the model's file.
        evaluated: which model and which videos.
        title: of the report.
        settings: of training and evaluation, nested as deep as need be.
        versions: of the packages that scored the clips.
    """

    checkpoint: str = ""
    evaluated: EvaluatedSet | None = None
    title: str = "ISTVT evaluation"
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(of := self.settings.get("evaluation", {}), dict):
            raise ValueError(f"settings.evaluation is {shown(of)}; expected an object")


@dataclass(frozen=True)
class ScoreRow:
    """One line of scores.csv: clips are separated by a space, frames of a clip are `first-last`."""

    video: str
    label: int
    manipulation: str
    probability_fake: float
    verdict: str
    clip_probabilities: str
    clip_frames: str
    path: str

    def __post_init__(self) -> None:
        if self.label not in (REAL, FAKE):
            raise ValueError(f"label is {self.label}; expected {REAL} or {FAKE}")
        try:
            score = self.score()
        except ValueError:
            raise ValueError(
                f"clip_probabilities {self.clip_probabilities[:60]!r} with clip_frames {self.clip_frames[:60]!r}; "
                "expected the same number of each, such as '0.25 0.5' and '0-5 6-11'"
            ) from None
        check_probabilities(score.probability, *score.clip_probabilities)

    def score(self) -> VideoScore:
        """Return the score of the line."""
        probabilities = [float(probability) for probability in self.clip_probabilities.split()]
        clips = []
        for _, frames in zip(probabilities, self.clip_frames.split(), strict=True):
            first, last = map(int, frames.split("-"))
            if not 0 <= last - first < _LONGEST_CLIP:
                raise ValueError
            clips.append([*range(first, last + 1)])
        return VideoScore(
            self.video, self.path, self.label, self.manipulation, self.probability_fake, probabilities, clips
        )


@dataclass(frozen=True)
class PerturbedRow:
    """One line of robustness.csv: the score of a video at one strength of a perturbation."""

    perturbation: str
    strength: float
    video: str
    label: int
    manipulation: str
    probability_fake: float


@dataclass(frozen=True)
class HistoryRow:
    """One line of a run's history.csv; a metric is None where it was undefined."""

    epoch: int
    learning_rate: float | None = None
    train_loss: float | None = None
    clips_per_second: float | None = None
    skipped_steps: int | None = None
    val_accuracy: float | None = None
    val_precision: float | None = None
    val_recall: float | None = None
    val_f1: float | None = None
    val_loss: float | None = None
    val_auc: float | None = None
    seconds: float | None = None


def write_evaluation(output: Path, stored: StoredEvaluation, scores: Sequence[VideoScore]) -> None:
    """Write evaluation.json and scores.csv, which has one line a video."""
    for name in (SCORES, REPORT):  # a process that dies midway leaves none, rather than those of another model
        (output / name).unlink(missing_ok=True)
    write_json(output / METRICS, asdict(stored))
    with _csv_writer(output / SCORES, ScoreRow) as writer:
        for score in scores:
            probabilities = " ".join(map(str, score.clip_probabilities))
            frames = " ".join(f"{clip[0]}-{clip[-1]}" for clip in score.clip_frames)
            row = [score.name, score.label, score.manipulation, score.probability, score.verdict, probabilities, frames]
            writer.writerow([*row, score.path])


def read_evaluation(output: Path) -> tuple[StoredEvaluation, list[VideoScore]]:
    """Read what `write_evaluation` wrote to a directory.

    Raises:
        InputError: a file is missing, a field of it is not what it should be, or one is of other videos than the other.
    """
    stored = read_json(output / METRICS, StoredEvaluation, max_bytes=_MAX_BYTES)
    scores = [row.score() for row in read_csv(output / SCORES, ScoreRow, max_bytes=_MAX_BYTES)]
    fake = sum(score.label == FAKE for score in scores)
    if (real := len(scores) - fake) != stored.videos.real or fake != stored.videos.fake:
        expected = f"expected the {stored.videos.real} and {stored.videos.fake} of {output / METRICS}"
        raise InputError(f"{output / SCORES}: holds {real} real and {fake} fake videos; {expected}")
    return stored, scores


def write_robustness(output: Path, measured: Robustness, perturbed: Perturbed) -> Robustness:
    """Write robustness.json and robustness.csv.

    Curves of other perturbations that are there stay, if they are comparable (`foreign_robustness`).

    Returns:
        What robustness.json holds now.

    Raises:
        InputError: what is there is none of these files.
    """
    rows = [
        PerturbedRow(name, strength, score.name, score.label, score.manipulation, score.probability)
        for (name, strength), found in perturbed.items()
        for score in found.scores
    ]
    held = read_robustness(output)
    if held and not foreign_robustness(output, measured):
        new = {curve.perturbation for curve in measured.curves}
        curves = [curve for curve in held.curves if curve.perturbation not in new]
        measured = replace(measured, curves=[*curves, *measured.curves])
        rows = [row for row in read_perturbed_scores(output) if row.perturbation not in new] + rows
    with _csv_writer(output / PERTURBED_SCORES, PerturbedRow) as writer:
        writer.writerows(astuple(row) for row in rows)
    write_json(output / ROBUSTNESS, asdict(measured))
    return measured


def read_robustness(output: Path) -> Robustness | None:
    """Read what `write_robustness` wrote to a directory; None where there is nothing.

    Raises:
        InputError: it holds something else.
    """
    path = output / ROBUSTNESS
    return read_json(path, Robustness, max_bytes=_MAX_BYTES) if path.exists() else None


def read_perturbed_scores(output: Path) -> list[PerturbedRow]:
    """Read the scores behind the curves of `read_robustness`.

    Raises:
        InputError: the file is missing, or holds something else.
    """
    return read_csv(output / PERTURBED_SCORES, PerturbedRow, max_bytes=_MAX_BYTES)


def foreign_robustness(output: Path, of: Robustness) -> str | None:
    """Return one sentence if the curves in `output` are not comparable with those of an evaluation; None if they are.

    Args:
        output: a directory.
        of: model, videos, clips, seed and resamples of the evaluation; its curves are not read.
    """
    held = read_robustness(output)
    if held is None or replace(held, curves=[]) == replace(of, curves=[]):
        return None
    return f"{output / ROBUSTNESS} holds curves of another model, of other videos, or of more or fewer clips of each"


@contextlib.contextmanager
def _csv_writer(path: Path, row: type) -> Iterator[Any]:
    """Give the writer of a CSV file with the header of a row; the file is written whole or not at all."""
    # File names need not be valid Unicode: invalid bytes are written as escapes.
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        writer.writerow([column.name for column in fields(row)])
        yield writer


def read_history(checkpoint: str | Path) -> list[HistoryRow]:
    """Return the epochs of the run that a checkpoint belongs to, from history.csv beside it; [] where there is none.

    Raises:
        InputError: the file is not the history of a run.
    """
    path = Path(checkpoint)
    path = (path if path.is_dir() else path.parent) / "history.csv"
    return read_csv(path, HistoryRow) if path.is_file() else []


def evaluated_set(info: CheckpointInfo, data: DataSettings, split: str) -> EvaluatedSet:
    """Return the identity of the evaluation of a model on a split."""
    return EvaluatedSet(str(Path(data.root).resolve()), data.compression, data.manipulations, split, info.checksum)


def default_output(checkpoint: Path, info: CheckpointInfo, data: DataSettings, split: str) -> Path:
    """Return the default directory of an evaluation: `evaluation` in the run for the test split of the run's own data.

    The name of any other one has what differs: `evaluation-Celeb-DF-v2`, `evaluation-val`, and `evaluation-other` for
    `other.safetensors`.
    """
    trained, root = info.settings.get("data", {}), Path(data.root).resolve()
    differs = [checkpoint.stem] if not checkpoint.is_dir() and checkpoint.name != MODEL_FILE else []
    differs += [root.name] if Path(trained.get("root", root)).resolve() != root else []
    differs += [data.compression] if trained.get("compression", data.compression) != data.compression else []
    if trained.get("manipulations", data.manipulations) != data.manipulations:
        differs += data.manipulations or ["all"]
    differs += [split] if split != "test" else []
    return (checkpoint if checkpoint.is_dir() else checkpoint.parent) / "-".join(["evaluation", *differs])


def replaced_evaluation(output: Path, evaluated: EvaluatedSet) -> tuple[str, bool] | None:
    """Describe the evaluation in `output` that a new one would replace; None where it is the same or there is none.

    Returned with whether it is of the same videos, so by another model alone.

    Raises:
        InputError: its evaluation.json is not that of an evaluation.
    """
    if not (output / METRICS).exists():
        return None
    try:
        held = read_json(output / METRICS, StoredEvaluation, max_bytes=_MAX_BYTES)
    except InputError as error:
        raise InputError(f"{error}; move it away, or choose another --output") from error
    if held.evaluated is None:
        return None
    before = held.evaluated
    if before.checksum is None:
        before = replace(before, checksum=evaluated.checksum)
    if before == evaluated:
        return None
    only = f" ({', '.join(before.manipulations)})" if before.manipulations else ""
    by = f" by {held.checkpoint} as it was then" if before.checksum != evaluated.checksum else ""
    words = f"{before.root}{only}, {before.compression}, {before.split} split{by}"
    return words, replace(before, checksum=evaluated.checksum) == evaluated


def foreign_explanations(output: Path, evaluated: EvaluatedSet) -> str | None:
    """Return one sentence if the explanations in `output` are of another model or other videos; None if not."""
    if not (output / EXPLANATIONS).exists():
        return None
    measured = read_faithfulness(output / EXPLANATIONS)
    if measured and measured.evaluated == evaluated:
        return None
    return f"{output / EXPLANATIONS} holds explanations that are not known to be of this model and these videos"
