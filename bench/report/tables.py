"""Recordings as Markdown tables. Every number comes from a CSV file; a cell nobody measured says so."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from bench.checks.numerics import FAILS, NOT_RUN
from bench.common.record import NOT_MEASURED, Row
from bench.report.bound import Bound
from bench.report.devices import CASE, Device, Rows, entry_name
from bench.report.markdown import number
from bench.report.markdown import table as markdown

# What tells one row of an operation's table from another, and what a cell may say beside the time.
_ROW_NAMES = {"contender": "method", "mode": "mode", "dtype": "dtype", "head_dim": "D", "channels": "C"}
_BESIDE_TIME = (("share_of_floor", 100, "% of floor"), ("teraflops", 1, "TFLOP/s"))
# The paper's size; a column that a table does not have does not count.
_PAPER = {"clips": "8", "frames": "6", "rows": "7", "positions": "362", "attention": "spatial"}
# What was promised of explaining: the published storage over this project's, and the time over a training step's.
_SAVING, _TIME_OVER_STEP = Bound("at least", 20), Bound("at most", 4)


def ceilings(device: Device | None) -> str:
    """What the device can do at most."""
    from bench.ceilings import PRECISIONS

    rows = {row["ceiling"]: row for row in device.rows("ceilings")} if device else {}
    names = ["copy, read and write", "write", *(f"matrix product, {p}" for p in PRECISIONS), "smallest kernel"]
    body = [[name, number(rows.get(name, {}).get("value")), rows.get(name, {}).get("unit", "")] for name in names]
    return markdown(("ceiling", "measured", "unit"), body)


def numerics(device: Device | None) -> str:
    """Comparisons with float64 by operation and dtype."""
    groups: dict[tuple[str, str], Rows] = {}
    for row in device.rows("numerics") if device else []:
        groups.setdefault((row["kernel"], row["dtype"]), []).append(row)
    body = []
    for key, rows in groups.items():
        count = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in (FAILS, NOT_RUN)}
        ratios = [float(row["ratio"]) for row in rows if row["ratio"]]
        finite = all(map(math.isfinite, ratios))  # no number is larger than one that is none
        largest = number(max(ratios, default=None)) if finite else "not a finite number"
        body.append([*key, str(len(ratios)), largest, str(count[FAILS]), str(count[NOT_RUN] or "")])
    empty = [["every operation", "every dtype", NOT_MEASURED, NOT_MEASURED, NOT_MEASURED, ""]]
    header = ("operation", "dtype", "comparisons", "largest error over eager's", "failed", "cases not run")
    return markdown(header, body or empty)


def attention(device: Device | None, table: str) -> str:
    """One operation and its peers at the paper's size (8 clips of 6 frames), a line a method, a column a pass."""
    rows = at_paper_size(device.rows(table) if device else [])
    if not rows:
        return markdown(("method", "µs"), [["this project and its peers", NOT_MEASURED]])
    names = [name for name in _ROW_NAMES if any(row.get(name) for row in rows)]
    passes = list(dict.fromkeys(row.get("pass", "") for row in rows))
    lines: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for row in rows:
        lines.setdefault(tuple(row.get(name, "") for name in names), {})[row.get("pass", "")] = row
    body = []
    # Who did the same task stands together, whenever they were measured.
    order = list(dict.fromkeys(key[1:] for key in lines))
    for key, found in sorted(lines.items(), key=lambda line: order.index(line[0][1:])):
        notes = dict.fromkeys(row.get("note", "") for row in found.values())
        body.append([*key, *(_time(found.get(which)) for which in passes), " ".join(notes).strip()])
    header = [*(_ROW_NAMES[name] for name in names), *(f"{which}, µs".strip(", ") for which in passes), "note"]
    return markdown(header, body)


def at_paper_size(rows: Rows) -> Rows:
    """Those of the paper's size; all of them where there is none."""
    paper = [row for row in rows if all(row.get(key, value) in (value, "") for key, value in _PAPER.items())]
    return paper or rows


