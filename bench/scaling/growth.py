"""How work, time and memory grow with T and HW: fitted exponents, and which claims they bear out."""

from __future__ import annotations

from bench.common.record import Row
from bench.scaling.exponent import Exponent, fit_exponent
from bench.scaling.sweep import PASSES


def numbers(rows: list[dict[str, str]]) -> list[Row]:
    """Rows of scaling.csv as they were before they were written."""
    whole = ("T", "HW", "macs_counted", "macs_formula")
    columns = dict.fromkeys(whole, int) | dict.fromkeys(("time_us", "peak_bytes"), float)
    return [row | {name: kind(row[name]) if row[name] else None for name, kind in columns.items()} for row in rows]


def exponents(rows: list[Row]) -> list[Row]:
    """Fitted exponents of work, time and memory in T + 1 and HW + 1, for each method and pass that was measured."""
    fitted = []
    for axis, method, name in dict.fromkeys((row["axis"], row["method"], row["pass"]) for row in rows):
        points = [row for row in rows if (row["axis"], row["method"], row["pass"]) == (axis, method, name)]
        points = sorted(points, key=lambda row: row[axis])
        measured = [row for row in points if row["time_us"] is not None] or points
        larger_half = measured[len(measured) // 2 :]
        for quantity, column, over in (
            ("multiply-accumulates, all sizes", "macs_counted", points),
            ("multiply-accumulates", "macs_counted", larger_half),
            ("time", "time_us", larger_half),
            ("peak memory", "peak_bytes", larger_half),
        ):
            there = [row for row in over if row[column] is not None]
            fit = fit_exponent([row[axis] + 1 for row in there], [row[column] for row in there])
            fitted.append(
                {
                    "axis": axis, "method": method, "pass": name, "quantity": quantity,
                    "exponent": fit and fit.value, "low": fit and fit.low, "high": fit and fit.high,
                    "sizes": " ".join(str(row[axis]) for row in there),
                    "note": "" if fit else "not measured at three sizes",
                }
            )  # fmt: skip
    return fitted


def verdicts(rows: list[Row], fitted: list[Row], device: str) -> list[Row]:
    """Which claims hold, in sentences made of what was counted and measured."""
    wrong = sum(map(miscounted, rows))
    work = (
        "Work: at every size the FLOP counter finds exactly ((T+1)(HW+1))^2 query-key pairs in joint attention and "
        "(HW+1)(T+1)^2 + (T+1)(HW+1)^2 in factorized attention: T^2 a position and (HW)^2 a frame. That is how "
        '"O(T^2 + H^2W^2) instead of O(T^2H^2W^2)" has to be read, and so read it holds.'
    )
    if wrong:
        work = f"Work: counted and predicted multiply-accumulates differ in {wrong} of {len(rows)} rows."
    judged: list[Row] = [{"pass": "", "verdict": work}]
    pairs = [("naive joint", "naive factorized"), ("joint flash kernel", "factorized kernels")]
    for name in PASSES:
        for axis in ("T", "HW"):
            judged += [{"pass": name, "verdict": _verdict(fitted, axis, name, *pair, device)} for pair in pairs]
        judged += [{"pass": name, "verdict": _ratio(rows, name, *pair, device)} for pair in pairs]
    return [row for row in judged if row["verdict"]]


def miscounted(row: Row) -> bool:
    """Whether the FLOP counter and the formula disagree."""
    return row["macs_counted"] is not None and row["macs_counted"] != row["macs_formula"]


def _verdict(fitted: list[Row], axis: str, name: str, joint: str, factorized: str, device: str) -> str:
    def find(method: str, quantity: str) -> Exponent | None:
        key = (axis, method, name, quantity)
        rows = [row for row in fitted if (row["axis"], row["method"], row["pass"], row["quantity"]) == key]
        measured = [row for row in rows if row["exponent"] is not None]
        return Exponent(measured[0]["exponent"], measured[0]["low"], measured[0]["high"]) if measured else None

    times = [find(method, "time") for method in (joint, factorized)]
    if None in times:
        return ""
    work = [find(method, "multiply-accumulates").value for method in (joint, factorized)]
    if work[0] - work[1] < 0.25:
        judged = "the work predicts nearly the same growth of both here: the saving is a factor, not an exponent"
    elif times[1].high < times[0].low:
        judged = "the intervals are apart: that factorized attention grows more slowly holds"
    elif times[1].low > times[0].high:
        judged = "the intervals are apart the other way: that factorized attention grows more slowly does not hold"
    else:
        judged = "the intervals overlap: these sizes do not decide whether factorized attention grows more slowly"
    return (
        f"Time on {device}, {name}, growth with {axis}: {joint} {times[0]} (work {work[0]:.2f}), "
        f"{factorized} {times[1]} (work {work[1]:.2f}); {judged}."
    )


def _ratio(rows: list[Row], name: str, joint: str, factorized: str, device: str) -> str:
    found = {
        (row["T"], row["HW"], row["method"]): row
        for row in rows
        if row["pass"] == name and row["method"] in (joint, factorized) and row["time_us"] is not None
    }
    both = [size for *size, method in found if method == joint and (*size, factorized) in found]
    if not both:
        return ""
    frames, cells = max(both, key=lambda size: (size[0] + 1) * (size[1] + 1))
    slow, fast = found[frames, cells, joint], found[frames, cells, factorized]
    macs, spent, held = (slow[key] / fast[key] for key in ("macs_counted", "time_us", "peak_bytes"))
    return (
        f"At T={frames}, HW={cells} on {device}, {name}: {joint} does {macs:.1f} times the multiply-accumulates of "
        f"{factorized}, in {spent:.1f} times its time and {held:.1f} times its memory."
    )
