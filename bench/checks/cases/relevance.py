"""Cases of relevance through attention."""

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from bench.checks.cases import CompileCase, Expected, Shapes
from bench.checks.error_bound import NumericsCase, Results
from bench.kernels.relevance import KINDS, call, inputs, ours, stored
from kernels.common.strides import NARROW_HEAD
from kernels.relevance import operator, reference

# Clips, frames, positions, heads, head_dim: spatial and temporal attention alike.
_MANY_FRAMES = ((1, 17, 2, 1, 16), (1, 40, 3, 2, 24))
SMALL = {"relevance": ((2, 2, 37, 2, 24), (1, 1, 33, 1, 91), (1, 5, 21, 2, 64), *_MANY_FRAMES)}
LARGE = {
    "relevance": (
        (2, 7, 362, 8, 96), (1, 7, 362, 8, 64), (1, 7, 362, 8, 91), (1, 3, 50, 4, 128), (1, 2, 1, 2, 16),
        (1, 33, 26, 2, 40), *_MANY_FRAMES,
    ),
}  # fmt: skip


def numerics(operation: str, device: torch.device, shapes: Shapes, captures: Collection[int]) -> list[NumericsCase]:
    """Return both kinds of attention and clamps (of many frames temporal alone); float32 only, like the kernels."""
    cases = [
        (shape, kind, "after_mean")
        for shape in shapes
        for kind in KINDS
        if kind == "temporal" or shape not in _MANY_FRAMES
    ]
    cases += [(shapes[0], kind, "before_mean") for kind in KINDS]
    return [_numerics_case(operation, device, *case) for case in cases]


def _numerics_case(operation: str, device: torch.device, shape: tuple[int, ...], kind: str, clamp: str) -> NumericsCase:
    def run(function: Callable[..., Any], working: torch.dtype = torch.float32) -> Results:
        """Return all that the three functions give."""
        tensors = {name: x.to(working) for name, x in inputs(kind, shape, shape[-1], device).items()}
        arguments = tensors, shape[-1] ** -0.5
        results = dict(zip(("R_q", "R_k", "R_v"), function(kind, "relevance", *arguments), strict=True))
        return results | {which: function(kind, which, *arguments, clamp=clamp) for which in ("map", "rollout step")}

    return NumericsCase(
        operation, f"{kind} {clamp}", torch.float32, "B={} F={} S={} N={} D={}".format(*shape),
        kernel=partial(run, ours),
        eager=partial(run, stored),
        oracle=partial(run, partial(call, reference), torch.float64),
    )  # fmt: skip


def compiled(operation: str) -> list[CompileCase]:
    """Return every kernel for every row of the tables; what the models launch on all architectures."""
    return [
        *(_compile_case("spatial", 7, 362, head_dim) for head_dim in (64, 96, 128)),
        replace(_compile_case("spatial", 7, 362, 96, clips=1), architectures=(80, 90)),  # a clip alone: smaller tiles
        replace(_compile_case("spatial", 7, 362, 128, clips=1), architectures=(90,)),
        # Few positions.
        *(replace(_compile_case("spatial", 7, 50, dim), architectures=(80, 89, 90)) for dim in (96, 128)),
        *(_compile_case("temporal", 7, 362, head_dim) for head_dim in (64, 96)),
        _compile_case("temporal", 17, 362, 96),
        replace(_compile_case("temporal", 33, 362, 96), architectures=(90, 100)),  # others take another way
        replace(_compile_case("spatial", 1, 2534, 96, roll_out=False), architectures=(90,)),  # joint attention, its map
        replace(_compile_case("spatial", 7, 362, 56), architectures=(80, 89, 90)),  # no tensor cores in narrow heads
        # Offsets beyond 32 bits: a frame row of a million positions, four hundred clips.
        replace(_compile_case("spatial", 1, 10**6, 96, clips=1), architectures=(80, 90)),
        replace(_compile_case("temporal", 7, 362, 96, clips=400), architectures=(80, 90)),
    ]


def _compile_case(
    kind: str, frames: int, positions: int, head_dim: int, *, clips: int = 8, roll_out: bool = True
) -> CompileCase:
    def start() -> None:
        q, k, v = torch.empty(clips, frames, positions, 3, 8, head_dim, device="meta").unbind(3)
        u = torch.empty(k.shape, device="meta")
        scale = head_dim**-0.5
        row = torch.empty(clips, *((frames, positions) if kind == "spatial" else (positions, frames)), device="meta")
        getattr(operator, f"launch_{kind}_relevance")(q, k, v, u, scale, 0.01)
        getattr(operator, f"launch_{kind}_map")(row if roll_out else None, q, k, v, u, u, scale, False)

    return CompileCase(
        f"float32 {kind} B={clips} F={frames} S={positions} D={head_dim}" + ("" if roll_out else " map"), start,
        # 64-bit offsets take twice the registers of narrow ones: 24 of them may go to the first cache.
        lambda launch: Expected(
            tensor_cores=head_dim >= NARROW_HEAD and launch.kernel.fn.__name__ != "split_heads",
            spill=96 if launch.arguments["INT64_OFFSETS"] else 0,
        ),
    )  # fmt: skip
