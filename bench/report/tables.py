"""Tables of runs in Markdown. Every number comes from a CSV file; a cell that nothing was measured of says so."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

from bench.ceilings import PRECISIONS as CEILING_PRECISIONS
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
from bench.scaling.sweep import PASSES
from bench.training.steps import ATTENTIONS, METHODS, PRECISIONS

# What tells one row of an operation's table from another, and what a cell may say beside the time.
_ROW_NAMES = {"contender": "method", "mode": "mode", "dtype": "dtype", "head_dim": "D", "channels": "C"}
_BESIDE_TIME = (("share_of_floor", 100, "% of floor"), ("teraflops", 1, "TFLOP/s"))
# The paper's size; a column that a table does not have does not count.
_PAPER = {"clips": "8", "frames": "6", "rows": "7", "positions": "362", "attention": "spatial"}
# What was promised of explaining: the published storage over this project's, and the time over a training step's.
_SAVING, _TIME_OVER_STEP = Bound("at least", 20), Bound("at most", 4)
_CEILINGS = ("copy, read and write", "write", *(f"matrix product, {x}" for x in CEILING_PRECISIONS), "smallest kernel")


@dataclass(frozen=True)
class Listing:
    """A table with a line for each row.

    Attributes:
        name: of the CSV file.
        columns: `title=key:form/unit`, separated by bars; one without a form shows text, one without a key its title's.
        empty: the rows where nothing was measured.
        rows: of a device, if they are not those of the CSV file.
    """

    name: str
    columns: str
    empty: Sequence[Row] = ({},)
    rows: Callable[[Device], Sequence[Row]] | None = None

    def __call__(self, device: Device) -> str:
        """Return the table."""
        columns = []
        for column in self.columns.split(" | "):
            title, _, key = column.partition("=")
            key, _, form = (key or title).partition(":")
            form, _, unit = form.partition("/")
            columns.append(Column(title.partition(":")[0], key, form, float(unit or 1)))
        rows = (self.rows(device) if self.rows else device.rows(self.name)) or self.empty
        return table(
            [column.title for column in columns], [[_cell(c, row.get(c.key)) for c in columns] for row in rows]
        )


def _cell(column: Column, value: str | float | None) -> str:
    if not column.form:
        return str(value or "")
    return NOT_MEASURED if value in (None, "") else column.cell({column.key: float(value)}).replace("%", " %")


def at_paper_size(rows: Rows) -> Rows:
    """Return the rows of the paper's size; all of them where there is none."""
    paper = [row for row in rows if all(row.get(key, value) in (value, "") for key, value in _PAPER.items())]
    return paper or rows


def _by(rows: Rows, line: Callable[[Row], Hashable], column: Callable[[Row], Hashable]) -> dict:
    """Return the rows by line, and in each line by column."""
    found: dict = {}
    for row in rows:
        found.setdefault(line(row), {})[column(row)] = row
    return found


def _ceilings(device: Device) -> Sequence[Row]:
    found = {row["ceiling"]: row for row in device.rows("ceilings")}
    return [found.get(name, {"ceiling": name}) for name in _CEILINGS]


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
    header = ("operation", "dtype", "comparisons", "largest error over eager's", "failed", "cases not run")
    return table(header, body or [["every operation", "every dtype", *[NOT_MEASURED] * 3, ""]])


def operation(device: Device, name: str) -> str:
    """Return an operation and its peers at the paper's size (8 clips of 6 frames): a line a method, a column a pass."""
    rows = at_paper_size(device.rows(name))
    if not rows:
        return table(("method", "µs"), [["this project and its peers", NOT_MEASURED]])
    names = [key for key in _ROW_NAMES if any(row.get(key) for row in rows)]
    passes = list(dict.fromkeys(row.get("pass", "") for row in rows))
    lines = _by(rows, lambda row: tuple(row.get(key, "") for key in names), lambda row: row.get("pass", ""))
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
    kinds, rows = (memory.WITHOUT, memory.WITH), device.rows("spatial_memory")
    sizes = [[row[name] for name in ("rows", "heads", "head_dim", "dtype")] for row in rows]
    rows = [row for row, size in zip(rows, sizes, strict=True) if size == sizes[0]]  # one kind of tensor
    body = [
        [positions, *(number(found.get(kind, {}).get("peak_bytes"), 1, 2**-10) for kind in kinds)]
        for positions, found in _by(rows, lambda row: row["positions"], lambda row: row["capture"]).items()
    ]
    counted = [row | {key: int(row[key]) for key in ("positions", "peak_bytes")} for row in rows]
    body.append(["grows as S to the", *map(interval, memory.exponents(counted))])
    text = table(("S", *(f"{kind}, KiB" for kind in kinds)), body)
    return "B = 1, F = {}, N = {}, D = {}, {}.\n\n".format(*sizes[0]) + text if rows else text


