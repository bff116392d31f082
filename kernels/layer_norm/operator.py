"""LayerNorm and self-subtract as a PyTorch operator: kernel launches, registration, autograd."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch.autograd.function import once_differentiable
from triton import Config

from kernels.common.launch import ANY, Table, architecture, choose, launch, needs_int64_offsets
from kernels.common.registry import register
from kernels.common.strides import contiguous_rows, empty_like_contiguous
from kernels.layer_norm.kernels import layer_norm_difference_backward, layer_norm_difference_forward

Tensor = torch.Tensor

LARGEST_CHANNELS = 8192
# Partial sums of dw and db, one a program: the same number on every device, added up in a fixed order.
PARTIAL_SUMS = 1024

# Not measured; one row of channels to a program, enough warps that a row stays in registers. Bound: padded channels.
FORWARD, BACKWARD = (
    {ANY: [(bound, Config({}, num_warps=num_warps, num_stages=1)) for bound, num_warps in rows]}
    for rows in (
        [(1024, 1), (2048, 4), (LARGEST_CHANNELS, 8)],
        [(1024, 2), (2048, 8), (LARGEST_CHANNELS, 16)],
    )
)


def _config(table: Table, x: Tensor) -> Config:
    return choose(table, architecture(x), triton.next_power_of_2(x.shape[-1]))


def _layout(**tensors: Tensor) -> dict[str, int]:
    """Return the shape of `x`, and the strides of all `tensors` in units that divide them."""
    unit = math.gcd(16, *(stride for tensor in tensors.values() for stride in tensor.stride()[:-1]))
    _, frames, positions, channels = tensors["x"].shape
    layout = {
        "positions": positions,
        "FRAMES": frames,
        "CHANNELS": channels,
        "BLOCK_N": triton.next_power_of_2(channels),
        "UNIT": unit,
    }
    for name, tensor in tensors.items():
        for axis, stride in zip("bfs", tensor.stride()[:-1], strict=True):
            layout[f"stride_{name}{axis}"] = stride // unit
    return layout


def launch_forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor) -> None:
    """Write `out`, contiguous, in its dtype."""
    launch(
        layer_norm_difference_forward,
        x.shape[0] * x.shape[2],
        _config(FORWARD, x),
        x.device,
        x=x,
        weight=weight,
        bias=bias,
        out=out,
        eps=eps,
        **_layout(x=x),
        INT64_OFFSETS=needs_int64_offsets(x, out),
    )


def launch_backward(x: Tensor, weight: Tensor, grad_out: Tensor, eps: float, grad_x: Tensor) -> Tensor:
    """Write `grad_x`, contiguous; return partial sums of the gradients of weight and bias, `[2, programs, C]`."""
    grad_out = contiguous_rows(grad_out)
    rows = x.shape[0] * x.shape[2]
    programs = min(rows, PARTIAL_SUMS)
    partial = torch.empty((2, programs, x.shape[-1]), dtype=torch.float32, device=x.device)
    launch(
        layer_norm_difference_backward,
        programs,
        _config(BACKWARD, x),
        x.device,
        x=x,
        weight=weight,
        do=grad_out,
        dx=grad_x,
        partial_weight=partial[0],
        partial_bias=partial[1],
        eps=eps,
        rows=rows,
        programs=programs,
        **_layout(x=x, do=grad_out),
        INT64_OFFSETS=needs_int64_offsets(x, grad_out, grad_x),
    )
    return partial


def _fake_forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out_dtype: torch.dtype) -> Tensor:
    return torch.empty(x.shape, dtype=out_dtype, device=x.device)


def _forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out_dtype: torch.dtype) -> Tensor:
    out = _fake_forward(x, weight, bias, eps, out_dtype)
    launch_forward(x, weight, bias, eps, out)
    return out


def _fake_backward(x: Tensor, weight: Tensor, grad_out: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return empty_like_contiguous(x), torch.empty_like(weight), torch.empty_like(weight)


def _backward(x: Tensor, weight: Tensor, grad_out: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    grad_x = empty_like_contiguous(x)
    partial = launch_backward(x, weight, grad_out, eps, grad_x)
    return grad_x, partial[0].sum(0).to(weight.dtype), partial[1].sum(0).to(weight.dtype)


forward = register(
    "layer_norm_difference(Tensor x, Tensor weight, Tensor bias, float eps, ScalarType out_dtype) -> Tensor",
    kernel=_forward,
    fake=_fake_forward,
)
backward = register(
    "layer_norm_difference_backward(Tensor x, Tensor weight, Tensor grad_out, float eps) -> (Tensor, Tensor, Tensor)",
    kernel=_backward,
    fake=_fake_backward,
)


class LayerNormDifference(torch.autograd.Function):
    """Autograd of `layer_norm_difference`: saves x and the weight; backward recomputes the statistics."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, out_dtype: torch.dtype) -> Tensor:
        """Save x and the weight, and launch the forward kernel."""
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return forward(x, weight, bias, eps, out_dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        return *backward(x, weight, grad_out, ctx.eps), None, None
