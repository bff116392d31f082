"""Robustness of an evaluated checkpoint on perturbed videos, written as curves, scores and a section of its report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dataloading.clips.loader import decoder_of
from dataloading.clips.sampling import Clip
from dataloading.dataset import Video
from dataloading.engines import ModelEngine
from dataloading.engines.journal import Header, Journal, Line, Shard, keeping, typed, unfinished
from dataloading.errors import InputError
from dataloading.io import parse_json
from dataloading.perturbations import check_root, parse_sweeps
from istvt.config import DataSettings
from istvt.device import pick_device
from istvt.evaluation.evaluate import ScoredVideo, SplitScoring, clips_by_video
from istvt.evaluation.results import Robustness
from istvt.evaluation.robustness import Pass, PerturbedVideo, curve_of, gather_passes, passes_of, score_pass
from istvt.inference.video_score import VideoScore
from istvt.model.checkpoint import load_same_model
from istvt.model.detector import Detector
from istvt.report.evaluate_checkpoint import EvaluationJob, EvaluationWork, JournalSettings, render_files
from istvt.report.evaluation_files import (
    METRICS,
    ROBUSTNESS,
    StoredEvaluation,
    evaluated_set,
    read_evaluation,
    write_robustness,
)
from istvt.run_dir import output_directory

SEED = 0  # of what perturbations draw, and of the bootstrap


def evaluate_checkpoint_robustness(
    checkpoint: str | Path,
    data: DataSettings,
    output: str | Path,
    perturb: Sequence[str],
    *,
    split: str = "test",
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 16,
    bootstrap: int = 2000,
    engine: ModelEngine | None = None,
    renew: bool = False,
    advance: Callable[[int, int], None] | None = None,
) -> Robustness:
    """Measure an evaluated checkpoint on perturbed videos; write `robustness.json`, `robustness.csv` and the report.

    What is done is kept in `robustness.json.unfinished` until the files are written, and another call goes on from it.

    Args:
        checkpoint, data, split, device, precision, batch_size, bootstrap, engine: as of `evaluate_checkpoint`.
        output: directory of that evaluation.
        perturb: perturbations and their strengths, such as "jpeg:10..50" (`dataloading.perturbations`).
        renew: begin anew where what is kept is of other settings, which is refused otherwise.
        advance: called with (clips done, clips in all).

    Returns:
        The curves, also those of other perturbations that were measured before.

    Raises:
        InputError: a perturbation, the checkpoint or the data cannot be used, or `output` holds no evaluation of them.
    """
    job = EvaluationJob(str(checkpoint), data, split, device, precision, batch_size, bootstrap)
    work, output = _Work.of(job, perturb), Path(output)
    stored, scores = _evaluation_of(work, output)
    keep = unfinished(output / ROBUSTNESS)
    with _scored(work, Shard(), keep, engine, renew, advance) as journal:
        measured = _write(work, journal.in_order(), output, stored, scores, journal.header.settings["device"])
        keep.unlink()
    return measured


def evaluate_robustness_shard(
    checkpoint: str | Path,
    data: DataSettings,
    output: str | Path,
    perturb: Sequence[str],
    shard: Shard,
    *,
    split: str = "test",
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 16,
    bootstrap: int = 2000,
    advance: Callable[[int, int], None] | None = None,
) -> Path:
    """Score the perturbed videos of a shard, but for what an earlier call has done.

    Returns:
        The file of the shard in `output`, which `merge_robustness` takes.
    """
    job = EvaluationJob(str(checkpoint), data, split, device, precision, batch_size, bootstrap)
    path = shard.file(output_directory(output) / ROBUSTNESS)
    with _scored(_Work.of(job, perturb), shard, path, None, False, advance):
        return path


def merge_robustness(header: Header, lines: Sequence[Line], output: str | Path) -> Robustness:
    """Write what `evaluate_checkpoint_robustness` writes, from all shards as `read_shards` gives them.

    Raises:
        InputError: the checkpoint or the data set is not what it was when the shards were made, or `output` does not
            hold the evaluation, whose shards are merged before.
    """
    settings, output = typed(header.settings, _Settings, "settings of the shards"), Path(output)
    work = _Work.of(settings.job(), settings.perturb)
    same = work.settings(settings.device) | {"versions": settings.versions} == header.settings
    if not same or [line.video for line in lines] != [item.name for item in work.items]:
        raise InputError(
            f"{settings.checkpoint} or {work.job.data.root} has changed since the shards were made; expected the same "
            "model and the same videos"
        )
    stored, scores = _evaluation_of(work, output)
    found = [typed(line.result, PerturbedVideo, line.video) for line in lines]
    for item, outcome in zip(work.items, found, strict=True):
        item.check(outcome)
    return _write(work, found, output, stored, scores, settings.device)


@dataclass(frozen=True)
class _Settings(JournalSettings):
    """Settings in the journal of perturbed videos."""

    perturb: list[str]


@dataclass(frozen=True)
class _Item:
    """One video in one pass."""

    number: int
    of: Pass
    clips: list[Clip]

    @property
    def name(self) -> str:
        return f"{self.clips[0].video.name} under {self.of}"

    def check(self, outcome: PerturbedVideo) -> None:
        """Refuse an outcome that is not of this video in this pass."""
        video = self.clips[0].video
        others = [p for p in outcome.points if p.score and (p.score.name, p.score.label) != (video.name, video.label)]
        if others or len(outcome.points) != len(self.of.points):
            raise InputError(f"{self.name}: a shard holds the score of another video; make it again")


@dataclass(frozen=True)
class _Work:
    """The perturbed videos of an evaluation: every pass over them, video by video."""

    job: EvaluationJob
    evaluation: EvaluationWork
    perturb: list[str]
    passes: list[Pass]
    items: list[_Item]

    @classmethod
    def of(cls, job: EvaluationJob, perturb: Sequence[str]) -> _Work:
        """Open the data set, and make the clips of each pass."""
        sweeps = parse_sweeps(perturb)
        check_root(sweeps, job.data.root)
        evaluation, passes = EvaluationWork.of(job), passes_of(sweeps)
        items = [
            _Item(number, of, group)
            for number, of in enumerate(passes)
            for group in clips_by_video(of.clips(evaluation.clips, evaluation.index, SEED))
        ]
        return cls(job, evaluation, list(perturb), passes, items)

    def settings(self, device: str) -> dict[str, Any]:
        """Return all that the scores depend on, beside the videos, on a device of this type."""
        return self.job.settings(self.evaluation, device) | {"perturb": self.perturb}

    def loading(self, device: str | torch.device) -> partial[tuple[Detector, list[SplitScoring]]]:
        """Return what loads the model, and how the videos of each pass are scored, where they are."""
        job = self.job
        how = SplitScoring(job.batch_size, job.precision, job.data.decoder, job.data.workers)
        videos = [[item.clips[0].video for item in self.items if item.number == n] for n in range(len(self.passes))]
        return partial(_load, job.checkpoint, self.evaluation.info.checksum, device, how, videos)


def _evaluation_of(work: _Work, output: Path) -> tuple[StoredEvaluation, list[VideoScore]]:
    """Return the evaluation in `output`, which has to be of the same model and videos."""
    stored, scores = read_evaluation(output)
    if stored.evaluated != evaluated_set(work.evaluation.info, work.job.data, work.job.split):
        raise InputError(f"{output / METRICS} is of another model or other videos; evaluate these first")
    return stored, scores


@contextmanager
def _scored(
    work: _Work,
    shard: Shard,
    keep: Path,
    engine: ModelEngine | None,
    renew: bool,
    advance: Callable[[int, int], None] | None,
) -> Iterator[Journal[PerturbedVideo]]:
    """Score what is not done yet of a shard; the context gives the journal with all of it."""
    job, items = work.job, work.items
    kind = engine.device_type(job.device) if engine else pick_device(job.device).type
    points = sum(len(of.points) for of in work.passes)
    with keeping(
        keep,
        "robustness",
        work.settings(kind),
        [(item.name, item.clips[0].video.path) for item in items],
        shard,
        groups=[item.clips[0].video.name for item in items],
        to_dict=asdict,
        parse=_parse,
        failed=lambda outcome: any(point.score is None for point in outcome.points),
        renew=renew,
    ) as journal:
        own = sum(len(items[at].clips) * len(items[at].of.points) for at in journal.positions)
        todo = sum(len(items[at].clips) * len(items[at].of.points) for at in journal.todo)
        # What cannot be made counts as done.
        total = len(work.evaluation.clips) * points if shard == Shard() else own
        done = total - todo
        for at, outcome in _outcomes(work, journal.todo, kind, engine):
            if isinstance(outcome, InputError):
                outcome = _failed(items[at], outcome)
            journal.add(at, outcome)
            done += len(items[at].clips) * len(items[at].of.points)
            if advance:
                advance(done, total)
        journal.rewrite()
        yield journal


def _outcomes(
    work: _Work, todo: Sequence[int], kind: str, engine: ModelEngine | None
) -> Iterator[tuple[int, PerturbedVideo | InputError]]:
    """Yield the position and the outcome of each item, as it is done."""
    items = work.items
    if engine is None:
        model, scoring = work.loading(pick_device(work.job.device))()
        for number, of in enumerate(work.passes):
            own = [at for at in todo if items[at].number == number]
            clips = [clip for at in own for clip in items[at].clips]
            yield from zip(own, score_pass(model, clips, of, scoring[number], SEED), strict=True)
        return
    position_of = {id(items[at]): at for at in todo}
    setup = partial(_one, work.loading(kind))
    jobs = [items[at] for at in todo]
    for item, outcome in engine.map(setup, jobs, lambda item: item.clips[0].video.path, gpu=kind == "cuda"):
        yield position_of[id(item)], outcome


def _load(
    checkpoint: str, checksum: str, device: str | torch.device, how: SplitScoring, videos: Sequence[Sequence[Video]]
) -> tuple[Detector, list[SplitScoring]]:
    """Load the model; return it and how each pass is scored: by the decoder of all its videos, as on one machine."""
    model = load_same_model(checkpoint, checksum, device)
    place = next(model.parameters()).device
    return model, [replace(how, decoder=decoder_of(of_pass, how.decoder, place)) for of_pass in videos]


def _one(load: Callable[[], tuple[Detector, list[SplitScoring]]]) -> Callable[[_Item], PerturbedVideo]:
    """Return what scores one video in one pass, in a worker of an engine."""
    model, scoring = load()

    def score(item: _Item) -> PerturbedVideo:
        [outcome] = score_pass(model, item.clips, item.of, scoring[item.number], SEED)
        return outcome

    return score


def _failed(item: _Item, error: InputError) -> PerturbedVideo:
    return PerturbedVideo([ScoredVideo(None, [str(error)]) for _ in item.of.points])


def _parse(data: bytes, where: str) -> PerturbedVideo:
    return parse_json(data, PerturbedVideo, where)


def _write(
    work: _Work,
    found: Sequence[PerturbedVideo],
    output: Path,
    stored: StoredEvaluation,
    scores: Sequence[VideoScore],
    kind: str,
) -> Robustness:
    """Write curves and scores, and the report with them."""
    job, evaluation = work.job, work.evaluation
    here = torch.device(kind if torch.cuda.is_available() else "cpu")  # a worker's GPU may be on another machine
    plain = decoder_of((clip.video for clip in evaluation.clips), job.data.decoder, here)
    by_pass: list[list[PerturbedVideo]] = [[] for _ in work.passes]
    for item, outcome in zip(work.items, found, strict=True):
        by_pass[item.number].append(outcome)
    perturbed = gather_passes(evaluation.clips, plain, work.passes, by_pass)
    curves = [curve_of(sweep, scores, perturbed, job.bootstrap, SEED) for sweep in parse_sweeps(work.perturb)]
    measured = Robustness(stored.evaluated, job.data.evaluation_clips, SEED, job.bootstrap, curves)
    measured = write_robustness(output, measured, perturbed)
    render_files(job.checkpoint, output, stored, scores, evaluation.dataset, evaluation.index)
    return measured
