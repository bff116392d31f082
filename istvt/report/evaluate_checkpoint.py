"""Evaluation of a checkpoint on one split of a data set, written as metrics, scores and an HTML report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dataloading.clips.loader import decoder_of
from dataloading.clips.sampling import Clip, Clips
from dataloading.dataset import Dataset, Video
from dataloading.engines import ModelEngine
from dataloading.engines.journal import Header, Line, Shard, keeping, typed, unfinished
from dataloading.errors import InputError
from dataloading.face_index import FaceIndex
from dataloading.io import parse_json
from dataloading.layouts import open_dataset
from istvt.config import DataSettings, FaithfulnessSettings
from istvt.device import pick_device, versions
from istvt.evaluation.evaluate import (
    ScoredVideo,
    SplitScoring,
    clips_by_video,
    split_clips,
    split_scoring,
    summarize,
)
from istvt.explain.faithfulness.evaluate import evaluate_explanations
from istvt.explain.faithfulness.report import read_faithfulness, write_faithfulness
from istvt.explain.faithfulness.results import Faithfulness
from istvt.inference.video_score import VideoScore
from istvt.model.architectures import architecture
from istvt.model.checkpoint import CheckpointInfo, load_model, load_same_model, read_info
from istvt.report.evaluation_files import (
    EXPLANATIONS,
    METRICS,
    REPORT,
    ROBUSTNESS,
    SCORES,
    StoredEvaluation,
    evaluated_set,
    foreign_explanations,
    read_evaluation,
    read_history,
    read_robustness,
    write_evaluation,
)
from istvt.report.examples import load_examples
from istvt.report.report import write_report
from istvt.run_dir import model_file, output_directory


@dataclass
class EvaluationResult:
    """An evaluation, every video's score, and the report, an HTML file."""

    evaluation: StoredEvaluation
    scores: list[VideoScore]
    report: Path


