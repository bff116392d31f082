"""Faithfulness of the explanations of the full models that the synthetic experiment trained.

Every method, LRP by every stabilizer, and a random order are measured on the test people with each seed's model, and
once more with gray in place of the removed pixels, which shows what a bad filling does to the comparison.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.report.markdown import replace_section, table
from dataloading.errors import InputError
from dataloading.io import parse_json
from istvt.config import DEFAULT_STABILIZER, DataSettings

if TYPE_CHECKING:
    from rich.console import Console

    from istvt.explain.faithfulness.evaluate import Faithfulness, OrderingResult

STABILIZERS = (DEFAULT_STABILIZER, "reference", 1e-3, 3e-2, 1e-1)
FILLS = ("surroundings", "gray")
PAGE, CURVES = "faithfulness.md", "faithfulness.svg"
SECTION = "faithfulness"


def measure_explanations(runs: Sequence[Path], data: DataSettings, console: Console) -> dict[str, list[Faithfulness]]:
    """Return by filling the measurement of each run, kept in `RUN/explanations[-gray]` and read from there if whole.

    A report of the run shows that of the default filling.
    """
    from istvt.cli.console import progress_bar
    from istvt.explain.faithfulness.report import read_faithfulness
    from istvt.report.evaluate_checkpoint import evaluate_checkpoint_explanations, render_report
    from istvt.report.evaluation_files import EXPLANATIONS, METRICS

    results: dict[str, list[Faithfulness]] = {fill: [] for fill in FILLS}
    for run in runs:
        for fill, found in results.items():
            default = fill == FILLS[0]
            folder = run / (EXPLANATIONS if default else f"{EXPLANATIONS}-{fill}")
            measured = read_faithfulness(folder)
            if measured is None:
                stabilizers = STABILIZERS if default else STABILIZERS[:1]
                with progress_bar(console, f"explaining with {run.name}, {fill}") as advance:
                    measured, _ = evaluate_checkpoint_explanations(
                        run, data, folder, stabilizers=stabilizers, fill=fill, clips_per_video=1, advance=advance
                    )
            found.append(measured)
        if (run / METRICS).is_file():
            with suppress(InputError):  # an evaluation of an earlier version holds too little for a report
                render_report(run, data, run)
    return results


def average(results: Sequence[Faithfulness]) -> Faithfulness:
    """Return the means over models that were measured with the same orderings on the same clips.

    Raises:
        ValueError: there is none, or they were measured differently.
    """
    if not results:
        raise ValueError("results is empty; expected one measurement or more.")
    first = results[0]
    settings = [(x.fractions, x.clips, x.settings, [item.ordering for item in x.orderings]) for x in results]
    if any(other != settings[0] for other in settings):
        raise ValueError("results differ in orderings, fractions, clips or settings; expected the same of each.")
    values = asdict(first) | {"orderings": _mean([asdict(result)["orderings"] for result in results])}
    values |= {"skipped": sorted({item for result in results for item in result.skipped}), "evaluated": None}
    return parse_json(json.dumps(values).encode(), type(first), "the mean of the measurements")


def _mean(values: Sequence[Any]) -> Any:
    """Return the means of equally nested dictionaries and lists; None does not count, of texts it is the first."""
    from istvt.evaluation.intervals import wilson_interval

    first = next((value for value in values if value is not None), None)
    if isinstance(first, dict):
        found = {key: _mean([value[key] for value in values]) for key in first}
        if found.get("pointing") is not None:  # models see the same clips: more models do not narrow the interval
            hits = round(found["pointing"] * found["clips"])
            found["low"], found["high"] = wilson_interval(hits, found["clips"])
        return found
    if isinstance(first, list):
        return [_mean(each) for each in zip(*values, strict=True)]
    return first if first is None or isinstance(first, str) else mean(value for value in values if value is not None)


def write_documents(results: dict[str, list[Faithfulness]], versions: dict[str, Any], documents: Path) -> Path:
    """Write the page and its plot to a folder; return the page."""
    from istvt.explain.faithfulness.report import write_plot

    documents.mkdir(parents=True, exist_ok=True)
    means = average(results["surroundings"])
    means.orderings = list(_by_method(means).values())
    write_plot(means, documents / CURVES)
    page = documents / PAGE
    page.write_text(_page(results, versions))
    return page


def write_section(results: Sequence[Faithfulness], document: Path) -> None:
    """Write the short table between the markers of a document."""
    document.write_text(replace_section(document.read_text(), SECTION, section(results)))


def section(results: Sequence[Faithfulness]) -> str:
    """Return the short table: the means over models, the best order first."""
    means = average(results)
    before, place, rows = means.orderings[0].accuracy[0], means.fractions.index(0.1), []
    for method, item in sorted(_by_method(means).items(), key=lambda pair: pair[1].accuracy_area):
        both = item.localization["both"]
        values = [item.accuracy[place], item.accuracy_area, both.pointing, both.mass]
        rows.append([f"`{method}`", *("none" if value is None else f"{100 * value:.1f}" for value in values)])
    header = ("order in which pixels are removed", "accuracy at 10 %", "mean accuracy, 0 to 30 %",
              "hottest cell in the mask", "heat in the mask")  # fmt: skip
    return (
        f"{conclusion(results)} Means over {len(results)} models trained with other seeds, {means.videos} videos of "
        f"people they had never seen, accuracy {100 * before:.1f} % before anything is removed. Lower is better in "
        f"the first two columns, higher in the others. All in %.\n\n{table(header, rows, 'lrrrr')}"
    )


def conclusion(results: Sequence[Faithfulness]) -> str:
    """Return whether LRP's order hurts the models more than raw attention's and than chance, and where it does not."""
    mean_of, each = _by_method(average(results)), [_by_method(result) for result in results]
    if mean_of["lrp"].accuracy_area < min(mean_of[other].accuracy_area for other in ("raw", "random")):
        wins = sum(x["lrp"].accuracy_area < min(x["raw"].accuracy_area, x["random"].accuracy_area) for x in each)
        sentence = (
            "Removing what LRP marks hurts the model more than removing what raw attention marks or random pixels, "
            f"with {wins} of {len(results)} seeds."
        )
    else:
        sentence = "LRP does **not** beat both raw attention and a random order here."
    lrp, chance = (mean_of[name].localization["both"].pointing for name in ("lrp", "random"))
    if None not in (lrp, chance) and lrp <= chance:
        sentence += " Its single hottest cell lies in the manipulation mask no more often than a random cell does."
    return sentence


def _page(results: dict[str, list[Faithfulness]], versions: dict[str, Any]) -> str:
    from istvt.explain.faithfulness.report import faithfulness_table

    found = results["surroundings"]
    each = [_by_method(result) for result in found]
    seeds = [[method, *(f"{100 * one[method].accuracy_area:.1f}" for one in each)] for method in each[0]]
    models = [f"model {number}" for number in range(len(found))]
    return f"""# Is the explanation true of the model?

