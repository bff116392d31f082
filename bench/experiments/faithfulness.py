"""Faithfulness of the explanations of the models that the synthetic experiment trained.

Deletion, insertion, where, when and sanity of every method, on people that the models have never seen, beside a center
blob and a random order; means over seeds with intervals over videos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.report.markdown import keep_sections, replace_section, table
from dataloading.errors import InputError
from istvt.config import MEASURED_METHODS, METHODS, DataSettings, FaithfulnessSettings

if TYPE_CHECKING:
    from rich.console import Console

    from istvt.explain.faithfulness.results import Faithfulness, VideoMean

SETTINGS = FaithfulnessSettings(MEASURED_METHODS, evaluations=512, curve_videos=60, sanity=12)
PAGE, CURVES = "faithfulness.md", "faithfulness-{}.svg"
SECTION = "faithfulness"
LEADING = "fine"  # the model of the sentences and of the aims: on a coarser grid heat can hardly be wrong about where
WHEN_TARGET, DELETION_TARGET = 0.70, -0.10


def measure_explanations(
    runs: Mapping[str, Sequence[Path]], data: DataSettings, console: Console
) -> dict[str, list[Faithfulness]]:
    """Return the measurements of the runs of each model, kept in `RUN/explanations` and read from there if whole.

    A report of the run shows them.
    """
    from istvt.cli.console import progress_bar
    from istvt.explain.faithfulness.report import read_faithfulness
    from istvt.report.evaluate_checkpoint import evaluate_checkpoint_explanations, render_report
    from istvt.report.evaluation_files import EXPLANATIONS, METRICS

    results: dict[str, list[Faithfulness]] = {}
    for model, folders in runs.items():
        for run in folders:
            measured = read_faithfulness(run / EXPLANATIONS)
            if measured is None:
                with progress_bar(console, f"explaining with {run.name}") as advance:
                    measured, _ = evaluate_checkpoint_explanations(
                        run, data, run / EXPLANATIONS, SETTINGS, advance=advance
                    )
            results.setdefault(model, []).append(measured)
            if (run / METRICS).is_file():
                with suppress(InputError):  # an evaluation of an earlier version holds too little for a report
                    render_report(run, data, run)
    return results


def write_documents(
    results: Mapping[str, Sequence[Faithfulness]], seeds: Sequence[int], versions: dict[str, Any], documents: Path
) -> Path:
    """Write the page and a plot of each model to a folder; return the page.

    The page keeps what it says of models that are not among `results`.
    """
    from istvt.explain.faithfulness.report import write_plot

    documents.mkdir(parents=True, exist_ok=True)
    for model, found in results.items():
        write_plot(found, documents / CURVES.format(model))
    page = documents / PAGE
    text = Path(__file__).with_suffix(".template.md").read_text()
    if page.is_file():
        text = keep_sections(text, page.read_text())
    for model, found in results.items():
        text = replace_section(text, model, _model_section(model, found, seeds, versions))
    if LEADING in results:
        aims = f"## What was aimed at\n\n{table(*targets(results[LEADING]), align='lrl')}"
        text = replace_section(text, "summary", f"{section(results)}\n\n{aims}")
    page.write_text(text)
    return page


def write_section(results: Mapping[str, Sequence[Faithfulness]], document: Path) -> None:
    """Write the sentences on the leading model between the markers of a document."""
    document.write_text(replace_section(document.read_text(), SECTION, section(results)))


def section(results: Mapping[str, Sequence[Faithfulness]]) -> str:
    """Return when, deletion and where of the leading model in a sentence each, and the sanity checks in a line."""
    from istvt.explain.faithfulness.report import counts
    from istvt.explain.faithfulness.results import estimate

    found = results[LEADING]
    number, best = counts(found), _best_where(found)

    def of(method: str, name: str, subset: str = "detected") -> VideoMean:
        return estimate(found, method, name, subset)

    deletion = {method: of(method, "counterfactual_deletion") for method in ("attnlrp", "lrp", "raw", "random")}
    each = [f"`{method}` {mean}" for method, mean in deletion.items()]
    return (
        f"Of detected fakes with one forged frame of {found[0].frames}, LRP's hottest frame is that frame in "
        f"{of('lrp', 'when', 'one frame')} of cases (raw attention {of('raw', 'when', 'one frame')}, chance "
        f"{1 / found[0].frames:.2f}, the frame that moves most {of('motion', 'when', 'one frame')}). "
        f"Where the hottest pixels are replaced by those of the original, the probability of fake falls, on average "
        f"from 0 to {100 * found[0].fractions[-1]:g} % of the pixels, to {', '.join(each)}. "
        f"Where half of the face is forged, {100 * number['half_mask']:.0f} % of the picture, the hottest pixels of "
        f"`{best}` lie in that half to {of(best, 'rank', 'halves')} (rank accuracy; LRP {of('lrp', 'rank', 'halves')}, "
        f"a center blob {of('center_blob', 'rank', 'halves')}).\n\n{_sanity_line(found)}\n\n"
        f"Means of {len(found)} seed{'s' * (len(found) > 1)} of the model `{LEADING}`, with 95 % intervals over videos."
    )


def targets(results: Sequence[Faithfulness]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of what was aimed at, what was measured, and whether it was met."""
    from istvt.explain.faithfulness.results import estimate

    def both(difference: str, method: str, minus: str, most: float) -> list[str]:
        each = [estimate([one], method, "counterfactual_deletion", "detected", minus=minus) for one in results]
        met = all(mean.value is not None and mean.value <= most for mean in each)
        return [difference, "; ".join(map(str, each)), "yes" if met else "**no**"]

    when = estimate(results, "lrp", "when", "one frame")
    when_each = "; ".join(str(estimate([one], "lrp", "when", "one frame")) for one in results)
    best = _best_where(results)
    blob = estimate(results, best, "rank", "halves", minus="center_blob")
    chance = _above_chance(results, best)
    above = all(mean.low is not None and mean.low > 0 for mean in (blob, chance))
    return ["aim", "measured", "met"], [
        [f"LRP finds the one forged frame in at least {WHEN_TARGET:.2f}", f"{when}; seed by seed {when_each}",
         "yes" if when.value is not None and when.value >= WHEN_TARGET else "**no**"],
        both(f"deletion with the original: LRP minus raw attention at most {DELETION_TARGET:.2f}, seed by seed", "lrp",
             "raw", DELETION_TARGET),
        both("deletion with the original: AttnLRP minus LRP below 0, seed by seed", "attnlrp", "lrp", 0.0),
        [f"half faces: rank accuracy of the best shipped method (`{best}`) above chance and above the center blob",
         f"{chance}; {blob}", "yes" if above else "**no**"],
    ]  # fmt: skip


