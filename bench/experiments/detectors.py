"""What each detector sees: the small preset of every architecture on each kind of forgery, as it is and perturbed.

Each is trained on one kind alone, with several seeds, and judged on people that it has never seen, beside two judges
that know next to nothing: a logistic regression on the mean color of a clip, and one on how much its frames differ. On
forgeries of a part of the face the detectors are those that are made for it, beside a judge of landmarks.
Training and evaluation are those of `istvt compare`. What is finished is kept in the output folder, so that a stopped
run goes on and any part can be run alone; the page is written from all that is there.
"""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np

from bench.experiments.landmarks import LANDMARKS, score_landmarks
from bench.experiments.simple_judges import JUDGES, PLAIN, JudgedVideo, SimpleScores, score
from bench.report.markdown import replace_section, table
from istvt.cli.demo import TRAINING, VIDEO_FRAMES
from istvt.model.architectures import ARCHITECTURES, DEFAULT, model_preset, recommended_training

if TYPE_CHECKING:
    from rich.console import Console

    from istvt.comparison.settings import Plan, PlannedModel
    from istvt.config import DataSettings
    from istvt.evaluation.results import Estimate
    from istvt.evaluation.seeds import MeanMetric
    from istvt.inference.video_score import VideoScore
    from istvt.report.evaluation_files import PerturbedRow

OF_PARTS = ("mouth", "eyes")  # kinds that forge a part of the face, to which clips are cropped then
KINDS = ("blend", "flicker", "both", *OF_PARTS)
SEEDS = (0, 1, 2)
PERTURBATIONS = ("jpeg:30", "downscale:0.5", "dropout:24", "noise:10", "h264:35")
IDENTITIES, SPLITS, VIDEO_SIZE = 480, (0.8, 0.05, 0.15), 96
PARTS_IDENTITIES, PARTS_FRAMES = 120, 48  # of the set of those kinds: two of three real people blink in 48 frames
CLIPS, TRAIN_CLIPS = 2, 1  # of each video: in evaluation, and random ones in an epoch
# An epoch has 768 clips, so 8 of them 768 batches of 8: a detector stays at chance for some hundred batches before it
# finds the trace. Some find it with some seeds alone in batches of 8 or 16, whose gradients are mostly noise then, and
# `i3d` and `timesformer` with each in batches of 32, which are recommended for them; `c3d` is at chance at 1e-3.
# Colors and compression are not varied in training: the perturbations of the test are to be new to every detector.
RATE, EPOCHS, WARMUP = 1e-3, 8, 0.1  # warm-up as a part of all epochs
OWN = {
    "c3d": {"learning_rate": 5e-4},
    "i3d": {"epochs": 16},
    # Of the 120 people of their own set an epoch has 144 clips.
    "lip_motion": {"epochs": 9},
    "lrcn": {"learning_rate": 2e-3, "epochs": 24},
    "timesformer": {"epochs": 40},
    "vivit": {"batch_size": 16, "epochs": 40},
}
# `timesformer` finds these with each seed in half the epochs, and in smaller batches. On `flicker`, `i3d` was at chance
# with batches of 32 too: .568 (.475 to .661), seed 0.
_SOONER = {"batch_size": 16, "epochs": 20}
OWN_OF_KIND = {
    ("timesformer", "flicker"): _SOONER,
    ("timesformer", "both"): _SOONER,
    ("i3d", "flicker"): {"batch_size": 16, "learning_rate": 5e-4, "epochs": 12},
}
SEEDS_APART = 0.2  # of AUC, which README names
FRAME_DIFFERENCE = list(JUDGES)[-1]
PAGE, SECTION = "what-each-detector-sees.md", "detectors"
CORES = 2
NOT_RUN = "not run"


@dataclass(frozen=True)
class Trained:
    """Cost of one training, as kept beside its run.

    Attributes:
        seconds: by the clock.
        processor_seconds: of all its threads, and of processes that have ended; those that decode go on for the next.
        versions: of the packages that it ran on.
    """

    seconds: float
    processor_seconds: float
    versions: dict[str, str]


