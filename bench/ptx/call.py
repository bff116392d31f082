"""Execute anybody's Triton kernels on CPU tensors: one call, or every launch inside a context."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import torch
from triton.compiler.errors import CompilationError
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

from bench.ptx.machine import Machine, Options, Report
from dataloading.errors import InputError

# What Triton's launcher takes beside the kernel's own arguments and does not hand to the compiler.
_OF_THE_LAUNCHER = ("grid", "warmup", "stream", "device", "device_type")


def execute_kernel(
    kernel: JITFunction,
    grid: int | Sequence[int] | Callable[[dict[str, Any]], Sequence[int]],
    *arguments: Any,
    num_warps: int = 4,
    num_stages: int = 3,
    architecture: int = 90,
    machine: Machine | None = None,
    compiler_options: dict[str, Any] | None = None,
    **named: Any,
) -> Report:
    """Compile a kernel as for a GPU and execute it on CPU tensors, which it writes.

    A fault of the kernel (an access out of bounds, a race) does not stop it: it is in the report.

    Args:
        kernel: a `triton.jit` function; of an autotuned one its `.fn`.
        grid: programs along x, y and z (one to three numbers), or a function of the arguments by name.
        arguments: of the kernel, in its order: CPU tensors, numbers, None.
        num_warps, num_stages: of the launch.
        architecture: 80 or 90.
        machine: that executes it, with its options (`architecture` is then the machine's); None makes one.
        compiler_options: more options of Triton's compiler: `maxnreg`, `enable_fp_fusion`.
        named: arguments by name, the constants among them.

    Returns:
        Faults, counts and what the kernel was.

    Raises:
        InputError: the arguments do not fit the kernel, a tensor is not on the CPU, the grid or the shared memory is
            more than the architecture has, or the kernel does not end.
        Unsupported: the compiled code has an instruction that the executor does not know.
    """
    if not isinstance(kernel, JITFunction):
        kind = type(kernel).__name__
        raise InputError(f"{kind} is no function of triton.jit; of an autotuned one give its .fn.")
    name = kernel.__name__
    try:
        bound = kernel.signature.bind(*arguments, **named)
    except TypeError as error:
        raise InputError(f"{name}: {error}; it takes {', '.join(kernel.arg_names)}.") from None
    bound.apply_defaults()
    _check_arguments(kernel, bound.arguments)
    if callable(grid):
        grid = grid(dict(bound.arguments))
    machine = machine or Machine(Options(architecture=architecture))
    options = {"num_warps": num_warps, "num_stages": num_stages} | (compiler_options or {})
    if num_warps not in (1, 2, 4, 8, 16, 32):
        raise InputError(f"{name}: num_warps is {num_warps}; expected a power of two of at most 32.")
    sizes = (grid,) if isinstance(grid, int) else tuple(grid)
    constants = {p.name: bound.arguments[p.name] for p in kernel.params if p.is_constexpr}
    try:
        return machine.run(kernel, sizes, dict(bound.arguments), options, constants)
    except CompilationError as error:
        *_, reason = str(error).strip().splitlines()
        raise InputError(f"{name} does not compile with these arguments: {reason.strip()}.") from error


def _check_arguments(kernel: JITFunction, arguments: dict[str, Any]) -> None:
    for parameter in kernel.params:
        value = arguments[parameter.name]
        if parameter.is_constexpr:
            continue
        if isinstance(value, torch.Tensor) and value.device.type != "cpu":
            raise InputError(f"{kernel.__name__}: {parameter.name} is on {value.device}; expected a tensor on the CPU.")
        if isinstance(value, torch.Tensor) and value.is_complex():
            raise InputError(f"{kernel.__name__}: {parameter.name} is {value.dtype}, which no kernel takes.")
        if value is not None and not isinstance(value, (torch.Tensor, bool, int, float)):
            kind = type(value).__name__
            raise InputError(
                f"{kernel.__name__}: {parameter.name} is a {kind}; expected a tensor, a number, a truth value or None."
            )


@contextlib.contextmanager
def executed(machine: Machine) -> Iterator[Machine]:
    """Execute every launch `kernel[grid](...)` inside on CPU tensors, as another project's functions make them.

    Reports are in `machine.reports`. An autotuned kernel takes its first config: there is no time to choose by.
    This project's own kernels are taken by `machine.takes_launches` instead.
    """

    launched_before = JITFunction.run

    def run(kernel: JITFunction, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        if warmup:
            return launched_before(kernel, *arguments, grid=grid, warmup=True, **named)
        options = {key: named.pop(key) for key in list(named) if key not in kernel.arg_names}
        launched = {key: options.pop(key) for key in ("num_warps", "num_stages") if key in options}
        for key in _OF_THE_LAUNCHER:
            options.pop(key, None)
        return execute_kernel(kernel, grid, *arguments, machine=machine, compiler_options=options, **launched, **named)

    def run_tuned(tuner: Autotuner, *arguments: Any, **named: Any) -> Any:
        return tuner.fn.run(*arguments, **named, **tuner.configs[0].all_kwargs())

    with patch.object(JITFunction, "run", run), patch.object(Autotuner, "run", run_tuned):
        yield machine
