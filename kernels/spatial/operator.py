"""Spatial attention as PyTorch operators: what is launched, and how gradients flow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from kernels.common.capture import AttentionCapture
from kernels.common.launch import TileSetting, architecture, launch, split_head_dim
from kernels.common.registry import register
from kernels.common.strides import LOG2_E, empty_gradients, empty_out, float32_precision, strides, wide_positions
from kernels.spatial import configs as settings
from kernels.spatial.backward import spatial_backward_keys, spatial_backward_queries
from kernels.spatial.forward import spatial_forward
from kernels.spatial.reference import normalizer as reference_normalizer
from kernels.spatial.reference import spatial_attention as reference
from kernels.spatial.reference import spatial_attention_backward as reference_backward

Tensor = torch.Tensor


def split_columns(head_dim: int, precision: str) -> tuple[int, int]:
    """Two powers of two that cover `head_dim`; as `"tf32x3"` always two, whose sums are added in float32."""
    left, right = split_head_dim(head_dim)
    return (left // 2, left // 2) if precision == "tf32x3" and right == 0 else (left, right)


def _sizes(q: Tensor, k: Tensor, setting: TileSetting) -> dict[str, Any]:
    precision = float32_precision(q)
    left, right = split_columns(k.shape[-1], precision)
    return {
        "queries": q.shape[2],
        "positions": k.shape[2],
        "heads": k.shape[3],
        "frames": k.shape[1],
        "ROWS": setting.rows,
        "COLUMNS": setting.columns,
        "HEAD_DIM": k.shape[-1],
        "LEFT": left,
        "RIGHT": right,
        "PRECISION": precision,
    }


def _programs(x: Tensor, setting: TileSetting) -> int:
    clips, frames, positions, heads, _ = x.shape
    return clips * frames * heads * -(-positions // setting.rows)


def _matrix_size(q: Tensor, k: Tensor, matrix: Tensor | None) -> int:
    return 0 if matrix is None else q.shape[2] * k.shape[2]


def launch_forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, out: Tensor, normalizer: Tensor, attention: Tensor | None
) -> None:
    """Write `out`, `normalizer` (and `attention` where given), all contiguous."""
    setting = settings.forward(q, k, architecture(q))
    if attention is not None:
        setting = replace(setting, max_registers=None)  # its second pass takes more of them, and waits for memory
    launch(
        spatial_forward,
        _programs(q, setting),
        setting,
        q.device,
        q=q,
        k=k,
        v=v,
        out=out,
        offset=normalizer[0],
        factor=normalizer[-1],
        attention=attention,
        scale_log2=scale * LOG2_E,
        **strides(q=q, k=k, v=v),
        **_sizes(q, k, setting),
        WIDE=wide_positions(_matrix_size(q, k, attention), q, k, v, out),
        EMIT_ATTENTION=attention is not None,
    )


def launch_backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, normalizer: Tensor, grad_out: Tensor, scale: float,
    grad_q: Tensor, grad_k: Tensor, grad_v: Tensor, grad_attention: Tensor | None,
) -> None:  # fmt: skip
    """Write the three gradients (any strides, those of `grad_k` and `grad_v` equal), and d loss / d attention."""
    if grad_out.stride(-1) != 1:  # the gradient of a sum arrives expanded
        grad_out = grad_out.contiguous()
    delta = torch.empty_like(normalizer[0])
    shared = {
        "q": q,
        "k": k,
        "v": v,
        "offset": normalizer[0],
        "factor": normalizer[-1],
        "grad_out": grad_out,
        "delta": delta,
        "scale": scale,
        "scale_log2": scale * LOG2_E,
        **strides(q=q, k=k, v=v, grad_out=grad_out),
    }
    setting = settings.backward_queries(q, k, architecture(q))
    launch(
        spatial_backward_queries,
        _programs(q, setting),
        setting,
        q.device,
        **shared,
        out=out,
        grad_q=grad_q,
        grad_attention=grad_attention,
        **strides(out=out, grad_q=grad_q),
        **_sizes(q, k, setting),
        WIDE=wide_positions(_matrix_size(q, k, grad_attention), q, k, v, out, grad_out, grad_q),
        EMIT_GRADIENT=grad_attention is not None,
    )
    setting = settings.backward_keys(q, k, architecture(q))
    for grad_of_k, grad_of_v in [(True, False), (False, True)] if settings.splits_keys(k) else [(True, True)]:
        launch(
            spatial_backward_keys,
            _programs(k, setting),
            setting,
            q.device,
            **shared,
            grad_k=grad_k,
            grad_v=grad_v,
            **strides(grad_k=grad_k),
            **_sizes(q, k, setting),
            WIDE=wide_positions(0, q, k, v, grad_out, grad_k),
            GRAD_K=grad_of_k,
            GRAD_V=grad_of_v,
        )


def empty_normalizer(q: Tensor) -> Tensor:
    """Uninitialized offset (and in float32 factor) of each softmax row `[1 or 2, B, F, N, S_q]`, float32."""
    clips, frames, queries, heads, _ = q.shape
    shape = (2 if q.dtype == torch.float32 else 1, clips, frames, heads, queries)
    return torch.empty(shape, dtype=torch.float32, device=q.device)


def empty_attention(q: Tensor, k: Tensor) -> Tensor:
    """An uninitialized attention matrix `[B, F, N, S_q, S]`, float32."""
    clips, frames, positions, heads, _ = k.shape
    return torch.empty((clips, frames, heads, q.shape[2], positions), dtype=torch.float32, device=q.device)


def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    out, normalizer = empty_out(q), empty_normalizer(q)
    launch_forward(q, k, v, scale, out, normalizer, None)
    return out, normalizer


def _forward_with_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    out, normalizer, attention = empty_out(q), empty_normalizer(q), empty_attention(q, k)
    launch_forward(q, k, v, scale, out, normalizer, attention)
    return out, normalizer, attention


def _backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, normalizer: Tensor, grad_out: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    gradients = empty_gradients(q, k)
    launch_backward(q, k, v, out, normalizer, grad_out, scale, *gradients, None)
    return gradients


def _backward_with_attention(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, normalizer: Tensor, grad_out: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gradients, grad_attention = empty_gradients(q, k), empty_attention(q, k)
    launch_backward(q, k, v, out, normalizer, grad_out, scale, *gradients, grad_attention)
    return *gradients, grad_attention


def _packed_backward(qkv: Tensor, out: Tensor, normalizer: Tensor, grad_out: Tensor, scale: float) -> Tensor:
    gradient = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    launch_backward(*qkv.unbind(3), out, normalizer, grad_out, scale, *gradient.unbind(3), None)
    return gradient


def _reference_forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return reference(q, k, v, scale=scale).contiguous(), reference_normalizer(q, k, scale=scale)


def _reference_forward_with_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    capture = AttentionCapture()
    out = reference(q, k, v, scale=scale, capture=capture)
    return out.contiguous(), reference_normalizer(q, k, scale=scale), capture.attention.contiguous()


def _reference_backward_with_attention(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, normalizer: Tensor, grad_out: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return reference_backward(q, k, v, grad_out, scale)


def _reference_backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, normalizer: Tensor, grad_out: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return reference_backward(q, k, v, grad_out, scale)[:3]


def _reference_packed_backward(qkv: Tensor, out: Tensor, normalizer: Tensor, grad_out: Tensor, scale: float) -> Tensor:
    return torch.stack(reference_backward(*qkv.unbind(3), grad_out, scale)[:3], 3)


forward = register(
    "spatial_attention(Tensor q, Tensor k, Tensor v, float scale) -> (Tensor, Tensor)",
    kernel=_forward,
    reference=_reference_forward,
    fake=lambda q, k, v, scale: (empty_out(q), empty_normalizer(q)),
)
forward_with_attention = register(
    "spatial_attention_with_attention(Tensor q, Tensor k, Tensor v, float scale) -> (Tensor, Tensor, Tensor)",
    kernel=_forward_with_attention,
    reference=_reference_forward_with_attention,
    fake=lambda q, k, v, scale: (empty_out(q), empty_normalizer(q), empty_attention(q, k)),
)
backward = register(
    "spatial_attention_backward"
    "(Tensor q, Tensor k, Tensor v, Tensor out, Tensor normalizer, Tensor grad_out, float scale)"
    " -> (Tensor, Tensor, Tensor)",
    kernel=_backward,
    reference=_reference_backward,
    fake=lambda q, k, v, out, normalizer, grad_out, scale: empty_gradients(q, k),
)
backward_with_attention = register(
    "spatial_attention_backward_with_attention"
    "(Tensor q, Tensor k, Tensor v, Tensor out, Tensor normalizer, Tensor grad_out, float scale)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    kernel=_backward_with_attention,
    reference=_reference_backward_with_attention,
    fake=lambda q, k, v, out, normalizer, grad_out, scale: (*empty_gradients(q, k), empty_attention(q, k)),
)
packed_backward = register(
    "spatial_attention_packed_backward(Tensor qkv, Tensor out, Tensor normalizer, Tensor grad_out, float scale)"
    " -> Tensor",
    kernel=_packed_backward,
    reference=_reference_packed_backward,
    fake=lambda qkv, out, normalizer, grad_out, scale: torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device),
)


class SpatialAttention(torch.autograd.Function):
    """q, k and v as tensors of their own (views of a packed product are read in place all the same)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, capture: AttentionCapture | None) -> Tensor:
        """Keep q, k, v, the output and the normalizer of each softmax row; fill the capture's attention."""
        if capture is None:
            out, normalizer = forward(q, k, v, scale)
        else:
            out, normalizer, attention = forward_with_attention(q, k, v, scale)
            capture.record(attention)
        ctx.save_for_backward(q, k, v, out, normalizer)
        ctx.scale = scale
        ctx.capture = capture
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """All three gradients at once; fill the capture's gradient."""
        arguments = *ctx.saved_tensors, grad_out, ctx.scale
        if ctx.capture is None:
            return *backward(*arguments), None, None
        *gradients, ctx.capture.gradient = backward_with_attention(*arguments)
        return *gradients, None, None


class PackedSpatialAttention(torch.autograd.Function):
    """One packed `[B, F, S, 3, N, D]`: its gradient is written packed too, with no stacking copy."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, scale: float) -> Tensor:
        """Keep the packed product, the output and the normalizer of each softmax row."""
        out, normalizer = forward(*qkv.unbind(3), scale)
        ctx.save_for_backward(qkv, out, normalizer)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the packed product."""
        qkv, out, normalizer = ctx.saved_tensors
        return packed_backward(qkv, out, normalizer, grad_out, ctx.scale), None
