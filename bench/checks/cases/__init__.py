"""Cases of the numerics and compile checks, by operation.

A module of this folder has `numerics(operation, device, small, ...)`, comparisons against float64 (`small` asks for
shapes that the interpreter can afford: a program costs 15 to 35 ms there), and `compiled(operation)`, launches to
compile ahead of time. An operation with a line in `OPERATIONS` is known to both commands and both tests.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import torch

from bench.checks.error_bound import NumericsCase
from kernels.common.launch import Launch

Shapes = Sequence[tuple[int, ...]]

ARCHITECTURES = (80, 89, 90, 100)
# Operation and its module.
OPERATIONS = {
    "layer_norm_difference": "layer_norm_difference",
    "temporal_attention": "attention",
    "spatial_attention": "attention",
    "relevance": "relevance",
}


class Expected(NamedTuple):
    """What is expected of the machine code of a launch.

    Attributes:
        tensor_cores: whether it must use them.
        spill: bytes of registers that it may spill.
        tile_bytes: bytes (loaded, stored) of a program that moves each element of its tile once; None for loops.
    """

    tensor_cores: bool = False
    spill: int = 0
    tile_bytes: tuple[int, int] | None = None


@dataclass(frozen=True)
class CompileCase:
    """Launches of one operation, and what is expected of their machine code.

    Attributes:
        name: dtype, mode and shape, for the table.
        start: starts the launches on meta tensors; runs inside `kernels.common.launch.recorded`.
        expected: of a launch.
        architectures: compute capabilities to compile for: all for what the models launch, one for a variant.
        beyond: compute capabilities on which the operation takes another way, so that there is nothing to compile.
    """

    name: str
    start: Callable[[], None]
    expected: Callable[[Launch], Expected] = lambda launch: Expected()
    architectures: tuple[int, ...] = ARCHITECTURES
    beyond: tuple[int, ...] = ()


def numerics(
    operation: str,
    device: torch.device,
    small: bool,
    shapes: Shapes | None = None,
    captures: Collection[int] = (0, 4),
) -> list[NumericsCase]:
    """Return the comparisons of an operation, the shapes that matter most first.

    Args:
        operation: of `OPERATIONS`.
        device: of the tensors.
        small: whether shapes are small.
        shapes: in place of these; sizes as the module of the operation lists them.
        captures: the numbers of the shapes with which attention is captured too.
    """
    return _module(operation).numerics(operation, device, small, shapes, captures)


def compiled(operation: str) -> list[CompileCase]:
    """Return the launches of an operation that are compiled."""
    return _module(operation).compiled(operation)


def _module(operation: str) -> ModuleType:
    return importlib.import_module(f"bench.checks.cases.{OPERATIONS[operation]}")
