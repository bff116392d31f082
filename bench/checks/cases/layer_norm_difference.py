"""Cases of LayerNorm and self-subtract."""

from collections.abc import Collection
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from bench.checks.cases import CompileCase, Shapes
from bench.checks.error_bound import DTYPES, NumericsCase, numerics_case
from bench.kernels.temporal import eager_layer_norm
from kernels import layer_norm_difference
from kernels.layer_norm import operator
from kernels.layer_norm.reference import layer_norm_difference as reference

# Clips, frames, positions, channels.
NAME = "layer_norm_difference"
SMALL = {NAME: ((2, 7, 3, 91), (1, 2, 4, 40), (2, 17, 2, 128))}
LARGE = {NAME: ((8, 7, 362, 728), (2, 7, 101, 91), (1, 2, 50, 512), (1, 65, 26, 2912), (3, 17, 401, 64))}


def numerics(operation: str, device: torch.device, shapes: Shapes, captures: Collection[int]) -> list[NumericsCase]:
    """Return every shape in every dtype."""

    def inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
        """Return tokens that are not centered, a float32 weight and bias, and a gradient."""
        generator = torch.Generator().manual_seed(0)
        x = (2 * torch.randn(shape, generator=generator) + 1).to(device, dtype)
        weight, bias = torch.randn(2, shape[-1], generator=generator).to(device)
        return {"x": x, "weight": weight, "bias": bias}, torch.randn(shape, generator=generator).to(device, dtype)

    return [
        numerics_case(
            operation, "", dtype, "B={} F={} S={} C={}".format(*shape),
            partial(inputs, shape, dtype), layer_norm_difference, eager_layer_norm, reference,
        )
        for shape in shapes
        for dtype in DTYPES
    ]  # fmt: skip


def compiled(operation: str) -> list[CompileCase]:
    """Return both kernels for every row of their tables of configs."""
    cases = [_compile_case(torch.bfloat16, channels) for channels in (728, 2048, 8192)]
    wide = _compile_case(torch.bfloat16, 728, clips=1200)  # offsets beyond 32 bits
    return [*cases, *(replace(case, architectures=(90,)) for case in (_compile_case(torch.float32, 728), wide))]


def _compile_case(dtype: torch.dtype, channels: int, clips: int = 8) -> CompileCase:
    def start() -> None:
        x = torch.empty(clips, 7, 362, channels, dtype=dtype, device="meta")
        weight = torch.empty(channels, device="meta")
        operator.launch_forward(x, weight, weight, 1e-6, torch.empty_like(x))
        operator.launch_backward(x, weight, x, 1e-6, torch.empty_like(x))

    return CompileCase(f"{str(dtype).removeprefix('torch.')} B={clips} C={channels}", start)