@dataclass(frozen=True)
class Cell:
    """What was measured of a judge on one kind of forgery.

    Attributes:
        seeds: of the trainings that are in it; empty for a judge without weights drawn by chance.
        auc: by perturbation, `PLAIN` first, the AUC by video in the mean over seeds.
        real, fake: videos of the test split.
    """

    seeds: list[int]
    auc: dict[str, MeanMetric]
    real: int
    fake: int

    @property
    def plain(self) -> Estimate:
        """AUC of the videos as they are."""
        return self.auc[PLAIN].mean


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where to write, and which part."""
    parser.add_argument("--output", type=Path, default=Path("runs/detectors"), help="folder of the videos and runs")
    parser.add_argument("--documents", type=Path, help=f"also write {PAGE} to this folder")
    parser.add_argument("--readme", type=Path, help="also write the sentence on it between its markers")
    parser.add_argument("--detectors", nargs="+", choices=list(ARCHITECTURES), metavar="NAME", help="only these")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="only these")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, metavar="N", help="only these")
    parser.add_argument(
        "--perturbations", nargs="*", default=PERTURBATIONS, metavar="NAME:STRENGTH",
        help=f"as of istvt evaluate --perturb; none without a value; default: {' '.join(PERTURBATIONS)}",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Run what is missing, print the tables and write the page."""
    from rich.console import Console

    output = arguments.output
    for kind in arguments.kinds:
        draw(output, kind)
    detectors = arguments.detectors or list(ARCHITECTURES)
    for model in measure(output, detectors, arguments.kinds, arguments.seeds, arguments.perturbations, Console()):
        print(f"{model}: AUC {cell(output, model.detector, model.trained_on, [model.seed]).plain}", flush=True)
    for kind in arguments.kinds:
        data = data_of(output, kind)
        for judge in JUDGES:
            score(judge, data, arguments.perturbations, _simple_file(output, judge, kind))
        if kind in OF_PARTS:
            score_landmarks(data, _simple_file(output, LANDMARKS, kind))
    cells = all_cells(output)
    for kind in KINDS:
        print(f"\n{kind}\n\n{kind_table(cells, kind)}")
    if arguments.documents:
        arguments.documents.mkdir(parents=True, exist_ok=True)
        (arguments.documents / PAGE).write_text(page(cells, output))
        print(f"written to {arguments.documents / PAGE}")
    if arguments.readme:
        arguments.readme.write_text(replace_section(arguments.readme.read_text(), SECTION, summary(cells)))
        print(f"written to {arguments.readme}")
    return 0


def videos_of(output: Path, kind: str) -> Path:
    """Return the folder of the videos of a kind: those that forge a part of the face have a set of their own."""
    return output / ("videos-parts" if kind in OF_PARTS else "videos")


def region_of(kind: str) -> str:
    """Return what clips of a kind are cropped to."""
    return kind if kind in OF_PARTS else "face"


def detectors_of(kind: str) -> list[str]:
    """Return the detectors that are made for what clips of a kind are cropped to."""
    return [name for name, of in ARCHITECTURES.items() if of.region == region_of(kind)]


def judges_of(kind: str) -> list[str]:
    """Return the rows of a kind's table: its detectors, and those that know next to nothing."""
    return [*detectors_of(kind), *JUDGES, *([LANDMARKS] if kind in OF_PARTS else [])]


def data_of(output: Path, kind: str) -> DataSettings:
    """Return the settings of the data of a kind."""
    return replace(plan_of(output, [DEFAULT], kind, [0], []).data[kind], region=region_of(kind))


def draw(output: Path, kind: str = KINDS[0]) -> None:
    """Draw the videos of a kind, as far as they are not there."""
    from dataloading import read_dataset
    from dataloading.face_index import FILE_NAME
    from dataloading.faces.prepare import prepare
    from dataloading.synthetic import synthesize

    folder = videos_of(output, kind)
    if (folder / FILE_NAME).exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    how = {"identities": IDENTITIES, "frames": VIDEO_FRAMES}
    if kind in OF_PARTS:
        how = {"identities": PARTS_IDENTITIES, "frames": PARTS_FRAMES, "manipulations": OF_PARTS}
    synthesize(folder, size=VIDEO_SIZE, splits=SPLITS, **how)
    prepare(read_dataset(folder), detect=False)


