"""Pictures of a recording: attention against its peers and its floor, and a training step against its peers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.report.tables import at_paper_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bench.common.record import Run

# Okabe and Ito: this project in blue, everybody else in gray tones and orange, and labels on every bar.
OURS, OTHERS, FLOOR = "#0072B2", "#999999", "#D55E00"


def draw(recording: Run) -> list[Path]:
    """Draw every picture that there are measurements for; returns their paths."""
    drawn = []
    for table, title in (("temporal", "Temporal attention"), ("spatial", "Spatial attention")):
        figure = attention_bars(recording, table, title)
        if figure is not None:
            drawn.append(_save(figure, recording.folder / f"{table}.png"))
    figure = training_bars(recording)
    if figure is not None:
        drawn.append(_save(figure, recording.folder / "training.png"))
    return drawn


def attention_bars(recording: Run, table: str, title: str) -> Figure | None:
    """Forward and backward together by method, one panel a head dimension, at 8 clips of 6 frames."""
    rows = [
        row
        for row in at_paper_size(recording.tables.get(table, []))
        if row.get("microseconds") and row.get("pass") == "both"
    ]
    rows = [row for row in rows if row["dtype"] == rows[0]["dtype"]]
    panels = sorted({int(row["head_dim"]) for row in rows})
    if not panels:
        return None
    figure = _figure(4.4 * len(panels), 4.2)
    for chart, head_dim in zip(_charts(figure, len(panels)), panels, strict=True):
        there = [row for row in rows if int(row["head_dim"]) == head_dim]
        names = [f"{row['contender']} {row.get('mode', '')}".strip() for row in there]
        times = [float(row["microseconds"]) for row in there]
        colors = [OURS if row["contender"] == "ours" else OTHERS for row in there]
        chart.bar_label(chart.barh(names, times, color=colors), fmt="%.0f", padding=3, fontsize=8)
        floors = [float(row["floor_microseconds"]) for row in there if row.get("floor_microseconds")]
        if floors:
            chart.axvline(min(floors), color=FLOOR, ls="--", lw=1.4, label="floor")
            chart.legend(loc="lower right", frameon=False)
        chart.set_title(f"D = {head_dim}", fontsize=10)
        _tidy(chart, "µs, forward and backward")
    figure.suptitle(f"{title}, 8 clips of 6 frames, {there[0]['dtype']}, on {recording.environment['device']}")
    return figure


def training_bars(recording: Run) -> Figure | None:
    """Clips a second by method, one panel a model, in the first precision that was measured."""
    rows = [row for row in recording.tables.get("training", []) if row.get("clips_per_second")]
    if not rows:
        return None
    precision = rows[0]["precision"]
    rows = [row for row in rows if row["precision"] == precision]
    panels = list(dict.fromkeys((row["preset"], row["attention"]) for row in rows))
    figure = _figure(3.6 * len(panels) + 1, 3.4)
    for chart, panel in zip(_charts(figure, len(panels)), panels, strict=True):
        there = [row for row in rows if (row["preset"], row["attention"]) == panel]
        speeds = [float(row["clips_per_second"]) for row in there]
        colors = [OURS if row["method"].startswith("this project") else OTHERS for row in there]
        bars = chart.barh([row["method"] for row in there], speeds, color=colors)
        chart.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
        chart.set_title(" ".join(panel), fontsize=10)
        _tidy(chart, "clips a second")
    figure.suptitle(f"Training, {precision}, batch {rows[0]['batch']}, on {recording.environment['device']}")
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _charts(figure: Figure, count: int) -> list:
    return list(figure.subplots(1, count, squeeze=False)[0])


def _tidy(chart, label: str) -> None:
    chart.invert_yaxis()
    chart.margins(x=0.18)
    chart.set_xlabel(label)
    chart.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=150)
    return path
