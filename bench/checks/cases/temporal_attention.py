"""Cases of temporal attention."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from bench.checks.cases import CompileCase
from bench.checks.error_bound import DTYPES, NumericsCase, Results, with_gradients
from kernels import AttentionCapture, temporal_attention
from kernels.common.launch import Launch
from kernels.common.strides import empty_like_contiguous
from kernels.frame_difference import difference_rows, integrate_rows
from kernels.temporal import SELF_SUBTRACT, operator
from kernels.temporal.reference import temporal_attention as reference

Tensor = torch.Tensor

# Clips, query frames, frames, positions, heads, head_dim.
SMALL = ((1, 7, 7, 9, 2, 24), (2, 1, 4, 5, 1, 64), (1, 17, 17, 3, 1, 16), (1, 64, 64, 2, 1, 64))
LARGE = (
    (2, 7, 7, 362, 8, 96), (2, 7, 7, 362, 8, 64), (1, 7, 7, 362, 8, 91), (2, 1, 7, 362, 8, 96), (2, 2, 2, 50, 3, 8),
    (1, 17, 17, 101, 2, 128), (1, 33, 33, 26, 2, 40), (1, 65, 65, 10, 2, 64), (1, 128, 128, 5, 2, 96),
)  # fmt: skip


def eager(q: Tensor, k: Tensor, v: Tensor, *, self_subtract: str, capture: AttentionCapture | None = None) -> Tensor:
    """What a user would write: permute, subtract, two products and a softmax, every step in the inputs' dtype."""
    scale = q.shape[-1] ** -0.5
    q, k, v = (x.permute(0, 2, 3, 1, 4) for x in (q, k, v))
    if self_subtract == "fused":
        q, k = difference_rows(q, 3), difference_rows(k, 3)
    if self_subtract == "telescoped":
        v = integrate_rows(v, 3)
    attention = torch.softmax(q @ k.transpose(-1, -2) * scale, -1)
    if capture is not None:
        capture.record(attention)
    return (attention @ v).permute(0, 3, 1, 2, 4)


def numerics(device: torch.device, small: bool) -> list[NumericsCase]:
    """All modes and dtypes, with and without a capture."""
    return [
        _case(device, shape, mode, dtype, capture=index == 0)
        for index, shape in enumerate(SMALL if small else LARGE)
        for mode in SELF_SUBTRACT
        for dtype in DTYPES
    ]


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int = 0
) -> tuple[dict[str, Tensor], Tensor]:
    """Queries, keys and values as views of one packed product (queries of their own where fewer), and a gradient."""
    clips, query_frames, frames, positions, heads, head_dim = shape
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(clips, frames, positions, 3, heads, head_dim, generator=generator).to(device, dtype)
    q, k, v = qkv.unbind(3)
    grad_out = torch.randn(clips, query_frames, positions, heads, head_dim, generator=generator).to(device, dtype)
    return {"q": q[:, :query_frames], "k": k, "v": v}, grad_out


def _case(
    device: torch.device, shape: tuple[int, ...], mode: str, dtype: torch.dtype, *, capture: bool
) -> NumericsCase:
    def run(function, working: torch.dtype | None = None) -> Results:
        tensors, grad_out = inputs(shape, dtype, device)
        return with_gradients(partial(function, self_subtract=mode), tensors, grad_out, dtype=working, capture=capture)

    clips, queries, frames, positions, heads, head_dim = shape
    rows = f"F={frames}" if queries == frames else f"F={queries}/{frames}"
    return NumericsCase(
        "temporal_attention", mode + (" capture" if capture else ""), dtype,
        f"B={clips} {rows} S={positions} N={heads} D={head_dim}",
        kernel=partial(run, temporal_attention),
        eager=partial(run, eager),
        oracle=partial(run, reference, torch.float64),
    )  # fmt: skip


def compiled() -> list[CompileCase]:
    """What the models launch and every row of the tables for all architectures; the variants for one."""
    half, single = torch.bfloat16, torch.float32
    everywhere = [
        _compiled(half, "telescoped", 7, 96),
        _compiled(single, "fused", 7, 96),
        _compiled(half, "telescoped", 65, 64),
        _compiled(single, "fused", 33, 96),
        _compiled(single, "fused", 65, 96),
    ]
    variants = [
        _compiled(half, "telescoped", 7, 64),
        _compiled(half, "telescoped", 7, 96, queries=1),
        _compiled(half, "telescoped", 7, 96, capture=True),
        _compiled(torch.float16, "telescoped", 7, 96),
        _compiled(half, "off", 7, 96),
        _compiled(half, "fused", 7, 96),
        _compiled(single, "off", 7, 96),
        _compiled(single, "telescoped", 7, 96),
        _compiled(single, "fused", 7, 64, capture=True),
        _compiled(half, "telescoped", 7, 96, clips=400),  # offsets beyond 32 bits
        _compiled(single, "fused", 7, 96, clips=400),
    ]
    narrower = replace(_compiled(half, "telescoped", 33, 64), architectures=(80, 89))  # a row of their own
    return [*everywhere, narrower, *(replace(case, architectures=(90,)) for case in variants)]


def _compiled(
    dtype: torch.dtype,
    mode: str,
    frames: int,
    head_dim: int,
    *,
    clips: int = 8,
    queries: int | None = None,
    capture: bool = False,
) -> CompileCase:
    def start() -> None:
        qkv = torch.empty(clips, frames, 362, 3, 8, head_dim, dtype=dtype, device="meta")
        q, k, v = qkv.unbind(3)
        q = q[:, :queries]
        grad_out = torch.empty(q.shape, dtype=dtype, device="meta")
        attention = operator.empty_attention(q, k) if capture else None
        operator.launch_forward(q, k, v, head_dim**-0.5, mode, empty_like_contiguous(q), attention)
        gradients = map(empty_like_contiguous, (q, k, v)) if queries else torch.empty_like(qkv).unbind(3)
        operator.launch_backward(q, k, v, grad_out, head_dim**-0.5, mode, *gradients, attention)

    name = f"{str(dtype).removeprefix('torch.')} {mode} F={frames} D={head_dim}"
    name += (f" B={clips}" if clips != 8 else "") + (f" queries={queries}" if queries else "")
    name += " capture" if capture else ""
    return CompileCase(
        "temporal_attention", name, start,
        needs_tensor_cores=_on_tensor_cores,
        tile_bytes=lambda launch: None if capture else _tile_bytes(launch),
        allowed_spill=_allowed_spill,
    )  # fmt: skip


def _on_tensor_cores(launch: Launch) -> bool:
    return "PADDED_FRAMES" in launch.arguments


def _tile_bytes(launch: Launch) -> tuple[int, int] | None:
    if not _on_tensor_cores(launch):
        return None  # loops over key frames
    tensor = launch.config.kwargs["BLOCK_M"] * launch.arguments["HEAD_DIM"] * launch.arguments["q"].element_size()
    return (4 * tensor, 3 * tensor) if "do" in launch.arguments else (3 * tensor, tensor)


def _allowed_spill(launch: Launch, architecture: int) -> int:
    """Beyond 64 frames a backward tile (two 128 x 128 matrices, or 128 rows of q, dO and dq) does not quite fit.

    Two registers are allowed to the float32 backward kernel: Triton 3.9 spills them in mode "off", 3.6 and 3.7 do not.
    """
    if "do" not in launch.arguments:
        return 0
    if launch.config.kwargs["BLOCK_M"] == 128:
        return 1024
    return 0 if _on_tensor_cores(launch) else 8