def plan_of(
    output: Path, detectors: Iterable[str], kind: str, seeds: Iterable[int], perturbations: Iterable[str]
) -> Plan:
    """Return the trainings on a kind of forgery, and their evaluations."""
    from istvt.comparison.settings import ComparisonSettings, DataSet, DetectorSettings, comparison_plan

    settings = ComparisonSettings(
        detectors={name: DetectorSettings(architecture=name, training=training_of(name, kind)) for name in detectors},
        data={kind: DataSet(root=str(videos_of(output, kind)), manipulations=[kind])},
        train=[kind], test=[kind], seeds=list(seeds), perturb=list(perturbations), clips=CLIPS, train_clips=TRAIN_CLIPS,
        training={
            "execution": TRAINING.execution, "batch_size": TRAINING.batch_size, "learning_rate": RATE, "augment": False,
        },
    )  # fmt: skip
    return comparison_plan(settings, output)


def training_of(detector: str, kind: str) -> dict[str, float]:
    """Return the fields of `TrainingSettings` of a detector: what its preset recommends, and its length here."""
    own = recommended_training(model_preset(detector)) | {"epochs": EPOCHS}
    own |= OWN.get(detector, {}) | OWN_OF_KIND.get((detector, kind), {})
    return own | {"warmup_epochs": WARMUP * own["epochs"]}


def measure(
    output: Path,
    detectors: Iterable[str],
    kinds: Iterable[str],
    seeds: Iterable[int],
    perturbations: Sequence[str],
    console: Console,
) -> Iterator[PlannedModel]:
    """Train and evaluate what is missing of a part of the experiment, seed by seed; yield each model when it is done.

    Each detector is trained on the kinds that it is made for (`detectors_of`).

    Args:
        output: folder that `draw` has drawn into.
        detectors, kinds, seeds, perturbations: the part.
        console: for progress.
    """
    from istvt.cli.console import progress_bar
    from istvt.comparison.models import evaluate_model, train_model

    detectors, seeds = list(detectors), list(seeds)
    plans = {
        kind: plan_of(output, made, kind, seeds, perturbations)
        for kind in kinds
        if (made := [name for name in detectors if name in detectors_of(kind)])
    }
    models = [model for plan in plans.values() for model in plan.models]
    for model in sorted(models, key=lambda model: model.seed):
        kind, plan = model.trained_on, plans[model.trained_on]
        data = plan.data[kind]
        if not _cost_file(model).is_file():
            console.rule(f"{model}")
            _train(model, lambda model=model, data=data: train_model(model, data, console=console))
        with progress_bar(console, f"{model}") as update:
            evaluate_model(model, kind, data, plan.settings, plan.sweeps, advance=update)
        yield model


def _train(model: PlannedModel, train: Callable[[], None]) -> None:
    """Train, and write what it took; of a run that goes on from earlier epochs, what all of it would have taken."""
    from dataloading.io import write_json
    from istvt.device import versions
    from istvt.report.evaluation_files import read_history

    before, begun = len(read_history(model.checkpoint)) if model.checkpoint.is_dir() else 0, _processor_seconds()
    train()
    history = read_history(model.checkpoint)
    share = (len(history) - before) / len(history)
    spent = (_processor_seconds() - begun) / share if share else 0.0
    seconds = sum(row.seconds or 0.0 for row in history)
    write_json(_cost_file(model), asdict(Trained(round(seconds, 1), round(spent, 1), versions())))


def _cost_file(model: PlannedModel) -> Path:
    return model.checkpoint / "cost.json"


