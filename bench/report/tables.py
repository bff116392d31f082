"""Tables of runs in Markdown. Every number comes from a CSV file; a cell that nothing was measured of says so."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

from bench import ceilings
from bench.checks.numerics import FAILS, NOT_RUN
from bench.common.exponent import interval
from bench.common.record import NOT_MEASURED, Row
from bench.common.table import Column
from bench.kernels import memory
from bench.kernels.explanation import LIGHT, REFERENCE
from bench.report.devices import CASE, Device, Rows, entry_name
from bench.report.markdown import number, table
from bench.report.promises import Bound
from bench.scaling import growth
from bench.training.steps import ATTENTIONS, METHODS, PRECISIONS

# What tells one row of an operation's table from another, and what a cell may say beside the time.
_ROW_NAMES = {"contender": "method", "mode": "mode", "dtype": "dtype", "head_dim": "D", "channels": "C"}
_BESIDE_TIME = (("share_of_floor", 100, "% of floor"), ("teraflops", 1, "TFLOP/s"))
# The paper's size; a column that a table does not have does not count.
_PAPER = {"clips": "8", "frames": "6", "rows": "7", "positions": "362", "attention": "spatial"}
# What was promised of explaining: the published storage over this project's, and the time over a training step's.
_SAVING, _TIME_OVER_STEP = Bound("at least", 20), Bound("at most", 4)


def _texts(*names: str) -> list[Column]:
    """Return columns that show what a row says, not a number; `title=key` where the two differ."""
    return [Column(title, key, form="") for title, _, key in (name.partition("=") for name in names)]


@dataclass(frozen=True)
class Listing:
    """A table with a line for each row.

    Attributes:
        name: of the CSV file.
        columns: what is shown of a row; those without a form are text.
        empty: the rows where nothing was measured.
        rows: of a device, if they are not those of the CSV file.
    """

    name: str
    columns: Sequence[Column]
    empty: Sequence[Row] = ({},)
    rows: Callable[[Device], Sequence[Row]] | None = None

    def __call__(self, device: Device) -> str:
        """Return the table."""
        rows = self.rows(device) if self.rows else device.rows(self.name)
        lines = [[self._cell(column, row) for column in self.columns] for row in rows or self.empty]
        return table([column.title for column in self.columns], lines)

    def _cell(self, column: Column, row: Row) -> str:
        key = column.key or column.title
        value = row.get(key)
        if not column.form:
            return str(value or "")
        return NOT_MEASURED if value in (None, "") else column.cell({key: float(value)}).replace("%", " %")


def at_paper_size(rows: Rows) -> Rows:
    """Return the rows of the paper's size; all of them where there is none."""
    paper = [row for row in rows if all(row.get(key, value) in (value, "") for key, value in _PAPER.items())]
    return paper or rows


def _pivot(rows: Rows, line: Callable[[Row], Hashable], column: Callable[[Row], Hashable]) -> dict:
    """Return the rows by line, and in each line by column."""
    found: dict = {}
    for row in rows:
        found.setdefault(line(row), {})[column(row)] = row
    return found


def _ceilings(device: Device) -> Sequence[Row]:
    names = ("copy, read and write", "write", *(f"matrix product, {p}" for p in ceilings.PRECISIONS), "smallest kernel")
    found = {row["ceiling"]: row for row in device.rows("ceilings")}
    return [found.get(name, {"ceiling": name}) for name in names]


def _explanation_memory(device: Device) -> Sequence[Row]:
    rows = device.rows("explanation_memory")
    return [row | {"holds": _SAVING.judged(row["over_light"]) if row["storage"] == REFERENCE else ""} for row in rows]


def _explanation_time(device: Device) -> Sequence[Row]:
    """Return the rows with their training step, looked up where it was not timed beside the explanation."""
    steps = {entry_name("training", row): row["step_ms"] for row in device.rows("training")}
    found = []
    for row in device.rows("explanation_time"):
        step = row["training_ms"] or steps.get((row["preset"], "full", row["training"], "this project", row["clips"]))
        ratio = float(row["explain_ms"]) / float(step) if row["explain_ms"] and step else None
        found.append(row | {"training_ms": step, "ratio": ratio, "holds": _TIME_OVER_STEP.judged(ratio)})
    return found