def _time(row: dict[str, str] | None) -> str:
    if row is None or not row.get("microseconds"):
        return NOT_MEASURED
    beside = [f"{factor * float(row[key]):.0f} {unit}" for key, factor, unit in _BESIDE_TIME if row.get(key)]
    return number(row["microseconds"], 1) + (f" ({', '.join(beside)})" if beside else "")


def capture(device: Device | None) -> str:
    """What handing out spatial attention and its gradient adds to the time."""
    rows = at_paper_size(device.rows("spatial_capture") if device else [])
    keys = {
        "microseconds": "µs",
        "microseconds_with_capture": "µs with capture",
        "added_over_floor": "added over byte floor",
    }
    body = [
        [row["head_dim"], row.get("pass", ""), *(number(row.get(key)) for key in keys), row.get("note", "")]
        for row in rows
    ]
    return markdown(("D", "pass", *keys.values(), "note"), body or [["", "", *[NOT_MEASURED] * len(keys), ""]])


def spatial_memory(device: Device | None) -> str:
    """Peak memory of spatial attention against the positions S, forward and backward, and how it grows."""
    from bench.kernels.memory import WITH, WITHOUT, exponents

    kinds, sizes = (WITHOUT, WITH), ("dtype", "rows", "heads", "head_dim")
    rows = device.rows("spatial_memory") if device else []
    rows = [row for row in rows if all(row[name] == rows[0][name] for name in sizes)]  # one kind of tensor
    found = {(int(row["positions"]), row["capture"]): int(row["peak_bytes"]) for row in rows}
    body = [
        [str(positions), *(number(found.get((positions, kind)), 1, 2**-10) for kind in kinds)]
        for positions in dict.fromkeys(positions for positions, _ in found)
    ]
    counted = [
        {"positions": positions, "capture": kind, "peak_bytes": size} for (positions, kind), size in found.items()
    ]
    grows = [_interval(row) for row in exponents(counted)]
    text = markdown(("S", *(f"{kind}, KiB" for kind in kinds)), [*body, ["grows as S to the", *grows]])
    if rows:
        row = rows[0]
        text = f"B = 1, F = {row['rows']}, N = {row['heads']}, D = {row['head_dim']}, {row['dtype']}.\n\n{text}"
    return text


def explanation_memory(device: Device | None) -> str:
    """Peak memory of explaining one clip by what is stored, and whether as much is saved as was promised."""
    from bench.kernels.explanation import LIGHT, REFERENCE

    body = []
    for row in device.rows("explanation_memory") if device else []:
        over = float(row["over_light"]) if row["over_light"] else None
        promised = _SAVING.judged(over) if row["storage"] == REFERENCE else ""
        body.append(
            [
                row["preset"], row["from"], row["storage"], number(row["peak_bytes"], 0, 2**-20),
                number(over, 1), promised, row["note"],
            ]
        )  # fmt: skip
    header = ("preset", "explained from", "storage", "peak MiB", "over this project's", str(_SAVING))
    empty = [["seed", "clip", storage, NOT_MEASURED, NOT_MEASURED, "", ""] for storage in (LIGHT, REFERENCE)]
    return markdown((*header, "note"), body or empty)


def explanation_time(device: Device | None) -> str:
    """Explaining a batch against a training step of it; a step that was not timed beside it is looked up."""
    steps = {entry_name("training", row): row["step_ms"] for row in (device.rows("training") if device else [])}
    body = []
    for row in device.rows("explanation_time") if device else []:
        case = (row["preset"], "full", row["training"], "this project", row["clips"])
        step = row["training_ms"] or steps.get(case)
        ratio = float(row["explain_ms"]) / float(step) if row["explain_ms"] and step else None
        body.append(
            [
                row["preset"], row["clips"], row["arithmetic"], row["training"], number(row["explain_ms"], 1),
                number(step, 1), number(ratio), _TIME_OVER_STEP.judged(ratio), row["note"],
            ]
        )  # fmt: skip
    header = ("preset", "clips", "explained in", "trained in", "explaining, ms", "step, ms", "ratio")
    empty = [["seed", "", "float32", precision, *[NOT_MEASURED] * 3, "", ""] for precision in ("float32", "bfloat16")]
    return markdown((*header, str(_TIME_OVER_STEP), "note"), body or empty)


