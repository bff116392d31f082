"""Clips a second, FLOP utilization and peak memory of a training step: this project against plain PyTorch.

Methods, each forward, backward, gradient clipping and AdamW on random clips that are on the device already:

- naive eager: the model in plain PyTorch, attention matrices stored (bench/training/baseline_model.py);
- eager SDPA: the same with PyTorch's fused attention over time and over space, fused optimizer;
- compiled SDPA: that under torch.compile;
- this project: `istvt.training.step.TrainingStep` of an accelerated `istvt.ISTVT`, as `istvt train` runs it, compiled;
- this project, CUDA graphs: the same, replayed, as `istvt train --training.execution=cuda_graphs` runs it.

Utilization counts 3 x 2 x the multiply-accumulates of istvt/model/flops.py a clip (padding not counted, every layer
over the whole grid), over the device's peak; "needed" counts only what the logit needs, without what
the last block leaves out. Real sizes need a GPU; on a CPU the preset `small` runs as a check that all of it works.
"""

import argparse
import contextlib
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

from bench.ceilings import product_rate
from bench.common import timing
from bench.common.environment import require_gpu
from bench.common.process_pool import one_line
from bench.common.record import Row, at_least_one
from bench.common.tasks import OTHERS, Task
from bench.training import steps
from bench.training.flops import needed_flops, useful_flops
from bench.training.steps import ATTENTIONS, BATCH, METHODS, PRECISIONS, Case
from istvt.config import PRESETS

MILLISECONDS = 1000
# What runs on a CPU unless asked for otherwise: compiling for one takes minutes and says nothing of a GPU.
ON_CPU = ("this project", "naive eager", "eager SDPA")
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

# Dense peak of the data sheets, FLOP/s (NVIDIA A100, H100 SXM and H200 SXM data sheets; half of "with sparsity").
_HOPPER = {"bfloat16": 989.4e12, "tf32": 494.7e12, "float32": 66.9e12}
DATA_SHEET = {
    "A100": {"bfloat16": 312e12, "tf32": 156e12, "float32": 19.5e12}, "H100 80GB HBM3": _HOPPER, "H200": _HOPPER,
}  # fmt: skip


def measure(case: Case, batch_size: int, execution: str, seconds: float, trace: Path | None = None) -> Row:
    """Train some steps and return what was measured, with the profile's families under "families".

    Memory is the most of all steps, the first ones included, beyond what was held before: replaying CUDA graphs
    allocates nothing, so that what they use shows only when they are recorded.
    """
    peaks, on_gpu = peak_rates(), torch.cuda.is_available()
    timing.let_go()
    row: Row = {}
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    batch = steps.random_clips(case.config, batch_size, torch.device("cuda" if on_gpu else "cpu"))
    started = time.perf_counter()
    try:
        step = steps.training_step(case, batch, execution)
        for _ in range(3):
            step()
        if on_gpu:
            torch.cuda.synchronize()
        row["first_steps_s"] = time.perf_counter() - started
        per_step = seconds_a_call(step, seconds)
        if on_gpu:  # reserved: tensors, the pools that recorded graphs keep, and gaps between them
            row["peak_bytes"] = torch.cuda.max_memory_allocated() - before[0]
            row["reserved_bytes"] = torch.cuda.max_memory_reserved() - before[1]
        row |= {"step_ms": 1e3 * per_step, "clips_per_second": batch_size / per_step}
        for (of, precision), peak in peaks.items():
            if precision == case.precision:
                for name, flops in zip(("utilization", "needed"), work(case).values(), strict=True):
                    row[f"{name}_{of}"] = flops * row["clips_per_second"] / peak
        try:
            row["families"] = profile_steps(step, trace=trace)
        except Exception as error:  # the step is measured all the same
            row["note"] = f"no profile: {one_line(error)}"
        return row
    finally:
        with contextlib.suppress(Exception):  # it asks the GPU, which may have been broken
            torch._dynamo.reset()


def work(case: Case) -> Row:
    """Return the floating-point operations of a clip, as published tables count, and without what no logit needs."""
    return {"flops_per_clip": useful_flops(case.config), "needed_flops_per_clip": needed_flops(case.config)}


def seconds_a_call(call: Callable[[], object], seconds: float) -> float:
    """Time a round of calls of about `seconds`: enqueued one after another, as in training, and waited for once."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    count = math.ceil(seconds / timer.timeit(2).median)
    return timer.timeit(max(2, count)).median


@cache
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
    return next((title for title, pattern in FAMILIES if re.search(pattern, name, re.IGNORECASE)), "other")


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to train and for how long."""
    for name, choices in zip(Case._fields, (PRESETS, ATTENTIONS, PRECISIONS, METHODS), strict=True):
        parser.add_argument(f"--{name}", action="append", choices=choices, help="only this (repeatable)")
    parser.add_argument("--batch", type=at_least_one, default=None, help=f"clips a step (default {BATCH}; 2 on a CPU)")
    parser.add_argument("--execution", choices=("eager", "compile", "cuda_graphs"), help="of this project")
    parser.add_argument("--trace", type=Path, help="folder for a chrome trace of each record's steps")


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """Yield a record a case; where the time of a step goes is in `training_families`."""
    on_gpu = torch.cuda.is_available()
    presets = tuple(arguments.preset or (("seed", "published") if on_gpu else ("small",)))
    if set(presets) - {"small"}:
        require_gpu("training of the presets seed and published")
    batch = arguments.batch or (BATCH if on_gpu else 2)
    execution = arguments.execution or ("compile" if on_gpu else "eager")
    precisions = arguments.precision or (PRECISIONS if on_gpu else ("float32", "bfloat16"))
    methods = arguments.method or (METHODS if on_gpu else ON_CPU)

    def measured(case: Case) -> Row:
        trace = arguments.trace and arguments.trace / f"{'-'.join(case).replace(' ', '_')}.json"
        found = measure(case, batch, execution, 1e-3 * arguments.milliseconds, trace)
        parts = [case._asdict() | {"batch": batch} | part for part in found.pop("families", [])]
        return found | {OTHERS: {"training_families": parts}}

    for case in steps.ordered_cases(presets, precisions, methods, arguments.attention or ATTENTIONS):
        yield Task("training", case._asdict() | {"batch": batch} | work(case), partial(measured, case))
