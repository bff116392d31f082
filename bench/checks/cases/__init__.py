"""What is checked and compiled, one module an operation.

A module `bench/checks/cases/<operation>.py` has two functions:

- `numerics(device, small) -> list[NumericsCase]`: comparisons against float64 (`bench numerics` and the tests);
  `small` asks for shapes that the interpreter can afford (a program costs 15 to 35 ms there).
- `compiled() -> list[CompileCase]`: launches to compile ahead of time (`bench compile` and the tests).

Add the module's name to `OPERATIONS` and both commands and both tests know it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from kernels.common.launch import Launch

ARCHITECTURES = (80, 89, 90, 100)
OPERATIONS = ("layer_norm_difference", "temporal_attention", "spatial_attention", "relevance")


@dataclass(frozen=True)
class CompileCase:
    """Launches of one operation, and what is expected of their machine code.

    Attributes:
        operation: a name of `OPERATIONS`.
        name: dtype, mode and shape, for the table.
        start: starts the launches on meta tensors; runs inside `kernels.common.launch.recorded`.
        architectures: compute capabilities to compile for: all for what the models launch, one for a variant.
        beyond: compute capabilities on which the operation takes another way, so that there is nothing to compile.
        needs_tensor_cores: whether a launch's machine code must use tensor cores.
        tile_bytes: bytes (loaded, stored) of one program if each element of its tile moves once, for kernels without
            loops; None where there is no such number.
        allowed_spill: bytes of registers a launch may spill on an architecture.
        narrowest_load: bits of the narrowest load allowed.
    """

    operation: str
    name: str
    start: Callable[[], None]
    architectures: tuple[int, ...] = ARCHITECTURES
    beyond: tuple[int, ...] = ()
    needs_tensor_cores: Callable[[Launch], bool] = lambda launch: False
    tile_bytes: Callable[[Launch], tuple[int, int] | None] = lambda launch: None
    allowed_spill: Callable[[Launch, int], int] = lambda launch, architecture: 0
    narrowest_load: int = 32


def module(operation: str) -> ModuleType:
    """The module of an operation."""
    return importlib.import_module(f"bench.checks.cases.{operation}")