def _processor_seconds() -> float:
    """Return the processor time of this process and of its children that have ended, in seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


# What is there


def all_cells(output: Path) -> dict[tuple[str, str], Cell]:
    """Return what was measured, by judge and kind."""
    found = {(judge, kind): cell(output, judge, kind) for kind in KINDS for judge in judges_of(kind)}
    return {key: value for key, value in found.items() if value is not None}


def cell(output: Path, judge: str, kind: str, seeds: Iterable[int] = SEEDS) -> Cell | None:
    """Return what was measured of a detector or of a simple judge on a kind of forgery; None where nothing is there.

    A perturbation is in it where every seed that is there has it.
    """
    from istvt.evaluation.seeds import common_scores, mean_metrics

    if judge not in ARCHITECTURES:
        seeds, sets = [], _simple_scores(output, judge, kind)
    else:
        found = {model.seed: _scores(model) for model in plan_of(output, [judge], kind, seeds, []).models}
        seeds = [seed for seed, scores in found.items() if scores]
        sets = [found[seed] for seed in seeds]
    if not sets:
        return None
    names = [name for name in sets[0] if all(name in scores for scores in sets)]
    auc = {name: mean_metrics(common_scores([scores[name] for scores in sets]))["auc"] for name in names}
    fake = sum(score.label for score in sets[0][PLAIN])
    return Cell(seeds, auc, len(sets[0][PLAIN]) - fake, fake)


def _scores(model: PlannedModel) -> dict[str, list[VideoScore]]:
    """Return the scores of a model by perturbation; nothing where it has not been evaluated."""
    from istvt.report.evaluation_files import METRICS, ROBUSTNESS, read_evaluation, read_perturbed_scores

    output = model.output / model.trained_on
    if not (output / METRICS).is_file() or not _cost_file(model).is_file():
        return {}
    plain = {PLAIN: read_evaluation(output)[1]}
    return plain | _by_perturbation(read_perturbed_scores(output)) if (output / ROBUSTNESS).is_file() else plain


def _simple_file(output: Path, judge: str, kind: str) -> Path:
    return output / "simple" / judge.replace(" ", "-") / f"{kind}.json"


def _simple_scores(output: Path, judge: str, kind: str) -> list[dict[str, list[VideoScore]]]:
    from dataloading.io import read_json

    path = _simple_file(output, judge, kind)
    return [_by_perturbation(read_json(path, SimpleScores).rows)] if path.is_file() else []


def _by_perturbation(rows: Iterable[PerturbedRow | JudgedVideo]) -> dict[str, list[VideoScore]]:
    from istvt.inference.video_score import VideoScore

    found: dict[str, list[VideoScore]] = {}
    for row in rows:
        name = row.perturbation if row.perturbation == PLAIN else f"{row.perturbation}:{row.strength:g}"
        p = row.probability_fake
        found.setdefault(name, []).append(VideoScore(row.video, "", row.label, row.manipulation, p, [p], [[0]]))
    return found


# The page


def kind_table(cells: Mapping[tuple[str, str], Cell], kind: str) -> str:
    """Return the table of a kind: judges in rows, perturbations in columns; the AUC, of plain videos by seed too."""
    own = {judge: found for (judge, of), found in cells.items() if of == kind}
    names = [name for name in dict.fromkeys(name for found in own.values() for name in found.auc) if name != PLAIN]
    rows = []
    for judge in judges_of(kind):
        if (found := own.get(judge)) is None:
            rows.append([f"`{judge}`", NOT_RUN, *[""] * (len(names) + 1)])
            continue
        title = f"`{judge}`" if judge in ARCHITECTURES else f"*{judge}*"
        each = ", ".join(f"{value:.3f}" for value in found.auc[PLAIN].values) if found.seeds else "no seed"
        perturbed = (str(found.auc[name].mean) if name in found.auc else NOT_RUN for name in names)
        rows.append([title, str(found.plain), each, *perturbed])
    return table(["", PLAIN, "by seed", *names], rows, "lrl" + "r" * len(names))


def learned(cells: Mapping[tuple[str, str], Cell], kind: str) -> tuple[list[str], list[str]]:
    """Return the detectors whose interval lies above one half, and those whose does not, each with its AUC."""
    above: list[str] = []
    others: list[str] = []
    for name in ARCHITECTURES:
        if found := cells.get((name, kind)):
            (above if found.plain.low is not None and found.plain.low > 0.5 else others).append(
                f"`{name}` {found.plain}"
            )
    return above, others


def sentence(cells: Mapping[tuple[str, str], Cell]) -> str:
    """Return what each detector learned of each kind, and what the simple judges did."""
    parts, some = [], next(iter(cells.values()))
    for kind in KINDS:
        above, others = learned(cells, kind)
        if not above and not others:
            continue
        simple = [f"{judge} {cells[judge, kind].plain}" for judge in JUDGES if (judge, kind) in cells]
        own = next(found for (_, of), found in cells.items() if of == kind)
        counts = f" ({own.real} and {own.fake} videos)" if (own.real, own.fake) != (some.real, some.fake) else ""
        parts.append(
            f"On `{kind}`{counts} the AUC of {', '.join(above) or 'none'} is above chance"
            + (f", and that of {', '.join(others)} is not" if others else "")
            + (f"; a logistic regression has, on {', on '.join(simple)}" if simple else "")
            + (f"; a judge of landmarks {cells[LANDMARKS, kind].plain}" if (LANDMARKS, kind) in cells else "")
            + "."
        )
    return _filled(
        f"AUC of {some.real} real and {some.fake} forged videos of people that were not trained on, the mean of "
        f"{_seeds(cells)}, with 95 % intervals over videos. {' '.join(parts)}"
    )


def _seeds(cells: Mapping[tuple[str, str], Cell]) -> str:
    counts = sorted({len(found.seeds) for (judge, _), found in cells.items() if judge in ARCHITECTURES})
    return f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"{counts[0]} seed{'s' * (counts[0] > 1)}"


def summary(cells: Mapping[tuple[str, str], Cell]) -> str:
    """Return how many detectors learned each kind, and what one number does, for the README."""
    parts = []
    for kind in KINDS:
        own = {name: cells[name, kind].plain for name in ARCHITECTURES if (name, kind) in cells}
        if not own:
            continue
        above = {name: auc.value for name, auc in own.items() if auc.low is not None and auc.low > 0.5}
        names = f" ({', '.join(f'`{name}`' for name in above)})" if len(above) < len(own) else ""
        span = sorted({f"{min(above.values()):.3f}", f"{max(above.values()):.3f}"}) if above else []
        reached = f", at {' to '.join(span)}{names}" if span else ""
        apart = [name for name in own if np.ptp(cells[name, kind].auc[PLAIN].values) > SEEDS_APART]
        seeds = (
            f"; seeds lie more than {SEEDS_APART} apart for {', '.join(f'`{name}`' for name in apart)}" if apart else ""
        )
        difference = cells.get((FRAME_DIFFERENCE, kind))
        number = f"; one number, the {FRAME_DIFFERENCE}, has {difference.plain}" if difference else ""
        some = next(found for (_, of), found in cells.items() if of == kind)
        videos = f"{some.real} real and {some.fake} forged videos"
        learned_by = f"{len(above)} of {len(own)} detectors above chance{reached}"
        parts.append(f"- `{kind}` ({videos}): {learned_by}{seeds}{number}.")
    head = (
        f"AUC of videos of people that were not trained on, the mean of {_seeds(cells)}; above chance is a "
        "detector whose 95 % interval, which the page has for each, lies above one half:"
    )
    return "\n".join([head, "", *parts])


def _filled(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def missing(cells: Mapping[tuple[str, str], Cell]) -> str:
    """Return what of the experiment has not been run, in a sentence."""
    parts = []
    run = sorted({seed for found in cells.values() for seed in found.seeds})
    if never := [str(seed) for seed in SEEDS if seed not in run]:
        parts.append(f"all with seed {', '.join(never)}")
    for seed in run:
        for kind in KINDS:
            of_kind = detectors_of(kind)
            lacking = [name for name in of_kind if seed not in getattr(cells.get((name, kind)), "seeds", ())]
            if lacking:
                which = "every detector" if len(lacking) == len(of_kind) else ", ".join(lacking)
                parts.append(f"`{kind}` with seed {seed} of {which}")
    return _filled(f"Not all of it has been run. Missing: {'; '.join(parts)}." if parts else "All of it has been run.")


def cost_table(costs: Mapping[str, Sequence[Trained]]) -> str:
    """Return what each detector is and what its training takes."""
    from istvt.model.flops import total_cost

    rows = []
    for name, found in costs.items():
        config = model_preset(name)
        cost = total_cost(config)
        clips = f"{config.frames} x {config.image_size}"
        rates = dict.fromkeys(f"{training_of(name, kind).get('learning_rate', RATE):g}" for kind in _kinds_of(name))
        macs = f"{(cost.layer_macs + cost.attention_macs) / 1e9:.3f}"
        spent = f"{_mean_seconds(found):.0f}" if found else NOT_RUN
        rows.append([f"`{name}`", clips, f"{cost.parameters:,}", macs, _epochs(name), ", ".join(rates), spent])
    header = ["", "clip", "parameters", "G multiply-accumulates", "epochs x batch", "learning rate", "training, s"]
    return table(header, rows, "lrrrrrr")


def _kinds_of(detector: str) -> list[str]:
    return [kind for kind in KINDS if detector in detectors_of(kind)]


def _epochs(detector: str) -> str:
    """Return the epochs and batches of a detector's trainings, with the kinds where they differ."""
    found: dict[str, list[str]] = {}
    for kind in _kinds_of(detector):
        training = training_of(detector, kind)
        batch = training.get("batch_size", TRAINING.batch_size)
        found.setdefault(f"{training['epochs']} x {batch}", []).append(f"`{kind}`")
    return "; ".join(how if len(found) == 1 else f"{how} ({', '.join(kinds)})" for how, kinds in found.items())