def numerics(device: Device) -> str:
    """Return comparisons with float64 by operation and dtype."""
    groups: dict[tuple[str, str], Rows] = {}
    for row in device.rows("numerics"):
        groups.setdefault((row["kernel"], row["dtype"]), []).append(row)
    body = []
    for key, rows in groups.items():
        failed, not_run = (sum(row["verdict"] == verdict for row in rows) for verdict in (FAILS, NOT_RUN))
        ratios = [float(row["ratio"]) for row in rows if row["ratio"]]
        finite = all(map(math.isfinite, ratios))  # no number is larger than one that is none
        largest = number(max(ratios, default=None)) if finite else "not a finite number"
        body.append([*key, str(len(ratios)), largest, str(failed), str(not_run or "")])
    empty = [["every operation", "every dtype", NOT_MEASURED, NOT_MEASURED, NOT_MEASURED, ""]]
    header = ("operation", "dtype", "comparisons", "largest error over eager's", "failed", "cases not run")
    return table(header, body or empty)


def operation(device: Device, name: str) -> str:
    """Return an operation and its peers at the paper's size (8 clips of 6 frames): a line a method, a column a pass."""
    rows = at_paper_size(device.rows(name))
    if not rows:
        return table(("method", "µs"), [["this project and its peers", NOT_MEASURED]])
    names = [key for key in _ROW_NAMES if any(row.get(key) for row in rows)]
    passes = list(dict.fromkeys(row.get("pass", "") for row in rows))
    lines = _pivot(rows, lambda row: tuple(row.get(key, "") for key in names), lambda row: row.get("pass", ""))
    order = list(dict.fromkeys(key[1:] for key in lines))  # methods of one task stand together
    body = []
    for key, found in sorted(lines.items(), key=lambda line: order.index(line[0][1:])):
        notes = dict.fromkeys(row.get("note", "") for row in found.values())
        body.append([*key, *(_time(found.get(which, {})) for which in passes), " ".join(notes).strip()])
    header = [*(_ROW_NAMES[key] for key in names), *(f"{which}, µs".strip(", ") for which in passes), "note"]
    return table(header, body)


def _time(row: Row) -> str:
    beside = [f"{factor * float(row[key]):.0f} {unit}" for key, factor, unit in _BESIDE_TIME if row.get(key)]
    return number(row.get("microseconds"), 1) + (f" ({', '.join(beside)})" if beside else "")


def spatial_memory(device: Device) -> str:
    """Return peak memory of spatial attention against the positions S, forward and backward, and how it grows."""
    kinds, sizes = (memory.WITHOUT, memory.WITH), ("dtype", "rows", "heads", "head_dim")
    rows = device.rows("spatial_memory")
    rows = [row for row in rows if all(row[name] == rows[0][name] for name in sizes)]  # one kind of tensor
    lines = _pivot(rows, lambda row: row["positions"], lambda row: row["capture"])
    body = [
        [positions, *(number(found.get(kind, {}).get("peak_bytes"), 1, 2**-10) for kind in kinds)]
        for positions, found in lines.items()
    ]
    counted = [row | {key: int(row[key]) for key in ("positions", "peak_bytes")} for row in rows]
    grows = map(interval, memory.exponents(counted))
    text = table(("S", *(f"{kind}, KiB" for kind in kinds)), [*body, ["grows as S to the", *grows]])
    if not rows:
        return text
    first = rows[0]
    return f"B = 1, F = {first['rows']}, N = {first['heads']}, D = {first['head_dim']}, {first['dtype']}.\n\n{text}"


def scaling(device: Device) -> str:
    """Return fitted exponents and what they say: fitted here, so that a run that was cut short has its lines too."""
    fitted = growth.exponents(growth.numbers(device.rows("scaling")))
    found = {(r["method"], r["pass"], r["axis"], r["quantity"]): r for r in fitted}
    body = []
    for line in dict.fromkeys((row["method"], row["pass"]) for row in fitted):
        cells = list(line)
        for axis in ("T", "HW"):
            work, *measured = (
                found.get((*line, axis, quantity), {"exponent": None})
                for quantity in ("multiply-accumulates", "time", "peak memory")
            )
            cells += [number(work["exponent"]), *map(interval, measured)]
        body.append(cells)
    header = ("method", "pass", "work, T", "time, T", "memory, T", "work, HW", "time, HW", "memory, HW")
    sentences = "\n".join(f"- {row['verdict']}" for row in scaling_verdicts(device))
    return f"{table(header, body)}\n{sentences}\n"


