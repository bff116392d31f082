"""How attention grows with the number of frames T and of feature cells HW: work, time and memory.

Compares attention over all (T+1)(HW+1) tokens at once with attention over frames and then over positions, naive and
fused. Work is counted by torch's FLOP counter (bench/training/flops.py tells it what fused attention does) and by
formula; exponents are fitted on log-log axes over the larger half of the sizes, where fixed costs weigh least, in T + 1
and HW + 1. Writes scaling.csv, from which a report fits again and draws. On a CPU the sizes are small and the run takes
under 2 minutes; what it says is then about that CPU, and time is processor time.
"""

import argparse
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from bench.common.environment import device_name
from bench.common.exponent import fit_exponent, interval
from bench.common.record import Row
from bench.common.tasks import Task
from bench.scaling import sweep
from bench.scaling.sweep import PASSES

MILLISECONDS = 50
QUANTITIES = {"multiply-accumulates": "macs_counted", "time": "time_us", "peak memory": "peak_bytes"}
_PAIRS = (("naive joint", "naive factorized"), ("joint flash kernel", "factorized kernels"))
_WORK = (
    "Work: at every size the FLOP counter finds exactly ((T+1)(HW+1))^2 query-key pairs in joint attention and "
    "(HW+1)(T+1)^2 + (T+1)(HW+1)^2 in factorized attention: T^2 a position and (HW)^2 a frame. That is how "
    '"O(T^2 + H^2W^2) instead of O(T^2H^2W^2)" has to be read, and so read it holds.'
)


def exponents(rows: Iterable[Row]) -> dict[tuple[str, ...], Row]:
    """Fit the growth with T + 1 and HW + 1, by axis, pass, method and quantity, of rows measured or read.

    Over the larger half of the sizes whose time was measured, where fixed costs weigh least.
    """
    lines, fitted = defaultdict(list), {}
    for row in rows:
        lines[row["axis"], row["pass"], row["method"]].append(row)
    for line, points in lines.items():
        points.sort(key=lambda row: int(row[row["axis"]]))
        points = [row for row in points if row.get("time_us")] or points
        points = points[len(points) // 2 :]
        for quantity, key in QUANTITIES.items():
            there = {int(row[line[0]]): float(row[key]) for row in points if row.get(key)}
            fitted[*line, quantity] = fit_exponent(list(there), list(there.values()), offset=1)
    return fitted


def miscounted(row: Row) -> bool:
    """Return whether the FLOP counter and the formula disagree."""
    return bool(row.get("macs_counted")) and int(row["macs_counted"]) != int(row["macs_formula"])


def claims(rows: Sequence[Row], device: str, passes: Sequence[str] = PASSES) -> list[str]:
    """Return which claims hold, in sentences made of what was counted and measured of some passes."""
    wrong, fitted = sum(map(miscounted, rows)), exponents(rows)
    differ = f"Work: counted and predicted multiply-accumulates differ in {wrong} of {len(rows)} rows."
    sentences = [differ if wrong else _WORK]
    for which in passes:
        for axis, pair in itertools.product(("T", "HW"), _PAIRS):
            times, work = (
                [fitted.get((axis, which, method, quantity)) for method in pair]
                for quantity in ("time", "multiply-accumulates")
            )
            if all(times + work):
                macs = [fit["exponent"] for fit in work]
                grow = [f"{pair[x]} {interval(times[x])} (work {macs[x]:.2f})" for x in range(2)]
                judged = _judged(*times, saved=macs[0] - macs[1])
                sentences.append(f"Time on {device}, {which}, growth with {axis}: {', '.join(grow)}; {judged}.")
        of_method = defaultdict(dict)
        for row in rows:
            if row["pass"] == which and row.get("time_us"):
                of_method[row["method"]][int(row["T"]), int(row["HW"])] = row
        for joint, factorized in _PAIRS:
            if sizes := of_method[joint].keys() & of_method[factorized].keys():
                frames, cells = size = max(sizes, key=lambda size: ((size[0] + 1) * (size[1] + 1), size))
                slow, fast = of_method[joint][size], of_method[factorized][size]
                macs, spent, held = (float(slow[key]) / float(fast[key]) for key in QUANTITIES.values())
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


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """Yield the sizes of a GPU or of a CPU."""
    return sweep.tasks(sweep.ON_GPU if torch.cuda.is_available() else sweep.ON_CPU, arguments.milliseconds)


def conclude(tables: Mapping[str, list[Row]], folder: Path) -> int:
    """Fit and judge; return 1 if counted and predicted work differ anywhere."""
    rows = tables["scaling"]
    print(*claims(rows, device_name()), sep="\n")
    return 1 if any(map(miscounted, rows)) else 0
