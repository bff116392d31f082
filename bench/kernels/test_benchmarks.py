"""The kernels and their peers as named, grouped benchmarks: `pytest bench/ --benchmark-json=now.json`.

Real shapes on a GPU, small ones on a CPU. What cannot run is skipped with the reason. Two files are compared by
`pytest-benchmark compare a.json b.json`.
"""

import time
from functools import partial

import pytest

pytest.importorskip("pytest_benchmark", reason="these are benchmarks for pytest-benchmark, which is not installed")

import torch

import kernels
from bench.kernels.peers import FLEX, PEERS, over_frames, over_positions, passes, reason
from kernels.layer_norm.reference import layer_norm_difference
from kernels.relevance import reference as relevance
from kernels.spatial.reference import spatial_attention
from kernels.temporal.reference import temporal_attention

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
DTYPE = torch.bfloat16 if ON_GPU else torch.float32
# Clips, frame rows, positions, heads, head_dim.
SHAPE = (8, 7, 362, 8, 96) if ON_GPU else (1, 7, 26, 2, 32)
KERNEL, REFERENCE = "kernel", "reference"


def peers(over):
    return {name: partial(over, attend, scale=SHAPE[-1] ** -0.5) for name, attend in PEERS.items()}


# By operation: functions of queries, keys and values; of tokens, weight and bias; of these and u and grad_out.
OPERATIONS = {
    "temporal attention": {KERNEL: kernels.temporal_attention, REFERENCE: temporal_attention} | peers(over_frames),
    "spatial attention": {KERNEL: kernels.spatial_attention, REFERENCE: spatial_attention} | peers(over_positions),
    "LayerNorm and difference": {KERNEL: kernels.layer_norm_difference, REFERENCE: layer_norm_difference},
    "temporal relevance map": {KERNEL: kernels.temporal_relevance_map, REFERENCE: relevance.temporal_relevance_map},
    "spatial relevance map": {KERNEL: kernels.spatial_relevance_map, REFERENCE: relevance.spatial_relevance_map},
}
CASES = [(operation, name) for operation, functions in OPERATIONS.items() for name in functions]


def seconds_of_the_device() -> float:
    """The clock, once the GPU has done what it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


# Several calls are timed together, so that launching one overlaps with running the one before, as in use.
pytestmark = [pytest.mark.benchmark(timer=seconds_of_the_device, min_time=0.01)] if ON_GPU else []


def call_of(operation, function, which):
    torch.manual_seed(0)
    if operation.endswith("map"):
        tensors = torch.randn(5, *SHAPE, device=DEVICE).unbind(0)
        return partial(function, *tensors, scale=SHAPE[-1] ** -0.5, clamp="after_mean")
    leaves = list(torch.randn(3, *SHAPE, device=DEVICE, dtype=DTYPE).unbind(0))
    if operation.startswith("LayerNorm"):
        channels = 728 if ON_GPU else 64
        x = torch.randn(*SHAPE[:3], channels, device=DEVICE, dtype=DTYPE)
        leaves = [x, *torch.randn(2, channels, device=DEVICE)]
    return passes(function, [x.requires_grad_() for x in leaves], torch.ones_like(leaves[0]))[which]


@pytest.mark.parametrize("which", ["forward", "both"])
@pytest.mark.parametrize(("operation", "name"), CASES)
def test_speed(benchmark, operation, name, which):
    if not ON_GPU and name in (KERNEL, FLEX):
        pytest.skip("Triton kernels need a GPU, and compiling for a CPU takes longer than it is worth here")
    if operation.endswith("map") and which == "both":
        pytest.skip("a relevance map has no backward pass")
    dtype = torch.float32 if operation.endswith("map") else DTYPE
    benchmark.group = f"{operation}, {which}, {'B{}-F{}-S{}-N{}-D{}'.format(*SHAPE)}-{str(dtype)[6:]}-{DEVICE}"
    call = call_of(operation, OPERATIONS[operation][name], which)
    refused = name in PEERS and reason(call)
    if refused:
        pytest.skip(refused)
    benchmark.extra_info["device"] = torch.cuda.get_device_name() if ON_GPU else "cpu"
    benchmark(call)
