"""Cases of temporal and spatial attention."""

from collections.abc import Collection
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from bench.checks.cases import CompileCase, Expected, Shapes
from bench.checks.error_bound import DTYPES, NumericsCase, numerics_case
from kernels import AttentionCapture, spatial_attention, temporal_attention
from kernels.common.launch import Launch
from kernels.common.strides import empty_like_contiguous
from kernels.frame_difference import difference_rows, integrate_rows
from kernels.spatial import operator as spatial
from kernels.spatial.reference import spatial_attention as spatial_reference
from kernels.temporal import SELF_SUBTRACT
from kernels.temporal import operator as temporal
from kernels.temporal.reference import temporal_attention as temporal_reference

TEMPORAL, SPATIAL = "temporal_attention", "spatial_attention"
FUNCTIONS = {
    TEMPORAL: (temporal_attention, temporal_reference), SPATIAL: (spatial_attention, spatial_reference),
}  # fmt: skip
# The dimension of [B, F, S, N, D] that is attended over.
AXIS = {TEMPORAL: 1, SPATIAL: 2}
# Clips, frames, positions, heads, head_dim, and queries where these are fewer than frames or positions.
SMALL = {
    TEMPORAL: ((1, 7, 9, 2, 24), (2, 4, 5, 1, 64, 1), (1, 17, 3, 1, 16), (1, 64, 2, 1, 64)),
    SPATIAL: ((1, 1, 150, 1, 24), (8, 2, 40, 1, 91, 1), (1, 2, 65, 2, 64, 33), (1, 3, 1, 1, 16)),
}
LARGE = {
    TEMPORAL: (
        (2, 7, 362, 8, 96), (2, 7, 362, 8, 64), (1, 7, 362, 8, 91), (2, 7, 362, 8, 96, 1), (2, 2, 50, 3, 8),
        (1, 17, 101, 2, 128), (1, 33, 26, 2, 40), (1, 65, 10, 2, 64), (1, 128, 5, 2, 96),
    ),
    SPATIAL: (
        (2, 7, 362, 8, 96), (2, 7, 362, 8, 64), (1, 7, 362, 8, 91), (1, 7, 362, 4, 128), (8, 1, 362, 8, 96, 1),
        (1, 2, 50, 3, 8), (1, 3, 1, 2, 16), (1, 1, 257, 2, 40, 129), (1, 1, 4096, 2, 64),
    ),
}  # fmt: skip
FEWEST_ROWS = 16  # of a product on tensor cores


def eager(
    q: Tensor, k: Tensor, v: Tensor, *, self_subtract: str | None = None, capture: AttentionCapture | None = None
) -> Tensor:
    """Attend by two products and a softmax, every step in the inputs' dtype; over positions without `self_subtract`.

    Few queries over positions are multiplied among others: in 16 bits BLAS sums the product of a single row in another,
    more exact order than that of many, by as much as two thirds, and differently on each processor.
    """
    scale = q.shape[-1] ** -0.5
    axis = 2 if self_subtract is None else 1
    queries = q.shape[axis]
    if self_subtract == "fused":
        q, k = difference_rows(q, 1), difference_rows(k, 1)
    if self_subtract == "telescoped":
        v = integrate_rows(v, 1)
    if self_subtract is None and queries < FEWEST_ROWS:
        q = functional.pad(q, (0, 0, 0, 0, 0, FEWEST_ROWS - queries))
    # [B, S, N, F, D] or [B, F, N, S, D]
    q, k, v = (x.movedim(axis, 3) for x in (q, k, v))
    attention = torch.softmax((q @ k.transpose(-1, -2))[..., :queries, :] * scale, -1)
    if capture is not None:
        capture.record(attention)
    return (attention @ v).movedim(3, axis)


def numerics(operation: str, device: torch.device, shapes: Shapes, captures: Collection[int]) -> list[NumericsCase]:
    """Return all shapes, modes and dtypes, some with a capture."""
    return [
        _numerics_case(operation, device, shape, mode, dtype, capture=index in captures)
        for index, shape in enumerate(shapes)
        for mode in (SELF_SUBTRACT if operation == TEMPORAL else (None,))
        for dtype in DTYPES
    ]


def _numerics_case(
    operation: str, device: torch.device, shape: tuple[int, ...], mode: str | None, dtype: torch.dtype, *, capture: bool
) -> NumericsCase:
    clips, frames, positions, heads, head_dim, *queries = shape
    axis = AXIS[operation]

    def inputs() -> tuple[dict[str, Tensor], Tensor]:
        """Return views of one packed product (of the leading queries where fewer), and a gradient."""
        generator = torch.Generator().manual_seed(0)
        qkv = torch.randn(clips, frames, positions, 3, heads, head_dim, generator=generator).to(device, dtype)
        q, k, v = qkv.unbind(3)
        q = q.narrow(axis, 0, *(queries or [q.shape[axis]]))
        return {"q": q, "k": k, "v": v}, torch.randn(q.shape, generator=generator).to(device, dtype)

    sizes = {"B": clips, "F": frames, "S": positions, "N": heads, "D": head_dim}
    sizes["BFS"[axis]] = "/".join(map(str, (*queries, shape[axis])))
    options = {"self_subtract": mode} if mode else {}
    kernel, reference = FUNCTIONS[operation]
    return numerics_case(
        operation, f"{mode or ''}{' capture' * capture}".strip(), dtype, " ".join(f"{n}={x}" for n, x in sizes.items()),
        inputs, *(partial(function, **options) for function in (kernel, eager, reference)), capture=capture,
    )  # fmt: skip


