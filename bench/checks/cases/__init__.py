"""Cases of the numerics and compile checks, by operation.

A module of this folder has `numerics(operation, device, shapes, captures)`, comparisons against float64, `LARGE` and
`SMALL` shapes of them by operation (small ones the interpreter can afford: a program costs 15 to 35 ms there), and
`compiled(operation)`, launches to compile ahead of time. An operation with a line in `OPERATIONS` is known to both
commands and both tests.
"""

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
    """What is expected of the machine code of a launch."""

    tensor_cores: bool = False
    spill: int = 0  # bytes of registers at most
    tile_bytes: tuple[int, int] | None = None  # loaded and stored where each element of a tile moves once; not in loops


@dataclass(frozen=True)
class CompileCase:
    """Launches of one operation, and what is expected of their machine code.

    `architectures` to compile for are all for what the models launch, and one for a variant.
    """

    name: str  # dtype, mode and shape, for the table
    start: Callable[[], None]  # launches on meta tensors, inside `kernels.common.launch.recorded`
    expected: Callable[[Launch], Expected] = lambda launch: Expected()
    architectures: tuple[int, ...] = ARCHITECTURES


def numerics(
    operation: str, device: torch.device, small: bool, shapes: Shapes | None = None, captures: Collection[int] = (0, 4)
) -> list[NumericsCase]:
    """Return the comparisons of an operation, the shapes that matter most first.

    Shapes are its `SMALL` or `LARGE` ones unless `shapes` are given; of those numbered `captures` attention is
    captured too.
    """
    module = _module(operation)
    return module.numerics(operation, device, shapes or (module.SMALL if small else module.LARGE)[operation], captures)


def compiled(operation: str) -> list[CompileCase]:
    """Return the launches of an operation that are compiled."""
    return _module(operation).compiled(operation)


def _module(operation: str) -> ModuleType:
    return importlib.import_module(f"bench.checks.cases.{OPERATIONS[operation]}")
