"""Plots of runs: attention and training steps beside their peers, and growth with T and HW."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bench.common.record import Run
from bench.report.devices import Rows
from bench.report.tables import at_paper_size
from bench.scaling import plot

# Of Okabe and Ito's colors, told apart by every common kind of color vision.
OURS, OTHERS, FLOOR = "#0072B2", "#999999", "#D55E00"


def draw(runs: Sequence[Run]) -> list[Path]:
    """Draw what was measured in each run into its folder; return the files."""
    drawn = []
    for run in runs:
        device = run.environment["device"]
        if rows := run.tables.get("scaling"):
            drawn.append(run.folder / "scaling.png")
            plot.draw(rows, device, drawn[-1])
        for name in ("temporal", "spatial"):
            rows = [row for row in at_paper_size(run.tables.get(name, [])) if row.get("pass") == "both"]
            if rows := _measured(rows, "microseconds", "dtype"):
                rows.sort(key=lambda row: int(row["head_dim"]))
                drawn.append(run.folder / f"{name}.png")
                title = f"{name.capitalize()} attention, 8 clips of 6 frames, {rows[0]['dtype']}, on {device}"
                names = ("D = {head_dim}", "{contender} {mode}")
                _bars(rows, names, "microseconds", "µs, forward and backward", title, drawn[-1])
        if rows := _measured(run.tables.get("training", []), "clips_per_second", "precision"):
            drawn.append(run.folder / "training.png")
            title = f"Training, {rows[0]['precision']}, batch {rows[0]['batch']}, on {device}"
            _bars(rows, ("{preset} {attention}", "{method}"), "clips_per_second", "clips a second", title, drawn[-1])
    return drawn


def _measured(rows: Rows, value: str, precision: str) -> Rows:
    """Return the rows with a value, in the first precision that was measured."""
    rows = [row for row in rows if row.get(value)]
    return [row for row in rows if row[precision] == rows[0][precision]]


def _bars(rows: Rows, names: tuple[str, str], value: str, label: str, title: str, path: Path) -> None:
    """Draw a bar for each row, one panel for each `names[0]`, each bar named by `names[1]`, and the lowest floor."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        panel, method = (name.format_map(defaultdict(str, row)).strip() for name in names)
        panels.setdefault(panel, {})[method] = row
    figure = Figure(figsize=(4.4 * len(panels), 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    for chart, (panel, bars) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        colors = [OURS if method.startswith(("ours", "this project")) else OTHERS for method in bars]
        drawn = chart.barh(list(bars), [float(row[value]) for row in bars.values()], color=colors)
        chart.bar_label(drawn, fmt="%.4g", padding=3, fontsize=8)
        if floors := [float(row["floor_microseconds"]) for row in bars.values() if row.get("floor_microseconds")]:
            chart.axvline(min(floors), color=FLOOR, ls="--", lw=1.4, label="floor")
            chart.legend(loc="lower right", frameon=False)
        chart.set_title(panel, fontsize=10)
        chart.invert_yaxis()
        chart.margins(x=0.18)
        chart.set_xlabel(label)
        chart.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
