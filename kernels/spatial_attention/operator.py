"""Spatial attention as PyTorch operators: what is launched, and how gradients flow."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch.autograd.function import once_differentiable

import kernels.launch
from kernels.attention_tape import AttentionTape
from kernels.launch import architecture, launch, split_head_dim
from kernels.library import register
from kernels.spatial_attention import settings
from kernels.spatial_attention.backward import spatial_backward_keys, spatial_backward_queries
from kernels.spatial_attention.forward import spatial_forward
from kernels.spatial_attention.reference import normaliser as reference_normaliser
from kernels.spatial_attention.reference import spatial_attention as reference
from kernels.spatial_attention.reference import spatial_attention_backward as reference_backward

Tensor = torch.Tensor

LOG2_E = math.log2(math.e)

# Tensor cores cut their sums off towards zero. With that, the error of tf32x3 in q k^T is 1.0 to 1.2 times that of
# float32 where the head comes as two parts of 32 or 64 columns, 1.6 times where 64 and 2.1 times where 128 columns come
# as one, and up to 2.3 times below 64 (computed, not measured).
NARROW_HEAD = 64


def wide_rows(matrix: int, *tensors: Tensor) -> bool:
    """Whether a position is too far from the first of its own frame row for a 32-bit offset.

    Clips, frames and heads are always reached by 64-bit offsets; only positions stay 32-bit where they can. ``matrix``
    is the number of queries times keys where a matrix of them is written, and 0 otherwise.
    """
    furthest = max((x.shape[2] - 1) * x.stride(2) + (x.shape[4] - 1) * x.stride(4) for x in tensors)
    return max(furthest, matrix) > kernels.launch.LARGEST_32_BIT_OFFSET


def float32_precision(x: Tensor) -> str:
    """How products of ``x``, whose last dimension is a head, are computed.

    ``"tf32"`` only where torch allows it. ``"tf32x3"`` is float32 on tensor cores; each product of a sum is off by a
    little more than float32's own rounding, and sums over few columns do not hide that: heads narrower than
    ``NARROW_HEAD`` take plain multiply-adds, ``"ieee"``. 16-bit operands are exact either way.
    """
    if x.dtype != torch.float32:
        return "ieee"
    if torch.backends.cuda.matmul.fp32_precision == "tf32":
        return "tf32"
    return "tf32x3" if x.shape[-1] >= NARROW_HEAD else "ieee"


def split_columns(head_dim: int, precision: str) -> tuple[int, int]:
    """Two powers of two that cover ``head_dim``; as ``"tf32x3"`` always two, whose sums are added in float32."""
    left, right = split_head_dim(head_dim)
    return (left // 2, left // 2) if precision == "tf32x3" and right == 0 else (left, right)


def _strides(name: str, x: Tensor) -> dict[str, int]:
    clip, frame, position, head, _ = x.stride()
    return {f"{name}_clip": clip, f"{name}_frame": frame, f"{name}_position": position, f"{name}_head": head}


def _sizes(q: Tensor, k: Tensor, setting: settings.TileSetting) -> dict[str, Any]:
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


def _programs(x: Tensor, setting: settings.TileSetting) -> int:
    clips, frames, positions, heads, _ = x.shape
    return clips * frames * heads * -(-positions // setting.rows)


def _matrix_size(q: Tensor, k: Tensor, matrix: Tensor | None) -> int:
    return 0 if matrix is None else q.shape[2] * k.shape[2]


def launch_forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, out: Tensor, normaliser: Tensor, attention: Tensor | None
) -> None:
    """Write ``out``, ``normaliser`` (and ``attention`` where given), all contiguous."""
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
        offset=normaliser[0],
        factor=normaliser[-1],
        attention=attention,
        scale_log2=scale * LOG2_E,
        **_strides("q", q),
        **_strides("k", k),
        **_strides("v", v),
        **_sizes(q, k, setting),
        WIDE=wide_rows(_matrix_size(q, k, attention), q, k, v, out),
        EMIT_ATTENTION=attention is not None,
    )


def launch_backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, normaliser: Tensor, grad_out: Tensor, scale: float,
    grad_q: Tensor, grad_k: Tensor, grad_v: Tensor, grad_attention: Tensor | None,
) -> None:  # fmt: skip
    """Write the three gradients (any strides, those of ``grad_k`` and ``grad_v`` equal), and d loss / d attention."""
    if grad_out.stride(-1) != 1:  # the gradient of a sum arrives expanded
        grad_out = grad_out.contiguous()
    delta = torch.empty_like(normaliser[0])
    shared = {
        "q": q,
        "k": k,
        "v": v,
        "offset": normaliser[0],
        "factor": normaliser[-1],
        "grad_out": grad_out,
        "delta": delta,
        "scale": scale,
        "scale_log2": scale * LOG2_E,
        **_strides("q", q),
        **_strides("k", k),
        **_strides("v", v),
        **_strides("grad_out", grad_out),
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
        **_strides("out", out),
        **_strides("grad_q", grad_q),
        **_sizes(q, k, setting),
        WIDE=wide_rows(_matrix_size(q, k, grad_attention), q, k, v, out, grad_out, grad_q),
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
            **_strides("grad_k", grad_k),
            **_sizes(q, k, setting),
            WIDE=wide_rows(0, q, k, v, grad_out, grad_k),
            GRAD_K=grad_of_k,
            GRAD_V=grad_of_v,
        )


def empty_out(q: Tensor) -> Tensor:
    """An uninitialised output ``[B, F, S_q, N, D]``, contiguous: the layout the output projection reads."""
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


def empty_normaliser(q: Tensor) -> Tensor:
    """Uninitialised offset (and in float32 factor) of each softmax row ``[1 or 2, B, F, N, S_q]``, float32."""
    clips, frames, queries, heads, _ = q.shape
    shape = (2 if q.dtype == torch.float32 else 1, clips, frames, heads, queries)
    return torch.empty(shape, dtype=torch.float32, device=q.device)


def empty_attention(q: Tensor, k: Tensor) -> Tensor:
    """An uninitialised attention matrix ``[B, F, N, S_q, S]``, float32."""
    clips, frames, positions, heads, _ = k.shape
    return torch.empty((clips, frames, heads, q.shape[2], positions), dtype=torch.float32, device=q.device)


def empty_gradients(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialised gradients of q, k and v, contiguous."""
    make = [torch.empty(x.shape, dtype=q.dtype, device=q.device) for x in (q, k, k)]
    return make[0], make[1], make[2]


