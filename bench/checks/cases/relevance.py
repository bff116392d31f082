"""Cases of relevance through attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from bench.checks.cases import CompileCase
from bench.checks.error_bound import NumericsCase, Results
from bench.kernels.relevance import call, ours, stored
from kernels.common.launch import Launch
from kernels.relevance import operator, reference

Tensor = torch.Tensor

# Clips, frames, positions, heads, head_dim: spatial and temporal attention alike.
SMALL = ((2, 2, 37, 2, 24), (1, 1, 33, 1, 91), (1, 5, 21, 2, 64))
LARGE = (
    (2, 7, 362, 8, 96), (1, 7, 362, 8, 64), (1, 7, 362, 8, 91), (1, 3, 50, 4, 128), (1, 2, 1, 2, 16),
    (1, 33, 26, 2, 40),
)  # fmt: skip
# Where frames are more: temporal attention only.
MANY_FRAMES = ((1, 17, 2, 1, 16), (1, 40, 3, 2, 24))


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int = 0
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """q, k, v (views of one packed product), u and grad_out, and a carried row for each kind of attention."""
    clips, frames, positions, heads, head_dim = shape
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(clips, frames, positions, 3, heads, head_dim, generator=generator).to(device, dtype)
    u, grad_out = torch.randn(2, clips, frames, positions, heads, head_dim, generator=generator).to(device, dtype)
    q, k, v = qkv.unbind(3)
    rows = {
        "temporal": torch.rand(clips, positions, frames, generator=generator).to(device, dtype),
        "spatial": torch.rand(clips, frames, positions, generator=generator).to(device, dtype),
    }
    return {"q": q, "k": k, "v": v, "u": u, "grad_out": grad_out}, rows


def results(function: Callable[..., Any], kind: str, tensors: dict[str, Tensor], clamp: str) -> Results:
    """Return all that the three functions of one kind of attention give."""
    scale = tensors["q"].shape[-1] ** -0.5
    parts = dict(zip(("R_q", "R_k", "R_v"), function(kind, "relevance", tensors, scale), strict=True))
    named = {"map": "map", "row": "rollout step"}
    return parts | {name: function(kind, which, tensors, scale, clamp) for name, which in named.items()}


def numerics(device: torch.device, small: bool) -> list[NumericsCase]:
    """Both kinds and both clamps; float32 only, like the kernels."""
    shapes = SMALL if small else LARGE
    cases = [_case(device, shape, kind, "after_mean") for shape in shapes for kind in ("spatial", "temporal")]
    cases += [_case(device, shapes[0], kind, "before_mean") for kind in ("spatial", "temporal")]
    return cases + [_case(device, shape, "temporal", "after_mean") for shape in MANY_FRAMES]


def _case(device: torch.device, shape: tuple[int, ...], kind: str, clamp: str) -> NumericsCase:
    def run(function: Callable[..., Any], working: torch.dtype = torch.float32) -> Results:
        tensors, rows = inputs(shape, torch.float32, device)
        tensors = {name: x.to(working) for name, x in (tensors | {"row": rows[kind]}).items()}
        return results(function, kind, tensors, clamp)

    clips, frames, positions, heads, head_dim = shape
    return NumericsCase(
        "relevance", f"{kind} {clamp}", torch.float32,
        f"B={clips} F={frames} S={positions} N={heads} D={head_dim}",
        kernel=partial(run, ours),
        eager=partial(run, stored),
        oracle=partial(run, partial(call, reference), torch.float64),
    )  # fmt: skip


def compiled() -> list[CompileCase]:
    """Every kernel for every row of the tables; what the models launch on all architectures."""
    return [
        *(_compiled("spatial", 7, 362, head_dim) for head_dim in (64, 96, 128)),
        *(_compiled("temporal", 7, 362, head_dim) for head_dim in (64, 96)),
        _compiled("temporal", 17, 362, 96),
        replace(_compiled("temporal", 33, 362, 96), architectures=(90, 100), beyond=(80, 89)),
        replace(_compiled("spatial", 1, 2534, 96, roll_out=False), architectures=(90,)),  # joint attention, its map
        # Offsets beyond 32 bits: a frame row of a million positions, four hundred clips.
        replace(_compiled("spatial", 1, 10**6, 96, clips=1), architectures=(80, 90)),
        replace(_compiled("temporal", 7, 362, 96, clips=400), architectures=(80, 90)),
    ]


def _compiled(
    kind: str, frames: int, positions: int, head_dim: int, *, clips: int = 8, roll_out: bool = True
) -> CompileCase:
    def start() -> None:
        qkv = torch.empty(clips, frames, positions, 3, 8, head_dim, device="meta")
        q, k, v = qkv.unbind(3)
        u = torch.empty(k.shape, device="meta")
        scale = head_dim**-0.5
        if kind == "spatial":
            operator.launch_spatial_relevance(q, k, v, u, scale, 0.01)
            row, launch_map = torch.empty(clips, frames, positions, device="meta"), operator.launch_spatial_map
        else:
            operator.launch_temporal_relevance(q, k, v, u, scale, 0.01)
            row, launch_map = torch.empty(clips, positions, frames, device="meta"), operator.launch_temporal_map
        launch_map(row if roll_out else None, q, k, v, u, u, scale, False)

    name = f"float32 {kind} F={frames} S={positions} D={head_dim}" + ("" if roll_out else " map")
    return CompileCase("relevance", name, start, needs_tensor_cores=lambda launch: True, allowed_spill=_allowed_spill)


def _allowed_spill(launch: Launch, architecture: int) -> int:
    """Wide offsets take twice the registers of narrow ones: 24 of them may go to the first cache."""
    return 96 if launch.arguments["INT64_OFFSETS"] else 0
