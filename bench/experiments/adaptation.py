"""Learning `flicker` without forgetting `blend`: `istvt adapt` on a tenth of the people, beside what is simpler.

The small ISTVT, trained on `blend`, learns `flicker` from few people: with rehearsal and distillation (the defaults of
`istvt adapt`), with less or one of them, and as a plain continuation. Beside them a detector that is trained on the few
people alone, and a logistic regression on how much their frames differ. All see each new clip as often. Judged are
people that none has seen. What is finished is kept in the output folder, and a stopped run goes on.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.experiments.simple_judges import PLAIN, SimpleScores, score
from bench.report.markdown import table
from istvt.cli.demo import TRAINING, VIDEO_FRAMES, VIDEO_SIZE
from istvt.config import AdaptationSettings, DataSettings
from istvt.model.architectures import DEFAULT, model_preset

if TYPE_CHECKING:
    from rich.console import Console

    from istvt.evaluation.seeds import MeanMetric
    from istvt.inference.video_score import VideoScore

OLD, NEW = "blend", "flicker"
SETS = {OLD: "old", NEW: "new"}  # names of the evaluations of an adapted run
SEEDS = (0, 1, 2)
IDENTITIES, SPLITS = 480, (0.8, 0.05, 0.15)
CLIPS = 2  # of each video in evaluation
OLD_EPOCHS, OLD_RATE = 3, 1e-3
OLD_WARMUP = 0.1 * OLD_EPOCHS
PART = 0.1  # of the training people who show the new forgery, also for the choice of the epoch
VALIDATED = 0.2  # of these, to choose the epoch by
TRAIN_CLIPS, EPOCHS, RATE, WARMUP, EMA_DECAY = 6, 8, 1e-3, 0.5, 0.99
PAGE = "learning-without-forgetting.md"
BEFORE, ALONE, JUDGE = "the detector of `blend`, before", "trained on the few people alone", "frame difference"
ARMS = {
    "rehearsal and distillation": AdaptationSettings(),  # the defaults
    "half as much rehearsal, and distillation": AdaptationSettings(rehearsal=AdaptationSettings().rehearsal / 2),
    "rehearsal alone": AdaptationSettings(distillation=0),
    "plain continuation": AdaptationSettings(rehearsal=0, distillation=0),
}
MOST_LOST = 0.02  # of the AUC on the old forgery


@dataclass(frozen=True)
class Row:
    """What was measured of one way to learn.

    Attributes:
        seeds: of the trainings in it; empty where there is no chance in it.
        auc: by kind of forgery, in the mean over seeds; of an adapted detector with the change to what it was before.
    """

    seeds: list[int]
    auc: dict[str, MeanMetric]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where to write, and which part."""
    parser.add_argument("--output", type=Path, default=Path("runs/adaptation"), help="folder of the videos and runs")
    parser.add_argument("--documents", type=Path, help=f"also write {PAGE} to this folder")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, metavar="N", help="only these")
    parser.add_argument("--only", action="append", choices=[*ARMS, ALONE], help="only this way to learn (repeatable)")


def run(arguments: argparse.Namespace) -> int:
    """Run what is missing, print the table and write the page."""
    from rich.console import Console

    from istvt.cli.console import logging_to

    console, output = Console(), arguments.output
    _draw(output / "videos")
    few = draw_few(output)
    with logging_to(console):
        for seed in arguments.seeds:
            learn(output, few, seed, arguments.only or [*ARMS, ALONE], console)
    score(JUDGE, few, [], _judge_file(output))
    rows = all_rows(output)
    print(f"\n{auc_table(rows)}\n{sentence(rows)}")
    if arguments.documents:
        arguments.documents.mkdir(parents=True, exist_ok=True)
        (arguments.documents / PAGE).write_text(page(rows, output))
        print(f"written to {arguments.documents / PAGE}")
    return 0


def _draw(folder: Path) -> None:
    """Draw the videos, as far as they are not there."""
    from dataloading import read_dataset
    from dataloading.face_index import FILE_NAME
    from dataloading.faces.prepare import prepare
    from dataloading.synthetic import synthesize

    if not (folder / FILE_NAME).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        synthesize(folder, identities=IDENTITIES, frames=VIDEO_FRAMES, size=VIDEO_SIZE, splits=SPLITS)
        prepare(read_dataset(folder), detect=False)


