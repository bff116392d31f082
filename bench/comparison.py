"""Kernel against eager PyTorch, both against float64 on the same rounded inputs.

A kernel is right when its relative Frobenius error is at most :data:`LARGEST_RATIO` times the error of eager PyTorch
in the same dtype, forward and every gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from kernels import AttentionTape

LARGEST_RATIO = 1.5

Results = dict[str, torch.Tensor]


@dataclass(frozen=True)
class NumericsCase:
    """One comparison: three programs that compute the same named quantities."""

    operation: str
    mode: str
    dtype: torch.dtype
    shape: str
    kernel: Callable[[], Results]
    eager: Callable[[], Results]
    oracle: Callable[[], Results]


@dataclass(frozen=True)
class Comparison:
    """One quantity of a case: relative Frobenius errors against float64, and whether the kernel's is small enough."""

    case: NumericsCase
    quantity: str
    error: float
    eager_error: float

    @property
    def ratio(self) -> float:
        """Error over the error of eager, or over a quarter of the dtype's epsilon where eager was lucky to be exact."""
        return self.error / max(self.eager_error, torch.finfo(self.case.dtype).eps / 4)

    @property
    def holds(self) -> bool:
        """False also where an error is not a number."""
        return self.ratio <= LARGEST_RATIO


def compare(case: NumericsCase) -> list[Comparison]:
    """Run the three programs of a case."""
    kernel, eager, oracle = case.kernel(), case.eager(), case.oracle()
    return [
        Comparison(case, name, relative_error(kernel[name], oracle[name]), relative_error(eager[name], oracle[name]))
        for name in oracle
    ]


def relative_error(x: torch.Tensor, exact: torch.Tensor) -> float:
    """``|x - exact| / |exact|`` in the Frobenius norm, in float64; plain ``|x|`` where ``exact`` is zero."""
    x, exact = x.detach().double().cpu(), exact.detach().double().cpu()
    if x.shape != exact.shape:
        return math.nan
    size = exact.norm().item()
    return (x - exact).norm().item() / (size or 1.0)


def with_gradients(
    function: Callable[..., torch.Tensor],
    inputs: Mapping[str, torch.Tensor],
    grad_out: torch.Tensor,
    *,
    dtype: torch.dtype | None = None,
    tape: bool = False,
) -> Results:
    """Output, the gradient of every input, and with ``tape`` the attention and its gradient.

    Args:
        function: called with ``inputs`` as keyword arguments (and ``tape=`` where asked for).
        inputs: copied to leaves of their own, in ``dtype`` where given.
        grad_out: the gradient that arrives at the output.
        dtype: float64 for the oracle.
        tape: pass an :class:`kernels.AttentionTape`.
    """
    leaves = {name: (x if dtype is None else x.to(dtype)).detach().requires_grad_() for name, x in inputs.items()}
    record = AttentionTape() if tape else None
    out = function(**leaves, **({"tape": record} if tape else {}))
    out.backward(grad_out.to(out.dtype))
    results = {"out": out.detach()}
    for name, leaf in leaves.items():
        if leaf.grad is None:
            raise AssertionError(f"no gradient reached {name}")
        results[f"grad {name}"] = leaf.grad
    if record is not None:
        results |= {"attention": record.attention, "grad attention": record.gradient}
    return results
