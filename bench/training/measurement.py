"""Time, memory and kernel families of a training step, over what the GPU can do at most."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

from bench.ceilings import product_rate
from bench.common import timing
from bench.common.record import NOT_MEASURED, Row, failure
from bench.training.flops import needed_flops, useful_flops
from bench.training.steps import PRECISIONS, Case, random_clips, training_step

# The first that matches counts. Names are those of CUDA kernels on a GPU and of operators on a CPU.
FAMILIES = (
    # What torch.compile fused is named after the operators in it; its templates are products.
    ("compiled batch normalization and pooling", r"^triton_(?!tem_)\w*(batch_norm|max_pool)"),
    ("compiled pointwise and reduction", r"^triton_(?!tem_)"),
    ("temporal attention", r"\b(fp32|tensor_core)_(forward|backward)"),
    ("spatial attention", r"spatial_(forward|backward)"),
    ("LayerNorm and difference", r"layer_norm_difference"),
    ("fused attention of PyTorch", r"flash|fmha|sdpa|efficient_attention|scaled_dot_product|mha_"),
    ("softmax", r"softmax"),
    ("convolution", r"conv|cudnn|fprop|dgrad|wgrad|winograd|im2col|nchwToNhwc|nhwcToNchw"),
    ("matrix product", r"gemm|gemv|nvjet|cutlass|cublas|splitK|(?<![a-z])(?:add|b)?mm(?![a-z])|aten::linear|matmul"),
    ("normalization", r"layer_?norm|batch_?norm|GammaBeta|\bbn_|_bn_"),
    ("pooling", r"pool"),
    ("optimizer", r"adam|multi_tensor|foreach|sgd|lpnorm"),
    ("copy and cast", r"memcpy|memset|copy|CatArray|cat_|aten::(cat|clone|contiguous|fill_|zero_|pad|to\b)|transpose"),
    ("pointwise and reduction", r"elementwise|reduce|vectorized|gelu|aten::(add|mul|sub|div|sum|relu|threshold)"),
)
OTHER = "other"

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
    timing.let_go()
    on_gpu = torch.cuda.is_available()
    row = empty_row(case, batch_size)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    batch = random_clips(case.config, batch_size, torch.device("cuda" if on_gpu else "cpu"))
    started = time.perf_counter()
    step = training_step(case, batch, execution)
    for _ in range(3):
        step()
    if on_gpu:
        torch.cuda.synchronize()
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


def seconds_a_call(call: Callable[[], object], seconds: float) -> float:
    """Time a round of calls of about `seconds`: enqueued one after another, as in training, and waited for once."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    count = math.ceil(seconds / timer.timeit(2).median)
    return timer.timeit(max(2, count)).median


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


def family(name: str) -> str:
    """Return the family of a kernel or operator."""
    return next((title for title, pattern in FAMILIES if re.search(pattern, name, re.IGNORECASE)), OTHER)


def profile_steps(step: Callable[[], object], count: int = 3, trace: Path | None = None) -> list[Row]:
    """Run `step`, warm already, `count` times; return the columns of each family's record, the longest first.

    A chrome trace (chrome://tracing, ui.perfetto.dev) is written to `trace`.
    """
    on_gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        for _ in range(count):
            step()
        if on_gpu:
            torch.cuda.synchronize()
    if trace:
        trace.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(trace))
    times, calls = Counter(), Counter()
    for kernel in profiler.key_averages():
        if on_gpu and (kernel.device_type != DeviceType.CUDA or kernel.is_user_annotation):
            continue  # an annotation spans kernels that are counted already
        name = family(kernel.key)
        times[name] += kernel.self_device_time_total if on_gpu else kernel.self_cpu_time_total
        calls[name] += kernel.count
    total = sum(times.values()) or 1.0
    return [
        {"family": name, "us_per_step": spent / count, "share": spent / total, "calls_per_step": calls[name] / count}
        for name, spent in times.most_common()
        if spent
    ]
