"""Plots of runs: bars of methods beside each other, and time and memory against T and HW. PNG files by matplotlib."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bench.common.record import Run
from bench.report.devices import Rows
from bench.report.tables import at_paper_size
from bench.scaling import PASSES

# Okabe and Ito's colors, told apart by every common kind of color vision; markers say the same once more.
OURS, OTHERS, FLOOR = "#0072B2", "#999999", "#D55E00"
METHODS = {
    "naive joint": ("#D55E00", "o"), "SDPA joint": ("#E69F00", "s"), "joint flash kernel": ("#CC79A7", "D"),
    "naive factorized": ("#0072B2", "^"), "factorized kernels": ("#009E73", "v"),
}  # fmt: skip
# By table: the value of a bar, its axis and name, its panel and the title, as formats of a record.
_ATTENTION = "microseconds", "µs, forward and backward", "{contender} {mode}", "D = {head_dim}"
BARS = {
    "temporal": (*_ATTENTION, "Temporal attention, 8 clips of 6 frames, {dtype}"),
    "spatial": (*_ATTENTION, "Spatial attention, 8 clips of 6 frames, {dtype}"),
    "training": (
        "clips_per_second", "clips a second", "{method}", "{preset} {attention}",
        "Training, {precision}, batch {batch}",
    ),
}  # fmt: skip


def draw_plots(runs: Sequence[Run]) -> list[Path]:
    """Draw what was measured in each run into its folder; return the files."""
    drawn = []
    for run in runs:
        device = run.environment["device"]
        for name in sorted({"scaling", *BARS} & run.tables.keys()):
            draw = _draw_growth(run.tables[name], device) if name == "scaling" else _draw_bars(run, name, device)
            if draw:
                drawn.append(run.folder / f"{name}.png")
                draw.savefig(drawn[-1], dpi=150)
    return drawn


def _draw_bars(run: Run, table: str, device: str) -> Figure | None:
    """Return bars of both passes at the paper's size, in the first precision measured, and the lowest floor."""
    value, label, bar, panel, title = BARS[table]
    precision = "precision" if table == "training" else "dtype"
    rows = [row for row in at_paper_size(run.tables[table]) if row.get(value) and row.get("pass", "both") == "both"]
    rows = [row for row in rows if row[precision] == rows[0][precision]]
    panels: dict[str, Rows] = defaultdict(list)
    for row in sorted(rows, key=lambda row: int(row.get("head_dim", 0))):
        panels[panel.format(**row)].append(row)
    if not panels:
        return None
    figure = Figure(figsize=(4.4 * len(panels), 4.0), layout="constrained")
    charts = figure.subplots(1, len(panels), squeeze=False)
    for chart, (name, bars) in zip(charts[0], panels.items(), strict=True):
        names = [bar.format_map(defaultdict(str, row)).strip() for row in bars]
        colors = [OURS if name.startswith(("ours", "this project")) else OTHERS for name in names]
        chart.bar_label(chart.barh(names, [float(row[value]) for row in bars], color=colors), fmt="%.4g", padding=3)
        if floors := [float(row["floor_microseconds"]) for row in bars if row.get("floor_microseconds")]:
            chart.axvline(min(floors), color=FLOOR, ls="--", label="floor")
            chart.legend(loc="lower right", frameon=False)
        chart.set(title=name, xlabel=label)
        chart.invert_yaxis()
        chart.margins(x=0.18)
    figure.suptitle(f"{title.format(**rows[0])}, on {device}")
    return figure


def _draw_growth(rows: Rows, device: str) -> Figure:
    """Return time and memory of a forward and backward pass against T and HW; the title names what was not measured."""
    rows = [row for row in rows if row["pass"] == PASSES[1]]
    figure = Figure(figsize=(10, 7.6), layout="constrained")
    charts = figure.subplots(2, 2, sharex="col", sharey="row")
    for column, (axis, other, label) in enumerate((("T", "HW", "frames T"), ("HW", "T", "feature cells HW"))):
        points = sorted((row for row in rows if row["axis"] == axis), key=lambda row: int(row[axis]))
        for chart, key, unit in zip(charts[:, column], ("time_us", "peak_bytes"), (1e-3, 1e-6), strict=True):
            for method, (color, marker) in METHODS.items():
                there = [row for row in points if row["method"] == method and row.get(key)]
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
    figure.suptitle(f"Attention, {PASSES[1]}, on {device}\n{sizes}{note}", fontsize=12)
    return figure
