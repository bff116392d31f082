"""What a benchmark's clock and scales show."""

import gc
import time

import pytest
import torch

from bench.common import timing


@pytest.mark.gpu
def test_time_on_a_gpu_leaves_out_what_the_host_does_meanwhile():
    """Launching a kernel takes the host longer than many a kernel takes the GPU."""
    one = torch.zeros(1, device="cuda")

    def slow_to_launch():
        one.add_(1)
        time.sleep(1e-3)

    assert 0 < timing.time_call(slow_to_launch).median < 200
    assert timing.copy_bandwidth() < 20e12  # a GiB does take its time


@pytest.mark.gpu
def test_peak_memory_on_a_gpu_counts_gradients_right_after_another_backward_pass():
    """The thread of a backward pass lets go of gradients after the call has returned: they counted as held before."""
    x = torch.randn(1 << 24, device="cuda", requires_grad=True)
    y = torch.nn.functional.gelu(x)
    gradient = torch.ones_like(y)
    for _ in range(20):
        peak = timing.peak_bytes(lambda: torch.autograd.grad(y, x, gradient, retain_graph=True))
        assert x.nbytes <= peak <= x.nbytes + (1 << 21)


def test_peak_memory_on_a_cpu_leaves_out_what_earlier_calls_left_in_cycles():
    """Triton's interpreter keeps the tensors of its last launch in a cycle; released meanwhile, they count below 0."""

    class Keeps:
        def __init__(self):
            self.itself, self.tensor = self, torch.empty(1 << 20, dtype=torch.uint8)

    def allocates():
        gc.collect()
        return torch.empty(1 << 18, dtype=torch.uint8)

    gc.disable()
    try:
        timing.peak_bytes(Keeps, "cpu")
        assert timing.peak_bytes(allocates, "cpu") == 1 << 18
    finally:
        gc.enable()
