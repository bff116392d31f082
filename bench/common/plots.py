"""Plots: bars of methods beside each other, and time and memory against T and HW. PNG files by matplotlib."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.common.record import Row

# Okabe and Ito's colors, told apart by every common kind of color vision; markers say the same once more.
OURS, OTHERS, FLOOR = "#0072B2", "#999999", "#D55E00"
METHODS = {
    "naive joint": ("#D55E00", "o"),
    "SDPA joint": ("#E69F00", "s"),
    "joint flash kernel": ("#CC79A7", "D"),
    "naive factorized": ("#0072B2", "^"),
    "factorized kernels": ("#009E73", "v"),
}


def _figure(width: float, height: float, lines: int, columns: int, **shared: str) -> tuple[Any, Any]:
    """Return a figure of matplotlib and its charts [lines, columns]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(lines, columns, squeeze=False, **shared)


def draw_bars(rows: Sequence[Row], names: tuple[str, str], value: str, label: str, title: str, path: Path) -> Path:
    """Draw a bar of `value` for each row of a CSV file, and the lowest floor; return the PNG file.

    `names` of the panel and of the bar are formats of a row; bars of this project begin with "ours" or its name.
    """
    panels: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        panel, method = (name.format_map(defaultdict(str, row)).strip() for name in names)
        panels[panel][method] = row
    figure, charts = _figure(4.4 * len(panels), 4.0, 1, len(panels))
    for chart, (panel, bars) in zip(charts[0], panels.items(), strict=True):
        colors = [OURS if method.startswith(("ours", "this project")) else OTHERS for method in bars]
        drawn = chart.barh(list(bars), [float(row[value]) for row in bars.values()], color=colors)
        chart.bar_label(drawn, fmt="%.4g", padding=3, fontsize=8)
        if floors := [float(row["floor_microseconds"]) for row in bars.values() if row.get("floor_microseconds")]:
            chart.axvline(min(floors), color=FLOOR, ls="--", lw=1.4, label="floor")
            chart.legend(loc="lower right", frameon=False)
        chart.set(title=panel, xlabel=label)
        chart.invert_yaxis()
        chart.margins(x=0.18)
        chart.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
    return path


def draw_growth(rows: Sequence[Row], which: str, device: str, path: Path) -> Path:
    """Draw time and memory of the pass `which` against T and HW; return the PNG file.

    Numbers of `rows` may be text, as `scaling.csv` has them. The title names `device` and the methods not measured.
    """
    rows = [row for row in rows if row["pass"] == which]
    figure, charts = _figure(10, 7.6, 2, 2, sharex="col", sharey="row")
    for column, (axis, other, label) in enumerate((("T", "HW", "frames T"), ("HW", "T", "feature cells HW"))):
        points = sorted((row for row in rows if row["axis"] == axis), key=lambda row: int(row[axis]))
        for chart, key, unit in zip(charts[:, column], ("time_us", "peak_bytes"), (1e-3, 1e-6), strict=True):
            for method, (color, marker) in METHODS.items():
                there = [row for row in points if row["method"] == method and row[key] not in (None, "")]
                if there:
                    sizes, values = [int(row[axis]) + 1 for row in there], [unit * float(row[key]) for row in there]
                    chart.plot(sizes, values, color=color, marker=marker, lw=1.8, ms=6, label=method)
            chart.set(yscale="log")
            chart.set_xscale("log", base=2)
            chart.grid(which="major", alpha=0.35)
        fixed, sizes = (sorted({int(row[key]) for row in points}) for key in (other, axis))
        charts[0, column].set_title(f"growth with {axis} at {other} = {', '.join(map(str, fixed))}")
        charts[1, column].set(xticks=[size + 1 for size in sizes], xticklabels=sizes, xlabel=label)
        charts[1, column].minorticks_off()
    charts[0, 0].set_ylabel("time, ms")
    charts[1, 0].set_ylabel("peak memory, MB")
    handles, labels = charts[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels) or 1, frameon=False)
    missing = ", ".join(method for method in METHODS if method not in labels)
    sizes = "{dtype}, {clips} clip, {heads} heads of {head_dim}".format(**rows[0])
    note = f"; not measured there: {missing}" if missing else ""
    figure.suptitle(f"Attention, {which}, on {device}\n{sizes}{note}", fontsize=12)
    figure.savefig(path, dpi=150)
    return path
