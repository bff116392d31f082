"""Recordings as Markdown tables. Every number comes from a CSV file; a cell nobody measured says so."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench.numerics import FAILS, NOT_RUN
from bench.record import NOT_MEASURED, Recording, Row

Rows = list[dict[str, str]]  # as they were read

# What tells one row of an operation's table from another, and what a cell may say beside the time.
_ROW_NAMES = {"contender": "method", "mode": "mode", "dtype": "dtype", "head_dim": "D", "channels": "C"}
_BESIDE_TIME = (("share_of_floor", 100, "% of floor"), ("teraflops", 1, "TFLOP/s"))
# The paper's size; a column that a table does not have does not count.
_PAPER = {"clips": "8", "frames": "6", "rows": "7", "positions": "362", "attention": "spatial"}
# What names an entry of a table: a row, or rows that mean something together only, and so are of one recording.
_SHAPE = ("dtype", "clips", "frames", "rows", "positions", "heads", "head_dim", "channels", "pass")
_CASE = ("preset", "attention", "precision", "method", "batch")
_NAMED_BY = {
    "ceilings": ("ceiling",),
    "numerics": ("kernel", "mode", "dtype", "shape"),
    **dict.fromkeys(("temporal", "layer_norm_difference", "spatial"), ("contender", "mode", "attention", *_SHAPE)),
    "relevance": ("contender", "mode", *_SHAPE),
    "spatial_tape": ("attention", *_SHAPE),
    "spatial_memory": ("tape", "dtype", "clips", "rows", "heads", "head_dim"),
    "explanation_memory": ("preset", "storage", "from"),
    "explanation_time": ("preset", "clips", "arithmetic", "training"),
    "training": _CASE,
    "training_families": _CASE,
    "loader": ("decoder", "device", "workers", "image_size", "batch"),
    "scaling": ("axis", "method", "pass", "dtype", "clips", "heads", "head_dim"),
}
# A row with one of these was measured; one of a method that refused or failed was not, and hides no other.
_RESULTS = ("value", "verdict", "microseconds", "peak_bytes", "explain_ms", "step_ms", "us_per_step", "time_us",
            "clips_per_second")  # fmt: skip
# Entries that are a row for each of many sizes. Few of them, as a run leaves that was cut short, say little.
_LINES_OF_SIZES = ("scaling", "spatial_memory")


@dataclass(frozen=True)
class Device:
    """What was measured of one device, in all of its recordings, the newest last."""

    name: str
    kind: str
    recordings: list[Recording]

    def rows(self, table: str) -> Rows:
        """All entries of a table, each from the newest recording that measured it; none where nobody did.

        Of a line of sizes it is the recording that measured most of them. The families of a step come from the
        recording that its time comes from.
        """
        return [row for _, row in self._chosen(table)]

    def sources(self, table: str) -> list[tuple[Recording, int]]:
        """The recordings that these rows come from, the newest first, and how many measured rows of each."""
        chosen = [(one, row) for one, row in self._chosen(table) if _was_measured(row)]
        count = Counter(one.folder for one, _ in chosen)
        return [(one, count[one.folder]) for one in reversed(self.recordings) if count[one.folder]]

    def _chosen(self, table: str) -> list[tuple[Recording, dict[str, str]]]:
        entries: dict[tuple[str, ...], list[tuple[Recording, Rows]]] = {}
        for one in reversed(self.recordings):
            found: dict[tuple[str, ...], Rows] = {}
            for row in one.tables.get(table, []):
                found.setdefault(_name(table, row), []).append(row)
            for name, rows in found.items():
                entries.setdefault(name, []).append((one, rows))
        if table == "training_families":
            timed = {_name(table, row): one for one, row in self._chosen("training")}
            entries = {name: [pair for pair in of if pair[0] is timed.get(name)] for name, of in entries.items()}
        weigh = _count_measured if table in _LINES_OF_SIZES else _any_measured
        best = [max(of, key=lambda pair: weigh(pair[1])) for of in entries.values() if of]  # the first of equals
        if not any(_any_measured(rows) for _, rows in best):
            return []
        return [(one, row) for one, rows in best for row in rows]


def _name(table: str, row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row.get(column, "") for column in _NAMED_BY[table])


def _was_measured(row: dict[str, str]) -> bool:
    return any(row.get(column) for column in _RESULTS) and row.get("verdict") != NOT_RUN


def _count_measured(rows: Rows) -> int:
    return sum(map(_was_measured, rows))


def _any_measured(rows: Rows) -> bool:
    return any(map(_was_measured, rows))


def devices(recordings: Sequence[Recording]) -> list[Device]:
    """By device, GPUs first."""
    names = dict.fromkeys((one.environment["device"], one.environment["kind"]) for one in recordings)
    found = [Device(*key, [r for r in recordings if r.environment["device"] == key[0]]) for key in names]
    return sorted(found, key=lambda device: (device.kind != "GPU", device.name))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def number(text: str | float | None, digits: int = 2, factor: float = 1.0, suffix: str = "") -> str:
    """A measured number, or the words that it was not."""
    if text in (None, ""):
        return NOT_MEASURED
    return f"{factor * float(text):.{digits}f}{suffix}"


def provenance(recording: Recording) -> str:
    """One line: when, which code, which versions, which clocks."""
    found = recording.environment
    versions = ", ".join(f"{name} {version}" for name, version in found.get("versions", {}).items())
    parts = [found["date"], f"commit {found.get('commit') or 'unknown'}", f"Python {found.get('python')}", versions]
    smi = found.get("nvidia_smi", {})
    if smi:
        parts.append(f"driver {smi.get('driver_version')}, SM clock up to {smi.get('clocks.max.sm')}")
    if found["kind"] == "CPU":
        cores, load = f"{found.get('threads')} of {found.get('cores')} cores", found.get("load")
        parts.append(f"{cores}, load {load} when it began")
    return "; ".join(parts)


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


def tape(device: Device | None) -> str:
    """What handing out spatial attention and its gradient adds to the time."""
    rows = at_paper_size(device.rows("spatial_tape") if device else [])
    keys = {
        "microseconds": "µs", "microseconds_with_tape": "µs with tape", "added_over_floor": "added over byte floor",
    }  # fmt: skip
    body = [
        [row["head_dim"], row.get("pass", ""), *(number(row.get(key)) for key in keys), row.get("note", "")]
        for row in rows
    ]
    return markdown(("D", "pass", *keys.values(), "note"), body or [["", "", *[NOT_MEASURED] * len(keys), ""]])


def spatial_memory(device: Device | None) -> str:
    """Peak memory of spatial attention against the positions S, forward and backward, and how it grows."""
    from bench.spatial.memory import WITH, WITHOUT, exponents

    kinds, sizes = (WITHOUT, WITH), ("dtype", "rows", "heads", "head_dim")
    rows = device.rows("spatial_memory") if device else []
    rows = [row for row in rows if all(row[name] == rows[0][name] for name in sizes)]  # one kind of tensor
    found = {(int(row["positions"]), row["tape"]): int(row["peak_bytes"]) for row in rows}
    body = [
        [str(positions), *(number(found.get((positions, kind)), 1, 2**-10) for kind in kinds)]
        for positions in dict.fromkeys(positions for positions, _ in found)
    ]
    counted = [{"positions": positions, "tape": kind, "peak_bytes": size} for (positions, kind), size in found.items()]
    grows = [_interval(row) for row in exponents(counted)]
    text = markdown(("S", *(f"{kind}, KiB" for kind in kinds)), [*body, ["grows as S to the", *grows]])
    if rows:
        row = rows[0]
        text = f"B = 1, F = {row['rows']}, N = {row['heads']}, D = {row['head_dim']}, {row['dtype']}.\n\n{text}"
    return text


def explanation_memory(device: Device | None) -> str:
    """Peak memory of explaining one clip by what is stored, and whether as much is saved as was promised."""
    from bench.explanation_cost import LEAST_SAVING, LIGHT, REFERENCE

    body = []
    for row in device.rows("explanation_memory") if device else []:
        over = row["over_light"]
        promised = ""
        if row["storage"] == REFERENCE and over:
            promised = "yes" if float(over) >= LEAST_SAVING else "no"
        body.append(
            [
                row["preset"], row["from"], row["storage"], number(row["peak_bytes"], 0, 2**-20),
                number(over, 1), promised, row["note"],
            ]
        )  # fmt: skip
    header = ("preset", "explained from", "storage", "peak MiB", "over this project's", f"at least {LEAST_SAVING:.0f}")
    empty = [["seed", "clip", storage, NOT_MEASURED, NOT_MEASURED, "", ""] for storage in (LIGHT, REFERENCE)]
    return markdown((*header, "note"), body or empty)


def explanation_time(device: Device | None) -> str:
    """Explaining a batch against a training step of it; a step that was not timed beside it is looked up."""
    from bench.explanation_cost import LARGEST_RATIO

    steps = {_case(row): row["step_ms"] for row in (device.rows("training") if device else [])}
    body = []
    for row in device.rows("explanation_time") if device else []:
        case = (row["preset"], "full", row["training"], "this project", row["clips"])
        step = row["training_ms"] or steps.get(case)
        ratio = float(row["explain_ms"]) / float(step) if row["explain_ms"] and step else None
        holds = "" if ratio is None else "yes" if ratio <= LARGEST_RATIO else "no"
        body.append(
            [
                row["preset"], row["clips"], row["arithmetic"], row["training"], number(row["explain_ms"], 1),
                number(step, 1), number(ratio), holds, row["note"],
            ]
        )  # fmt: skip
    header = ("preset", "clips", "explained in", "trained in", "explaining, ms", "step, ms", "ratio")
    empty = [["seed", "", "float32", precision, *[NOT_MEASURED] * 3, "", ""] for precision in ("float32", "bfloat16")]
    return markdown((*header, f"at most {LARGEST_RATIO:.0f}", "note"), body or empty)


def scaling(device: Device) -> str:
    """Fitted exponents and what they say: fitted here, so that a run that was cut short has its lines too."""
    from bench.scaling import exponents, numbers

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
    from bench.scaling import exponents, numbers, verdicts

    rows = numbers(device.rows("scaling"))
    return verdicts(rows, exponents(rows), device.name) if rows else []


def _interval(row: Row) -> str:
    if row["exponent"] is None:
        return NOT_MEASURED
    return f"{row['exponent']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def training(device: Device | None, presets: Sequence[str] = ("seed", "published")) -> str:
    """Every method for every model and precision."""
    from bench.training import ATTENTIONS, METHODS, PRECISIONS

    measured = {_case(row): row for row in device.rows("training")} if device else {}
    cases = list(measured) or list(itertools.product(presets, ATTENTIONS, PRECISIONS[:1], METHODS, [""]))
    body = []
    for case in cases:
        row = measured.get(case, {})
        body.append(
            [
                *case, number(row.get("clips_per_second")), number(row.get("step_ms")),
                number(row.get("utilisation_data_sheet"), 1, 100, " %"),
                number(row.get("needed_data_sheet"), 1, 100, " %"),
                number(row.get("utilisation_measured_peak"), 1, 100, " %"),
                number(row.get("peak_bytes"), 1, 1e-9), number(row.get("reserved_bytes"), 1, 1e-9),
                row.get("note", ""),
            ]
        )  # fmt: skip
    header = (*_CASE, "clips/s", "step ms", "utilisation", "of needed work", "of measured peak", "peak GB",
              "reserved GB", "note")  # fmt: skip
    return markdown(header, body)


def _case(row: dict[str, str]) -> tuple[str, ...]:
    return _name("training", row)


def families(device: Device | None) -> str:
    """Where the time of a step goes: the full seed model in the first precision that was profiled."""
    from bench.training import METHODS

    rows = device.rows("training_families") if device else []
    if not rows:
        return markdown(("family", "share of the step"), [["every family of kernels", NOT_MEASURED]])
    *first, _, batch = _case(rows[0])
    rows = [row for row in rows if _case(row) == (*first, row["method"], batch)]
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


def promises(device: Device | None) -> str:
    """What was promised of a training step on one large GPU in bfloat16, and what was measured."""
    body = []
    for name, wanted, form, value, holds in _promises(device.rows("training") if device else [], device):
        judged = [NOT_MEASURED, ""] if value is None else [form.format(value), "yes" if holds(value) else "no"]
        body.append([name, wanted, *judged])
    return markdown(("bfloat16, preset seed, full model", "promised", "measured", "holds"), body)


def _promises(rows: Rows, device: Device | None):
    from bench.training import BATCH, PROJECT

    found = {_case(row): row for row in rows}

    def step(attention: str, method: str) -> float | None:
        text = found.get(("seed", attention, "bfloat16", method, str(BATCH)), {}).get("step_ms")
        return float(text) if text else None

    def over(numerator: float | None, denominator: float | None) -> float | None:
        return None if numerator is None or denominator is None else numerator / denominator

    def fastest(attention: str) -> str:
        """Of this project's ways to run a step, the one that took least; the first where none was measured."""
        return min(PROJECT, key=lambda method: step(attention, method) or float("inf"))

    case = ("seed", "full", "bfloat16", fastest("full"), str(BATCH))
    ours = step("full", case[3])
    spatial = step("spatial_only", fastest("spatial_only"))
    use = found.get(case, {}).get("utilisation_data_sheet")
    shares = [
        float(row["share"])
        for row in (device.rows("training_families") if device else [])
        if _case(row) == case and row["family"] in ("temporal attention", "spatial attention")
    ]
    return (
        ("model FLOP utilisation", "at least 55 %", "{:.1%}", float(use) if use else None, lambda x: x >= 0.55),
        ("speed over naive eager", "at least 3", "{:.2f}", over(step("full", "naive eager"), ours), lambda x: x >= 3),
        ("speed over compiled SDPA", "at least 1.3", "{:.2f}", over(step("full", "compiled SDPA"), ours),
         lambda x: x >= 1.3),
        ("step time over spatial-only", "at most 1.5", "{:.2f}", over(ours, spatial), lambda x: x <= 1.5),
        ("attention kernels in the step", "under 20 %", "{:.1%}", sum(shares) if shares else None, lambda x: x < 0.2),
    )  # fmt: skip
