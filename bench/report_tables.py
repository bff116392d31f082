"""Recordings as Markdown tables. Every number comes from a CSV file; a cell nobody measured says so."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from bench.record import Recording

NOT_MEASURED = "not measured"

Rows = list[dict[str, str]]

# What tells one row of an operation's table from another, and what a cell may say beside the time.
_ROW_NAMES = {"contender": "method", "mode": "mode", "dtype": "dtype", "head_dim": "D", "channels": "C"}
_BESIDE_TIME = (("share_of_floor", 100, "% of floor"), ("teraflops", 1, "TFLOP/s"))
# The paper's size; a column that a table does not have does not count.
_PAPER = {"clips": "8", "frames": "6", "rows": "7", "positions": "362", "attention": "spatial"}


@dataclass(frozen=True)
class Device:
    """What was measured of one device: for each table the newest recording that has it."""

    name: str
    kind: str
    recordings: list[Recording]

    def find(self, table: str) -> Recording | None:
        """The newest recording of which at least one row of ``table`` was measured."""
        return next((one for one in reversed(self.recordings) if _any_measured(one.tables.get(table, []))), None)

    def rows(self, table: str) -> Rows:
        """Its rows, none where nobody measured it."""
        found = self.find(table)
        return found.tables[table] if found else []


def _any_measured(rows: Rows) -> bool:
    return any(not row.get("note", "").startswith(NOT_MEASURED) for row in rows)


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
    parts = [found["date"], f"commit {found['commit'] or 'unknown'}", f"Python {found['python']}", versions]
    smi = found.get("nvidia_smi", {})
    if smi:
        parts.append(f"driver {smi.get('driver_version')}, SM clock up to {smi.get('clocks.max.sm')}")
    if found["kind"] == "CPU":
        parts.append(f"{found['threads']} of {found['cores']} cores, load {found['load']} when it began")
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
        count = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in ("FAILS", "not run")}
        ratios = [float(row["ratio"]) for row in rows if row["ratio"]]
        largest = number(max(ratios, default=None))
        body.append([*key, str(len(ratios)), largest, str(count["FAILS"]), str(count["not run"] or "")])
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
    rows = device.rows("spatial_memory") if device else []
    fitted = {row["tape"]: row for row in (device.rows("spatial_memory_exponents") if device else [])}
    kinds = ("without a tape", "with a tape")
    found = {(row["positions"], row["tape"]): row["peak_bytes"] for row in rows}
    body = [
        [positions, *(number(found.get((positions, kind)), 1, 2**-10) for kind in kinds)]
        for positions in dict.fromkeys(row["positions"] for row in rows)
    ]
    grows = [_interval(fitted[kind]) if kind in fitted else NOT_MEASURED for kind in kinds]
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

    steps = {(*_case(row), row["batch"]): row["step_ms"] for row in (device.rows("training") if device else [])}
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
    """Fitted exponents and what they say."""
    fitted = device.rows("scaling_exponents")
    found = {(r["method"], r["pass"], r["axis"], r["quantity"]): r for r in fitted}
    body = []
    for method, name in dict.fromkeys((row["method"], row["pass"]) for row in fitted):
        line = [method, name]
        for axis in ("T", "HW"):
            line.append(number(found[method, name, axis, "multiply-accumulates"]["exponent"]))
            line += [_interval(found[method, name, axis, quantity]) for quantity in ("time", "peak memory")]
        body.append(line)
    header = ("method", "pass", "work, T", "time, T", "memory, T", "work, HW", "time, HW", "memory, HW")
    sentences = "\n".join(f"- {row['verdict']}" for row in device.rows("scaling_verdicts"))
    return f"{markdown(header, body)}\n{sentences}\n"


def _interval(row: dict[str, str]) -> str:
    if not row["exponent"]:
        return NOT_MEASURED
    return f"{float(row['exponent']):.2f} [{float(row['low']):.2f}, {float(row['high']):.2f}]"


def training(device: Device | None, presets: Sequence[str] = ("seed", "published")) -> str:
    """Every method for every model and precision."""
    from bench.training import ATTENTIONS, METHODS, PRECISIONS

    measured = {_case(row): row for row in device.rows("training")} if device else {}
    cases = list(measured) or list(itertools.product(presets, ATTENTIONS, PRECISIONS[:1], METHODS))
    body = []
    for case in cases:
        row = measured.get(case, {})
        body.append(
            [
                *case, number(row.get("clips_per_second")), number(row.get("step_ms")),
                number(row.get("utilisation_data_sheet"), 1, 100, " %"),
                number(row.get("needed_data_sheet"), 1, 100, " %"),
                number(row.get("utilisation_measured_peak"), 1, 100, " %"),
                number(row.get("peak_bytes"), 1, 1e-9), row.get("note", ""),
            ]
        )  # fmt: skip
    header = ("preset", "attention", "precision", "method", "clips/s", "step ms", "utilisation", "of needed work",
              "of measured peak", "peak GB", "note")  # fmt: skip
    return markdown(header, body)


def _case(row: dict[str, str]) -> tuple[str, str, str, str]:
    return row["preset"], row["attention"], row["precision"], row["method"]


def families(device: Device | None) -> str:
    """Where the time of a step goes: the full seed model in the first precision that was profiled."""
    from bench.training import METHODS

    rows = device.rows("training_families") if device else []
    if not rows:
        return markdown(("family", "share of the step"), [["every family of kernels", NOT_MEASURED]])
    first = tuple(rows[0][key] for key in ("preset", "attention", "precision"))
    rows = [row for row in rows if tuple(row[key] for key in ("preset", "attention", "precision")) == first]
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
    from bench.training import PROJECT

    found = {_case(row): row for row in rows}

    def step(attention: str, method: str) -> float | None:
        text = found.get(("seed", attention, "bfloat16", method), {}).get("step_ms")
        return float(text) if text else None

    def over(numerator: float | None, denominator: float | None) -> float | None:
        return None if numerator is None or denominator is None else numerator / denominator

    def fastest(attention: str) -> str:
        """Of this project's ways to run a step, the one that took least; the first where none was measured."""
        return min(PROJECT, key=lambda method: step(attention, method) or float("inf"))

    case = ("seed", "full", "bfloat16", fastest("full"))
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
