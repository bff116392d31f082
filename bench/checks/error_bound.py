"""Error bound of the kernels: kernel and eager PyTorch against float64 on the same rounded inputs.

A kernel holds when its relative Frobenius error is at most `LARGEST_RATIO` times the error of eager PyTorch
in the same dtype, forward and every gradient. Eager's float32 products are summed as a GPU sums them, with tf32 off.
Where eager is exact by luck, what rounding explains stands for its error: see `rounding_error`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils._python_dispatch import TorchDispatchMode

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

    The ratio is the error over that of eager, or over `rounding_error` where that is more. An error that is not a
    number does not hold.
    """
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what the kernel does not write with NaN
    try:
        kernel = case.kernel()
    finally:
        torch.use_deterministic_algorithms(before)
    with ProductsOfGPU():
        eager = case.eager()
    oracle = case.oracle()
    rows = []
    for name, exact in oracle.items():
        error, of_eager = relative_error(kernel[name], exact), relative_error(eager[name], exact)
        ratio = error / max(of_eager, rounding_error(exact, case.dtype))
        holds = ratio <= LARGEST_RATIO and of_eager <= LARGEST_EAGER_ERROR
        verdict = HOLDS if holds else FAILS
        rows.append({"quantity": name, "error": error, "eager": of_eager, "ratio": ratio, "verdict": verdict})
    return rows


def rounding_error(exact: torch.Tensor, dtype: torch.dtype) -> float:
    """Return the relative error that rounding to `dtype` explains in a result, whatever eager's error is.

    A quarter of the dtype's epsilon is the error of one rounding in the mean over many elements. Over n of them the
    mean is off by chance by one part in the root of n, and some steps of a unit or two in the last place each
    (products, exponential, quotient) make one element: 2 epsilon over the root of n. A single element has 2.25 epsilon,
    a thousand have 0.31. Where the exact result is zero because its parts cancel, as in a gradient through the softmax
    of a single score, it is 8 epsilon.
    """
    eps = torch.finfo(dtype).eps
    return 8 * eps if _is_zero(exact) else eps * (0.25 + 2 * (exact.numel() or 1) ** -0.5)


class ProductsOfGPU(TorchDispatchMode):
    """Compute float32 matrix products of CPU tensors as a GPU does: by fused multiply-adds in the order of the columns.

    BLAS adds up tens of partial sums on a CPU, differently on each processor and for each number of rows, and comes out
    as much as twice as exact as the single sum that a thread of a GPU keeps.
    """

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        """Take over the two operators that products are made of; all others run as they are."""
        if function in (torch.ops.aten.bmm.default, torch.ops.aten.mm.default):
            a, b = arguments
            if a.device.type == "cpu" and a.dtype == torch.float32:
                return product_in_order(a, b)
        return function(*arguments, **(options or {}))


def product_in_order(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return `a b` of float32 `[..., M, K]` and `[..., K, N]`, summed over K in order with one rounding each."""
    total = a.new_zeros(*a.shape[:-1], b.shape[-1])
    for column in range(a.shape[-1]):  # the product of two float32 numbers is exact in float64
        step = a[..., :, column, None].double() * b[..., column, None, :].double()
        total = step.add_(total).float()
    return total


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
