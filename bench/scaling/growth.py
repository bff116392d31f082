"""Growth of work, time and memory with T and HW: fitted exponents, and which claims they bear out."""

from __future__ import annotations

import itertools
from collections import defaultdict
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
    lines, fitted = defaultdict(list), []
    for row in rows:
        lines[row["axis"], row["method"], row["pass"]].append(row)
    for (axis, method, name), points in lines.items():
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


def miscounted(row: Row) -> bool:
    """Return whether the FLOP counter and the formula disagree."""
    return row["macs_counted"] is not None and row["macs_counted"] != row["macs_formula"]


def claims(rows: list[Row], fitted: list[Row], device: str, passes: Sequence[str] = PASSES) -> list[str]:
    """Return which claims hold, in sentences made of what was counted and measured of some passes."""
    wrong = sum(map(miscounted, rows))
    differ = f"Work: counted and predicted multiply-accumulates differ in {wrong} of {len(rows)} rows."
    sentences = [differ if wrong else _WORK]
    fitted = [row for row in fitted if row["exponent"] is not None]
    of_line = {(row["axis"], row["pass"], row["method"], row["quantity"]): row for row in fitted}
    for which in passes:
        for axis, pair in itertools.product(("T", "HW"), _PAIRS):
            times = [of_line.get((axis, which, method, "time")) for method in pair]
            work = [of_line.get((axis, which, method, "multiply-accumulates")) for method in pair]
            if all(times):
                lines = [
                    f"{method} {interval(time)} (work {macs['exponent']:.2f})"
                    for method, time, macs in zip(pair, times, work, strict=True)
                ]
                judged = _judged(*times, saved=work[0]["exponent"] - work[1]["exponent"])
                sentences.append(f"Time on {device}, {which}, growth with {axis}: {', '.join(lines)}; {judged}.")
        of_method = defaultdict(dict)
        for row in rows:
            if row["pass"] == which and row["time_us"] is not None:
                of_method[row["method"]][row["T"], row["HW"]] = row
        for joint, factorized in _PAIRS:
            if sizes := of_method[joint].keys() & of_method[factorized].keys():
                frames, cells = size = max(sizes, key=lambda size: ((size[0] + 1) * (size[1] + 1), size))
                slow, fast = of_method[joint][size], of_method[factorized][size]
                macs, spent, held = (slow[key] / fast[key] for key in ("macs_counted", "time_us", "peak_bytes"))
                sentences.append(
                    f"At T={frames}, HW={cells} on {device}, {which}: {joint} does {macs:.1f} times the "
                    f"multiply-accumulates of {factorized}, in {spent:.1f} times its time and {held:.1f} times its "
                    "memory."
                )
    return sentences


def _judged(joint: Row, factorized: Row, saved: float) -> str:
    """Return what two exponents of time say, where the work predicts that they differ by `saved`."""
    if saved < 0.25:
        return "the work predicts nearly the same growth of both here: the saving is a factor, not an exponent"
    if factorized["high"] < joint["low"]:
        return "the intervals are apart: that factorized attention grows more slowly holds"
    if factorized["low"] > joint["high"]:
        return "the intervals are apart the other way: that factorized attention grows more slowly does not hold"
    return "the intervals overlap: these sizes do not decide whether factorized attention grows more slowly"
