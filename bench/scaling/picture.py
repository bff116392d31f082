"""Time and memory of each method against T and HW, as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Okabe and Ito's colors, told apart by every common kind of color vision; markers say the same once more.
STYLES = {
    "naive joint": ("#D55E00", "o"),
    "SDPA joint": ("#E69F00", "s"),
    "joint flash kernel": ("#CC79A7", "D"),
    "naive factorized": ("#0072B2", "^"),
    "factorized kernels": ("#009E73", "v"),
}


def draw(rows: list[dict[str, Any]], device: str, path: Path, which: str = "forward and backward") -> None:
    """Draw what was measured of one pass; methods that were not are named under the picture.

    Args:
        rows: as `scaling.csv` has them; numbers may be strings.
        device: what it was measured on, for the title.
        path: of the picture.
        which: the pass.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["pass"] == which]
    figure = Figure(figsize=(10, 7.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    quantities = (("time_us", 1e-3, "time, ms"), ("peak_bytes", 1e-6, "peak memory, MB"))
    for column, axis in enumerate(("T", "HW")):
        other = "HW" if axis == "T" else "T"
        points = [row for row in rows if row["axis"] == axis]
        for line, (key, unit, label) in enumerate(quantities):
            chart = axes[line][column]
            for method, (color, marker) in STYLES.items():
                there = [
                    (int(r[axis]) + 1, unit * float(r[key])) for r in points if r["method"] == method and _has(r, key)
                ]
                if there:
                    chart.plot(
                        *zip(*sorted(there), strict=True), color=color, marker=marker, lw=1.8, ms=6, label=method
                    )
            chart.set_xscale("log", base=2)
            chart.set_yscale("log")
            chart.grid(which="major", alpha=0.35)
            if column == 0:
                chart.set_ylabel(label)
        sizes = sorted({int(row[axis]) for row in points})
        fixed = ", ".join(sorted({str(row[other]) for row in points}))
        axes[0][column].set_title(f"growth with {axis} at {other} = {fixed}", fontsize=11)
        axes[1][column].set_xticks([size + 1 for size in sizes], [str(size) for size in sizes])
        axes[1][column].minorticks_off()
        axes[1][column].set_xlabel("frames T" if axis == "T" else "feature cells HW")
    handles, labels = axes[0][0].get_legend_handles_labels()
    missing = [method for method in STYLES if method not in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels) or 1, frameon=False)
    first = rows[0]
    title = (
        f"Attention, {which}, on {device}\n"
        f"{first['dtype']}, {first['clips']} clip, {first['heads']} heads of {first['head_dim']}"
    )
    figure.suptitle(title + (f"; not measured there: {', '.join(missing)}" if missing else ""), fontsize=12)
    figure.savefig(path, dpi=150)


def _has(row: dict[str, Any], key: str) -> bool:
    return row[key] not in (None, "")
