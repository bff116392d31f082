"""Error bound of the kernels: kernel and eager PyTorch against float64 on the same rounded inputs.

A kernel holds when its relative Frobenius error is at most `LARGEST_RATIO` times the error of eager PyTorch
in the same dtype, forward and every gradient.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from bench.common.record import Row
from kernels import AttentionCapture

LARGEST_RATIO = 1.5
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Where eager PyTorch itself is that far off, it is no measure of anything.
LARGEST_EAGER_ERROR = 0.25
HOLDS, FAILS = "holds", "FAILS"

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


def compare(case: NumericsCase) -> list[Row]:
    """Run the three programs of a case; return a record a quantity.

    The ratio is the error over that of eager, or over what rounding explains where eager is exact by luck: a quarter of
    the dtype's epsilon; several of it where the exact result is zero because its parts cancel, as in a gradient through
    the softmax of a single score. An error that is not a number does not hold.
    """
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what the kernel does not write with NaN
    try:
        kernel = case.kernel()
    finally:
        torch.use_deterministic_algorithms(before)
    eager, oracle = case.eager(), case.oracle()
    eps = torch.finfo(case.dtype).eps
    rows = []
    for name, exact in oracle.items():
        error, of_eager = relative_error(kernel[name], exact), relative_error(eager[name], exact)
        ratio = error / max(of_eager, 8 * eps if _is_zero(exact) else eps / 4)
        holds = ratio <= LARGEST_RATIO and of_eager <= LARGEST_EAGER_ERROR
        verdict = HOLDS if holds else FAILS
        rows.append({"quantity": name, "error": error, "eager": of_eager, "ratio": ratio, "verdict": verdict})
    return rows


def _is_zero(exact: torch.Tensor) -> bool:
    """Return whether nothing but float64's own rounding is left of it."""
    return exact.double().norm().item() <= 1e-12 * exact.numel() ** 0.5


def relative_error(x: torch.Tensor, exact: torch.Tensor) -> float:
    """Return `|x - exact| / |exact|` in the Frobenius norm, in float64; the root mean square of `x` where that is 0."""
    x, exact = x.detach().double(), exact.detach().double()
    if x.shape != exact.shape:
        return math.nan
    size = (exact.numel() or 1) ** 0.5 if _is_zero(exact) else exact.norm().item()
    return (x - exact).norm().item() / size


def numerics_case(
    operation: str, mode: str, dtype: torch.dtype, shape: str, inputs: Callable[[], tuple[Results, torch.Tensor]],
    kernel: Callable[..., torch.Tensor], eager: Callable[..., torch.Tensor], reference: Callable[..., torch.Tensor],
    *, capture: bool = False,
) -> NumericsCase:  # fmt: skip
    """Return a comparison of three functions, the last in float64: of the output and of the gradient of every input.

    `inputs` returns tensors by the name of the argument, and the gradient that arrives at the output. With `capture`
    the functions get an `AttentionCapture`, and attention and its gradient are compared too.
    """

    def run(function: Callable[..., torch.Tensor], working: torch.dtype | None = None) -> Results:
        tensors, grad_out = inputs()
        leaves = {name: x.to(working or x.dtype).detach().requires_grad_() for name, x in tensors.items()}
        captured = AttentionCapture()
        out = function(**leaves, **({"capture": captured} if capture else {}))
        out.backward(grad_out.to(out.dtype))
        results = {"out": out.detach()} | {f"grad {name}": leaf.grad for name, leaf in leaves.items()}
        return results | ({"attention": captured.attention, "grad attention": captured.gradient} if capture else {})

    programs = partial(run, kernel), partial(run, eager), partial(run, reference, torch.float64)
    return NumericsCase(operation, mode, dtype, shape, *programs)
