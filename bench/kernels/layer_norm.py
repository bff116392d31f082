"""The time of LayerNorm and difference in one kernel, against PyTorch's two steps and the byte floor."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from bench.kernels.temporal_peers import POSITIONS

if TYPE_CHECKING:
    import torch

    from bench.common.record import Row

CLIPS = (1, 8)


def measure(clips: int, dtype: torch.dtype, bandwidth: float, milliseconds: int) -> Iterator[Row]:
    """LayerNorm and difference, ours and PyTorch's two steps, against 2 and 3 tensors moved."""
    import torch

    from bench.common.timing import time_call
    from kernels import layer_norm_difference, self_subtract

    x = torch.randn(clips, 7, POSITIONS, 728, device="cuda").to(dtype).requires_grad_()
    weight, bias = (torch.randn(728, device="cuda").requires_grad_() for _ in range(2))
    grad_out = torch.randn_like(x)

    def eager(x: torch.Tensor) -> torch.Tensor:
        return self_subtract(torch.nn.functional.layer_norm(x, (728,), weight.to(dtype), bias.to(dtype), 1e-6))

    for name, function in (("ours", lambda x: layer_norm_difference(x, weight, bias)), ("eager", eager)):
        out = function(x)
        calls = {
            "forward": (2, partial(function, x.detach())),
            "backward": (3, partial(torch.autograd.grad, out, (x, weight, bias), grad_out, retain_graph=True)),
        }
        for which, (tensors, call) in calls.items():
            spent = time_call(call, milliseconds=milliseconds)
            floor = 1e6 * tensors * x.numel() * x.element_size() / bandwidth
            yield {
                "contender": name, "dtype": str(dtype).removeprefix("torch."), "clips": clips, "frames": 6,
                "positions": POSITIONS, "channels": 728, "pass": which, "microseconds": spent.median,
                "p20": spent.low, "p80": spent.high,
                "floor_microseconds": floor, "share_of_floor": floor / spent.median,
            }  # fmt: skip
