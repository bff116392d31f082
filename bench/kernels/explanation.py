"""What explaining costs as a whole: memory beside the published method's storage, time beside a training step.

Memory is the most that PyTorch's allocations held while one clip was explained, beyond what was there before: the
model's weights and the clip (or its tokens). From a clip everybody computes the backbone too; the published method,
which keeps the autograd graph of the whole forward pass, keeps that of the backbone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch

from bench.common import cpu_timing as processor_timing
from bench.common import timing
from bench.common.record import NOT_MEASURED, Row, failure
from bench.kernels import chefer_baseline as published_storage
from bench.training.cases import Case
from bench.training.steps import Clips, random_clips, training_step
from istvt.config import preset as preset_named
from istvt.device import allow_tf32
from istvt.explain import explain
from istvt.model.istvt import ISTVT

LIGHT = "this project"
REFERENCE = "published storage"
# From a model and a clip or its tokens to heatmaps, by what is stored on the way.
STORAGES: dict[str, Callable[..., Any]] = {
    LIGHT: explain,
    "this project, keep_maps": lambda model, **of: explain(model, **of, keep_maps=True),
    REFERENCE: published_storage.explain,
    "published storage, parameter gradients too": lambda model, **of: published_storage.explain(
        model, **of, parameter_gradients=True
    ),
}
QUICK_STORAGES = (LIGHT, REFERENCE)

# Arithmetic of the explanation and precision of the training step that it is compared with.
PAIRS = (("float32", "float32"), ("float32", "bfloat16"), ("tf32", "tf32"), ("tf32", "bfloat16"))


def measure_memory(preset: str, device: torch.device, storages: Sequence[str] = tuple(STORAGES)) -> Iterator[Row]:
    """Peak memory of explaining one clip, a row for each storage and for each start: the clip or its tokens.

    Args:
        preset: of the model, with random weights.
        device: where.
        storages: names of `STORAGES`, `LIGHT` first: `over_light` divides by it.
    """
    model = _model(preset, device)
    clip = random_clips(model.config, 1, device).clips
    with torch.no_grad():
        tokens = model.tokenize(clip)
    for start, given in (("clip", {"clips": clip}), ("tokens", {"tokens": tokens})):
        light = None
        for name in storages:
            row: Row = {
                "preset": preset, "storage": name, "from": start, "clips": 1, "dtype": "float32",
                "head_dim": model.config.resolved_head_dim, "peak_bytes": None, "over_light": None, "note": "",
            }  # fmt: skip

            def call(name=name, given=given) -> object:
                return STORAGES[name](model, **given)

            def weigh(call=call) -> int:
                if device.type == "cpu":
                    return processor_timing.peak_bytes(call)
                call()  # what stays after the first call, such as workspaces of libraries, is not the explanation's
                return timing.peak_bytes(call)

            peak, row["note"] = _measured(weigh)
            row["peak_bytes"] = peak
            light = peak if name == LIGHT else light
            if peak and light:
                row["over_light"] = peak / light
            yield row


def measure_time(
    preset: str, clips: int, device: torch.device, milliseconds: int, execution: str | None = "compile"
) -> Iterator[Row]:
    """Time of explaining a batch and of training a step of it, a row for each of `PAIRS`.

    Args:
        preset: of the model, with random weights.
        clips: in the batch.
        device: where.
        milliseconds: spent on each measurement.
        execution: of the training step, as in `bench training`; None leaves training to that command.
    """
    batch = random_clips(preset_named(preset), clips, device)

    @cache
    def explained(arithmetic: str) -> tuple[float | None, str]:
        return _measured(lambda: _explanation(preset, arithmetic, batch, milliseconds))

    @cache
    def trained(precision: str) -> tuple[float | None, str]:
        if not execution:
            return None, "the training step is timed by bench training"
        return _measured(lambda: _training_step(preset, precision, batch, execution, milliseconds))

    for arithmetic, precision in PAIRS:
        (spent, refused), (step, no_step) = explained(arithmetic), trained(precision)
        yield {
            "preset": preset, "clips": clips, "arithmetic": arithmetic, "training": precision, "explain_ms": spent,
            "training_ms": step, "ratio": spent / step if spent and step else None, "note": refused or no_step,
        }  # fmt: skip


def _model(preset: str, device: torch.device) -> ISTVT:
    torch.manual_seed(0)
    return ISTVT(preset_named(preset)).to(device).eval()


def _explanation(preset: str, arithmetic: str, batch: Clips, milliseconds: int) -> float:
    model = _model(preset, batch.clips.device)
    allow_tf32(arithmetic == "tf32")
    try:
        return _milliseconds(lambda: explain(model, batch.clips), milliseconds)
    finally:
        allow_tf32(False)


def _training_step(preset: str, precision: str, batch: Clips, execution: str, milliseconds: int) -> float:
    step = training_step(Case(preset, "full", precision, "this project"), batch, execution)
    try:
        for _ in range(2):
            step()
        return _milliseconds(step, milliseconds)
    finally:
        allow_tf32(False)


def _milliseconds(call: Callable[[], object], milliseconds: int) -> float:
    """On the clock, from the first launch to the last result: an explanation launches thousands of small kernels."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    call()
    wait()
    times: list[float] = []
    while len(times) < 3 or 1e3 * sum(times) < milliseconds:
        started = time.perf_counter()
        call()
        wait()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def _measured(function: Callable[[], Any]) -> tuple[Any, str]:
    """What it gives, or None and why it could not be measured."""
    try:
        return function(), ""
    except torch.OutOfMemoryError:
        return None, f"{NOT_MEASURED}: out of memory"
    except Exception as error:
        return None, failure(error)
    finally:
        timing.let_go()
