"""The second half of `istvt experiment`: whether the explanations of the models that it trained are true of them.

Every method, LRP by every stabilizer, and a random order are measured on the test people with each seed's full model,
and once more with gray in place of what was removed, which shows what a bad filling does to the comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.console import Console

from bench.experiments.average import average
from bench.report.document import replace_section
from istvt.cli.progress import progress_bar
from istvt.config import DEFAULT_STABILIZER, DataSettings
from istvt.explain.faithfulness.deletion import RANDOM, Faithfulness, OrderingResult
from istvt.explain.faithfulness.report import PLOT, faithfulness_table, read_faithfulness, write_plot

STABILIZERS = (DEFAULT_STABILIZER, "reference", 1e-3, 3e-2, 1e-1)
PAGE, PICTURE = "faithfulness.md", "faithfulness.svg"
SECTION = "faithfulness"


def measure_explanations(runs: Sequence[Path], data: DataSettings, console: Console) -> dict[str, list[Faithfulness]]:
    """By filling ("surroundings", "gray") the measurement of each run, kept in `RUN/explanations[-gray]`.

    What is already there is read, not measured again. A report of the run shows that of the default filling.
    """
    from istvt.report.evaluate_checkpoint import EXPLANATIONS, REPORT, evaluate_checkpoint_explanations
    from istvt.report.report import add_explanations

    results: dict[str, list[Faithfulness]] = {"surroundings": [], "gray": []}
    for run in runs:
        for fill, kept in results.items():
            folder = run / (EXPLANATIONS if fill == "surroundings" else f"{EXPLANATIONS}-{fill}")
            measured = read_faithfulness(folder)
            if measured is None:
                with progress_bar(console, f"explaining with {run.name}, {fill}") as update:
                    measured, _ = evaluate_checkpoint_explanations(
                        run,
                        data,
                        folder,
                        stabilizers=STABILIZERS if fill == "surroundings" else STABILIZERS[:1],
                        fill=fill,
                        clips_per_video=1,
                        advance=update,
                    )
            kept.append(measured)
        if (report := run / REPORT).is_file():
            with suppress(ValueError):  # a report of an earlier version has no place for them
                add_explanations(report, results["surroundings"][-1], run / EXPLANATIONS / PLOT)
    return results


def write_documents(results: dict[str, list[Faithfulness]], versions: dict[str, Any], documents: Path) -> Path:
    """Write the page and its picture to a folder; gives the page."""
    documents.mkdir(parents=True, exist_ok=True)
    mean = average(results["surroundings"])
    mean.orderings = [item for item in mean.orderings if _shown(item)]
    write_plot(mean, documents / PICTURE)
    page = documents / PAGE
    page.write_text(_page(results, versions))
    return page


def write_section(results: Sequence[Faithfulness], document: Path) -> None:
    """Write the short table between the markers of a document."""
    document.write_text(replace_section(document.read_text(), SECTION, section(results)))


def section(results: Sequence[Faithfulness]) -> str:
    """The short table: the means over models, best order first."""
    mean = average(results)
    first = mean.orderings[0]
    lines = [
        f"{verdict(results)} Means over {len(results)} models trained with other seeds, {mean.videos} videos of people "
        f"they had never seen, accuracy {100 * first.accuracy[0]:.1f} % before anything is removed. Lower is better in "
        "the first two columns, higher in the others. All in %.",
        "",
        "| order in which pixels are removed | accuracy at 10 % | mean accuracy, 0 to 30 % | hottest cell in the mask "
        "| heat in the mask |",
        "|---|---:|---:|---:|---:|",
    ]
    shown = [item for item in mean.orderings if _shown(item)]
    place = mean.fractions.index(0.1)
    for item in sorted(shown, key=lambda item: item.accuracy_area):
        both = item.localization["both"]
        values = [item.accuracy[place], item.accuracy_area, both.pointing, both.mass]
        cells = " | ".join("none" if value is None else f"{100 * value:.1f}" for value in values)
        lines.append(f"| `{item.ordering.method}` | {cells} |")
    return "\n".join(lines)


def verdict(results: Sequence[Faithfulness]) -> str:
    """Whether LRP's order hurts the models more than raw attention's and than chance, and where it does not do well."""
    mean = average(results)
    areas = {item.ordering.method: item.accuracy_area for item in mean.orderings if _shown(item)}
    if areas["lrp"] < min(areas["raw"], areas[RANDOM]):
        wins = sum(all(_area(result, "lrp") < _area(result, other) for other in ("raw", RANDOM)) for result in results)
        sentence = (
            "Removing what LRP marks hurts the model more than removing what raw attention marks or random pixels, "
            f"with {wins} of {len(results)} seeds."
        )
    else:
        sentence = "LRP does **not** beat both raw attention and a random order here."
    pointing = {item.ordering.method: item.localization["both"].pointing for item in mean.orderings if _shown(item)}
    if None not in (pointing["lrp"], pointing[RANDOM]) and pointing["lrp"] <= pointing[RANDOM]:
        sentence += " Its single hottest cell lies in the manipulation mask no more often than a random cell does."
    return sentence


def _page(results: dict[str, list[Faithfulness]], versions: dict[str, Any]) -> str:
    found = results["surroundings"]
    mean, gray = average(found), average(results["gray"])
    lines = [
        "# Is the explanation true of the model?",
        "",
        "Written by `make experiment`; every number is as measured.",
        "",
        verdict(found),
        "",
        f"The full models of [what each attention can see](what-each-attention-sees.md), {len(found)} seeds, one clip "
        "of each test video. Pixels are",
        "removed by their temporal + spatial heat, hottest first, and filled smoothly from what is left around them.",
        "",
        f"![Deletion curves of every method, means over seeds]({PICTURE})",
        "",
        "## Means over seeds",
        "",
        faithfulness_table(mean),
        "## Mean accuracy (0 to 30 % removed, %) seed by seed",
        "",
        _seeds(found),
        "## The stabilizer",
        "",
        "`reference` is the original rule (1e-9, in float64). The others are relative to the absolute contributions.",
        "",
        _stabilizers(found),
        stabilizer_verdict(found),
        "",
        "## With gray in place of what was removed",
        "",
        "A gray patch on a face can look forged itself: where fakes stay fakes whatever is removed and reals become",
        "fakes, the curve measures which order draws the more suspicious shape. This is why gray is not the default.",
        "",
        faithfulness_table(gray),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        "",
        "Drawn faces with drawn forgeries, small models. It says nothing about explanations of real ones.",
        "",
    ]
    return "\n".join(lines)


def _seeds(results: Sequence[Faithfulness]) -> str:
    lines = ["| order | " + " | ".join(f"model {number}" for number in range(len(results))) + " |"]
    lines.append("|---|" + "---:|" * len(results))
    for item in results[0].orderings:
        if _shown(item):
            areas = [f"{100 * _area(result, item.ordering.method):.1f}" for result in results]
            lines.append(f"| {item.ordering.method} | " + " | ".join(areas) + " |")
    return "\n".join([*lines, ""])


def _stabilizers(results: Sequence[Faithfulness]) -> str:
    areas = _areas_by_stabilizer(results)
    lines = [
        f"| eps | mean accuracy, % | seed by seed | minus that of {DEFAULT_STABILIZER} | confidence "
        "| hottest cell in the mask | heat in the mask |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for item in average(results).orderings:
        if item.ordering.method == "lrp":
            stabilizer, both = item.ordering.stabilizer, item.localization["both"]
            each = " / ".join(f"{area:.1f}" for area in areas[stabilizer])
            difference = "" if stabilizer == DEFAULT_STABILIZER else _difference(areas, stabilizer)
            lines.append(
                f"| {stabilizer} | {100 * item.accuracy_area:.1f} | {each} | {difference} | {item.confidence_area:.3f} "
                f"| {both.pointing:.2f} | {both.mass:.2f} |"
            )
    return "\n".join([*lines, ""])


def stabilizer_verdict(results: Sequence[Faithfulness]) -> str:
    """Whether the measurement tells the stabilizers apart, and why the default is what it is."""
    areas = _areas_by_stabilizer(results)
    default = areas[DEFAULT_STABILIZER]
    pairs = {name: list(zip(areas[name], default, strict=True)) for name in areas if name != DEFAULT_STABILIZER}
    better = [f"`{name}`" for name, each in pairs.items() if all(other < own for other, own in each)]
    worse = [f"`{name}`" for name, each in pairs.items() if all(other > own for other, own in each)]
    largest = max(abs(fmean(other - own for other, own in each)) for each in pairs.values())
    scatter = max(default) - min(default)
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


def _areas_by_stabilizer(results: Sequence[Faithfulness]) -> dict[float | str, list[float]]:
    """Of LRP the mean accuracy in % with each seed."""
    return {
        item.ordering.stabilizer: [100 * result.orderings[place].accuracy_area for result in results]
        for place, item in enumerate(results[0].orderings)
        if item.ordering.method == "lrp"
    }


def _difference(areas: dict[float | str, list[float]], stabilizer: float | str) -> str:
    """Mean difference to the default and its standard error, if there are seeds to tell."""
    differences = [other - own for other, own in zip(areas[stabilizer], areas[DEFAULT_STABILIZER], strict=True)]
    error = f" ± {stdev(differences) / len(differences) ** 0.5:.1f}" if len(differences) > 1 else ""
    return f"{fmean(differences):+.1f}{error}"


def _shown(item: OrderingResult) -> bool:
    """Whether it stands beside the other methods: of LRP's stabilizers only the default."""
    return item.ordering.method != "lrp" or item.ordering.stabilizer == DEFAULT_STABILIZER


def _area(result: Faithfulness, method: str) -> float:
    return next(item.accuracy_area for item in result.orderings if item.ordering.method == method and _shown(item))
