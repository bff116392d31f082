"""LayerNorm and self-subtract in one pass over memory.

With `E` bytes in a tensor of the size of x, forward must read and write E, backward read 2 E and write E. The machine
code does so once, 16 bytes at a time where C is a multiple of 8 (`python -m bench compile`).
"""

from __future__ import annotations

import torch

from kernels.common.launch import runs_kernels
from kernels.common.validation import KERNEL_DTYPES, check_last_dimension, check_tensor
from kernels.layer_norm import reference
from kernels.layer_norm.operator import LARGEST_CHANNELS, LayerNormDifference

__all__ = ["layer_norm_difference"]


def layer_norm_difference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float = 1e-6, out_dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Return `self_subtract(layer_norm(x))` over the frame rows, with one rounding at the end (ISTVT, section III-B).

    Statistics and the subtraction are in float32 (float64 for float64 inputs), so neighboring frames that are nearly
    equal keep the digits in which they differ. CUDA tensors take the Triton kernels, CPU and float64 tensors the
    reference. Autocast changes nothing here: the output dtype is what `out_dtype` says.

    Args:
        x: `[B, F, S, C]` with `F >= 2`; float32, float16, bfloat16 or float64; C up to 8192 on a GPU.
        weight: `[C]`, floating-point, of any of these dtypes.
        bias: `[C]`, of the dtype of `weight`.
        eps: added to the variance.
        out_dtype: the dtype of x when not given.

    Returns:
        `[B, F, S, C]` in `out_dtype`; contiguous on a GPU.

    Raises:
        TypeError: an argument is no floating-point tensor.
        ValueError: shapes or devices do not fit, fewer than 2 frame rows, or (on a GPU) too many channels or a last
            dimension that is not contiguous.
    """
    check_tensor("x", x, "[B, F, S, C]")
    channels = x.shape[-1]
    for name, parameter in (("weight", weight), ("bias", bias)):
        check_tensor(name, parameter, "[C]")
        if parameter.shape[0] != channels:
            raise ValueError(f"{name} has shape {list(parameter.shape)} and x {list(x.shape)}; it takes [{channels}].")
        if parameter.device != x.device:
            raise ValueError(f"{name} is on {parameter.device} and x on {x.device}; they take one device.")
    if bias.dtype != weight.dtype:
        raise TypeError(f"bias is {bias.dtype} and weight is {weight.dtype}; they take one dtype.")
    if x.shape[1] < 2:
        raise ValueError(f"x has {x.shape[1]} frame rows; self-subtract takes 2 or more.")
    out_dtype = out_dtype or x.dtype
    if not out_dtype.is_floating_point:
        raise TypeError(f"out_dtype is {out_dtype}; it takes a floating-point type.")
    if not runs_kernels(x) or out_dtype not in KERNEL_DTYPES:
        return reference.layer_norm_difference(x, weight, bias, eps, out_dtype)
    if not 1 <= channels <= LARGEST_CHANNELS:
        raise ValueError(f"x has {channels} channels; the kernels take 1 to {LARGEST_CHANNELS}.")
    check_last_dimension("x", x)
    return LayerNormDifference.apply(x, weight.contiguous(), bias.contiguous(), eps, out_dtype)
