"""Checks of kernel arguments: each error is one sentence with the argument, its value and what it takes."""

from __future__ import annotations

import math

import torch

KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LARGEST_HEAD_DIM = 128
LARGEST_FRAMES = 128


def to_autocast_dtype(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Cast floating-point tensors (but float64) to autocast's dtype where it is on, as PyTorch's own attention does."""
    return tuple(
        x.to(torch.get_autocast_dtype(x.device.type))
        if isinstance(x, torch.Tensor)
        and x.dtype in KERNEL_DTYPES
        and x.device.type in ("cpu", "cuda")
        and torch.is_autocast_enabled(x.device.type)
        else x
        for x in tensors
    )


def check_tensor(name: str, x: torch.Tensor, shape: str) -> None:
    """Check that `x` is a floating-point tensor with the dimensions that `shape` names (`"[B, F, S, N, D]"`)."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}; it takes a tensor {shape}.")
    if x.ndim != shape.count(",") + 1:
        raise ValueError(f"{name} has shape {list(x.shape)}; it takes {shape}.")
    if x.dtype not in (*KERNEL_DTYPES, torch.float64):
        raise TypeError(f"{name} is {x.dtype}; it takes float32, float16 or bfloat16 (float64 on the reference path).")


def check_alike(name: str, x: torch.Tensor, other_name: str, other: torch.Tensor) -> None:
    """Check that `x` shares device and dtype with `other`."""
    if x.device != other.device:
        raise ValueError(f"{name} is on {x.device} and {other_name} on {other.device}; they take one device.")
    if x.dtype != other.dtype:
        raise TypeError(f"{name} is {x.dtype} and {other_name} is {other.dtype}; they take one dtype.")


def check_last_dimension(name: str, x: torch.Tensor) -> None:
    """Check that the last dimension of `x` is contiguous: kernels read rows of it."""
    if x.shape[-1] > 1 and x.stride(-1) != 1 and x.numel():
        raise ValueError(
            f"{name} has stride {x.stride(-1)} in its last dimension; it takes a contiguous one (stride 1)."
        )


def attention_scale(scale: float | None, head_dim: int) -> float:
    """Return the factor of scores before the softmax: `scale`, or `head_dim ** -0.5` where that is None."""
    scale = head_dim**-0.5 if scale is None else float(scale)
    if not math.isfinite(scale):
        raise ValueError(f"scale is {scale}; it takes a finite number.")
    return scale


def check_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, fewer_queries_in: int) -> None:
    """Check that queries, keys and values `[B, F, S, N, D]` fit; q may hold fewer (leading) rows in one dimension."""
    shape = "[B, F, S, N, D]"
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_tensor(name, x, shape)
    check_alike("k", k, "q", q)
    check_alike("v", v, "q", q)
    if v.shape != k.shape:
        raise ValueError(f"v has shape {list(v.shape)} and k {list(k.shape)}; they take the same {shape}.")
    rows, expected = q.shape[fewer_queries_in], list(k.shape)
    expected[fewer_queries_in] = rows
    if list(q.shape) != expected or rows > k.shape[fewer_queries_in]:
        axis = "BFSND"[fewer_queries_in]
        raise ValueError(
            f"q has shape {list(q.shape)} and k {list(k.shape)}; it takes k's shape, or fewer leading rows in {axis}."
        )
    if k.shape[-1] < 1:
        raise ValueError(f"k has shape {list(k.shape)}; head_dim D takes 1 or more.")


def check_packed(qkv: torch.Tensor) -> None:
    """Check that `qkv` is `[B, F, S, 3, N, D]`."""
    shape = "[B, F, S, 3, N, D]"
    check_tensor("qkv", qkv, shape)
    if qkv.shape[3] != 3:
        raise ValueError(f"qkv has shape {list(qkv.shape)}; it takes {shape}.")


def check_kernel_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """Check what only the kernels ask for: head_dim and memory layout."""
    if k.shape[-1] > LARGEST_HEAD_DIM:
        raise ValueError(f"k has head_dim {k.shape[-1]}; the kernels take head_dim 1 to {LARGEST_HEAD_DIM}.")
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_last_dimension(name, x)