Written by `make experiment`; every number is as measured.

{conclusion(found)}

The full models of [what each attention can see](what-each-attention-sees.md), {len(found)} seeds, one clip of each
test video. Pixels are removed by their temporal + spatial heat, hottest first, and filled smoothly from what is left
around them.

![Deletion curves of every method, means over seeds]({CURVES})

## Means over seeds

{faithfulness_table(average(found))}
## Mean accuracy (0 to 30 % removed, %) seed by seed

{table(("order", *models), seeds, "l" + "r" * len(found))}
## The stabilizer

`reference` is the original rule (1e-9, in float64). The others are relative to the absolute contributions.

{_stabilizers(found)}
{stabilizer_conclusion(found)}

## With gray in place of what was removed

A gray patch on a face can look forged itself: where fakes stay fakes whatever is removed and reals become
fakes, the curve measures which order draws the more suspicious shape. This is why gray is not the default.

{faithfulness_table(average(results["gray"]))}
Versions: {", ".join(f"{name} {version}" for name, version in versions.items())}.

Drawn faces with drawn forgeries, small models. It says nothing about explanations of real ones.
"""


def _stabilizers(results: Sequence[Faithfulness]) -> str:
    areas, rows = _areas_by_stabilizer(results), []
    for item in average(results).orderings:
        if item.ordering.method != "lrp":
            continue
        stabilizer, both = item.ordering.stabilizer, item.localization["both"]
        differences = areas[stabilizer] - areas[DEFAULT_STABILIZER]
        error = f" ± {differences.std(ddof=1) / len(results) ** 0.5:.1f}" if len(results) > 1 else ""
        rows.append(
            [
                str(stabilizer), f"{100 * item.accuracy_area:.1f}", " / ".join(f"{x:.1f}" for x in areas[stabilizer]),
                "" if stabilizer == DEFAULT_STABILIZER else f"{differences.mean():+.1f}{error}",
                f"{item.confidence_area:.3f}", f"{both.pointing:.2f}", f"{both.mass:.2f}",
            ]
        )  # fmt: skip
    header = ("eps", "mean accuracy, %", "seed by seed", f"minus that of {DEFAULT_STABILIZER}", "confidence",
              "hottest cell in the mask", "heat in the mask")  # fmt: skip
    return table(header, rows, "lrlrrrr")


def stabilizer_conclusion(results: Sequence[Faithfulness]) -> str:
    """Return whether the measurement tells the stabilizers apart, and why the default is what it is."""
    areas = _areas_by_stabilizer(results)
    default = areas.pop(DEFAULT_STABILIZER)
    differences = {f"`{name}`": each - default for name, each in areas.items()}
    better = [name for name, each in differences.items() if (each < 0).all()]
    worse = [name for name, each in differences.items() if (each > 0).all()]
    largest, scatter = max(abs(each.mean()) for each in differences.values()), np.ptp(default)
    less = "less" if largest < scatter else "not less"
    choice = f"by this alone it would be {' or '.join(better)}" if better else "nothing here speaks for another"
    return (
        "Differences are paired by seed, with their standard errors; lower is better. In the mean the others differ "
        f"from {DEFAULT_STABILIZER} by {largest:.1f} points at most, {less} than it "
        f"differs from itself between seeds ({scatter:.1f}). Better than it with every seed: "
        f"{', '.join(better) or 'none'}; worse: {', '.join(worse) or 'none'} ({len(results)} seeds agree by chance in "
        f"one of {2 ** (len(results) - 1)} cases).\n\n"
        f"The default is {DEFAULT_STABILIZER}: {choice}, and it is there for another reason. No step amplifies by more "
        f"than {1 / DEFAULT_STABILIZER:.0f}, so that maps in float32 and float64 agree within 1e-3, where those of "
        "`reference` are decided by rounding."
    )


def _areas_by_stabilizer(results: Sequence[Faithfulness]) -> dict[float | str, np.ndarray]:
    """Return the mean accuracy of LRP in % with each seed."""
    return {
        item.ordering.stabilizer: np.array([100 * result.orderings[place].accuracy_area for result in results])
        for place, item in enumerate(results[0].orderings)
        if item.ordering.method == "lrp"
    }


def _by_method(result: Faithfulness) -> dict[str, OrderingResult]:
    """Return the orderings that are compared, by method: of LRP's stabilizers only the default."""
    return {
        item.ordering.method: item
        for item in result.orderings
        if item.ordering.method != "lrp" or item.ordering.stabilizer == DEFAULT_STABILIZER
    }
