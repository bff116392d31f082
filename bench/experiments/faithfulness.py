"""Faithfulness of the explanations of the full models that the synthetic experiment trained.

Every method, LRP by every stabilizer, and a random order are measured on the test people with each seed's model, and
once more with gray in place of the removed pixels, which shows what a bad filling does to the comparison.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

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
    write_plot(replace(means, orderings=list(_by_method(means).values())), documents / CURVES)
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
    mean_of = _by_method(average(results))

    def beats(of: dict[str, OrderingResult]) -> bool:
        return of["lrp"].accuracy_area < min(of["raw"].accuracy_area, of["random"].accuracy_area)

    sentence = "LRP does **not** beat both raw attention and a random order here."
    if beats(mean_of):
        sentence = (
            "Removing what LRP marks hurts the model more than removing what raw attention marks or random pixels, "
            f"with {sum(beats(_by_method(result)) for result in results)} of {len(results)} seeds."
        )
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
    return Path(__file__).with_suffix(".template.md").read_text().format(
        conclusion=conclusion(found), models=len(found), curves=CURVES, means=faithfulness_table(average(found)),
        seeds=table(("order", *models), seeds, "l" + "r" * len(found)), **_stabilizers(found),
        gray=faithfulness_table(average(results["gray"])),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
    )  # fmt: skip


def _stabilizers(results: Sequence[Faithfulness]) -> dict[str, Any]:
    """Return the table of LRP by stabilizer, and whether the measurement tells them apart."""
    lrp = [place for place, item in enumerate(results[0].orderings) if item.ordering.method == "lrp"]
    areas = np.array([[100 * result.orderings[place].accuracy_area for result in results] for place in lrp])
    means = [average(results).orderings[place] for place in lrp]
    names = [item.ordering.stabilizer for item in means]
    default = areas[names.index(DEFAULT_STABILIZER)]
    better, worse, largest, rows = [], [], 0.0, []
    for name, item, area, difference in zip(names, means, areas, areas - default, strict=True):
        both, beside = item.localization["both"], ""
        if name != DEFAULT_STABILIZER:
            error = f" ± {stats.sem(difference):.1f}" if len(results) > 1 else ""
            beside = f"{difference.mean():+.1f}{error}"
            better += [f"`{name}`"] * bool((difference < 0).all())
            worse += [f"`{name}`"] * bool((difference > 0).all())
            largest = max(largest, abs(difference.mean()))
        rows.append(
            [
                str(name), f"{100 * item.accuracy_area:.1f}", " / ".join(f"{x:.1f}" for x in area), beside,
                f"{item.confidence_area:.3f}", f"{both.pointing:.2f}", f"{both.mass:.2f}",
            ]
        )  # fmt: skip
    header = ("eps", "mean accuracy, %", "seed by seed", f"minus that of {DEFAULT_STABILIZER}", "confidence",
              "hottest cell in the mask", "heat in the mask")  # fmt: skip
    speaks_for = f"by this alone it would be {' or '.join(better)}" if better else "nothing here speaks for another"
    return {
        "stabilizers": table(header, rows, "lrlrrrr"), "default": DEFAULT_STABILIZER, "gain": 1 / DEFAULT_STABILIZER,
        "largest": largest, "scatter": np.ptp(default), "less": "less" if largest < np.ptp(default) else "not less",
        "better": ", ".join(better) or "none", "worse": ", ".join(worse) or "none", "choice": speaks_for,
        "cases": 2 ** (len(results) - 1),
    }  # fmt: skip


def _by_method(result: Faithfulness) -> dict[str, OrderingResult]:
    """Return the orderings that are compared, by method: of LRP's stabilizers only the default."""
    return {
        item.ordering.method: item
        for item in result.orderings
        if item.ordering.method != "lrp" or item.ordering.stabilizer == DEFAULT_STABILIZER
    }
