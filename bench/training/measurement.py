"""What one training step takes: time, memory and where the time goes, over what the GPU can do at most."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bench.common.record import NOT_MEASURED, Row, failure
from bench.training.cases import PRECISIONS, Case
from bench.training.kernel_families import profile_steps
from bench.training.steps import random_clips, training_step
from bench.training.work import needed_flops, useful_flops

# Dense peak of the data sheets, FLOP/s (NVIDIA A100, H100 SXM and H200 SXM data sheets; half of "with sparsity").
DATA_SHEET = {
    "A100": {"bfloat16": 312e12, "tf32": 156e12, "float32": 19.5e12},
    "H100 80GB HBM3": {"bfloat16": 989.4e12, "tf32": 494.7e12, "float32": 66.9e12},
    "H200": {"bfloat16": 989.4e12, "tf32": 494.7e12, "float32": 66.9e12},
}


def measure(case: Case, batch_size: int, execution: str, seconds: float, peaks: Row, trace: Path | None = None) -> Row:
    """Train some steps and return the row, with the profile's families under "families".

    Memory is the most of all steps, the first ones included: replaying CUDA graphs allocates nothing, so that what they
    use shows only when they are recorded.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    row = empty_row(case, batch_size)
    memory = _PeakMemory() if device.type == "cuda" else None
    batch = random_clips(case.config, batch_size, device)
    started = time.perf_counter()
    step = training_step(case, batch, execution)
    for _ in range(3):
        step()
    _wait(device)
    row["first_steps_s"] = time.perf_counter() - started
    per_step = _seconds_a_step(step, device, seconds)
    if memory:
        row["peak_bytes"], row["reserved_bytes"] = memory.allocated(), memory.reserved()
    rate = batch_size / per_step
    row |= {"step_ms": 1e3 * per_step, "clips_per_second": rate, "useful_tflops": rate * row["flops_per_clip"] / 1e12}
    for name, key in (("utilization_data_sheet", "data_sheet"), ("utilization_measured_peak", "measured")):
        if peak := peaks.get((key, case.precision)):
            row[name] = rate * row["flops_per_clip"] / peak
            row[name.replace("utilization", "needed")] = rate * row["needed_flops_per_clip"] / peak
    try:
        row["families"] = profile_steps(step, trace=trace)
    except Exception as error:  # the step is measured all the same
        row["note"] = failure(error).replace(NOT_MEASURED, "no profile")
    return row


class _PeakMemory:
    """The most memory since it was made, beyond what was held then."""

    def __init__(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self._before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    def allocated(self) -> int:
        """What tensors took."""
        return torch.cuda.max_memory_allocated() - self._before[0]

    def reserved(self) -> int:
        """What the GPU had to have: tensors, the pools that recorded graphs keep, and gaps between them."""
        return torch.cuda.max_memory_reserved() - self._before[1]


def empty_row(case: Case, batch_size: int, note: str = "") -> Row:
    """A row that nothing has been measured of yet."""
    return {
        "preset": case.preset, "attention": case.attention, "precision": case.precision, "method": case.method,
        "batch": batch_size, "step_ms": None, "clips_per_second": None, "useful_tflops": None,
        "utilization_data_sheet": None, "needed_data_sheet": None,
        "utilization_measured_peak": None, "needed_measured_peak": None, "peak_bytes": None,
        "reserved_bytes": None,
        "flops_per_clip": useful_flops(case.config), "needed_flops_per_clip": needed_flops(case.config),
        "first_steps_s": None, "note": note,
    }  # fmt: skip


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _seconds_a_step(step: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Steps are enqueued as in training, and waited for only at the end of a round of them."""
    count = 2
    while True:
        _wait(device)
        started = time.perf_counter()
        for _ in range(count):
            step()
        _wait(device)
        spent = time.perf_counter() - started
        if spent >= seconds:
            return spent / count
        count = max(count + 1, min(10 * count, int(1.2 * count * seconds / spent)))


def peak_rates() -> Row:
    """Peaks by ("data_sheet" | "measured", precision), of the current GPU; nothing on a CPU."""
    if not torch.cuda.is_available():
        return {}
    from bench.ceilings import product_rate

    name = torch.cuda.get_device_name(0)
    sheet = next((peaks for key, peaks in DATA_SHEET.items() if key in name), {})
    peaks = {("data_sheet", precision): peak for precision, peak in sheet.items()}
    for precision in PRECISIONS:
        with contextlib.suppress(Exception):  # without it a cell stays empty, and the steps are measured all the same
            peaks["measured", precision] = product_rate(precision)
    return peaks