def draw_few(output: Path) -> DataSettings:
    """Return the new set: the drawn videos of few people for training and validation, and all of the test people.

    Its directory has the videos of the whole set as links, and split files of its own.
    """
    from dataloading.io import read_json, write_json

    videos, folder = (output / "videos").resolve(), output / "few"
    if not (folder / "splits").is_dir():
        folder.mkdir(exist_ok=True)
        for path in videos.iterdir():
            if path.name != "splits" and not path.name.startswith(".") and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
        # Pairs of people, of whom a video is forged with the motion of the other.
        pairs = {path.name: read_json(path, list[list[str]]) for path in (videos / "splits").glob("*.json")}
        few = pairs["train.json"][: int(PART * len(pairs["train.json"]))]
        validated = max(1, round(VALIDATED * len(few)))
        pairs |= {"train.json": few[validated:], "val.json": few[:validated]}
        (folder / "splits.partial").mkdir(exist_ok=True)
        for name, values in pairs.items():
            write_json(folder / "splits.partial" / name, values)
        (folder / "splits.partial").rename(folder / "splits")
    return DataSettings(folder, manipulations=[NEW], train_clips=TRAIN_CLIPS, evaluation_clips=CLIPS)


def learn(output: Path, few: DataSettings, seed: int, ways: Sequence[str], console: Console) -> None:
    """Train and evaluate what is missing of some ways to learn, with one seed."""
    from functools import partial

    from istvt.cli.console import progress_bar
    from istvt.comparison.adaptation.adapt import adapt
    from istvt.report.evaluate_checkpoint import evaluate_checkpoint, is_evaluated
    from istvt.training.trainer import train

    model, learned = model_preset(DEFAULT), _old_set(output)
    training = replace(TRAINING, epochs=OLD_EPOCHS, learning_rate=OLD_RATE, warmup_epochs=OLD_WARMUP, seed=seed)
    console.rule(f"{OLD}, seed {seed}")
    old = train(learned, model, training, _run(output, OLD, seed), console=console).checkpoint
    training = replace(training, epochs=EPOCHS, learning_rate=RATE, warmup_epochs=WARMUP, ema_decay=EMA_DECAY)
    bars = partial(progress_bar, console)
    for arm, settings in ((arm, settings) for arm, settings in ARMS.items() if arm in ways):
        console.rule(f"{arm}, seed {seed}")
        how = {"settings": settings, "training": training}
        adapt(old, few, _run(output, arm, seed), **how, console=console, bars=bars)
    if ALONE not in ways:
        return
    console.rule(f"{ALONE}, seed {seed}")
    run = _run(output, ALONE, seed)
    trained = train(few, model, training, run, console=console)
    for kind, data in {OLD: learned, NEW: few}.items():
        place, how = _scores(run, kind), {"split": "test", "precision": "auto", "bootstrap": 2000}
        if not is_evaluated(trained.checkpoint, data, place, **how):
            with bars(f"{ALONE}, {kind}") as update:
                evaluate_checkpoint(trained.checkpoint, data, place, **how, resumable=True, advance=update)


def _old_set(output: Path) -> DataSettings:
    return DataSettings(output / "videos", manipulations=[OLD], evaluation_clips=CLIPS)


def _run(output: Path, arm: str, seed: int) -> Path:
    return output / "runs" / arm.replace(" ", "-") / f"seed-{seed}"


def _scores(run: Path, kind: str, when: str = "after") -> Path:
    """Return the directory of an evaluation, where `istvt adapt` has it."""
    return run / "evaluations" / f"{when}-{SETS[kind]}"


def _judge_file(output: Path) -> Path:
    return output / "frame-difference.json"


# What is there


def all_rows(output: Path, seeds: Iterable[int] = SEEDS) -> dict[str, Row]:
    """Return what was measured, by the way to learn; of each the seeds that are finished."""
    from istvt.evaluation.seeds import mean_metrics

    first, rows = next(iter(ARMS)), {}
    for name, arm, when in [(BEFORE, first, "before"), *((arm, arm, "after") for arm in ARMS), (ALONE, ALONE, "after")]:
        runs = {seed: _run(output, arm, seed) for seed in seeds}
        done = [seed for seed, run in runs.items() if all(_is_scored(_scores(run, kind, when)) for kind in SETS)]
        if not done:
            continue
        auc = {}
        for kind in SETS:
            found = [_read(_scores(runs[seed], kind, when)) for seed in done]
            before = [_read(_scores(runs[seed], kind, "before")) for seed in done] if name in ARMS else []
            auc[kind] = mean_metrics(found, before)["auc"]
        rows[name] = Row(done, auc)
    if _judge_file(output).is_file():
        rows[JUDGE] = Row([], {NEW: mean_metrics([_judged(_judge_file(output))])["auc"]})
    return rows


def _is_scored(place: Path) -> bool:
    from istvt.report.evaluation_files import METRICS, SCORES

    return (place / METRICS).is_file() and (place / SCORES).is_file()