def compiled(operation: str) -> list[CompileCase]:
    """Return what the models launch and every row of the tables of configs; the variants for one architecture.

    float16 takes the rows and the code of bfloat16.
    """
    half, single, case = torch.bfloat16, torch.float32, partial(_compile_case, operation)
    if operation == TEMPORAL:
        everywhere = [case(half, 96), case(single, 96), case(half, 64, frames=65)]
        everywhere += [case(single, 96, frames=frames) for frames in (17, 33, 65)]
        everywhere.append(replace(case(half, 64, frames=33), architectures=(80, 89)))  # a row of their own
        # "fused" in 16 bits, which no model has, runs in the float32 kernels and loads as narrow as it comes.
        variants = [case(half, 64), case(torch.float16, 96), case(half, 96, queries=1), case(half, 96, mode="off")]
        variants += [case(single, 96, mode=mode) for mode in ("off", "telescoped")]
        variants += [case(half, 96, capture=True), case(single, 64, capture=True)]
        variants += [case(dtype, 96, clips=400) for dtype in (half, single)]  # offsets beyond 32 bits
    else:
        everywhere = [case(dtype, head_dim) for dtype in (half, single) for head_dim in (64, 96, 128)]
        everywhere.append(case(half, 96, frames=1, queries=1))
        everywhere.append(case(half, 64, clips=1, frames=1))  # two backward passes
        everywhere += [case(half, head_dim, capture=True) for head_dim in (64, 96)]
        variants = [case(single, 96, frames=1, queries=1)]
        variants.append(case(single, 96, capture=True))
        variants.append(case(half, 96, clips=1, frames=1))
        variants.append(case(single, 56))  # no tensor cores in narrow heads of float32
        variants += [case(single, head_dim, frames=1, positions=33) for head_dim in (64, 96)]  # few keys: none either
        variants += [case(dtype, 96, positions=10**6) for dtype in (half, single)]  # offsets beyond 32 bits
    return [*everywhere, *(replace(variant, architectures=(90,)) for variant in variants)]


def _compile_case(
    operation: str, dtype: torch.dtype, head_dim: int, *, mode: str | None = None, frames: int = 7,
    positions: int = 362, clips: int = 8, queries: int | None = None, capture: bool = False,
) -> CompileCase:  # fmt: skip
    mode = mode or ("fused" if dtype == torch.float32 else "telescoped")
    scale = head_dim**-0.5

    def start() -> None:
        qkv = torch.empty(clips, frames, positions, 3, 8, head_dim, dtype=dtype, device="meta")
        q, k, v = qkv.unbind(3)
        q = q.narrow(AXIS[operation], 0, queries or q.shape[AXIS[operation]])
        operator = temporal if operation == TEMPORAL else spatial
        out, grad_out = empty_like_contiguous(q), empty_like_contiguous(q)
        attention = operator.empty_attention(q, k) if capture else None
        gradients = map(empty_like_contiguous, (q, k, v)) if queries else torch.empty_like(qkv).unbind(3)
        if operation == TEMPORAL:
            temporal.launch_forward(q, k, v, scale, mode, out, attention)
            temporal.launch_backward(q, k, v, grad_out, scale, mode, *gradients, attention)
        else:
            row_stats = spatial.empty_row_stats(q)
            spatial.launch_forward(q, k, v, scale, out, row_stats, attention)
            spatial.launch_backward(q, k, v, out, row_stats, grad_out, scale, *gradients, attention)

    name = str(dtype).removeprefix("torch.") + f" {mode}" * (operation == TEMPORAL)
    name += f" B={clips} F={frames} S={positions} D={head_dim}" + f" queries={queries}" * bool(queries)
    expected = partial(_expected_of_temporal, capture) if operation == TEMPORAL else _expected
    return CompileCase(name + " capture" * capture, start, expected)


def _expected_of_temporal(capture: bool, launch: Launch) -> Expected:
    """Expect a tile to move once, and to spill where 128 rows of q, dO and dq, or their products, do not quite fit.

    The float32 backward kernel may spill two registers: Triton 3.9 does in mode "off", 3.6 and 3.7 do not.
    """
    on_tensor_cores, backward = "PADDED_FRAMES" in launch.arguments, "do" in launch.arguments
    rows = launch.config.kwargs["BLOCK_M"]
    spill = 0 if not backward else 1024 if rows == 128 else 0 if on_tensor_cores else 8
    if capture or not on_tensor_cores:  # that one loops over key frames
        return Expected(on_tensor_cores, spill)
    tensor = rows * launch.arguments["HEAD_DIM"] * launch.arguments["q"].element_size()
    return Expected(True, spill, (4 * tensor, 3 * tensor) if backward else (3 * tensor, tensor))


def _expected(launch: Launch) -> Expected:
    """Expect bytes to be spilled where it is worth it, to the first cache.

    Wide float32 heads, whose operands are two tf32 parts each, may spill 16 registers; a config that caps registers so
    that two programs share a processor may spill 4.
    """
    precision = launch.arguments.get("PRECISION")  # the one pass backward, of 16 bits, has none
    wide = precision == "tf32x3" and launch.arguments["HEAD_DIM"] > 64
    spill = 64 if wide else 16 if launch.config.maxnreg else 0
    return Expected(launch.arguments["q"].dtype != torch.float32 or precision != "ieee", spill)
