"""Plot of time and memory of each method against T and HW."""

from __future__ import annotations

from pathlib import Path

from bench.common.record import Row
from bench.scaling.sweep import PASSES

# Okabe and Ito's colors, told apart by every common kind of color vision; markers say the same once more.
STYLES = {
    "naive joint": ("#D55E00", "o"),
    "SDPA joint": ("#E69F00", "s"),
    "joint flash kernel": ("#CC79A7", "D"),
    "naive factorized": ("#0072B2", "^"),
    "factorized kernels": ("#009E73", "v"),
}


def draw(rows: list[Row], device: str, path: Path) -> None:
    """Draw forward and backward together; methods that were not measured are named in the title.

    Args:
        rows: as `scaling.csv` has them; numbers may be strings.
        device: what it was measured on, for the title.
        path: of the PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["pass"] == PASSES[1]]
    figure = Figure(figsize=(10, 7.6), layout="constrained")
    FigureCanvasAgg(figure)
    charts = figure.subplots(2, 2, sharex="col", sharey="row")
    for column, (axis, other, label) in enumerate((("T", "HW", "frames T"), ("HW", "T", "feature cells HW"))):
        points = sorted((row for row in rows if row["axis"] == axis), key=lambda row: int(row[axis]))
        for chart, key, unit in zip(charts[:, column], ("time_us", "peak_bytes"), (1e-3, 1e-6), strict=True):
            for method, (color, marker) in STYLES.items():
                there = [row for row in points if row["method"] == method and row[key] not in (None, "")]
                if there:
                    sizes, values = [int(row[axis]) + 1 for row in there], [unit * float(row[key]) for row in there]
                    chart.plot(sizes, values, color=color, marker=marker, lw=1.8, ms=6, label=method)
            chart.set_xscale("log", base=2)
            chart.set_yscale("log")
            chart.grid(which="major", alpha=0.35)
        fixed, sizes = (sorted({int(row[key]) for row in points}) for key in (other, axis))
        charts[0][column].set_title(f"growth with {axis} at {other} = {', '.join(map(str, fixed))}", fontsize=11)
        charts[1][column].set_xticks([size + 1 for size in sizes], list(map(str, sizes)))
        charts[1][column].minorticks_off()
        charts[1][column].set_xlabel(label)
    charts[0][0].set_ylabel("time, ms")
    charts[1][0].set_ylabel("peak memory, MB")
    handles, labels = charts[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels) or 1, frameon=False)
    missing = [method for method in STYLES if method not in labels]
    sizes = "{dtype}, {clips} clip, {heads} heads of {head_dim}".format(**rows[0])
    note = f"; not measured there: {', '.join(missing)}" if missing else ""
    figure.suptitle(f"Attention, {PASSES[1]}, on {device}\n{sizes}{note}", fontsize=12)
    figure.savefig(path, dpi=150)
