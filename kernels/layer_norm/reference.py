"""LayerNorm followed by self-subtract in plain PyTorch: the specification of the kernel."""

from __future__ import annotations

import torch
import torch.nn.functional as functional

from kernels.self_subtract import difference_rows, difference_rows_adjoint


def layer_norm_difference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float = 1e-6, out_dtype: torch.dtype | None = None
) -> torch.Tensor:
    """`self_subtract(layer_norm(x))`: statistics and subtraction in float32 (float64 for float64), one rounding."""
    working = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        normalized = functional.layer_norm(x.to(working), (x.shape[-1],), weight.to(working), bias.to(working), eps)
        return difference_rows(normalized, 1).to(out_dtype or x.dtype)


def layer_norm_difference_backward(
    x: torch.Tensor, weight: torch.Tensor, grad_out: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of x (contiguous), weight and bias, written out without autograd.

    `g = difference_adjoint(dout), h = (x - mean) r, dx = r (w g - mean(w g) - h mean(w g h)),
    dweight = sum g h, dbias = sum g`.
    """
    working = torch.float64 if x.dtype == torch.float64 else torch.float32
    gradient = difference_rows_adjoint(grad_out.to(working), 1)
    variance, mean = torch.var_mean(x.to(working), -1, correction=0, keepdim=True)
    inverse = torch.rsqrt(variance + eps)
    normalized = (x.to(working) - mean) * inverse
    rows = tuple(range(x.ndim - 1))
    grad_weight, grad_bias = (gradient * normalized).sum(rows), gradient.sum(rows)
    gradient = gradient * weight.to(working)
    projection = (gradient * normalized).mean(-1, keepdim=True)
    grad_x = inverse * (gradient - gradient.mean(-1, keepdim=True) - normalized * projection)
    return grad_x.to(x.dtype).contiguous(), grad_weight.to(weight.dtype), grad_bias.to(weight.dtype)