def evaluate_checkpoint(
    checkpoint: str | Path,
    data: DataSettings,
    output: str | Path,
    *,
    split: str = "test",
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 16,
    bootstrap: int = 2000,
    engine: ModelEngine | None = None,
    resumable: bool = False,
    advance: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Score the videos of a split and write `evaluation.json`, `scores.csv` and `report.html` to `output`.

    Where `output` holds a measurement of the explanations, the report shows it, or states that it is of another model
    or other videos.

    Args:
        checkpoint: a model file of `istvt train`, or the directory of a run.
        data: which videos; clips are taken evenly from the first 270 frames of each, as the paper does. They are
            cropped to the region of the checkpoint.
        output: directory of the three files.
        split: train, val or test.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "auto", "float32", "bfloat16" or "float16".
        batch_size: clips a forward pass, at most; those of a video are scored by themselves.
        bootstrap: resamples behind the intervals.
        engine: scores the videos on other machines; None on this one.
        resumable: keep what is done in `evaluation.json.unfinished` until the files are written: another call goes on
            from it. With an engine it is always kept.
        advance: called with (clips done, clips in all).

    Raises:
        InputError: the checkpoint or the data cannot be used.
    """
    job = EvaluationJob(str(checkpoint), data, split, device, precision, batch_size, bootstrap)
    output = output_directory(output)
    keep = unfinished(output / METRICS) if engine or resumable else None
    with _scored(job, Shard(), keep, engine, advance) as (work, scored):
        result = _write(job, work, output, scored)
        if keep is not None:
            keep.unlink()
        return result


def is_evaluated(
    checkpoint: str | Path, data: DataSettings, output: str | Path, *, split: str, precision: str, bootstrap: int
) -> bool:
    """Return whether `output` holds the evaluation that `evaluate_checkpoint` would write with these arguments.

    One that was stopped before its report was written is none: what it has scored is kept, and written again.

    Raises:
        InputError: the checkpoint cannot be read, or what is there is no evaluation.
    """
    output = Path(output)
    written = all((output / name).exists() for name in (METRICS, SCORES, REPORT))
    if not written or unfinished(output / METRICS).exists():
        return False
    stored, _ = read_evaluation(output)
    job = EvaluationJob(str(checkpoint), data, split, "", precision, 0, bootstrap)
    held, wanted = (dict(values) for values in (stored.settings.get("evaluation", {}), job.shown()))
    for values in (held, wanted):
        values.pop("workers", None)  # no score depends on their number
    same = stored.evaluated == evaluated_set(read_info(checkpoint), data, split)
    return same and stored.resamples == bootstrap and held == wanted


def evaluate_shard(
    checkpoint: str | Path,
    data: DataSettings,
    output: str | Path,
    shard: Shard,
    *,
    split: str = "test",
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 16,
    bootstrap: int = 2000,
    advance: Callable[[int, int], None] | None = None,
) -> tuple[Path, int]:
    """Score a part of the videos of a split, but for what an earlier call has done; see `evaluate_checkpoint`.

    Returns:
        The file of the shard in `output`, which `merge_evaluation` takes, and how many of its videos have no score.
    """
    job = EvaluationJob(str(checkpoint), data, split, device, precision, batch_size, bootstrap)
    path = shard.file(output_directory(output) / METRICS)
    with _scored(job, shard, path, None, advance) as (_, scored):
        return path, sum(item.score is None for item in scored)


def merge_evaluation(header: Header, lines: Sequence[Line], output: str | Path) -> EvaluationResult:
    """Write what `evaluate_checkpoint` writes, from all shards of an evaluation as `read_shards` gives them.

    Raises:
        InputError: the checkpoint or the data set is not what it was when the shards were made.
    """
    stored = typed(header.settings, JournalSettings, "settings of the shards")
    job = stored.job()
    work = EvaluationWork.of(job)
    same = job.settings(work, stored.device) | {"versions": stored.versions} == header.settings
    if not same or [line.video for line in lines] != [group[0].video.name for group in work.groups]:
        raise InputError(
            f"{job.checkpoint} or {job.data.root} has changed since the shards were made; expected the same model and "
            "the same videos"
        )
    scored = [typed(line.result, ScoredVideo, line.video) for line in lines]
    for item, group in zip(scored, work.groups, strict=True):
        video = group[0].video
        if item.score and (item.score.name, item.score.label) != (video.name, video.label):
            raise InputError(f"{video.name}: a shard holds the score of another video; make it again")
    return _write(job, work, output_directory(output), scored, stored.versions)


@dataclass(frozen=True)
class JournalSettings:
    """Settings in the journal of an evaluation; see `EvaluationJob.settings`."""

    checkpoint: str
    split: str
    precision: str
    batch_size: int
    bootstrap: int
    data: dict[str, Any]
    model: str
    device: str
    versions: dict[str, str]

    def job(self) -> EvaluationJob:
        """Return what is evaluated, and how."""
        data = typed(self.data, DataSettings, "settings of the shards: data")
        how = (self.split, self.device, self.precision, self.batch_size, self.bootstrap)
        return EvaluationJob(self.checkpoint, data, *how)


@dataclass(frozen=True)
class EvaluationJob:
    """What is evaluated, and how; see `evaluate_checkpoint`."""

    checkpoint: str
    data: DataSettings
    split: str
    device: str
    precision: str
    batch_size: int
    bootstrap: int

    def settings(self, work: EvaluationWork, device: str) -> dict[str, Any]:
        """Return all that the files depend on, beside the videos, on a device of this type."""
        values = {name: getattr(self, name) for name in ("checkpoint", "split", "precision", "batch_size", "bootstrap")}
        return values | {"data": self.used(), "model": work.info.checksum, "device": device, "versions": versions()}

    def shown(self) -> dict[str, Any]:
        """Return what evaluation.json holds of these settings."""
        how = {"checkpoint": self.checkpoint, "split": self.split, "precision": self.precision}
        return how | self.used()

    def used(self) -> dict[str, Any]:
        """Return the settings of the data that an evaluation depends on."""
        used = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self.data).items()}
        del used["train_clips"], used["region"]  # which is that of the checkpoint
        return used


@dataclass(frozen=True)
class EvaluationWork:
    """The videos of an evaluation, and the clips that are scored of each."""

    info: CheckpointInfo
    dataset: Dataset
    index: FaceIndex
    clips: Clips
    groups: list[list[Clip]]

    @classmethod
    def of(cls, job: EvaluationJob) -> EvaluationWork:
        """Open the data set of a job."""
        info = read_info(job.checkpoint)
        dataset, index = open_dataset(**replace(job.data, region=info.region).source)
        clips = split_clips(dataset, index, job.data, job.split, info.config.frames)
        return cls(info, dataset, index, clips, clips_by_video(clips))


@contextmanager
def _scored(
    job: EvaluationJob,
    shard: Shard,
    keep: Path | None,
    engine: ModelEngine | None,
    advance: Callable[[int, int], None] | None,
) -> Iterator[tuple[EvaluationWork, list[ScoredVideo]]]:
    """Score the videos of a shard that are not done yet; the context gives the outcome of all of them, in order."""
    kind = engine.device_type(job.device) if engine else pick_device(job.device).type
    work = EvaluationWork.of(job)
    videos = [group[0].video for group in work.groups]
    how = split_scoring(work.info.config, work.dataset, work.index, job.data, job.batch_size, job.precision)
    with keeping(
        keep,
        "evaluate",
        job.settings(work, kind),
        [(video.name, video.path) for video in videos],
        shard,
        to_dict=asdict,
        parse=_parse,
        failed=lambda item: item.score is None,
    ) as journal:
        todo = journal.todo
        count = sum(len(work.groups[at]) for at in (*todo, *journal.results))
        done = sum(len(work.groups[at]) for at in journal.results)
        load = partial(_load, job.checkpoint, work.info.checksum, pick_device(job.device) if not engine else kind)
        load = partial(load, how, videos)
        if engine is None:
            found = zip(todo, load()([clip for at in todo for clip in work.groups[at]]), strict=True)
        else:
            position_of = {id(work.groups[at]): at for at in todo}
            jobs = [work.groups[at] for at in todo]
            outcomes = engine.map(partial(_one, load), jobs, lambda clips: clips[0].video.path, gpu=kind == "cuda")
            found = ((position_of[id(clips)], outcome) for clips, outcome in outcomes)
        for at, outcome in found:
            failed = isinstance(outcome, InputError)
            journal.add(at, ScoredVideo(None, [str(outcome)]) if failed else outcome)
            done += len(work.groups[at])
            if advance:
                advance(done, count)
        if keep is not None:
            journal.rewrite()
        yield work, journal.in_order()


def _load(
    checkpoint: str, checksum: str, device: str | torch.device, how: SplitScoring, videos: Sequence[Video]
) -> Callable[[Sequence[Clip]], Iterator[ScoredVideo]]:
    """Load the model and return what scores clips; the decoder is that of all videos, as on one machine."""
    model = load_same_model(checkpoint, checksum, device)
    decoder = decoder_of(videos, how.decoder, next(model.parameters()).device)
    return partial(replace(how, decoder=decoder).score, model)


def _one(load: Callable[[], Callable[[Sequence[Clip]], Iterator[ScoredVideo]]]) -> Callable[..., ScoredVideo]:
    """Return what scores the clips of one video, in a worker of an engine."""
    score = load()

    def score_video(clips: Sequence[Clip]) -> ScoredVideo:
        [outcome] = score(clips)
        return outcome

    return score_video


def _parse(data: bytes, where: str) -> ScoredVideo:
    return parse_json(data, ScoredVideo, where)


def _write(
    job: EvaluationJob,
    work: EvaluationWork,
    output: Path,
    scored: Sequence[ScoredVideo],
    of_packages: dict[str, str] | None = None,
) -> EvaluationResult:
    """Write the three files of an evaluation."""
    info, dataset, index, data = work.info, work.dataset, work.index, job.data
    evaluation, scores = summarize(info, dataset, index, data, job.split, work.clips, scored, job.bootstrap)
    name = architecture(info.config.architecture).title
    stored = StoredEvaluation(
        **vars(evaluation),
        checkpoint=str(model_file(job.checkpoint).resolve()),
        evaluated=evaluated_set(info, data, job.split),
        title=f"{name} on {'the synthetic set in ' if dataset.synthetic else ''}{data.root}, {job.split} split",
        settings={**info.settings, "evaluation": job.shown()},
        versions=of_packages or versions(),
    )
    write_evaluation(output, stored, scores)
    return EvaluationResult(stored, scores, render_files(job.checkpoint, output, stored, scores, dataset, index))


def render_report(checkpoint: str | Path, data: DataSettings, output: str | Path) -> Path:
    """Write the report of the evaluation in `output` again, with the explanations that were measured since.

    Args:
        checkpoint: that was evaluated.
        data: its videos, whose frames are examples.
        output: with `evaluation.json` and `scores.csv`.

    Raises:
        InputError: a file is not that of an evaluation, or the checkpoint or the data cannot be used.
    """
    output = Path(output)
    stored, scores = read_evaluation(output)
    if stored.evaluated is None or not stored.settings:
        raise InputError(f"{output / METRICS}: settings: missing, as an earlier version wrote it; evaluate again")
    source = replace(data, region=read_info(checkpoint).region).source
    return render_files(checkpoint, output, stored, scores, *open_dataset(**source))


def render_files(
    checkpoint: str | Path,
    output: Path,
    stored: StoredEvaluation,
    scores: Sequence[VideoScore],
    dataset: Dataset,
    index: FaceIndex,
) -> Path:
    """Write the report of an evaluation with all that was measured of it; return its path."""
    info, foreign = read_info(checkpoint), foreign_explanations(output, stored.evaluated)
    robustness = read_robustness(output)
    other = robustness and robustness.evaluated != stored.evaluated
    return write_report(
        output / REPORT,
        stored,
        scores,
        history=read_history(checkpoint),
        best_epoch=info.metrics.get("epoch"),
        examples=load_examples(scores, dataset, index, info.config.image_size),
        explanations=f"{foreign}." if foreign else read_faithfulness(output / EXPLANATIONS),
        robustness=f"{output / ROBUSTNESS} holds curves of another model or other videos." if other else robustness,
    )


def evaluate_checkpoint_explanations(
    checkpoint: str | Path,
    data: DataSettings,
    output: str | Path,
    settings: FaithfulnessSettings | None = None,
    *,
    split: str = "test",
    device: str = "auto",
    advance: Callable[[int, int], None] | None = None,
) -> tuple[Faithfulness, dict[str, Path]]:
    """Measure how faithful each explanation of a checkpoint is, and write it as `write_faithfulness` does.

    Args:
        checkpoint, data, split, device: as for `evaluate_checkpoint`.
        output: directory of what is written.
        settings: what is measured; the defaults if None.
        advance: called with (clips done, clips in all).

    Returns:
        The measurement, and its files by kind: data, table, plot.

    Raises:
        InputError: the checkpoint, the data or an argument cannot be used.
    """
    model, info = load_model(checkpoint, pick_device(device))
    dataset, index = open_dataset(**replace(data, region=info.region).source)
    measured = evaluate_explanations(
        model,
        dataset,
        index,
        settings,
        split=split,
        decoder=data.decoder,
        workers=data.workers,
        advance=advance,
    )
    measured.evaluated = evaluated_set(info, data, split)
    return measured, write_faithfulness(measured, output)