def scaling_verdicts(device: Device) -> list[Row]:
    """Return which claims hold on a device, one sentence a row; none where nothing was measured."""
    rows = growth.numbers(device.rows("scaling"))
    return growth.verdicts(rows, growth.exponents(rows), device.name) if rows else []


def families(device: Device) -> str:
    """Return where the time of a step goes: the full seed model in the first precision that was profiled."""
    rows = device.rows("training_families")
    if not rows:
        return table(("family", "share of the step"), [["every family of kernels", NOT_MEASURED]])
    *first, _, batch = entry_name("training", rows[0])
    rows = [row for row in rows if entry_name("training", row) == (*first, row["method"], batch)]
    methods = [method for method in METHODS if any(row["method"] == method for row in rows)]
    lines = _pivot(rows, lambda row: row["family"], lambda row: row["method"])
    body = [[name, *(_share(found.get(method)) for method in methods)] for name, found in lines.items()]
    return f"{', '.join(first)}:\n\n{table(('family', *methods), body)}"


def _share(row: Row | None) -> str:
    return f"{100 * float(row['share']):.1f} % ({float(row['us_per_step']) / 1e3:.2f} ms)" if row else "-"


_LISTINGS = (
    Listing("ceilings", [*_texts("ceiling"), Column("measured", "value"), *_texts("unit")], rows=_ceilings),
    Listing(
        "spatial_capture",
        [
            *_texts("D=head_dim", "pass"), Column("µs", "microseconds"),
            Column("µs with capture", "microseconds_with_capture"),
            Column("added over byte floor", "added_over_floor"), *_texts("note"),
        ],
        rows=lambda device: at_paper_size(device.rows("spatial_capture")),
    ),
    Listing(
        "explanation_memory",
        [
            *_texts("preset", "explained from=from", "storage"), Column("peak MiB", "peak_bytes", ".0f", 2**20),
            Column("over this project's", "over_light", ".1f"), *_texts(f"{_SAVING}=holds", "note"),
        ],
        [{"preset": "seed", "from": "clip", "storage": storage} for storage in (LIGHT, REFERENCE)],
        _explanation_memory,
    ),
    Listing(
        "explanation_time",
        [
            *_texts("preset", "clips", "explained in=arithmetic", "trained in=training"),
            Column("explaining, ms", "explain_ms", ".1f"), Column("step, ms", "training_ms", ".1f"), Column("ratio"),
            *_texts(f"{_TIME_OVER_STEP}=holds", "note"),
        ],
        [{"preset": "seed", "arithmetic": "float32", "training": precision} for precision in ("float32", "bfloat16")],
        _explanation_time,
    ),
    Listing(
        "training",
        [
            *_texts(*CASE), Column("clips/s", "clips_per_second"), Column("step ms", "step_ms"),
            Column("utilization", "utilization_data_sheet", ".1%"),
            Column("of needed work", "needed_data_sheet", ".1%"),
            Column("of measured peak", "utilization_measured_peak", ".1%"),
            Column("peak GB", "peak_bytes", ".1f", 1e9), Column("reserved GB", "reserved_bytes", ".1f", 1e9),
            *_texts("note"),
        ],
        [
            dict(zip(CASE, case, strict=False))
            for case in itertools.product(("seed", "published"), ATTENTIONS, PRECISIONS[:1], METHODS)
        ],
    ),
    Listing(
        "loader",
        [
            *_texts("decoder", "onto=device", "workers", "pixels=image_size"),
            Column("clips/s", "clips_per_second", ".1f"), *_texts("note"),
        ],
        [{"decoder": "pyav"}, {"decoder": "dali"}],
    ),
)  # fmt: skip
# By CSV file, the table of a device.
TABLES: dict[str, Callable[[Device], str]] = {
    **{listing.name: listing for listing in _LISTINGS},
    **{name: partial(operation, name=name) for name in ("temporal", "layer_norm_difference", "spatial", "relevance")},
    "numerics": numerics,
    "spatial_memory": spatial_memory,
    "training_families": families,
    "scaling": scaling,
}
