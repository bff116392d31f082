"""Temporal attention as PyTorch operators: kernel launches, registration, autograd."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch.autograd.function import once_differentiable

from kernels.common.capture import AttentionCapture
from kernels.common.launch import Table, architecture, choose, launch, needs_int64_offsets, split_head_dim
from kernels.common.registry import register
from kernels.common.strides import LOG2_E, contiguous_rows, empty_like_contiguous, with_strides
from kernels.temporal import configs
from kernels.temporal.fp32_kernels import fp32_backward, fp32_forward
from kernels.temporal.tensor_core_kernels import tensor_core_backward, tensor_core_forward

Tensor = torch.Tensor


def _launch(tensor_core: tuple[Any, Table], fp32: tuple[Any, Table], self_subtract: str, **arguments: Any) -> None:
    """Launch one of two kernels, each given with its configs; `arguments` are its own, sizes apart.

    The tensor-core kernel pads all frames to a power of two, and serves 16-bit types in the modes "off" and
    "telescoped", as the models use them. The float32 kernel pads those of the queries, and serves the rest: float32,
    "fused" in 16 bits, and more frames than an architecture has a tensor-core tile for.
    """
    q, k = arguments["q"], arguments["k"]
    clips, frames, positions, heads, head_dim = k.shape
    padded = triton.next_power_of_2(frames)
    on_tensor_cores = q.dtype != torch.float32 and self_subtract != "fused"
    (kernel, table), sizes = tensor_core, {"PADDED_FRAMES": padded}
    config = choose(table, architecture(q), padded) if on_tensor_cores else None
    if config is None:
        kernel, table = fp32
        padded = triton.next_power_of_2(max(q.shape[1], 1))
        config = choose(table, architecture(q), padded)
        sizes = {"PADDED_QUERIES": padded, "STAGES": config.num_stages}
    block_d0, block_d1 = split_head_dim(head_dim)
    launch(
        kernel,
        clips * triton.cdiv(positions, config.kwargs["BLOCK_M"] // padded) * heads,
        config,
        q.device,
        positions=positions,
        heads=heads,
        QUERY_FRAMES=q.shape[1],
        FRAMES=frames,
        HEAD_DIM=head_dim,
        BLOCK_D0=block_d0,
        BLOCK_D1=block_d1,
        SELF_SUBTRACT=self_subtract,
        INT64_OFFSETS=needs_int64_offsets(*(x for x in arguments.values() if isinstance(x, Tensor))),
        **sizes,
        **arguments,
    )


def launch_forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, self_subtract: str, out: Tensor, attention: Tensor | None
) -> None:
    """Write `out` (and `attention` where given), both contiguous."""
    _launch(
        (tensor_core_forward, configs.TENSOR_CORE_FORWARD),
        (fp32_forward, configs.FP32_FORWARD),
        self_subtract,
        o=out,
        attention=attention,
        scale_log2=scale * LOG2_E,
        **with_strides(q=q, k=k, v=v),
    )


def launch_backward(
    q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor, scale: float, self_subtract: str,
    grad_q: Tensor, grad_k: Tensor, grad_v: Tensor, grad_attention: Tensor | None,
) -> None:  # fmt: skip
    """Write the three gradients (any strides, those of `grad_k` and `grad_v` equal), and d loss / d attention."""
    grad_out = contiguous_rows(grad_out)
    _launch(
        (tensor_core_backward, configs.TENSOR_CORE_BACKWARD),
        (fp32_backward, configs.FP32_BACKWARD),
        self_subtract,
        dv=grad_v,
        grad_attention=grad_attention,
        scale=scale,
        scale_log2=scale * LOG2_E,
        **with_strides(q=q, k=k, v=v, do=grad_out, dq=grad_q, dk=grad_k),
    )


def empty_attention(q: Tensor, k: Tensor, capture: bool = True) -> Tensor:
    """Return an uninitialized attention matrix `[B, S, N, F_q, F]`, float32; `[0]` without a capture."""
    clips, frames, positions, heads, _ = k.shape
    shape = (clips, positions, heads, q.shape[1], frames) if capture else (0,)
    return torch.empty(shape, dtype=torch.float32, device=q.device)


def _fake_forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, self_subtract: str, capture: bool
) -> tuple[Tensor, Tensor]:
    return empty_like_contiguous(q), empty_attention(q, k, capture)


def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float, self_subtract: str, capture: bool) -> tuple[Tensor, Tensor]:
    out, attention = _fake_forward(q, k, v, scale, self_subtract, capture)
    launch_forward(q, k, v, scale, self_subtract, out, attention if capture else None)
    return out, attention


def _fake_backward(
    q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor, scale: float, self_subtract: str, capture: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return *(empty_like_contiguous(x) for x in (q, k, v)), empty_attention(q, k, capture)


def _backward(
    q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor, scale: float, self_subtract: str, capture: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *gradients, grad_attention = _fake_backward(q, k, v, grad_out, scale, self_subtract, capture)
    launch_backward(q, k, v, grad_out, scale, self_subtract, *gradients, grad_attention if capture else None)
    return *gradients, grad_attention


def _fake_packed_backward(
    qkv: Tensor, grad_out: Tensor, scale: float, self_subtract: str, capture: bool
) -> tuple[Tensor, Tensor]:
    q, k, _ = qkv.unbind(3)
    return empty_like_contiguous(qkv), empty_attention(q, k, capture)


def _packed_backward(
    qkv: Tensor, grad_out: Tensor, scale: float, self_subtract: str, capture: bool
) -> tuple[Tensor, Tensor]:
    gradient, grad_attention = _fake_packed_backward(qkv, grad_out, scale, self_subtract, capture)
    q, k, v = qkv.unbind(3)
    emitted = grad_attention if capture else None
    launch_backward(q, k, v, grad_out, scale, self_subtract, *gradient.unbind(3), emitted)
    return gradient, grad_attention


forward = register(
    "temporal_attention(Tensor q, Tensor k, Tensor v, float scale, str self_subtract, bool capture)"
    " -> (Tensor, Tensor)",
    kernel=_forward,
    fake=_fake_forward,
)
backward = register(
    "temporal_attention_backward"
    "(Tensor q, Tensor k, Tensor v, Tensor grad_out, float scale, str self_subtract, bool capture)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    kernel=_backward,
    fake=_fake_backward,
)
packed_backward = register(
    "temporal_attention_packed_backward(Tensor qkv, Tensor grad_out, float scale, str self_subtract, bool capture)"
    " -> (Tensor, Tensor)",
    kernel=_packed_backward,
    fake=_fake_packed_backward,
)


class TemporalAttention(torch.autograd.Function):
    """Autograd of attention: of q, k and v, read in place by strides, or of one packed `[B, F, S, 3, N, D]`.

    The gradient of a packed product is written packed too, with no stacking copy.
    """

    @staticmethod
    def forward(
        ctx: Any, scale: float, self_subtract: str, capture: AttentionCapture | None, *tensors: Tensor
    ) -> Tensor:
        """Save the tensors; fill the capture's attention."""
        q, k, v = tensors if len(tensors) == 3 else tensors[0].unbind(3)
        out, attention = forward(q, k, v, scale, self_subtract, capture is not None)
        if capture is not None:
            capture.record(attention)
        ctx.save_for_backward(*tensors)
        ctx.options, ctx.capture = (scale, self_subtract), capture
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the tensors; fill the capture's gradient."""
        saved = ctx.saved_tensors
        gradients_of = backward if len(saved) == 3 else packed_backward
        *gradients, grad_attention = gradients_of(*saved, grad_out, *ctx.options, ctx.capture is not None)
        if ctx.capture is not None:
            ctx.capture.gradient = grad_attention
        return None, None, None, *gradients
