"""Faithfulness measurements as files: JSON, tables in Markdown and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from dataloading.errors import InputError
from dataloading.io import read_json, replacing, write_json
from istvt.explain.faithfulness.results import (
    CURVES,
    Faithfulness,
    Sanity,
    VideoMean,
    accuracy_by_class,
    estimate,
)
from istvt.explain.faithfulness.sanity import LIMITS, verdicts

DATA, TABLE, PLOT = "faithfulness.json", "faithfulness.md", "faithfulness.svg"
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
_MARKERS = "osD^vPX*"
TITLES = {
    "deletion": "deletion",
    "insertion": "insertion",
    "counterfactual_deletion": "deletion, original",
    "counterfactual_insertion": "insertion, original",
    "hottest": "hottest pixel in mask",
    "rank": "rank accuracy",
    "mass": "heat in mask",
}


def write_faithfulness(result: Faithfulness, out: str | Path) -> dict[str, Path]:
    """Write `DATA`, `TABLE` and `PLOT` to the directory `out`; their paths are returned as data, table and plot."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    files = {"data": out / DATA, "table": out / TABLE, "plot": out / PLOT}
    with replacing(files["table"]) as temporary:
        temporary.write_text(faithfulness_tables([result]))
    write_plot([result], files["plot"])
    # The last: a measurement of which this file is there is whole.
    write_json(files["data"], asdict(result))
    return files


def read_faithfulness(out: str | Path) -> Faithfulness | None:
    """Return what `write_faithfulness` wrote to a directory; None where there is nothing, or no whole measurement."""
    try:
        return read_json(Path(out) / DATA, Faithfulness)
    except InputError:
        return None


def by_counterfactual(results: Sequence[Faithfulness]) -> list[str]:
    """Return the methods, most faithful first: by deletion with the original, or without where none is known."""

    def area(method: str) -> float:
        found = [estimate(results, method, name, "detected", resamples=1).value for name in
                 ("counterfactual_deletion", "deletion")]  # fmt: skip
        return next((value for value in found if value is not None), np.inf)

    return sorted(results[0].methods, key=area)


