"""The kernels and their peers as named, grouped benchmarks: `pytest bench/ --benchmark-json=now.json`.

Real shapes on a GPU, small ones on a CPU. Who cannot run is skipped with the reason. Two files are compared by
`pytest-benchmark compare a.json b.json`.
"""

import time
from collections.abc import Callable
from functools import partial

import pytest

pytest.importorskip("pytest_benchmark", reason="these are benchmarks for pytest-benchmark, which is not installed")

import torch

from bench.kernels.peers import PEERS, over_frames, over_positions
from kernels import (
    layer_norm_difference,
    spatial_attention,
    spatial_relevance_map,
    temporal_attention,
    temporal_relevance_map,
)
from kernels.layer_norm.reference import layer_norm_difference as plain_layer_norm_difference
from kernels.relevance import reference as plain_relevance
from kernels.spatial.reference import spatial_attention as plain_spatial_attention
from kernels.temporal.reference import temporal_attention as plain_temporal_attention

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
DTYPE = torch.bfloat16 if ON_GPU else torch.float32
# Clips, frame rows, positions, heads, head_dim.
SHAPE = (8, 7, 362, 8, 96) if ON_GPU else (1, 7, 26, 2, 32)
SHAPE_NAME = "B{}-F{}-S{}-N{}-D{}".format(*SHAPE) + f"-{str(DTYPE).removeprefix('torch.')}-{DEVICE}"
PASSES = ("forward", "forward and backward")

KERNEL = "kernel"
REFERENCE = "reference"


def peers(over: Callable) -> dict[str, Callable]:
    def on_five_dimensions(attend, q, k, v):
        return over(attend, q, k, v, q.shape[-1] ** -0.5)

    return {name: partial(on_five_dimensions, attend) for name, attend in PEERS.items()}


ATTENTIONS = {
    "temporal attention": {KERNEL: temporal_attention, REFERENCE: plain_temporal_attention} | peers(over_frames),
    "spatial attention": {KERNEL: spatial_attention, REFERENCE: plain_spatial_attention} | peers(over_positions),
}
NORMALIZATIONS = {KERNEL: layer_norm_difference, REFERENCE: plain_layer_norm_difference}
MAPS = {
    "temporal relevance map": {KERNEL: temporal_relevance_map, REFERENCE: plain_relevance.temporal_relevance_map},
    "spatial relevance map": {KERNEL: spatial_relevance_map, REFERENCE: plain_relevance.spatial_relevance_map},
}


def seconds_of_the_device() -> float:
    """The clock, once the GPU has done what it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


# Several calls are timed together, so that launching one overlaps with running the one before, as in use.
pytestmark = [pytest.mark.benchmark(timer=seconds_of_the_device, min_time=0.01)] if ON_GPU else []


def measure(benchmark, name: str, call: Callable[[], object]) -> None:
    """Run it once to see whether it can run, then time it, the device included. A peer may refuse; ours may not."""

    try:
        call()
        if ON_GPU:
            torch.cuda.synchronize()
    except Exception as error:
        if name not in PEERS:
            raise
        pytest.skip(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
    benchmark.extra_info["device"] = torch.cuda.get_device_name() if ON_GPU else "cpu"
    benchmark(call)


def skip_where_it_cannot_run(name: str) -> None:
    if ON_GPU:
        return
    if name == KERNEL:
        pytest.skip("Triton kernels need a GPU; in the interpreter time means nothing")
    if name == "flex compiled":
        pytest.skip("compiling for a CPU takes longer than it is worth here")


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize(("operation", "name"), [(o, n) for o, them in ATTENTIONS.items() for n in them])
def test_attention(benchmark, operation, name, which):
    skip_where_it_cannot_run(name)
    benchmark.group = f"{operation}, {which}, {SHAPE_NAME}"
    attend, backward = ATTENTIONS[operation][name], which != PASSES[0]
    clips, frames, positions, heads, head_dim = SHAPE
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(clips, frames, positions, 3, heads, head_dim, generator=generator).to(DEVICE, DTYPE)
    qkv.requires_grad_(backward)
    grad_out = torch.ones_like(qkv[:, :, :, 0])

    def call():
        out = attend(*qkv.unbind(3))
        return torch.autograd.grad(out, qkv, grad_out) if backward else out

    measure(benchmark, name, call)


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_layer_norm_difference(benchmark, name, which):
    skip_where_it_cannot_run(name)
    benchmark.group = f"LayerNorm and difference, {which}, {SHAPE_NAME}"
    function, backward = NORMALIZATIONS[name], which != PASSES[0]
    channels = 728 if ON_GPU else 64
    x = torch.randn(*SHAPE[:3], channels, device=DEVICE, dtype=DTYPE, requires_grad=backward)
    weight, bias = (torch.randn(channels, device=DEVICE, requires_grad=backward) for _ in range(2))
    grad_out = torch.ones_like(x)

    def call():
        out = function(x, weight, bias, 1e-6)
        return torch.autograd.grad(out, (x, weight, bias), grad_out) if backward else out

    measure(benchmark, name, call)


@pytest.mark.parametrize(("operation", "name"), [(o, n) for o, them in MAPS.items() for n in them])
def test_relevance_map(benchmark, operation, name):
    skip_where_it_cannot_run(name)
    benchmark.group = f"{operation}, {SHAPE_NAME.replace(str(DTYPE)[6:], 'float32')}"
    tensors = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0)).to(DEVICE).unbind(0)
    options = {"scale": SHAPE[-1] ** -0.5, "clamp": "after_mean"}
    measure(benchmark, name, lambda: MAPS[operation][name](*tensors, **options))