def _read(place: Path) -> list[VideoScore]:
    from istvt.report.evaluation_files import read_evaluation

    return sorted(read_evaluation(place)[1], key=lambda score: score.name)


def _judged(path: Path) -> list[VideoScore]:
    from dataloading.io import read_json
    from istvt.inference.video_score import VideoScore

    rows = [row for row in read_json(path, SimpleScores).rows if row.perturbation == PLAIN]
    return [VideoScore(r.video, "", r.label, r.manipulation, (p := r.probability_fake), [p], [[0]]) for r in rows]


# The page


def auc_table(rows: Mapping[str, Row]) -> str:
    """Return the AUC on both kinds of each way to learn, with the change to what was known before."""
    lines = []
    for name, row in rows.items():
        cells = [", ".join(map(str, row.seeds)) or "none"]
        for kind in SETS:
            metric = row.auc.get(kind)
            cells += ["", ""] if metric is None else [_shown(metric), _changed(metric)]
        lines.append([f"*{name}*" if name in (ALONE, JUDGE) else name, *cells])
    header = ["", "seeds", *(f"{what}`{kind}`" for kind in SETS for what in ("AUC on ", "change on "))]
    return table(header, lines, "ll" + "r" * 4)


def _shown(metric: MeanMetric) -> str:
    each = f"; {', '.join(f'{value:.3f}' for value in metric.values)}" if len(metric.values) > 1 else ""
    return f"{metric.mean}{each}"


def _changed(metric: MeanMetric) -> str:
    change = metric.change
    return "" if change is None else f"{change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})"


def sentence(rows: Mapping[str, Row]) -> str:
    """Return what was learned and what was lost, in words."""
    parts = []
    for arm in ARMS:
        if (row := rows.get(arm)) is None:
            continue
        change = row.auc[OLD].change
        kept = "at most" if change.value >= -MOST_LOST else "more than"
        reach = f", and the interval reaches {100 * -change.low:.0f}" if change.low < -MOST_LOST <= change.value else ""
        parts.append(
            f"With {'a ' if 'plain' in arm else ''}{arm} the AUC on `{NEW}` goes to {row.auc[NEW].mean}, and that on "
            f"`{OLD}` changes by {_changed(row.auc[OLD])}: {kept} {100 * MOST_LOST:.0f} points are lost{reach}."
        )
    first, *_, last = (rows[arm].auc[NEW].mean.value if arm in rows else None for arm in ARMS)
    if None not in (first, last) and last > first:
        parts.append(f"What keeps `{OLD}` slows down the learning of `{NEW}`: the plain continuation learns it better.")
    if (row := rows.get(ALONE)) is not None:
        parts.append(f"Trained on the few people alone a detector has {row.auc[NEW].mean} on `{NEW}`.")
    if (row := rows.get(JUDGE)) is not None:
        parts.append(f"A logistic regression on one number of their clips, the {JUDGE}, has {row.auc[NEW].mean}.")
    return textwrap.fill(" ".join(parts), 120, break_long_words=False, break_on_hyphens=False)


def missing(rows: Mapping[str, Row], seeds: Sequence[int] = SEEDS) -> str:
    """Return which seeds have not been run, in a sentence."""
    lacking = {
        name: [seed for seed in seeds if seed not in getattr(rows.get(name), "seeds", ())] for name in (*ARMS, ALONE)
    }
    parts = [f"{name} with seed {', '.join(map(str, found))}" for name, found in lacking.items() if found]
    return f"Not all of it has been run. Missing: {'; '.join(parts)}." if parts else "All of it has been run."


def page(rows: Mapping[str, Row], output: Path) -> str:
    """Return the results as a page of documentation; every number in it is computed."""
    from dataloading.io import read_json
    from istvt.device import versions

    def people(folder: str, split: str) -> int:
        return 2 * len(read_json(output / folder / "splits" / f"{split}.json", list[list[str]]))

    train, val = (people("few", split) for split in ("train", "val"))
    return Path(__file__).with_suffix(".template.md").read_text().format(
        sentence=sentence(rows), table=auc_table(rows), missing=missing(rows), settings=AdaptationSettings(),
        people=people("videos", "train"), test=people("videos", "test"), few=train + val, train=train, val=val,
        old_epochs=OLD_EPOCHS, epochs=EPOCHS, rate=RATE, ema=EMA_DECAY, clips=2 * train * TRAIN_CLIPS,
        batch=TRAINING.batch_size,
        versions=", ".join(f"{name} {version}" for name, version in versions().items()),
    )  # fmt: skip
