"""The criterion of numerics: eager as a GPU computes it, and what stands for its error where that is nil by luck."""

import pytest
import torch

from bench.checks.error_bound import FAILS, HOLDS, NumericsCase, ProductsOfGPU, compare

EPS = torch.finfo(torch.float32).eps


def verdict(found, eager, exact):
    case = NumericsCase("", "", torch.float32, "", *(lambda x=x: {"out": x} for x in (found, eager, exact)))
    (row,) = compare(case)
    return row["verdict"]


def test_float32_products_of_eager_are_one_sum_in_order_forward_and_backward():
    """A CPU's library adds many partial sums: beside that a GPU's own eager would not have held in single queries."""
    small = torch.tensor([[1.0, EPS / 2, EPS / 2]])  # each half unit is rounded off, and both together would not be
    ones = torch.ones(3, 1, requires_grad=True)
    with ProductsOfGPU():
        product = small @ ones
        (torch.ones(1, 3) @ ones).backward(torch.ones(1, 1))
        (batched,) = small[None] @ ones[None]
        half = small.half() @ ones.half()
    assert product.item() == batched.item() == 1.0
    assert torch.equal(ones.grad, torch.ones(3, 1))
    assert half.dtype == torch.float16


def test_products_in_order_agree_with_float64():
    a, b = torch.randn(2, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    with ProductsOfGPU():
        found = a @ b.mT
    exact = a.double() @ b.double().mT
    assert EPS / 4 < (found - exact).norm() / exact.norm() < 4 * EPS


@pytest.mark.parametrize(("elements", "units", "expected"), [(1, 3, HOLDS), (1, 5, FAILS), (10**6, 3, FAILS)])
def test_one_element_may_be_some_units_off_where_eager_is_exact_and_many_may_not(elements, units, expected):
    """Shapes of 1x1x1 failed at 8.5 times an error of eager that was nil."""
    exact = torch.ones(elements, dtype=torch.float64)
    assert verdict((exact * (1 + units * EPS)).float(), exact.float(), exact) == expected


@pytest.mark.parametrize(("times", "expected"), [(1.4, HOLDS), (1.6, FAILS), (float("nan"), FAILS)])
def test_errors_beyond_rounding_are_measured_by_that_of_eager(times, expected):
    exact = torch.ones(10, dtype=torch.float64)
    assert verdict((exact + times * 1e-3).float(), (exact + 1e-3).float(), exact) == expected
