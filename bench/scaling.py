"""How attention grows with the number of frames T and of feature cells HW: work, time and memory.

Compares attention over all (T+1)(HW+1) tokens at once with attention over frames and then over positions, naive and
fused. Each method takes q, k and v `[B, F, S, N, D]` and returns `[B, F, S, N, D]`; the factorized ones give the result
over frames to attention over positions as its values, with the same queries and keys: the two attentions of a block
without the projections between them. Work is counted by torch's FLOP counter (bench/training/flops.py tells it what
fused attention does) and by formula; exponents are fitted on log-log axes over the larger half of the sizes, where
fixed costs weigh least, in T + 1 and HW + 1. Writes scaling.csv, from which a report fits again and draws. On a CPU the
sizes are small and the run takes under 2 minutes; what it says is then about that CPU, and time is processor time.
"""

import argparse
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bench.common import peers
from bench.common.environment import device_name
from bench.common.peers import naive_attention, over_frames, over_positions
from bench.common.record import NOT_MEASURED, Row
from bench.common.tasks import Task
from bench.common.timing import time_and_memory
from bench.training.flops import BACKWARD, FORWARD, counting
from kernels import spatial_attention, temporal_attention

MILLISECONDS = 50
QUANTITIES = {"multiply-accumulates": "macs_counted", "time": "time_us", "peak memory": "peak_bytes"}
_PAIRS = (("naive joint", "naive factorized"), ("joint flash kernel", "factorized kernels"))
_WORK = (
    "Work: at every size the FLOP counter finds exactly ((T+1)(HW+1))^2 query-key pairs in joint attention and "
    "(HW+1)(T+1)^2 + (T+1)(HW+1)^2 in factorized attention: T^2 a position and (HW)^2 a frame. That is how "
    '"O(T^2 + H^2W^2) instead of O(T^2H^2W^2)" has to be read, and so read it holds.'
)
PASSES = ("forward", "forward and backward")
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def counted_multiply_accumulates(attend: Attend, shape: Sequence[int], dtype: str) -> tuple[int, int]:
    """Return what torch's FLOP counter finds in `attend` of [B, F, S, 3, N, D]: forward, and forward and backward."""
    with counting() as counter:
        qkv = torch.empty(tuple(shape), dtype=getattr(torch, dtype), requires_grad=True)
        out = attend(*qkv.unbind(3))
        forward = counter.get_total_flops() // 2
        torch.autograd.grad(out, qkv, torch.empty_like(out))
        return forward, counter.get_total_flops() // 2


