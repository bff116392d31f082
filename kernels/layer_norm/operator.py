"""LayerNorm and self-subtract as a PyTorch operator: what is launched, and how gradients flow."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from kernels.common.launch import ANY, Setting, Table, architecture, choose, launch, next_power_of_two, wide_offsets
from kernels.common.registry import register
from kernels.layer_norm.backward import layer_norm_difference_backward
from kernels.layer_norm.forward import layer_norm_difference_forward
from kernels.layer_norm.reference import layer_norm_difference as reference
from kernels.layer_norm.reference import layer_norm_difference_backward as reference_backward

Tensor = torch.Tensor

LARGEST_CHANNELS = 8192
# Sums of dweight and dbias are kept apart in as many programs, whatever the device, and added up in a fixed order.
PARTIAL_SUMS = 1024

# Not measured; one row of channels to a program, enough warps that a row stays in registers. Bound: padded channels.
FORWARD = {ANY: [(1024, Setting(rows=1, num_warps=1)), (2048, Setting(1, 4)), (LARGEST_CHANNELS, Setting(1, 8))]}
BACKWARD = {ANY: [(1024, Setting(rows=1, num_warps=2)), (2048, Setting(1, 8)), (LARGEST_CHANNELS, Setting(1, 16))]}


def _setting(table: Table[Setting], x: Tensor) -> Setting:
    return choose(table, architecture(x), next_power_of_two(x.shape[-1]))


def _layout(**tensors: Tensor) -> dict[str, int]:
    """Shape of `x`, and the strides of all `tensors` in units that divide them."""
    unit = math.gcd(16, *(stride for tensor in tensors.values() for stride in tensor.stride()[:-1]))
    layout = {
        "FRAMES": tensors["x"].shape[1],
        "CHANNELS": tensors["x"].shape[3],
        "COLUMNS": next_power_of_two(tensors["x"].shape[3]),
        "UNIT": unit,
    }
    for name, tensor in tensors.items():
        for axis, stride in zip(("clip", "frame", "position"), tensor.stride()[:-1], strict=True):
            layout[f"{name}_{axis}"] = stride // unit
    return layout


def launch_forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor) -> None:
    """Write `out`, contiguous, in its dtype."""
    clips, _, positions, _ = x.shape
    launch(
        layer_norm_difference_forward,
        clips * positions,
        _setting(FORWARD, x),
        x.device,
        x=x,
        weight=weight,
        bias=bias,
        out=out,
        eps=eps,
        positions=positions,
        **_layout(x=x),
        WIDE=wide_offsets(x, out),
    )


def launch_backward(x: Tensor, weight: Tensor, grad_out: Tensor, eps: float, grad_x: Tensor) -> Tensor:
    """Write `grad_x`, contiguous; return partial sums of the gradients of weight and bias, `[2, programs, C]`."""
    clips, _, positions, channels = x.shape
    if grad_out.stride(-1) != 1:  # the gradient of a sum arrives expanded
        grad_out = grad_out.contiguous()
    rows = clips * positions
    programs = min(rows, PARTIAL_SUMS)
    partial = torch.empty((2, programs, channels), dtype=torch.float32, device=x.device)
    launch(
        layer_norm_difference_backward,
        programs,
        _setting(BACKWARD, x),
        x.device,
        x=x,
        weight=weight,
        grad_out=grad_out,
        grad_x=grad_x,
        partial_weight=partial[0],
        partial_bias=partial[1],
        eps=eps,
        rows=rows,
        positions=positions,
        programs=programs,
        **_layout(x=x, grad_out=grad_out),
        WIDE=wide_offsets(x, grad_out, grad_x),
    )
    return partial


def _forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out_dtype: torch.dtype) -> Tensor:
    out = torch.empty(x.shape, dtype=out_dtype, device=x.device)
    launch_forward(x, weight, bias, eps, out)
    return out


def _backward(x: Tensor, weight: Tensor, grad_out: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    partial = launch_backward(x, weight, grad_out, eps, grad_x)
    return grad_x, partial[0].sum(0).to(weight.dtype), partial[1].sum(0).to(weight.dtype)


def _fake_backward(x: Tensor, weight: Tensor, grad_out: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return grad_x, torch.empty_like(weight), torch.empty_like(weight)


forward = register(
    "layer_norm_difference(Tensor x, Tensor weight, Tensor bias, float eps, ScalarType out_dtype) -> Tensor",
    kernel=_forward,
    reference=lambda x, weight, bias, eps, out_dtype: reference(x, weight, bias, eps, out_dtype).contiguous(),
    fake=lambda x, weight, bias, eps, out_dtype: torch.empty(x.shape, dtype=out_dtype, device=x.device),
)
backward = register(
    "layer_norm_difference_backward(Tensor x, Tensor weight, Tensor grad_out, float eps) -> (Tensor, Tensor, Tensor)",
    kernel=_backward,
    reference=reference_backward,
    fake=_fake_backward,
)


class LayerNormDifference(torch.autograd.Function):
    """Nothing but x and the weight is kept: the backward pass recomputes the statistics."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, out_dtype: torch.dtype) -> Tensor:
        """Keep x and the weight."""
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return forward(x, weight, bias, eps, out_dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """All three gradients at once."""
        x, weight = ctx.saved_tensors
        return *backward(x, weight, grad_out, ctx.eps), None, None
