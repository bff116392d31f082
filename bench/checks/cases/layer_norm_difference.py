"""Cases of LayerNorm and self-subtract."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from bench.checks.cases import CompileCase
from bench.checks.error_bound import DTYPES, NumericsCase, Results, with_gradients
from kernels import layer_norm_difference
from kernels.frame_difference import difference_rows
from kernels.layer_norm import operator
from kernels.layer_norm.reference import layer_norm_difference as reference

Tensor = torch.Tensor

# Clips, frames, positions, channels.
SMALL = ((2, 7, 3, 91), (1, 2, 4, 40), (2, 17, 2, 128))
LARGE = ((8, 7, 362, 728), (2, 7, 101, 91), (1, 2, 50, 512), (1, 65, 26, 2912), (3, 17, 401, 64))


def eager(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """LayerNorm in the dtype of x (PyTorch keeps its statistics in float32), then the subtraction in that dtype."""
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    return difference_rows(torch.nn.functional.layer_norm(x, (x.shape[-1],), weight, bias, 1e-6), 1)


def numerics(device: torch.device, small: bool) -> list[NumericsCase]:
    """Every shape in every dtype."""
    return [_case(device, shape, dtype) for shape in (SMALL if small else LARGE) for dtype in DTYPES]


def inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """Tokens that are not centered, a float32 weight and bias, and a gradient."""
    generator = torch.Generator().manual_seed(0)
    x = (2 * torch.randn(shape, generator=generator) + 1).to(device, dtype)
    weight, bias = torch.randn(2, shape[-1], generator=generator).to(device)
    return {"x": x, "weight": weight, "bias": bias}, torch.randn(shape, generator=generator).to(device, dtype)


def _case(device: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> NumericsCase:
    def run(function, working: torch.dtype | None = None) -> Results:
        tensors, grad_out = inputs(shape, dtype, device)
        return with_gradients(function, tensors, grad_out, dtype=working)

    clips, frames, positions, channels = shape
    return NumericsCase(
        "layer_norm_difference", "", dtype, f"B={clips} F={frames} S={positions} C={channels}",
        kernel=partial(run, layer_norm_difference),
        eager=partial(run, eager),
        oracle=partial(run, reference, torch.float64),
    )  # fmt: skip


def compiled() -> list[CompileCase]:
    """Both kernels for every row of their tables of configs."""
    cases = [_compiled(torch.bfloat16, channels) for channels in (728, 2048, 8192)]
    wide = _compiled(torch.bfloat16, 728, clips=1200)  # offsets beyond 32 bits
    return [*cases, *(replace(case, architectures=(90,)) for case in (_compiled(torch.float32, 728), wide))]


def _compiled(dtype: torch.dtype, channels: int, clips: int = 8) -> CompileCase:
    name = f"{str(dtype).removeprefix('torch.')} B={clips} C={channels}"
    return CompileCase("layer_norm_difference", name, partial(_start, dtype, channels, clips))


def _start(dtype: torch.dtype, channels: int, clips: int) -> None:
    x = torch.empty(clips, 7, 362, channels, dtype=dtype, device="meta")
    weight = torch.empty(channels, device="meta")
    operator.launch_forward(x, weight, weight, 1e-6, torch.empty_like(x))
    operator.launch_backward(x, weight, x, 1e-6, torch.empty_like(x))