def curve_rows(results: Sequence[Faithfulness]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of P(fake) of detected fakes under deletion and insertion, a row a method."""
    header = ["method", *(TITLES[name] for name in CURVES)]
    rows = [
        [f"`{method}`", *(str(estimate(results, method, name, "detected")) for name in CURVES)]
        for method in by_counterfactual(results)
    ]
    return header, rows


def accuracy_rows(results: Sequence[Faithfulness]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the share of clips of each class that are called so after deletion."""
    fractions = results[0].fractions
    header = ["method", *(f"{name}, {100 * fraction:g} %" for name in ("real", "fake") for fraction in fractions)]
    rows = []
    for method in by_counterfactual(results):
        # Not of a method that explains fakes alone.
        if accuracy_by_class(results, method, fractions[0])["real"].value is not None:
            found = [accuracy_by_class(results, method, fraction) for fraction in fractions]
            rows.append([f"`{method}`", *(_number(one[name]) for name in ("real", "fake") for one in found)])
    return header, rows


def place_rows(results: Sequence[Faithfulness]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of where and when, a row a method; halves where the set knows them."""
    halves = any(clip.half for result in results for clip in result.clips)
    where = "halves" if halves else "detected"
    columns = [(TITLES[name] + (", halves" if halves else ""), name, where) for name in ("rank", "hottest", "mass")]
    columns += [(TITLES["rank"] + ", all", "rank", "detected")] if halves else []
    columns += [("forged frame found", "when", "one frame"), ("the one before it", "before", "one frame"),
                ("the one after it", "after", "one frame"), ("one of two", "when", "two frames"),
                ("forged frame, detected or not", "when", "one frame, detected or not")]  # fmt: skip
    rows = [
        [f"`{method}`", *(str(estimate(results, method, name, subset)) for _, name, subset in columns)]
        for method in by_counterfactual(results)
    ]
    return ["method", *(title for title, _, _ in columns)], rows


def counts(results: Sequence[Faithfulness]) -> dict[str, float]:
    """Return how many videos each table is about, means over models, and what chance gives."""
    method = next(iter(results[0].methods))

    def videos(subset: str, name: str = "mass") -> float:
        return estimate(results, method, name, subset, resamples=1).videos

    shares = [clip.mask_share for result in results for clip in result.clips if clip.mask_share is not None]
    half = [clip.mask_share for result in results for clip in result.clips if clip.half and clip.mask_share is not None]
    return {
        "videos": results[0].videos,
        "fakes": len({clip.video for clip in results[0].clips if clip.label}),
        "detected": float(np.mean([len({clip.video for clip in one.clips if clip.detected}) for one in results])),
        "curves": videos("detected", "deletion"),
        "original": videos("detected", "counterfactual_deletion"),
        "halves": videos("halves"),
        "one": videos("one frame", "when"),
        "two": videos("two frames", "when"),
        "one_all": videos("one frame, detected or not", "when"),
        "mask": float(np.mean(shares)) if shares else 0.0,
        "half_mask": float(np.mean(half)) if half else 0.0,
    }


def sanity_rows(sanity: Sanity) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the sanity checks; a value that fails is marked."""
    header = ["method", *LIMITS, "passes"]
    rows = []
    for method, row in sanity.methods.items():
        found = verdicts(row)
        marks = {True: "", False: " **fails**", None: ""}
        cells = ["none" if mean is None else f"{mean}{marks[passes]}" for mean, passes in found.values()]
        rows.append([f"`{method}`", *cells, "no" if any(passes is False for _, passes in found.values()) else "yes"])
    return header, rows


def sanity_table(sanity: Sanity) -> str:
    """Return the sanity checks as a table in Markdown, with what each means."""
    cascade = ", ".join(sanity.stages)
    return (
        f"{len(sanity.videos)} detected fakes. Rank correlation of the heat with that of the same model with fresh "
        f"weights ({cascade}; below {LIMITS['randomized']} passes), with that of another clip (below "
        f"{LIMITS['other clip']}), and with the evidence for real (below {LIMITS['other target']}); largest relative "
        f"change under noise of two gray levels (below {LIMITS['max-sensitivity']:g}); what arrives of what was "
        f"explained (within {LIMITS['conservation']} of 1, where the method promises it). A check passes where its "
        f"whole 95 % interval does.\n\n{_table(*sanity_rows(sanity))}"
    )


def faithfulness_tables(results: Sequence[Faithfulness]) -> str:
    """Return everything as tables in Markdown, for one model or several on the same videos."""
    result, found = results[0], counts(results)
    parts = [
        f"{found['videos']} videos; {found['fakes']} are fakes, of which {found['detected']:.0f} are detected. Means "
        "over videos with 95 % intervals of a bootstrap over videos; curves are of videos drawn by chance, "
        f"{found['curves']:.0f} of them detected fakes.",
        f"P(fake) of detected fakes, mean height of the curve from 0 to {100 * result.fractions[-1]:g} % of the "
        "pixels, the same in all frames: deletion is better low, insertion high. Pixels are filled from their "
        f"surroundings, or are the original's ({found['original']:.0f} videos).",
        _table(*curve_rows(results)),
        "Share of clips called what they are after deletion (filled from the surroundings), by class:",
        _table(*accuracy_rows(results)),
    ]
    if found["mask"]:
        halves = f"{found['halves']:.0f} detected fakes forged in half of the face, " if found["halves"] else ""
        parts += [
            f"Where, of heat summed over frames: {halves}whose masks cover "
            f"{100 * (found['half_mask'] or found['mask']):.1f} % of the pixels, which is chance. When: the hottest "
            f"frame is the forged one ({found['one']:.0f} detected fakes with one forged frame, chance "
            f"{1 / result.frames:.2f}), or one of two ({found['two']:.0f}, {2 / result.frames:.2f}); "
            f"{found['one_all']:.0f} with the undetected.",
            _table(*place_rows(results)),
        ]
    if result.sanity is not None:
        parts += ["Sanity checks:", sanity_table(result.sanity)]
    skipped = sorted({item for one in results for item in one.skipped})
    if skipped:
        parts += [f"{len(skipped)} clips or masks could not be used:"]
        parts += ["\n".join(f"- {name}: {reason}" for name, reason in skipped)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def write_plot(results: Sequence[Faithfulness], path: Path) -> None:
    """Write the four curves as one SVG, means over models; lines differ in dash and marker as well as in color."""
    from matplotlib import colormaps, rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasSVG(figure)
    shade = colormaps["viridis"]
    methods = by_counterfactual(results)
    grid = figure.subplots(2, 2)
    for axes, name in zip(grid.flat, CURVES, strict=True):
        for number, method in enumerate(methods):
            if (line := mean_curve(results, method, name)) is None:
                continue
            axes.plot(
                *line,
                linestyle=_DASHES[number % len(_DASHES)],
                marker=_MARKERS[number % len(_MARKERS)],
                color="0.45" if method == "random" else shade(0.85 * number / max(1, len(methods) - 1)),
                label=method,
            )
        axes.set(xlabel="hottest pixels (%)", ylabel="P(fake) of detected fakes", title=TITLES[name], ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    grid[0, 0].legend(frameon=False, fontsize="small")
    # The salt makes the ids of markers, and so the file, the same each time.
    with replacing(path) as temporary, rc_context({"svg.hashsalt": path.name}):
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def mean_curve(results: Sequence[Faithfulness], method: str, name: str) -> tuple[list[float], list[float]] | None:
    """Return percent of pixels and mean P(fake) of detected fakes; None where no clip has this curve."""
    means = []
    for result in results:
        curves = zip(result.clips, getattr(result.methods[method], name), strict=True)
        if chosen := [one for clip, one in curves if one is not None and clip.detected]:
            means.append(np.mean(chosen, axis=0))
    if not means:
        return None
    return [100 * fraction for fraction in results[0].fractions], np.mean(means, axis=0).tolist()


def _number(mean: VideoMean) -> str:
    return "none" if mean.value is None else f"{mean.value:.2f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
