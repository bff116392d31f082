"""Growth of work, time and memory with T and HW: fitted exponents, and which claims they bear out."""

from __future__ import annotations

from collections.abc import Sequence

from bench.common.exponent import fit_exponent, interval
from bench.common.record import Row
from bench.scaling.sweep import PASSES

_NUMBERS = {"T": int, "HW": int, "macs_counted": int, "macs_formula": int, "time_us": float, "peak_bytes": float}
_PAIRS = (("naive joint", "naive factorized"), ("joint flash kernel", "factorized kernels"))
_WORK = (
    "Work: at every size the FLOP counter finds exactly ((T+1)(HW+1))^2 query-key pairs in joint attention and "
    "(HW+1)(T+1)^2 + (T+1)(HW+1)^2 in factorized attention: T^2 a position and (HW)^2 a frame. That is how "
    '"O(T^2 + H^2W^2) instead of O(T^2H^2W^2)" has to be read, and so read it holds.'
)


def numbers(rows: list[dict[str, str]]) -> list[Row]:
    """Return rows of scaling.csv as they were before they were written."""
    return [row | {key: kind(row[key]) if row[key] else None for key, kind in _NUMBERS.items()} for row in rows]


def exponents(rows: list[Row]) -> list[Row]:
    """Return fitted exponents of work, time and memory in T + 1 and HW + 1, for each method and pass."""
    fitted = []
    for axis, method, name in dict.fromkeys((row["axis"], row["method"], row["pass"]) for row in rows):
        points = [row for row in rows if (row["axis"], row["method"], row["pass"]) == (axis, method, name)]
        points.sort(key=lambda row: row[axis])
        measured = [row for row in points if row["time_us"] is not None] or points
        larger_half = measured[len(measured) // 2 :]
        for quantity, key, over in (
            ("multiply-accumulates, all sizes", "macs_counted", points),
            ("multiply-accumulates", "macs_counted", larger_half),
            ("time", "time_us", larger_half),
            ("peak memory", "peak_bytes", larger_half),
        ):
            there = [row for row in over if row[key] is not None]
            fit = fit_exponent([row[axis] for row in there], [row[key] for row in there], offset=1)
            fitted.append({"axis": axis, "method": method, "pass": name, "quantity": quantity} | fit)
    return fitted


def claims(rows: list[Row], fitted: list[Row], device: str, passes: Sequence[str] = PASSES) -> list[str]:
    """Return which claims hold, in sentences made of what was counted and measured of some passes."""
    wrong = sum(map(miscounted, rows))
    differ = f"Work: counted and predicted multiply-accumulates differ in {wrong} of {len(rows)} rows."
    sentences = [differ if wrong else _WORK]
    for which in passes:
        sentences += [_growth(fitted, axis, which, *pair, device) for axis in ("T", "HW") for pair in _PAIRS]
        sentences += [_ratio(rows, which, *pair, device) for pair in _PAIRS]
    return [sentence for sentence in sentences if sentence]


def miscounted(row: Row) -> bool:
    """Return whether the FLOP counter and the formula disagree."""
    return row["macs_counted"] is not None and row["macs_counted"] != row["macs_formula"]


def _growth(fitted: list[Row], axis: str, name: str, joint: str, factorized: str, device: str) -> str:
    found = {
        (row["method"], row["quantity"]): row
        for row in fitted
        if (row["axis"], row["pass"]) == (axis, name) and row["exponent"] is not None
    }
    if not {(joint, "time"), (factorized, "time")} <= found.keys():
        return ""
    slow, fast = found[joint, "time"], found[factorized, "time"]
    work = [found[method, "multiply-accumulates"]["exponent"] for method in (joint, factorized)]
    if work[0] - work[1] < 0.25:
        judged = "the work predicts nearly the same growth of both here: the saving is a factor, not an exponent"
    elif fast["high"] < slow["low"]:
        judged = "the intervals are apart: that factorized attention grows more slowly holds"
    elif fast["low"] > slow["high"]:
        judged = "the intervals are apart the other way: that factorized attention grows more slowly does not hold"
    else:
        judged = "the intervals overlap: these sizes do not decide whether factorized attention grows more slowly"
    return (
        f"Time on {device}, {name}, growth with {axis}: {joint} {interval(slow)} (work {work[0]:.2f}), "
        f"{factorized} {interval(fast)} (work {work[1]:.2f}); {judged}."
    )


def _ratio(rows: list[Row], name: str, joint: str, factorized: str, device: str) -> str:
    measured = [row for row in rows if row["pass"] == name and row["time_us"] is not None]
    found = {(row["method"], row["T"], row["HW"]): row for row in measured}
    sizes = [size for method, *size in found if method == joint and (factorized, *size) in found]
    if not sizes:
        return ""
    frames, cells = max(sizes, key=lambda size: (size[0] + 1) * (size[1] + 1))
    slow, fast = found[joint, frames, cells], found[factorized, frames, cells]
    macs, spent, held = (slow[key] / fast[key] for key in ("macs_counted", "time_us", "peak_bytes"))
    return (
        f"At T={frames}, HW={cells} on {device}, {name}: {joint} does {macs:.1f} times the multiply-accumulates of "
        f"{factorized}, in {spent:.1f} times its time and {held:.1f} times its memory."
    )
