"""Time, memory and kernel families of a training step, over what the GPU can do at most."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from bench.ceilings import product_rate
from bench.common.record import NOT_MEASURED, Row, failure
from bench.training.flops import needed_flops, useful_flops
from bench.training.kernel_families import profile_steps
from bench.training.steps import PRECISIONS, Case, random_clips, training_step

# Dense peak of the data sheets, FLOP/s (NVIDIA A100, H100 SXM and H200 SXM data sheets; half of "with sparsity").
_HOPPER = {"bfloat16": 989.4e12, "tf32": 494.7e12, "float32": 66.9e12}
DATA_SHEET = {
    "A100": {"bfloat16": 312e12, "tf32": 156e12, "float32": 19.5e12}, "H100 80GB HBM3": _HOPPER, "H200": _HOPPER,
}  # fmt: skip


def measure(case: Case, batch_size: int, execution: str, seconds: float, peaks: Row, trace: Path | None = None) -> Row:
    """Train some steps and return the record, with the profile's families under "families".

    Memory is the most of all steps, the first ones included, beyond what was held before: replaying CUDA graphs
    allocates nothing, so that what they use shows only when they are recorded.
    """
    on_gpu = torch.cuda.is_available()
    row = empty_row(case, batch_size)
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    batch = random_clips(case.config, batch_size, torch.device("cuda" if on_gpu else "cpu"))
    started = time.perf_counter()
    step = training_step(case, batch, execution)
    for _ in range(3):
        step()
    _wait()
    row["first_steps_s"] = time.perf_counter() - started
    per_step = seconds_a_call(step, seconds)
    if on_gpu:  # reserved: tensors, the pools that recorded graphs keep, and gaps between them
        row["peak_bytes"] = torch.cuda.max_memory_allocated() - before[0]
        row["reserved_bytes"] = torch.cuda.max_memory_reserved() - before[1]
    rate = batch_size / per_step
    row |= {"step_ms": 1e3 * per_step, "clips_per_second": rate, "useful_tflops": rate * row["flops_per_clip"] / 1e12}
    for key in ("data_sheet", "measured_peak"):
        if peak := peaks.get((key, case.precision)):
            row[f"utilization_{key}"] = rate * row["flops_per_clip"] / peak
            row[f"needed_{key}"] = rate * row["needed_flops_per_clip"] / peak
    try:
        row["families"] = profile_steps(step, trace=trace)
    except Exception as error:  # the step is measured all the same
        row["note"] = failure(error).replace(NOT_MEASURED, "no profile")
    return row


def empty_row(case: Case, batch_size: int, note: str = "") -> Row:
    """Return a record that nothing has been measured of yet."""
    empty = (
        "step_ms", "clips_per_second", "useful_tflops", "utilization_data_sheet", "needed_data_sheet",
        "utilization_measured_peak", "needed_measured_peak", "peak_bytes", "reserved_bytes",
    )  # fmt: skip
    flops = {"flops_per_clip": useful_flops(case.config), "needed_flops_per_clip": needed_flops(case.config)}
    return asdict(case) | {"batch": batch_size} | dict.fromkeys(empty) | flops | {"first_steps_s": None, "note": note}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_a_call(call: Callable[[], object], seconds: float) -> float:
    """Time a round of calls of at least `seconds`: enqueued one after another, as in training, and waited for once."""
    count = 2
    while True:
        _wait()
        started = time.perf_counter()
        for _ in range(count):
            call()
        _wait()
        spent = time.perf_counter() - started
        if spent >= seconds:
            return spent / count
        count = max(count + 1, min(10 * count, int(1.2 * count * seconds / spent)))


def peak_rates() -> Row:
    """Return the peaks of the current GPU by ("data_sheet" | "measured_peak", precision); none on a CPU."""
    if not torch.cuda.is_available():
        return {}
    name = torch.cuda.get_device_name(0)
    sheet = next((peaks for key, peaks in DATA_SHEET.items() if key in name), {})
    peaks = {("data_sheet", precision): peak for precision, peak in sheet.items()}
    for precision in PRECISIONS:
        with contextlib.suppress(Exception):  # without it a cell stays empty, and the steps are measured all the same
            peaks["measured_peak", precision] = product_rate(precision)
    return peaks