def joint(spatial: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend over all F * S tokens of a clip, as `spatial` attends over the positions of a frame."""
    return spatial(*(x.flatten(1, 2).unsqueeze(1) for x in (q, k, v))).squeeze(1).unflatten(1, q.shape[1:3])


def factorized(temporal: Attend, spatial: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend over frames, then over positions."""
    return spatial(q, k, temporal(q, k, v))


class Method(NamedTuple):
    """One line of every plot: a way to attend, over frames and positions apart or over all tokens.

    `fused` stores no scores, so that the way back computes them again. Triton kernels, which `needs_gpu` says, run on a
    CPU only in the interpreter, which is no measure of time.
    """

    name: str
    attend: Attend
    factorized: bool
    fused: bool
    needs_gpu: bool = False

    def pairs(self, frames: int, cells: int) -> int:
        """Return the query-key pairs by formula: `R^2 S + R S^2` or `(R S)^2` for R = T + 1 and S = HW + 1."""
        rows, positions = frames + 1, cells + 1
        return rows * positions * (rows + positions if self.factorized else rows * positions)

    def products(self, backward: bool) -> int:
        """Return the products over all pairs: 2 forward, 4 backward, and of fused attention the scores once more."""
        return FORWARD + (BACKWARD if self.fused else 2 * FORWARD) * backward


_NAIVE, _SDPA = partial(over_positions, naive_attention), partial(over_positions, scaled_dot_product_attention)
METHODS = (
    Method("naive joint", partial(joint, _NAIVE), factorized=False, fused=False),
    # PyTorch's: flash on a CPU, whichever it picks on a GPU.
    Method("SDPA joint", partial(joint, _SDPA), factorized=False, fused=True),
    Method("joint flash kernel", partial(joint, spatial_attention), factorized=False, fused=True, needs_gpu=True),
    Method(
        "naive factorized", partial(factorized, partial(over_frames, naive_attention), _NAIVE), factorized=True,
        fused=False,
    ),
    Method(
        "factorized kernels", partial(factorized, temporal_attention, spatial_attention), factorized=True, fused=True,
        needs_gpu=True,
    ),
)  # fmt: skip


class Sweep(NamedTuple):
    """Sizes (T, HW) along each axis, and q, k and v at each of them `[clips, T + 1, HW + 1, heads, head_dim]`."""

    frames: tuple[int, ...]
    fixed_cells: int
    cells: tuple[int, ...]
    fixed_frames: int
    clips: int
    heads: int
    head_dim: int
    dtype: str

    def sizes(self) -> Iterator[tuple[str, int, int]]:
        """Yield (axis, T, HW), the largest of both axes last: they take longest, and say least if time runs out."""
        for frames, cells in itertools.zip_longest(self.frames, self.cells):
            if frames is not None:
                yield "T", frames, self.fixed_cells
            if cells is not None:
                yield "HW", self.fixed_frames, cells


ON_CPU = Sweep(
    frames=(1, 2, 3, 5, 7, 11, 15, 23, 31, 47, 63), fixed_cells=36,
    cells=(9, 16, 25, 36, 49, 81, 121, 169, 225, 289, 361), fixed_frames=6,
    clips=1, heads=2, head_dim=32, dtype="float32",
)  # fmt: skip
ON_GPU = Sweep(
    frames=(1, 3, 6, 11, 15, 23, 31, 47, 63, 95, 127), fixed_cells=361,
    cells=(100, 196, 361, 576, 784, 1156, 1600, 2304, 3136, 4624, 6400), fixed_frames=6,
    clips=1, heads=8, head_dim=64, dtype="bfloat16",
)  # fmt: skip


def at_sizes(sweep: Sweep, milliseconds: int) -> Iterator[Task]:
    """Yield the work of each method and pass at each size, counted already, and its time and memory to be measured."""
    for (axis, frames, cells), method in itertools.product(sweep.sizes(), METHODS):
        shape, counted = (sweep.clips, frames + 1, cells + 1, 3, sweep.heads, sweep.head_dim), (None, None)
        with suppress(Exception):  # what refuses to be counted says so when it is measured
            counted = counted_multiply_accumulates(method.attend, shape, sweep.dtype)
        for which, macs in zip(PASSES, counted, strict=True):
            products = method.products(which != PASSES[0]) * method.pairs(frames, cells)
            row: Row = {
                "axis": axis, "T": frames, "HW": cells, "method": method.name, "pass": which, "dtype": sweep.dtype,
                "clips": sweep.clips, "heads": sweep.heads, "head_dim": sweep.head_dim, "macs_counted": macs,
                "macs_formula": products * sweep.clips * sweep.heads * sweep.head_dim,
            }  # fmt: skip
            call = partial(_call, method.attend, shape, sweep.dtype, which)
            prepare = (lambda call=call: call("cuda")()) if method.needs_gpu else None
            yield Task("scaling", row, partial(_measured, method, call, milliseconds), prepare)


def _call(attend: Attend, shape: Sequence[int], dtype: str, which: str, device: str) -> Callable[[], object]:
    both = peers.calls(lambda qkv: attend(*qkv.unbind(3)), shape, getattr(torch, dtype), device)
    return both["forward" if which == PASSES[0] else "both"]


def _measured(method: Method, call: Callable[[str], Callable[[], object]], milliseconds: int) -> Row:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if method.needs_gpu and device == "cpu":
        raise NotImplementedError("Triton kernels need a GPU")
    found = time_and_memory(call(device), milliseconds, device)
    names = {"microseconds": "time_us", "p20": "time_us_p20", "p80": "time_us_p80"}
    return {names.get(key, key): value for key, value in found.items()}


def fit_exponent(sizes: Sequence[int], values: Sequence[float], offset: int = 0) -> Row:
    """Fit `values ~ (sizes + offset) ** exponent` by least squares on log-log axes.

    Returns:
        exponent, and low and high of its 95 % interval by Student's t of n - 2; nothing for fewer than three sizes:
        two points fit any line and say nothing of its error.
    """
    if len(sizes) < 3:
        return {}
    from scipy import stats  # its import takes a second

    fit = stats.linregress(np.log(np.add(sizes, offset)), np.log(values))
    slope, margin = float(fit.slope), float(stats.t.ppf(0.975, len(sizes) - 2) * fit.stderr)
    return {"exponent": slope, "low": slope - margin, "high": slope + margin}


def interval(row: Row) -> str:
    """Return a fitted exponent and its interval in one cell."""
    return "{exponent:.2f} [{low:.2f}, {high:.2f}]".format(**row) if row else NOT_MEASURED


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
    return at_sizes(ON_GPU if torch.cuda.is_available() else ON_CPU, arguments.milliseconds)


def conclude(tables: Mapping[str, list[Row]], folder: Path) -> int:
    """Fit and judge; return 1 if counted and predicted work differ anywhere."""
    rows = tables["scaling"]
    print(*claims(rows, device_name()), sep="\n")
    return 1 if any(map(miscounted, rows)) else 0