def scaling(device: Device) -> str:
    """Fitted exponents and what they say: fitted here, so that a run that was cut short has its lines too."""
    from bench.scaling.growth import exponents, numbers

    fitted = exponents(numbers(device.rows("scaling")))
    found = {(r["method"], r["pass"], r["axis"], r["quantity"]): r for r in fitted}
    body = []
    for method, name in dict.fromkeys((row["method"], row["pass"]) for row in fitted):
        line = [method, name]
        for axis in ("T", "HW"):
            work, *measured = (
                found.get((method, name, axis, quantity), {"exponent": None})
                for quantity in ("multiply-accumulates", "time", "peak memory")
            )
            line += [number(work["exponent"]), *map(_interval, measured)]
        body.append(line)
    header = ("method", "pass", "work, T", "time, T", "memory, T", "work, HW", "time, HW", "memory, HW")
    sentences = "\n".join(f"- {row['verdict']}" for row in scaling_verdicts(device))
    return f"{markdown(header, body)}\n{sentences}\n"


def scaling_verdicts(device: Device) -> list[Row]:
    """Which claims hold on a device, one sentence a row; none where nothing was measured."""
    from bench.scaling.growth import exponents, numbers, verdicts

    rows = numbers(device.rows("scaling"))
    return verdicts(rows, exponents(rows), device.name) if rows else []


def _interval(row: Row) -> str:
    if row["exponent"] is None:
        return NOT_MEASURED
    return f"{row['exponent']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def training(device: Device | None, presets: Sequence[str] = ("seed", "published")) -> str:
    """Every method for every model and precision."""
    from bench.training.steps import ATTENTIONS, METHODS, PRECISIONS

    measured = {entry_name("training", row): row for row in device.rows("training")} if device else {}
    cases = list(measured) or list(itertools.product(presets, ATTENTIONS, PRECISIONS[:1], METHODS, [""]))
    body = []
    for case in cases:
        row = measured.get(case, {})
        body.append(
            [
                *case, number(row.get("clips_per_second")), number(row.get("step_ms")),
                number(row.get("utilization_data_sheet"), 1, 100, " %"),
                number(row.get("needed_data_sheet"), 1, 100, " %"),
                number(row.get("utilization_measured_peak"), 1, 100, " %"),
                number(row.get("peak_bytes"), 1, 1e-9), number(row.get("reserved_bytes"), 1, 1e-9),
                row.get("note", ""),
            ]
        )  # fmt: skip
    header = (*CASE, "clips/s", "step ms", "utilization", "of needed work", "of measured peak", "peak GB",
              "reserved GB", "note")  # fmt: skip
    return markdown(header, body)


def families(device: Device | None) -> str:
    """Where the time of a step goes: the full seed model in the first precision that was profiled."""
    from bench.training.steps import METHODS

    rows = device.rows("training_families") if device else []
    if not rows:
        return markdown(("family", "share of the step"), [["every family of kernels", NOT_MEASURED]])
    *first, _, batch = entry_name("training", rows[0])
    rows = [row for row in rows if entry_name("training", row) == (*first, row["method"], batch)]
    methods = [method for method in METHODS if any(row["method"] == method for row in rows)]
    found = {(row["family"], row["method"]): row for row in rows}
    body = [
        [name, *(_share(found.get((name, method))) for method in methods)]
        for name in dict.fromkeys(row["family"] for row in rows)
    ]
    return f"{', '.join(first)}:\n\n{markdown(('family', *methods), body)}"


def _share(row: dict[str, str] | None) -> str:
    return f"{100 * float(row['share']):.1f} % ({float(row['us_per_step']) / 1e3:.2f} ms)" if row else "-"


def loader(device: Device | None) -> str:
    """Clips a second by decoder and workers."""
    rows = device.rows("loader") if device else []
    keys = ("decoder", "device", "workers", "image_size")
    body = [[*(row[key] for key in keys), number(row["clips_per_second"], 1), row["note"]] for row in rows]
    empty = [["pyav", "", "", "", NOT_MEASURED, ""], ["dali", "", "", "", NOT_MEASURED, ""]]
    return markdown(("decoder", "onto", "workers", "pixels", "clips/s", "note"), body or empty)
