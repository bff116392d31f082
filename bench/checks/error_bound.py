"""Kernel against eager PyTorch, both against float64 on the same rounded inputs.

A kernel is right when its relative Frobenius error is at most `LARGEST_RATIO` times the error of eager PyTorch
in the same dtype, forward and every gradient.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from kernels import AttentionCapture

LARGEST_RATIO = 1.5
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Where eager PyTorch itself is that far off, it is no measure of anything.
LARGEST_EAGER_ERROR = 0.25

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
    cancels: bool = False

    @property
    def ratio(self) -> float:
        """Error over the error of eager, or over what rounding explains where eager was lucky to be exact.

        That is a quarter of the dtype's epsilon; several of it where the exact result is zero because its parts
        cancel, as in a gradient through the softmax of a single score.
        """
        eps = torch.finfo(self.case.dtype).eps
        return self.error / max(self.eager_error, 8 * eps if self.cancels else eps / 4)

    @property
    def holds(self) -> bool:
        """False also where an error is not a number, and where the result of eager is none either."""
        return self.ratio <= LARGEST_RATIO and self.eager_error <= LARGEST_EAGER_ERROR


def compare(case: NumericsCase) -> list[Comparison]:
    """Run the three programs of a case; what the kernel does not write is NaN."""
    with _poisoned():
        kernel = case.kernel()
    eager, oracle = case.eager(), case.oracle()
    return [
        Comparison(case, name, relative_error(kernel[name], exact), relative_error(eager[name], exact), _is_zero(exact))
        for name, exact in oracle.items()
    ]


def _is_zero(exact: torch.Tensor) -> bool:
    """Whether nothing but float64's own rounding is left of it."""
    return exact.double().norm().item() <= 1e-12 * exact.numel() ** 0.5


@contextlib.contextmanager
def _poisoned() -> Iterator[None]:
    """Inside, uninitialized memory is filled with NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def relative_error(x: torch.Tensor, exact: torch.Tensor) -> float:
    """`|x - exact| / |exact|` in the Frobenius norm, in float64; the root mean square of `x` where that is zero."""
    x, exact = x.detach().double(), exact.detach().double()
    if x.shape != exact.shape:
        return math.nan
    size = (exact.numel() or 1) ** 0.5 if _is_zero(exact) else exact.norm().item()
    return (x - exact).norm().item() / size


def with_gradients(
    function: Callable[..., torch.Tensor],
    inputs: Mapping[str, torch.Tensor],
    grad_out: torch.Tensor,
    *,
    dtype: torch.dtype | None = None,
    capture: bool = False,
) -> Results:
    """Output, the gradient of every input, and with `capture` the attention and its gradient.

    Args:
        function: called with `inputs` as keyword arguments (and `capture=` where asked for).
        inputs: copied to leaves of their own, in `dtype` where given.
        grad_out: the gradient that arrives at the output.
        dtype: float64 for the oracle.
        capture: pass an `kernels.AttentionCapture`.
    """
    leaves = {name: (x if dtype is None else x.to(dtype)).detach().requires_grad_() for name, x in inputs.items()}
    record = AttentionCapture() if capture else None
    out = function(**leaves, **({"capture": record} if capture else {}))
    out.backward(grad_out.to(out.dtype))
    results = {"out": out.detach()}
    for name, leaf in leaves.items():
        if leaf.grad is None:
            raise AssertionError(f"no gradient reached {name}")
        results[f"grad {name}"] = leaf.grad
    if record is not None:
        results |= {"attention": record.attention, "grad attention": record.gradient}
    return results
