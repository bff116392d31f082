"""What the tests of the operators share: a block's output with all its gradients, and when two of them are the same."""

import torch


def results(block, frames, run=None, dtype=None):
    """Output and every gradient of a block of 16 channels, on tokens of 2 clips with 5 positions."""
    x = torch.randn(2, frames, 5, 16, generator=torch.Generator().manual_seed(2)).requires_grad_()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        out = (block if run is None else run)(x)
    gradients = torch.autograd.grad(out.float().square().sum(), [x, *block.parameters()])
    return [out.detach().float(), *gradients]


def assert_same(found, expected, tolerance=1e-5):
    for x, y in zip(found, expected, strict=True):
        assert (x - y).norm() <= tolerance * y.norm()
