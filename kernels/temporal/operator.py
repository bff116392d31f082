"""Temporal attention as PyTorch operators: what is launched, and how gradients flow."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from kernels.common.capture import AttentionCapture
from kernels.common.launch import (
    Setting,
    Table,
    architecture,
    choose,
    launch,
    next_power_of_two,
    split_head_dim,
    wide_offsets,
)
from kernels.common.registry import register
from kernels.common.strides import LOG2_E, empty_gradients, empty_out, strides
from kernels.temporal import configs as settings
from kernels.temporal.fp32_backward import exact_backward
from kernels.temporal.fp32_kernels import exact_forward
from kernels.temporal.reference import temporal_attention as reference
from kernels.temporal.reference import temporal_attention_backward as reference_backward
from kernels.temporal.tensor_core_backward import matrix_backward
from kernels.temporal.tensor_core_kernels import matrix_forward

Tensor = torch.Tensor


class _Choice(NamedTuple):
    """Which kernel runs: the matrix kernel pads all frames to `padded_frames`, the exact one those of the queries."""

    setting: Setting
    exact: bool
    padded_frames: int


def _choose(q: Tensor, k: Tensor, matrix: Table[Setting], exact: Table[Setting]) -> _Choice:
    frames = next_power_of_two(k.shape[1])
    setting = None if q.dtype == torch.float32 else choose(matrix, architecture(q), frames)
    if setting is not None:
        return _Choice(setting, False, frames)
    queries = next_power_of_two(q.shape[1])
    return _Choice(choose(exact, architecture(q), queries), True, queries)


def _shape(q: Tensor, k: Tensor, choice: _Choice) -> dict[str, int]:
    left, right = split_head_dim(k.shape[-1])
    setting, exact, padded_frames = choice
    own = {"PADDED_QUERIES": padded_frames, "STAGES": setting.num_stages} if exact else {"PADDED_FRAMES": padded_frames}
    return {
        **own,
        "positions": k.shape[2],
        "heads": k.shape[3],
        "QUERY_FRAMES": q.shape[1],
        "FRAMES": k.shape[1],
        "ROWS": setting.rows,
        "HEAD_DIM": k.shape[-1],
        "LEFT": left,
        "RIGHT": right,
    }


def _programs(k: Tensor, choice: _Choice) -> int:
    clips, _, positions, heads, _ = k.shape
    return clips * -(-positions // (choice.setting.rows // choice.padded_frames)) * heads


def launch_forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, self_subtract: str, out: Tensor, attention: Tensor | None
) -> None:
    """Write `out` (and `attention` where given), both contiguous."""
    choice = _choose(q, k, settings.MATRIX_FORWARD, settings.EXACT_FORWARD)
    launch(
        exact_forward if choice.exact else matrix_forward,
        _programs(k, choice),
        choice.setting,
        q.device,
        q=q,
        k=k,
        v=v,
        out=out,
        attention=attention,
        scale_log2=scale * LOG2_E,
        **strides(q=q, k=k, v=v),
        **_shape(q, k, choice),
        SELF_SUBTRACT=self_subtract,
        WIDE=wide_offsets(q, k, v, out, *([] if attention is None else [attention])),
        EMIT_ATTENTION=attention is not None,
    )


def launch_backward(
    q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor, scale: float, self_subtract: str,
    grad_q: Tensor, grad_k: Tensor, grad_v: Tensor, grad_attention: Tensor | None,
) -> None:  # fmt: skip
    """Write the three gradients (any strides, those of `grad_k` and `grad_v` equal), and d loss / d attention."""
    choice = _choose(q, k, settings.MATRIX_BACKWARD, settings.EXACT_BACKWARD)
    if grad_out.stride(-1) != 1:  # the gradient of a sum arrives expanded
        grad_out = grad_out.contiguous()
    written = [grad_q, grad_k, grad_v] + ([] if grad_attention is None else [grad_attention])
    launch(
        exact_backward if choice.exact else matrix_backward,
        _programs(k, choice),
        choice.setting,
        q.device,
        q=q,
        k=k,
        v=v,
        grad_out=grad_out,
        grad_q=grad_q,
        grad_k=grad_k,
        grad_v=grad_v,
        grad_attention=grad_attention,
        scale=scale,
        scale_log2=scale * LOG2_E,
        **strides(q=q, k=k, v=v, grad_out=grad_out, grad_q=grad_q, grad_k=grad_k),
        **_shape(q, k, choice),
        SELF_SUBTRACT=self_subtract,
        WIDE=wide_offsets(q, k, v, grad_out, *written),
        EMIT_GRADIENT=grad_attention is not None,
    )


def empty_attention(q: Tensor, k: Tensor) -> Tensor:
    """An uninitialized attention matrix `[B, S, N, F_q, F]`."""
    clips, frames, positions, heads, _ = k.shape
    return torch.empty((clips, positions, heads, q.shape[1], frames), dtype=torch.float32, device=q.device)


def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float, self_subtract: str) -> Tensor:
    out = empty_out(q)
    launch_forward(q, k, v, scale, self_subtract, out, None)
    return out


def _forward_with_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, self_subtract: str) -> tuple[Tensor, Tensor]:
    out, attention = empty_out(q), empty_attention(q, k)
    launch_forward(q, k, v, scale, self_subtract, out, attention)
    return out, attention


def _backward(
    q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor, scale: float, self_subtract: str
) -> tuple[Tensor, Tensor, Tensor]:
    gradients = empty_gradients(q, k)
    launch_backward(q, k, v, grad_out, scale, self_subtract, *gradients, None)
    return gradients


def _backward_with_attention(
    q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor, scale: float, self_subtract: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gradients, grad_attention = empty_gradients(q, k), empty_attention(q, k)
    launch_backward(q, k, v, grad_out, scale, self_subtract, *gradients, grad_attention)
    return *gradients, grad_attention


def _packed_backward(qkv: Tensor, grad_out: Tensor, scale: float, self_subtract: str) -> Tensor:
    gradient = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    launch_backward(*qkv.unbind(3), grad_out, scale, self_subtract, *gradient.unbind(3), None)
    return gradient


def _reference_forward(q: Tensor, k: Tensor, v: Tensor, scale: float, self_subtract: str) -> Tensor:
    return reference(q, k, v, scale=scale, self_subtract=self_subtract).contiguous()


def _reference_forward_with_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, self_subtract: str
) -> tuple[Tensor, Tensor]:
    capture = AttentionCapture()
    out = reference(q, k, v, scale=scale, self_subtract=self_subtract, capture=capture)
    return out.contiguous(), capture.attention


def _reference_backward(
    q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor, scale: float, self_subtract: str
) -> tuple[Tensor, Tensor, Tensor]:
    return reference_backward(q, k, v, grad_out, scale, self_subtract)[:3]


def _reference_packed_backward(qkv: Tensor, grad_out: Tensor, scale: float, self_subtract: str) -> Tensor:
    return torch.stack(_reference_backward(*qkv.unbind(3), grad_out, scale, self_subtract), 3)


forward = register(
    "temporal_attention(Tensor q, Tensor k, Tensor v, float scale, str self_subtract) -> Tensor",
    kernel=_forward,
    reference=_reference_forward,
    fake=lambda q, k, v, scale, self_subtract: empty_out(q),
)
forward_with_attention = register(
    "temporal_attention_with_attention(Tensor q, Tensor k, Tensor v, float scale, str self_subtract)"
    " -> (Tensor, Tensor)",
    kernel=_forward_with_attention,
    reference=_reference_forward_with_attention,
    fake=lambda q, k, v, scale, self_subtract: (empty_out(q), empty_attention(q, k)),
)
backward = register(
    "temporal_attention_backward(Tensor q, Tensor k, Tensor v, Tensor grad_out, float scale, str self_subtract)"
    " -> (Tensor, Tensor, Tensor)",
    kernel=_backward,
    reference=_reference_backward,
    fake=lambda q, k, v, grad_out, scale, self_subtract: empty_gradients(q, k),
)
backward_with_attention = register(
    "temporal_attention_backward_with_attention"
    "(Tensor q, Tensor k, Tensor v, Tensor grad_out, float scale, str self_subtract)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    kernel=_backward_with_attention,
    reference=reference_backward,
    fake=lambda q, k, v, grad_out, scale, self_subtract: (*empty_gradients(q, k), empty_attention(q, k)),
)
packed_backward = register(
    "temporal_attention_packed_backward(Tensor qkv, Tensor grad_out, float scale, str self_subtract) -> Tensor",
    kernel=_packed_backward,
    reference=_reference_packed_backward,
    fake=lambda qkv, grad_out, scale, self_subtract: torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device),
)


class TemporalAttention(torch.autograd.Function):
    """q, k and v as tensors of their own (views of a packed product are read in place all the same)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, self_subtract: str, capture: AttentionCapture | None
    ) -> Tensor:
        """Keep q, k and v; fill the capture's attention."""
        ctx.save_for_backward(q, k, v)
        ctx.settings = scale, self_subtract
        ctx.capture = capture
        if capture is None:
            return forward(q, k, v, scale, self_subtract)
        out, attention = forward_with_attention(q, k, v, scale, self_subtract)
        capture.record(attention)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """All three gradients at once; fill the capture's gradient."""
        q, k, v = ctx.saved_tensors
        if ctx.capture is None:
            return *backward(q, k, v, grad_out, *ctx.settings), None, None, None
        *gradients, ctx.capture.gradient = backward_with_attention(q, k, v, grad_out, *ctx.settings)
        return *gradients, None, None, None


class PackedTemporalAttention(torch.autograd.Function):
    """One packed `[B, F, S, 3, N, D]`: its gradient is written packed too, with no stacking copy."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, scale: float, self_subtract: str) -> Tensor:
        """Keep the packed product."""
        ctx.save_for_backward(qkv)
        ctx.settings = scale, self_subtract
        return forward(*qkv.unbind(3), scale, self_subtract)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the packed product."""
        (qkv,) = ctx.saved_tensors
        return packed_backward(qkv, grad_out, *ctx.settings), None, None
