"""What handing out attention and its gradient adds to the time of spatial attention, over their byte floor."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from bench.kernels.shapes import HEADS, Shape, described, inputs, spatial
from kernels.common.launch import padded_head_dim

if TYPE_CHECKING:
    import torch

    from bench.common.record import Row

# Beside the paper's shape.
SHAPES = [spatial(1, cells) for cells in (49, 196, 361, 1024, 2304)]
HEAD_DIMS = (64, 91)


def measure(
    shape: Shape, head_dim: int, dtype: torch.dtype, bandwidth: float, milliseconds: int, *, device: str = "cuda"
) -> Iterator[Row]:
    """A row for attention (forward) and one for its gradient (backward): their bytes at write `bandwidth`."""
    import torch

    from bench.common.timing import time_call
    from bench.kernels.peers import reason
    from kernels import AttentionCapture, spatial_attention

    qkv, grad_out = inputs(shape, padded_head_dim(head_dim), dtype, device)
    leaves = [x.detach().requires_grad_() for x in qkv.unbind(3)]

    def forward(capture: AttentionCapture | None) -> torch.Tensor:
        return spatial_attention(*leaves, scale=head_dim**-0.5, capture=capture)

    matrix_bytes = 4 * shape.clips * shape.rows * HEADS * shape.positions**2
    row = described(shape, head_dim, dtype) | {"emitted_bytes": matrix_bytes}
    refused = reason(lambda: torch.autograd.grad(forward(AttentionCapture()), leaves, grad_out))
    if refused:
        yield row | {"note": refused}
        return
    outs = {captured: forward(AttentionCapture() if captured else None) for captured in (False, True)}
    calls = {
        ("forward", captured): (lambda captured=captured: forward(AttentionCapture() if captured else None))
        for captured in outs
    } | {
        ("backward", captured): partial(torch.autograd.grad, out, leaves, grad_out, retain_graph=True)
        for captured, out in outs.items()
    }
    floor = 1e6 * matrix_bytes / bandwidth
    for which in ("forward", "backward"):
        plain, captured = (time_call(calls[which, key], milliseconds=milliseconds).median for key in (False, True))
        added = captured - plain
        yield row | {
            "pass": which, "microseconds": plain, "microseconds_with_capture": captured, "added_microseconds": added,
            "floor_microseconds": floor, "added_over_floor": added / floor,
        }  # fmt: skip