def _seed_rows(results: Sequence[Faithfulness], seeds: Sequence[int]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of deletion with the original, where and when of each seed."""
    from istvt.explain.faithfulness.report import TITLES, by_counterfactual
    from istvt.explain.faithfulness.results import estimate

    columns = (("counterfactual_deletion", "detected"), ("rank", "halves"), ("when", "one frame"))
    titles = (TITLES["counterfactual_deletion"], f"{TITLES['rank']}, halves", "forged frame found")
    header = ["method", *(f"{title}, seed {seed}" for title in titles for seed in seeds)]
    rows = [
        [f"`{method}`", *(str(estimate([one], method, *column)) for column in columns for one in results)]
        for method in by_counterfactual(results)
    ]
    return header, rows


def _above_chance(results: Sequence[Faithfulness], method: str) -> VideoMean:
    """Return rank accuracy minus the mask's share of the picture, which is what a random order scores."""
    from istvt.explain.faithfulness.results import pooled

    values = [
        [
            None if rank is None else rank - clip.mask_share
            for clip, rank in zip(one.clips, one.methods[method].rank, strict=True)
        ]
        for one in results
    ]
    return pooled(results, values, "halves")


def _best_where(results: Sequence[Faithfulness]) -> str:
    """Return the method of `istvt explain` with the best rank accuracy on half faces."""
    from istvt.explain.faithfulness.results import estimate

    shipped = [method for method in METHODS if method in results[0].methods]
    return max(shipped, key=lambda method: estimate(results, method, "rank", "halves", resamples=1).value or 0.0)


def _sanity_line(results: Sequence[Faithfulness]) -> str:
    """Return which methods pass every sanity check with every seed, and where the others fail."""
    from istvt.explain.faithfulness.sanity import verdicts

    checked = [one.sanity for one in results if one.sanity is not None]
    if not checked:
        return "Sanity was not checked."
    passing, failing = [], []
    for method in checked[0].methods:
        failed = sorted(
            {name for one in checked for name, (_, passes) in verdicts(one.methods[method]).items() if passes is False}
        )
        if failed:
            failing.append(f"`{method}` ({', '.join(failed)})")
        else:
            passing.append(f"`{method}`")
    every = f"with {'every seed' if len(checked) > 1 else 'its one seed'}"
    return (
        f"Sanity checks (fresh weights, another clip, the other class, noise, conservation): {_listed(passing)} pass "
        f"all of them {every}; not so {_listed(failing)}."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _neighbors(results: Sequence[Faithfulness]) -> str:
    """Return which frame LRP calls the hottest where one frame is forged, and what self-subtraction has to do with it.

    The sentence on the cause is only there where the numbers show it.
    """
    from istvt.explain.faithfulness.results import estimate

    def of(method: str, name: str, among: Sequence[Faithfulness] = results) -> VideoMean:
        return estimate(among, method, name, "one frame")

    either, after, before = (of("lrp", name) for name in ("either", "after", "before"))
    chance = of("center_blob", "either")
    each = "; ".join(f"{of('lrp', 'when', [one])}, {of('lrp', 'after', [one])}" for one in results)
    text = (
        f"Where one frame is forged, LRP's hottest frame is that frame or the one after it in {either} of cases "
        f"(center blob, which is chance, {chance}; raw attention {of('raw', 'either')}), and the one before it in "
        f"{before}. That frame, and the one after it, seed by seed: {each}."
    )
    measured = None not in (either.low, chance.high, after.low, before.high)
    if not measured or either.low <= chance.high or after.low <= before.high:
        return text
    return (
        f"{text} Keys of temporal attention are differences, each frame's from the one before it, and a map has a "
        "place for each difference. A single forged frame makes two, into it and out of it, and the hottest is one of "
        "these: a difference does not say which of its frames is the odd one."
    )


def _model_section(model: str, found: Sequence[Faithfulness], seeds: Sequence[int], versions: dict[str, Any]) -> str:
    from istvt.explain.faithfulness.report import faithfulness_tables, sanity_table

    parts = [f"## Model `{model}`, seeds {', '.join(map(str, seeds))}"]
    parts += [f"![Deletion and insertion curves, means over seeds]({CURVES.format(model)})"]
    without = [replace(one, sanity=None) for one in found]
    parts += [faithfulness_tables(without), _neighbors(found)]
    parts += [f"### `{model}`, seed by seed", table(*_seed_rows(found, seeds))]
    parts += [f"### Sanity of `{model}`, seed by seed"]
    for seed, one in zip(seeds, found, strict=True):
        parts += [f"Seed {seed}:", sanity_table(one.sanity) if one.sanity else "not checked: no fake was detected."]
    parts += [f"Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}."]
    return "\n\n".join(part.strip() for part in parts)
