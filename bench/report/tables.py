"""Tables of runs in Markdown. Every number comes from a CSV file; a cell that nothing was measured of says so."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from operator import ge, itemgetter, le, lt
from typing import NamedTuple

from bench.ceilings import CEILINGS
from bench.checks.numerics import FAILS, NOT_RUN
from bench.common.exponent import interval
from bench.common.record import NOT_MEASURED, Row
from bench.common.table import Column
from bench.kernels import memory
from bench.kernels.explanation import LIGHT, REFERENCE
from bench.report.devices import CASE, Device, Rows, entry_name
from bench.report.markdown import number, table
from bench.scaling import growth
from bench.scaling.sweep import PASSES
from bench.training.steps import ATTENTIONS, BATCH, METHODS, PRECISIONS, PROJECT

# What tells one row of an operation's table from another, and what a cell may say beside the time.
_ROW_NAMES = {"contender": "method", "mode": "mode", "dtype": "dtype", "head_dim": "D", "channels": "C"}
_BESIDE_TIME = (("share_of_floor", 100, "% of floor"), ("teraflops", 1, "TFLOP/s"))
# The paper's size; a column that a table does not have does not count.
_PAPER = {"clips": "8", "frames": "6", "rows": "7", "positions": "362", "attention": "spatial"}
_HOLDS = {"at least": ge, "at most": le, "under": lt}


class Bound(NamedTuple):
    """A limit of a number, "at least", "at most" or "under"; a `share` is written in percent."""

    direction: str
    limit: float
    share: bool = False

    def __str__(self) -> str:
        return f"{self.direction} {100 * self.limit:g} %" if self.share else f"{self.direction} {self.limit:g}"

    def judged(self, value: float | str | None) -> str:
        """Return whether it holds; nothing where nothing was measured."""
        if value in (None, ""):
            return ""
        return "yes" if _HOLDS[self.direction](float(value), self.limit) else "no"


# What was promised of explaining: the published storage over this project's, and the time over a training step's.
_SAVING, _TIME_OVER_STEP = Bound("at least", 20), Bound("at most", 4)


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


def numerics(device: Device, name: str = "numerics", compiled_for: bool = False) -> str:
    """Return comparisons with float64 by operation and dtype, and by the architecture that kernels are compiled for."""
    keys = {"kernel": "operation", "dtype": "dtype"} | ({"sm": "compiled for sm"} if compiled_for else {})
    groups: dict[tuple[str, ...], Rows] = defaultdict(list)
    for row in device.rows(name):
        groups[tuple(row[key] for key in keys)].append(row)
    body = []
    for key, rows in groups.items():
        count = Counter(row["verdict"] for row in rows)
        ratios = [float(row["ratio"]) for row in rows if row["ratio"]]
        finite = all(map(math.isfinite, ratios))  # no number is larger than one that is none
        largest = number(max(ratios, default=None)) if finite else "not a finite number"
        body.append([*map(str, key), str(len(ratios)), largest, str(count[FAILS]), str(count[NOT_RUN] or "")])
    header = (*keys.values(), "comparisons", "largest error over eager's", "failed", "cases not run")
    return table(header, body or [["every operation", "every dtype", *[NOT_MEASURED] * 3, ""]])


def execution_claim(device: Device) -> str:
    """Return two sentences: how compiled kernels are verified without a GPU, and what came of it."""
    every = device.rows("execute")
    rows = [row for row in every if row["verdict"] != NOT_RUN]
    if not rows:
        return ""
    omitted = f"; {len(every) - len(rows)} more were not run in the time given" if len(rows) < len(every) else ""
    failed = sum(row["verdict"] == FAILS for row in rows)
    cases = {tuple(row[key] for key in ("sm", "kernel", "mode", "dtype", "shape")) for row in rows}
    dtypes = _listed(dict.fromkeys(row["dtype"] for row in rows))
    architectures = _listed(f"sm_{sm}" for sm in sorted({row["sm"] for row in rows}))
    largest = number(max((float(row["ratio"]) for row in rows if row["ratio"]), default=None))
    return (
        "What Triton compiles for a GPU is executed instruction by instruction on a CPU, tensor cores, asynchronous "
        "copies and barriers included, with every access checked for bounds, races and uninitialized memory "
        "([how](docs/ptx.md)). "
        f"{len(cases)} cases for {architectures} in {dtypes}, with {len(rows)} comparisons of outputs and gradients "
        f"with float64: {failed or 'none'} failed, and the largest error is {largest} times that of eager PyTorch in "
        f"the same dtype (1.5 is allowed){omitted}.\n"
    )


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


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
    size = itemgetter("rows", "heads", "head_dim", "dtype")
    rows = [row for row in rows if size(row) == size(rows[0])]  # one kind of tensor
    body = [
        [positions, *(number(found.get(kind, {}).get("peak_bytes"), 1, 2**-10) for kind in kinds)]
        for positions, found in _by(rows, itemgetter("positions"), itemgetter("capture")).items()
    ]
    counted = [row | {key: int(row[key]) for key in ("positions", "peak_bytes")} for row in rows]
    body.append(["grows as S to the", *map(interval, memory.exponents(counted))])
    text = table(("S", *(f"{kind}, KiB" for kind in kinds)), body)
    return "B = 1, F = {rows}, N = {heads}, D = {head_dim}, {dtype}.\n\n".format(**rows[0]) + text if rows else text


def scaling(device: Device) -> str:
    """Return fitted exponents and what they say: fitted here, so that a run that was cut short has its lines too."""
    rows = device.rows("scaling")
    if not rows:
        return f"{NOT_MEASURED} on a {device.kind}\n"
    fitted = growth.exponents(growth.numbers(rows))
    body = []
    for line, found in _by(fitted, itemgetter("method", "pass"), itemgetter("axis", "quantity")).items():
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


def promises(device: Device) -> str:
    """Return what was promised of a training step in bfloat16 on one large GPU, what was measured, and if it holds."""
    steps = {entry_name("training", row): row for row in device.rows("training") if row["step_ms"]}

    def fastest(attention: str, *methods: str) -> dict[str, str]:
        names = [("seed", attention, "bfloat16", method, str(BATCH)) for method in methods]
        return min((steps[name] for name in names if name in steps), key=lambda row: float(row["step_ms"]), default={})

    def over(a: dict[str, str], b: dict[str, str]) -> float | None:
        return float(a["step_ms"]) / float(b["step_ms"]) if a and b else None

    full = fastest("full", *PROJECT)
    families = [row for row in device.rows("training_families") if full and all(row[key] == full[key] for key in CASE)]
    attention = [
        float(row["share"]) for row in families if row["family"] in ("temporal attention", "spatial attention")
    ]
    lines = (
        ("model FLOP utilization", Bound("at least", 0.55, share=True), full.get("utilization_data_sheet")),
        ("speed over naive eager", Bound("at least", 3), over(fastest("full", "naive eager"), full)),
        ("speed over compiled SDPA", Bound("at least", 1.3), over(fastest("full", "compiled SDPA"), full)),
        ("step time over spatial-only", Bound("at most", 1.5), over(full, fastest("spatial_only", *PROJECT))),
        ("attention kernels in the step", Bound("under", 0.2, share=True), sum(attention) if families else None),
    )
    body = [
        [name, str(bound), number(value, 1, 100, " %") if bound.share else number(value), bound.judged(value)]
        for name, bound, value in lines
    ]
    return table(("bfloat16, preset seed, full model", "promised", "measured", "holds"), body)


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
        for name, found in _by(rows, itemgetter("family"), itemgetter("method")).items()
    ]
    return "{preset}, {attention}, {precision}:\n\n".format(**first) + table(("family", *methods), body)


def _share(row: Row | None) -> str:
    return f"{100 * float(row['share']):.1f} % ({float(row['us_per_step']) / 1e3:.2f} ms)" if row else "-"


def listing(device: Device, name: str) -> str:
    """Return a table with a line for each row of a CSV file."""
    rows, empty = device.rows(name), _EMPTY.get(name, ({},))
    if name == "ceilings":
        found = {row["ceiling"]: row for row in rows}
        rows = [found.get(row["ceiling"], row) for row in empty]
    elif name == "spatial_capture":
        rows = at_paper_size(rows)
    elif name == "explanation_memory":
        rows = [row | {"holds": _SAVING.judged(row["over_light"] * (row["storage"] == REFERENCE))} for row in rows]
    elif name == "explanation_time":
        rows = [_beside_step(device, row) for row in rows]
    columns = _COLUMNS[name]
    body = [[_cell(column, row.get(column.key or column.title)) for column in columns] for row in rows or empty]
    return table([column.title for column in columns], body)


def _beside_step(device: Device, row: Row) -> Row:
    """Return the time of an explanation with that of its training step, looked up where it was not timed beside it."""
    steps = {entry_name("training", step): step["step_ms"] for step in device.rows("training")}
    step = row["training_ms"] or steps.get((row["preset"], "full", row["training"], "this project", row["clips"]))
    ratio = float(row["explain_ms"]) / float(step) if row["explain_ms"] and step else None
    return row | {"training_ms": step, "ratio": ratio, "holds": _TIME_OVER_STEP.judged(ratio)}


def _cell(column: Column, value: str | float | None) -> str:
    """Return a number in its form or that it was not measured; where the column has no form, text."""
    if not column.form:
        return str(value or "")
    return NOT_MEASURED if value in (None, "") else format(float(value) / column.unit, column.form).replace("%", " %")


_TEXT = partial(Column, form="")
_NOTE = _TEXT("note")
_COLUMNS = {
    "ceilings": (_TEXT("ceiling"), Column("measured", "value"), _TEXT("unit")),
    "spatial_capture": (
        _TEXT("D", "head_dim"), _TEXT("pass"), Column("µs", "microseconds"),
        Column("µs with capture", "microseconds_with_capture"), Column("added over byte floor", "added_over_floor"),
        _NOTE,
    ),
    "explanation_memory": (
        _TEXT("preset"), _TEXT("explained from", "from"), _TEXT("storage"),
        Column("peak MiB", "peak_bytes", ".0f", 2**20), Column("over this project's", "over_light", ".1f"),
        _TEXT(str(_SAVING), "holds"), _NOTE,
    ),
    "explanation_time": (
        _TEXT("preset"), _TEXT("clips"), _TEXT("explained in", "arithmetic"), _TEXT("trained in", "training"),
        Column("explaining, ms", "explain_ms", ".1f"), Column("step, ms", "training_ms", ".1f"), Column("ratio"),
        _TEXT(str(_TIME_OVER_STEP), "holds"), _NOTE,
    ),
    "training": (
        *map(_TEXT, CASE), Column("clips/s", "clips_per_second"), Column("step ms", "step_ms"),
        Column("utilization", "utilization_data_sheet", ".1%"), Column("of needed work", "needed_data_sheet", ".1%"),
        Column("of measured peak", "utilization_measured_peak", ".1%"), Column("peak GB", "peak_bytes", ".1f", 1e9),
        Column("reserved GB", "reserved_bytes", ".1f", 1e9), _NOTE,
    ),
    "loader": (
        _TEXT("decoder"), _TEXT("onto", "device"), _TEXT("workers"), _TEXT("pixels", "image_size"),
        Column("clips/s", "clips_per_second", ".1f"), _NOTE,
    ),
}  # fmt: skip
# The rows of a table where nothing was measured.
_EMPTY: dict[str, Sequence[Row]] = {
    "ceilings": [{"ceiling": name} for name in CEILINGS],
    "explanation_memory": [{"preset": "seed", "from": "clip", "storage": storage} for storage in (LIGHT, REFERENCE)],
    "explanation_time": [
        {"preset": "seed", "arithmetic": "float32", "training": dtype} for dtype in ("float32", "bfloat16")
    ],
    "training": [
        dict(zip(CASE, case, strict=False))
        for case in itertools.product(("seed", "published"), ATTENTIONS, PRECISIONS[:1], METHODS)
    ],
    "loader": [{"decoder": "pyav"}, {"decoder": "dali"}],
}
# By CSV file, the table of a device.
TABLES: dict[str, Callable[[Device], str]] = {
    **{name: partial(listing, name=name) for name in _COLUMNS},
    **{name: partial(operation, name=name) for name in ("temporal", "layer_norm_difference", "spatial", "relevance")},
    "numerics": numerics,
    "execute": partial(numerics, name="execute", compiled_for=True),
    "spatial_memory": spatial_memory,
    "training_families": families,
    "scaling": scaling,
}
