"""What each attention can see and whether explanations are true of the model, measured on the synthetic set.

`spatial_only` judges every frame alone, so it cannot see `flicker`, whose frames are each as plausible as a real one;
the full model compares frames and can. Both can see `blend`, whose boundary is in every frame. Each model is trained
on all manipulations together, with several seeds, and judged by manipulation on people it has never seen. Then the
explanations of the full models are measured: deletion and insertion, where and when heat lies, sanity checks. What a
stopped run has finished is kept in the output folder and is not done again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from bench.common.record import format_table
from bench.report.markdown import table
from istvt.cli.demo import TRAINING, VIDEO_FRAMES
from istvt.config import DataSettings, preset

if TYPE_CHECKING:
    from rich.console import Console

IDENTITIES = 260
SPLITS = (0.54, 0.08, 0.38)
VIDEO_SIZE = 128
EPOCHS = 24
SEEDS = (0, 1, 2)
FULL = "temporal_first"
# (preset, attention), in the order of training: explanations need a grid on which they can be wrong about where.
MODELS = (("fine", FULL), ("small", FULL), ("small", "spatial_only"))
RESULTS = "results.json"
PAGE = "what-each-attention-sees.md"
PARTS = ("attention", "faithfulness")


@dataclass
class Results:
    """What RESULTS holds: package versions, and by preset, attention and seed the AUCs by manipulation."""

    versions: dict[str, str]
    rows: list[dict[str, Any]] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where to write, and which part."""
    parser.add_argument("--output", type=Path, default=Path("runs/experiment"), help="folder of the videos and runs")
    parser.add_argument("--documents", type=Path, help="also write a page of each part to this folder")
    parser.add_argument("--readme", type=Path, help="also write the sentences on the finer model between its markers")
    parser.add_argument("--only", action="append", choices=PARTS, help="only this part (repeatable)")
    parser.add_argument("--preset", action="append", choices=("fine", "small"), help="only this model (repeatable)")
    parser.add_argument("--seed", action="append", type=int, help="only this seed (repeatable)")


def run(arguments: argparse.Namespace) -> int:
    """Run what is missing of the experiment, print its tables and write its documents."""
    from rich.console import Console

    from bench.experiments.faithfulness import (
        LEADING,
        measure_explanations,
        section,
        write_documents,
        write_section,
    )

    console, output, documents = Console(), arguments.output, arguments.documents
    parts, seeds = arguments.only or PARTS, sorted(set(arguments.seed or SEEDS))
    models = [(name, attention) for name, attention in MODELS if name in (arguments.preset or (name,))]
    if "attention" not in parts:
        models = [model for model in models if model[1] == FULL]
    data = _draw(output / "videos")
    results = _train(output, data, models, seeds, console)
    if "attention" in parts:
        print(format_table(*_table(results.rows)))
        if documents:
            documents.mkdir(parents=True, exist_ok=True)
            (documents / PAGE).write_text(page(results))
            print(f"written to {documents / PAGE}")
    if "faithfulness" in parts:
        full = [name for name, attention in models if attention == FULL]
        runs = {name: [_folder(output, name, FULL, seed) for seed in seeds] for name in full}
        explained = measure_explanations(runs, data, console)
        if documents:
            print(f"written to {write_documents(explained, seeds, results.versions, documents)}")
        if LEADING in explained:
            print(section(explained))
        if arguments.readme and LEADING in explained:
            write_section(explained, arguments.readme)
            print(f"written to {arguments.readme}")
    return 0


def _folder(output: Path, name: str, attention: str, seed: int) -> Path:
    return output / f"{name}-{attention}-{seed}"


def _draw(folder: Path) -> DataSettings:
    from dataloading import read_dataset
    from dataloading.faces.prepare import prepare
    from dataloading.synthetic import synthesize

    folder.parent.mkdir(parents=True, exist_ok=True)
    synthesize(folder, identities=IDENTITIES, frames=VIDEO_FRAMES, size=VIDEO_SIZE, splits=SPLITS, varied=True)
    prepare(read_dataset(folder), detect=False)
    return DataSettings(root=folder, evaluation_clips=2)


def _train(
    output: Path, data: DataSettings, models: Sequence[tuple[str, str]], seeds: Sequence[int], console: Console
) -> Results:
    """Train and evaluate each model with each seed; write RESULTS after each."""
    from dataloading.io import read_json, write_json
    from istvt.cli.console import logging_to, progress_bar
    from istvt.device import versions
    from istvt.report.evaluate_checkpoint import evaluate_checkpoint
    from istvt.training.trainer import train

    path = output / RESULTS

    def finished() -> Results:
        return read_json(path, Results) if path.is_file() else Results(versions())

    done = {(row["preset"], row["attention"], row["seed"]) for row in finished().rows}
    for name, attention in models:
        for seed in seeds:
            if (name, attention, seed) in done:
                continue
            console.rule(f"{name}, {attention}, seed {seed}")
            folder, config = _folder(output, name, attention, seed), replace(preset(name), attention=attention)
            with logging_to(console):
                trained = train(data, config, replace(TRAINING, epochs=EPOCHS, seed=seed), folder, console=console)
            seconds = sum(row["seconds"] for row in trained.history)  # of all its epochs, also where a run went on
            with progress_bar(console, "scoring clips") as advance:
                found = evaluate_checkpoint(trained.checkpoint, data, folder, advance=advance).evaluation
            aucs = {
                name: {"value": m.auc.value, "low": m.auc.low, "high": m.auc.high, "fakes": m.fake, "reals": m.real}
                for name, m in found.manipulations.items()
            }
            row = {"preset": name, "attention": attention, "seed": seed, "seconds": round(seconds, 1), "auc": aucs}
            results = finished()  # again: seeds may be trained in several processes
            write_json(path, asdict(Results(versions(), [*results.rows, row])))
    return finished()


def _table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return header and lines: the AUC of each model by manipulation, seed by seed and in the mean."""
    names, lines = sorted(rows[0]["auc"]), []
    for name, attention in MODELS:
        own = sorted(
            (row for row in rows if (row["preset"], row["attention"]) == (name, attention)), key=lambda row: row["seed"]
        )
        if not own:
            continue
        model = f"`{name}`, `{attention}`"
        for row in own:
            aucs = [row["auc"][key] for key in names]
            cells = [f"{auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f})" for auc in aucs]
            lines.append([model, str(row["seed"]), *cells, f"{row['seconds']:.0f}"])
        means = [mean(row["auc"][key]["value"] for row in own) for key in names]
        lines.append([model, "mean", *(f"**{value:.3f}**" for value in means), ""])
    return ["model", "seed", *names, "training, s"], lines


def page(results: Results) -> str:
    """Return the results as a page of documentation; every number in it is computed."""
    measured = {row["preset"]: preset(row["preset"]) for row in results.rows}
    models = [f"`{name}` ({m.image_size} pixels, C={m.dim}, N={m.heads}, M={m.depth})" for name, m in measured.items()]
    return Path(__file__).with_suffix(".template.md").read_text().format(
        counts=next(iter(results.rows[0]["auc"].values())), table=table(*_table(results.rows)),
        identities=IDENTITIES, frames=VIDEO_FRAMES, size=VIDEO_SIZE, models=", ".join(models),
        epochs=EPOCHS, training=TRAINING, seeds=", ".join(map(str, sorted({row["seed"] for row in results.rows}))),
        versions=", ".join(f"{name} {version}" for name, version in results.versions.items()),
    )  # fmt: skip