def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    out, normaliser = empty_out(q), empty_normaliser(q)
    launch_forward(q, k, v, scale, out, normaliser, None)
    return out, normaliser


def _forward_with_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    out, normaliser, attention = empty_out(q), empty_normaliser(q), empty_attention(q, k)
    launch_forward(q, k, v, scale, out, normaliser, attention)
    return out, normaliser, attention


def _backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, normaliser: Tensor, grad_out: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    gradients = empty_gradients(q, k)
    launch_backward(q, k, v, out, normaliser, grad_out, scale, *gradients, None)
    return gradients


def _backward_with_attention(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, normaliser: Tensor, grad_out: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gradients, grad_attention = empty_gradients(q, k), empty_attention(q, k)
    launch_backward(q, k, v, out, normaliser, grad_out, scale, *gradients, grad_attention)
    return *gradients, grad_attention


def _packed_backward(qkv: Tensor, out: Tensor, normaliser: Tensor, grad_out: Tensor, scale: float) -> Tensor:
    gradient = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    launch_backward(*qkv.unbind(3), out, normaliser, grad_out, scale, *gradient.unbind(3), None)
    return gradient


def _reference_forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return reference(q, k, v, scale=scale).contiguous(), reference_normaliser(q, k, scale=scale)


def _reference_forward_with_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    tape = AttentionTape()
    out = reference(q, k, v, scale=scale, tape=tape)
    return out.contiguous(), reference_normaliser(q, k, scale=scale), tape.attention.contiguous()


def _reference_backward_with_attention(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, normaliser: Tensor, grad_out: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return reference_backward(q, k, v, grad_out, scale)


def _reference_backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, normaliser: Tensor, grad_out: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return reference_backward(q, k, v, grad_out, scale)[:3]


def _reference_packed_backward(qkv: Tensor, out: Tensor, normaliser: Tensor, grad_out: Tensor, scale: float) -> Tensor:
    return torch.stack(reference_backward(*qkv.unbind(3), grad_out, scale)[:3], 3)


forward = register(
    "spatial_attention(Tensor q, Tensor k, Tensor v, float scale) -> (Tensor, Tensor)",
    kernel=_forward,
    reference=_reference_forward,
    fake=lambda q, k, v, scale: (empty_out(q), empty_normaliser(q)),
)
forward_with_attention = register(
    "spatial_attention_with_attention(Tensor q, Tensor k, Tensor v, float scale) -> (Tensor, Tensor, Tensor)",
    kernel=_forward_with_attention,
    reference=_reference_forward_with_attention,
    fake=lambda q, k, v, scale: (empty_out(q), empty_normaliser(q), empty_attention(q, k)),
)
backward = register(
    "spatial_attention_backward"
    "(Tensor q, Tensor k, Tensor v, Tensor out, Tensor normaliser, Tensor grad_out, float scale)"
    " -> (Tensor, Tensor, Tensor)",
    kernel=_backward,
    reference=_reference_backward,
    fake=lambda q, k, v, out, normaliser, grad_out, scale: empty_gradients(q, k),
)
backward_with_attention = register(
    "spatial_attention_backward_with_attention"
    "(Tensor q, Tensor k, Tensor v, Tensor out, Tensor normaliser, Tensor grad_out, float scale)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    kernel=_backward_with_attention,
    reference=_reference_backward_with_attention,
    fake=lambda q, k, v, out, normaliser, grad_out, scale: (*empty_gradients(q, k), empty_attention(q, k)),
)
packed_backward = register(
    "spatial_attention_packed_backward(Tensor qkv, Tensor out, Tensor normaliser, Tensor grad_out, float scale)"
    " -> Tensor",
    kernel=_packed_backward,
    reference=_reference_packed_backward,
    fake=lambda qkv, out, normaliser, grad_out, scale: torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device),
)


class SpatialAttention(torch.autograd.Function):
    """q, k and v as tensors of their own (views of a packed product are read in place all the same)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, tape: AttentionTape | None) -> Tensor:
        """Keep q, k, v, the output and the normaliser of each softmax row; fill the tape's attention."""
        if tape is None:
            out, normaliser = forward(q, k, v, scale)
        else:
            out, normaliser, attention = forward_with_attention(q, k, v, scale)
            tape.record(attention)
        ctx.save_for_backward(q, k, v, out, normaliser)
        ctx.scale = scale
        ctx.tape = tape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """All three gradients at once; fill the tape's gradient."""
        arguments = *ctx.saved_tensors, grad_out, ctx.scale
        if ctx.tape is None:
            return *backward(*arguments), None, None
        *gradients, ctx.tape.gradient = backward_with_attention(*arguments)
        return *gradients, None, None


class PackedSpatialAttention(torch.autograd.Function):
    """One packed ``[B, F, S, 3, N, D]``: its gradient is written packed too, with no stacking copy."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, scale: float) -> Tensor:
        """Keep the packed product, the output and the normaliser of each softmax row."""
        out, normaliser = forward(*qkv.unbind(3), scale)
        ctx.save_for_backward(qkv, out, normaliser)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the packed product."""
        qkv, out, normaliser = ctx.saved_tensors
        return packed_backward(qkv, out, normaliser, grad_out, ctx.scale), None
