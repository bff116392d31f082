"""Faithfulness measurements as files: JSON, a table in Markdown and a plot."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from dataloading.errors import InputError
from dataloading.io import read_json, replacing, write_json
from istvt.explain.faithfulness.evaluate import Faithfulness
from istvt.explain.faithfulness.localization import Localization

DATA, TABLE, PLOT = "faithfulness.json", "faithfulness.md", "faithfulness.svg"
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
_MARKERS = "osD^vPX*"


def write_faithfulness(result: Faithfulness, out: str | Path) -> dict[str, Path]:
    """Write `DATA`, `TABLE` and `PLOT` to the directory `out`; their paths are returned as data, table and plot."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    files = {"data": out / DATA, "table": out / TABLE, "plot": out / PLOT}
    with replacing(files["table"]) as temporary:
        temporary.write_text(faithfulness_table(result))
    write_plot(result, files["plot"])
    # The last: a measurement of which this file is there is whole.
    write_json(files["data"], asdict(result))
    return files


def read_faithfulness(out: str | Path) -> Faithfulness | None:
    """Return what `write_faithfulness` wrote to a directory; None where there is nothing, or no whole measurement."""
    try:
        return read_json(Path(out) / DATA, Faithfulness)
    except InputError:
        return None


def faithfulness_table(result: Faithfulness) -> str:
    """Return a table in Markdown: one row an ordering, best (lowest area) first."""
    removed = [f"{100 * fraction:g} %" for fraction in result.fractions]
    lines = [
        f"{result.videos} videos, {result.clips} clips. Accuracy of videos (%, mean over both classes) after the "
        "hottest pixels were removed, the mean height of that curve and of the confidence in the first verdict (lower "
        "is better), the share of clips of fakes whose hottest pixel lies in the manipulation mask, and the share of "
        "heat in it (higher is better; temporal / spatial / both).",
        "",
        "| order | " + " | ".join(removed) + " | area | confidence | pointing game | mass in mask |",
        "|---|" + "---:|" * (len(removed) + 2) + "---|---|",
    ]
    for item in sorted(result.orderings, key=lambda item: item.accuracy_area):
        values = [f"{100 * accuracy:.1f}" for accuracy in item.accuracy]
        values += [f"{100 * item.accuracy_area:.1f}", f"{item.confidence_area:.3f}"]
        kinds = [item.localization[kind] for kind in ("temporal", "spatial", "both")]
        pointing, mass = _shares(kinds, "pointing"), _shares(kinds, "mass")
        lines.append(f"| {item.ordering.name} | " + " | ".join(values) + f" | {pointing} | {mass} |")
    if result.mask_share is not None:
        clips = result.orderings[0].localization["both"].clips
        lines += [
            "",
            f"{clips} clips have a mask; it covers {100 * result.mask_share:.1f} % of their pixels on average.",
        ]
    if result.skipped:
        lines += ["", f"{len(result.skipped)} clips or masks could not be used:", ""]
        lines += [f"- {name}: {reason}" for name, reason in result.skipped]
    return "\n".join(lines) + "\n"


def write_plot(result: Faithfulness, path: Path) -> None:
    """Write both deletion curves as one SVG; lines differ in dash and marker as well as in color."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasSVG(figure)
    removed = [100 * fraction for fraction in result.fractions]
    shade = colormaps["viridis"]
    for axes, name, title in zip(
        figure.subplots(1, 2),
        ("accuracy", "confidence"),
        ("accuracy of videos, mean over both classes", "confidence in the first verdict"),
        strict=True,
    ):
        for number, item in enumerate(result.orderings):
            is_random = item.ordering.name == "random"
            axes.plot(
                removed,
                getattr(item, name),
                linestyle=_DASHES[number % len(_DASHES)],
                marker=_MARKERS[number % len(_MARKERS)],
                color="0.45" if is_random else shade(0.85 * number / max(1, len(result.orderings) - 1)),
                label=item.ordering.name,
            )
        axes.set(xlabel="hottest pixels removed (%)", ylabel=title, ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def _shares(kinds: list[Localization], field: str) -> str:
    values = [getattr(kind, field) for kind in kinds]
    return " / ".join("none" if value is None else f"{value:.2f}" for value in values)