def total_time(costs: Mapping[str, Sequence[Trained]]) -> str:
    """Return how long all trainings take, in a sentence, from the processor seconds of those that were run."""
    known = {name: _mean_seconds(found) for name, found in costs.items() if found}
    if not known:
        return "How long it takes was not measured."
    kinds = {name: len(_kinds_of(name)) for name in known}
    hours = sum(seconds * kinds[name] for name, seconds in known.items()) * len(SEEDS) / 3600
    rest = [name for name in costs if name not in known]
    without = f", without those of {', '.join(rest)}, of which none was run" if rest else ""
    return (
        f"All {sum(kinds.values()) * len(SEEDS)} trainings take {hours:.1f} hours of processor time{without}: "
        f"{hours / CORES:.1f} hours on {CORES} cores that do nothing else. Evaluation, and the processes that decode, "
        "come on top."
    )


def _mean_seconds(found: Sequence[Trained]) -> float:
    return mean(one.processor_seconds for one in found)


def _costs(output: Path) -> dict[str, list[Trained]]:
    from dataloading.io import read_json

    costs: dict[str, list[Trained]] = {name: [] for name in ARCHITECTURES}
    for model in (model for kind in KINDS for model in plan_of(output, detectors_of(kind), kind, SEEDS, []).models):
        if _cost_file(model).is_file():
            costs[model.detector].append(read_json(_cost_file(model), Trained))
    return costs


def page(cells: Mapping[tuple[str, str], Cell], output: Path) -> str:
    """Return the results as a page of documentation; every number in it is computed."""
    from dataloading.perturbations import parse_sweeps

    costs, sweeps = _costs(output), parse_sweeps(PERTURBATIONS)
    versions = next((found[-1].versions for found in costs.values() if found), {})
    tables = "\n".join(f"## `{kind}`\n\n{kind_table(cells, kind)}" for kind in KINDS)
    return Path(__file__).with_suffix(".template.md").read_text().format(
        sentence=sentence(cells), tables=tables, missing=missing(cells), costs=cost_table(costs),
        total=total_time(costs), identities=IDENTITIES, frames=VIDEO_FRAMES, size=VIDEO_SIZE, clips=CLIPS,
        parts_identities=PARTS_IDENTITIES, parts_frames=PARTS_FRAMES,
        perturbations="\n".join(f"- `{s.name}`: {s.perturbation.what}; {s.perturbation.unit}" for s in sweeps),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
    )  # fmt: skip
