"""Memory of explaining a clip beside the published method's storage, and its time beside a training step.

Memory is the most that PyTorch's allocations held while one clip was explained, beyond what was there before: the
model's weights and the clip (or its tokens). From a clip every method computes the backbone too; the published method,
which keeps the autograd graph of the whole forward pass, keeps that of the backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import torch

from bench.common import timing
from bench.common.record import Row
from bench.kernels import chefer_baseline
from bench.training.measurement import seconds_a_call
from bench.training.steps import Case, random_clips, training_step
from istvt.config import preset as preset_named
from istvt.device import allow_tf32
from istvt.explain import explain
from istvt.model.istvt import ISTVT

LIGHT = "this project"
REFERENCE = "published storage"
# From a model and a clip or its tokens to heatmaps, by what is stored on the way.
STORAGES: dict[str, Callable[..., Any]] = {
    LIGHT: explain,
    "this project, keep_maps": partial(explain, keep_maps=True),
    REFERENCE: chefer_baseline.explain,
    "published storage, parameter gradients too": partial(chefer_baseline.explain, parameter_gradients=True),
}
QUICK_STORAGES = (LIGHT, REFERENCE)

# Arithmetic of the explanation and precision of the training step that it is compared with.
PAIRS = (("float32", "float32"), ("float32", "bfloat16"), ("tf32", "tf32"), ("tf32", "bfloat16"))


def measure_memory(preset: str, device: torch.device, storages: Sequence[str] = tuple(STORAGES)) -> Iterator[Row]:
    """Yield peak memory of explaining one clip with random weights, for each storage, from the clip and its tokens.

    Of `storages` `LIGHT` comes first: `over_light` divides by it.
    """
    model = _model(preset, device)
    clip = random_clips(model.config, 1, device).clips
    with torch.no_grad():
        tokens = model.tokenize(clip)

    def peak_bytes(call: Callable[[], object]) -> int:
        if device.type == "cuda":
            call()  # what stays after the first call, such as workspaces of libraries, is not the explanation's
        return timing.peak_bytes(call, device.type)

    for start, given in (("clip", {"clips": clip}), ("tokens", {"tokens": tokens})):
        light = None
        for name in storages:
            peak, note = timing.attempt(partial(peak_bytes, partial(STORAGES[name], model, **given)))
            light = peak if name == LIGHT else light
            yield {
                "preset": preset, "storage": name, "from": start, "clips": 1, "dtype": "float32",
                "head_dim": model.config.resolved_head_dim, "peak_bytes": peak,
                "over_light": peak / light if peak and light else None, "note": note,
            }  # fmt: skip


def measure_time(
    preset: str, clips: int, device: torch.device, milliseconds: int, execution: str | None = "compile"
) -> Iterator[Row]:
    """Yield the time of explaining a batch and of training a step of it, a record for each of `PAIRS`.

    `execution` is that of the training step, as in `bench training`; None leaves training to that command.
    """
    batch = random_clips(preset_named(preset), clips, device)

    def attempt_ms(prepare: Callable[[], Callable[[], object]]) -> tuple[float | None, str]:
        return timing.attempt(lambda: 1e3 * seconds_a_call(prepare(), 1e-3 * milliseconds))

    @cache
    def explained(arithmetic: str) -> tuple[float | None, str]:
        allow_tf32(arithmetic == "tf32")
        return attempt_ms(lambda: partial(explain, _model(preset, device), batch.clips))

    @cache
    def trained(precision: str) -> tuple[float | None, str]:
        if not execution:
            return None, "the training step is timed by bench training"
        case = Case(preset, "full", precision, "this project")
        return attempt_ms(partial(training_step, case, batch, execution))

    for arithmetic, precision in PAIRS:
        (spent, refused), (step, no_step) = explained(arithmetic), trained(precision)
        yield {
            "preset": preset, "clips": clips, "arithmetic": arithmetic, "training": precision, "explain_ms": spent,
            "training_ms": step, "ratio": spent / step if spent and step else None, "note": refused or no_step,
        }  # fmt: skip
    allow_tf32(False)


def _model(preset: str, device: torch.device) -> ISTVT:
    torch.manual_seed(0)
    return ISTVT(preset_named(preset)).to(device).eval()