def scaling(device: Device) -> str:
    """Return fitted exponents and what they say: fitted here, so that a run that was cut short has its lines too."""
    fitted = growth.exponents(growth.numbers(device.rows("scaling")))
    lines = _by(fitted, lambda row: (row["method"], row["pass"]), lambda row: (row["axis"], row["quantity"]))
    body = []
    for line, found in lines.items():
        cells = list(line)
        for axis in ("T", "HW"):
            cells.append(number(found.get((axis, "multiply-accumulates"), {}).get("exponent")))
            cells += [interval(found.get((axis, quantity), {})) for quantity in ("time", "peak memory")]
        body.append(cells)
    header = ("method", "pass", "work, T", "time, T", "memory, T", "work, HW", "time, HW", "memory, HW")
    return f"{table(header, body)}\n{scaling_claims(device)}"


def scaling_claims(device: Device, passes: Sequence[str] = PASSES) -> str:
    """Return which claims hold on a device, one sentence a line; nothing where nothing was measured."""
    rows = growth.numbers(device.rows("scaling"))
    sentences = growth.claims(rows, growth.exponents(rows), device.name, passes) if rows else []
    return "".join(f"- {sentence}\n" for sentence in sentences)


def families(device: Device) -> str:
    """Return where the time of a step goes: the full seed model in the first precision that was profiled."""
    rows = device.rows("training_families")
    if not rows:
        return table(("family", "share of the step"), [["every family of kernels", NOT_MEASURED]])
    first, *_ = rows
    rows = [row for row in rows if all(row[key] == first[key] for key in CASE if key != "method")]
    methods = [method for method in METHODS if any(row["method"] == method for row in rows)]
    body = [
        [name, *(_share(found.get(method)) for method in methods)]
        for name, found in _by(rows, lambda row: row["family"], lambda row: row["method"]).items()
    ]
    return "{preset}, {attention}, {precision}:\n\n".format(**first) + table(("family", *methods), body)


def _share(row: Row | None) -> str:
    return f"{100 * float(row['share']):.1f} % ({float(row['us_per_step']) / 1e3:.2f} ms)" if row else "-"


_LISTINGS = (
    Listing("ceilings", "ceiling | measured=value:.2f | unit", rows=_ceilings),
    Listing(
        "spatial_capture",
        "D=head_dim | pass | µs=microseconds:.2f | µs with capture=microseconds_with_capture:.2f | "
        "added over byte floor=added_over_floor:.2f | note",
        rows=lambda device: at_paper_size(device.rows("spatial_capture")),
    ),
    Listing(
        "explanation_memory",
        "preset | explained from=from | storage | peak MiB=peak_bytes:.0f/1048576 | "
        f"over this project's=over_light:.1f | {_SAVING}=holds | note",
        [{"preset": "seed", "from": "clip", "storage": storage} for storage in (LIGHT, REFERENCE)],
        _explanation_memory,
    ),
    Listing(
        "explanation_time",
        "preset | clips | explained in=arithmetic | trained in=training | explaining, ms=explain_ms:.1f | "
        f"step, ms=training_ms:.1f | ratio:.2f | {_TIME_OVER_STEP}=holds | note",
        [{"preset": "seed", "arithmetic": "float32", "training": precision} for precision in ("float32", "bfloat16")],
        _explanation_time,
    ),
    Listing(
        "training",
        f"{' | '.join(CASE)} | clips/s=clips_per_second:.2f | step ms=step_ms:.2f | "
        "utilization=utilization_data_sheet:.1% | of needed work=needed_data_sheet:.1% | "
        "of measured peak=utilization_measured_peak:.1% | peak GB=peak_bytes:.1f/1e9 | "
        "reserved GB=reserved_bytes:.1f/1e9 | note",
        [
            dict(zip(CASE, case, strict=False))
            for case in itertools.product(("seed", "published"), ATTENTIONS, PRECISIONS[:1], METHODS)
        ],
    ),
    Listing(
        "loader",
        "decoder | onto=device | workers | pixels=image_size | clips/s=clips_per_second:.1f | note",
        [{"decoder": "pyav"}, {"decoder": "dali"}],
    ),
)
# By CSV file, the table of a device.
TABLES: dict[str, Callable[[Device], str]] = {
    **{listing.name: listing for listing in _LISTINGS},
    **{name: partial(operation, name=name) for name in ("temporal", "layer_norm_difference", "spatial", "relevance")},
    "numerics": numerics,
    "spatial_memory": spatial_memory,
    "training_families": families,
    "scaling": scaling,
}
