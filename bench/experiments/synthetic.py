"""`istvt experiment`: what each attention can see and whether explanations are true, measured on the synthetic set.

`spatial_only` judges every frame alone, so it cannot see `flicker`, whose frames are each as plausible as a real one;
the full model compares frames and can. Both can see `blend`, whose boundary is in every frame. Each model is trained
on all manipulations together, with several seeds, and judged by manipulation on people it has never seen. Then the
explanations of the full models are measured (`explanation_experiment`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from istvt.cli.progress import progress_bar
from istvt.cli.synthetic_training import SPLITS, TRAINING, VIDEO_FRAMES, VIDEO_SIZE
from istvt.config import DataSettings, preset

IDENTITIES = 200
EPOCHS = 24
SEEDS = (0, 1, 2)
ATTENTIONS = ("spatial_only", "temporal_first")
RESULTS = "results.json"
PAGE = "what-each-attention-sees.md"


def experiment(output: Path, console: Console, documents: Path | None = None, readme: Path | None = None) -> int:
    """Run what is missing of the experiment in `output` and print its tables.

    Args:
        output: directory of the videos, runs and measurements.
        console: to print to.
        documents: directory to write the two pages and the picture to.
        readme: document with a section "faithfulness" between markers, which is written too.
    """
    from bench.experiments.faithfulness import measure_explanations, section, write_documents, write_section
    from dataloading import read_dataset
    from dataloading.faces.prepare import prepare
    from dataloading.io import write_json
    from dataloading.synthetic import synthesize
    from istvt.device import versions
    from istvt.report.evaluate_checkpoint import evaluate_checkpoint
    from istvt.training.trainer import train

    data = output / "videos"
    path = output / RESULTS
    output.mkdir(parents=True, exist_ok=True)
    synthesize(data, identities=IDENTITIES, frames=VIDEO_FRAMES, size=VIDEO_SIZE, splits=SPLITS)
    prepare(read_dataset(data), detect=False)
    settings = DataSettings(root=data, evaluation_clips=2)
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.is_file() else []
    for seed in SEEDS:
        for attention in ATTENTIONS:
            if any(row["attention"] == attention and row["seed"] == seed for row in rows):
                continue
            console.rule(f"{attention}, seed {seed}")
            run = output / f"{attention}-{seed}"
            config = replace(preset("small"), attention=attention)
            trained = train(settings, config, replace(TRAINING, epochs=EPOCHS, seed=seed), run, console=console)
            seconds = sum(row["seconds"] for row in trained.history)  # of all its epochs, also where a run went on
            with progress_bar(console, "scoring clips") as update:
                result = evaluate_checkpoint(
                    trained.checkpoint, replace(settings, evaluation_clips=4), run, advance=update
                )
            aucs = {
                name: {"value": m.auc.value, "low": m.auc.low, "high": m.auc.high, "fakes": m.fake, "reals": m.real}
                for name, m in result.evaluation.manipulations.items()
            }
            rows.append({"attention": attention, "seed": seed, "seconds": round(seconds, 1), "auc": aucs})
            write_json(path, {"versions": versions(), "rows": rows})
    console.print(_table(rows))
    runs = [output / f"temporal_first-{seed}" for seed in SEEDS]
    explained = measure_explanations(runs, settings, console)
    console.print(section(explained["surroundings"]), markup=False, highlight=False, soft_wrap=True)
    if documents:
        recorded = json.loads(path.read_text())
        page = write_documents(explained, recorded["versions"], documents)
        (documents / PAGE).write_text(markdown(recorded))
        console.print(f"written to {documents / PAGE} and {page}", markup=False, soft_wrap=True)
    if readme:
        write_section(explained["surroundings"], readme)
    return 0


def seed_average(rows: Sequence[dict[str, Any]], attention: str, manipulation: str) -> float:
    """AUC of one model on one manipulation, averaged over seeds."""
    return mean(row["auc"][manipulation]["value"] for row in rows if row["attention"] == attention)


def _manipulations(rows: Sequence[dict[str, Any]]) -> list[str]:
    return sorted(rows[0]["auc"])


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table("model", "seed", *(f"AUC {name}" for name in _manipulations(rows)), "seconds")
    for attention in ATTENTIONS:
        for row in (row for row in rows if row["attention"] == attention):
            table.add_row(attention, str(row["seed"]), *map(_interval, _values(row)), f"{row['seconds']:.0f}")
        average = [f"{seed_average(rows, attention, name):.3f}" for name in _manipulations(rows)]
        table.add_row(attention, "mean", *average, "", style="bold")
    return table


def _values(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [row["auc"][name] for name in sorted(row["auc"])]


def _interval(auc: dict[str, Any]) -> str:
    return f"{auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f})"


def markdown(results: dict[str, Any]) -> str:
    """The results as a page of documentation; no number in it is typed by hand."""
    rows = results["rows"]
    names = _manipulations(rows)
    counts = rows[0]["auc"][names[0]]
    config = preset("small")
    lines = [
        "# What each attention can see",
        "",
        "Written by `make experiment`; every number is as measured.",
        "",
        "`spatial_only` (the seed's own experiment) judges each frame alone; `temporal_first` is the full model. Both",
        "were trained on all three manipulations of the synthetic set together and judged on people they had never",
        f"seen ({counts['reals']} real videos, {counts['fakes']} of each manipulation): AUC by video with the 95 %",
        "interval of a bootstrap over videos.",
        "",
        "| model | seed | " + " | ".join(names) + " | training, s |",
        "|---|---|" + "---|" * (len(names) + 1),
    ]
    for attention in ATTENTIONS:
        for row in (row for row in rows if row["attention"] == attention):
            cells = " | ".join(map(_interval, _values(row)))
            lines.append(f"| `{attention}` | {row['seed']} | {cells} | {row['seconds']:.0f} |")
        average = " | ".join(f"**{seed_average(rows, attention, name):.3f}**" for name in names)
        lines.append(f"| `{attention}` | mean | {average} | |")
    lines += [
        "",
        "`flicker` is the purely temporal trace: inside the mask each frame is as plausible as a real one but does",
        "not agree with its neighbors. A judge of single frames is at chance on it by construction; the full model",
        "is not.",
        "",
        f"Setting: {IDENTITIES} drawn people, videos of {VIDEO_FRAMES} frames at {VIDEO_SIZE} pixels, "
        f"model `small` ({config.image_size} pixels, C={config.dim}, N={config.heads}, M={config.depth}), "
        f"{EPOCHS} epochs of {TRAINING.optimizer} at {TRAINING.learning_rate:g}, batches of "
        f"{TRAINING.batch_size}, seeds {', '.join(map(str, sorted({row['seed'] for row in rows})))}.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + ".",
        "",
        "This is a drawn set with drawn forgeries. It says nothing about accuracy on real ones. Seconds are by the",
        "clock, with whatever else the machine was doing.",
        "",
    ]
    return "\n".join(lines)
