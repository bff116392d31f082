"""Kernel families of a training step: the kernels of a profile, added up by what they compute."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

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


@cache  # a step starts the same kernels again and again
def family(name: str) -> str:
    """Return the family of a kernel or operator."""
    return next((title for title, pattern in FAMILIES if re.search(pattern, name, re.IGNORECASE)), OTHER)


def profile_steps(step: Callable[[], object], count: int = 3, trace: Path | None = None) -> list[dict[str, Any]]:
    """Run `step` `count` times and return the columns of each family's record, the longest first.

    Args:
        step: already warm.
        count: steps to profile.
        trace: where to write a chrome trace (chrome://tracing, ui.perfetto.dev).
    """
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        for _ in range(count):
            step()
        if on_gpu:
            torch.cuda.synchronize()
    if trace:
        trace.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(trace))
    times, calls = Counter(), Counter()
    for event in profiler.events():
        if on_gpu and (event.device_type != DeviceType.CUDA or event.is_user_annotation):
            continue  # an annotation spans kernels that are counted already
        name = family(event.name)
        times[name] += event.time_range.elapsed_us() if on_gpu else event.self_cpu_time_total
        calls[name] += 1
    total = sum(times.values()) or 1.0
    return [
        {"family": name, "us_per_step": spent / count, "share": spent / total, "calls_per_step": calls[name] / count}
        for name, spent in times.most_common()
        if spent
    ]
