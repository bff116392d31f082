"""bfloat16 products in Triton's interpreter are those of a GPU."""

import pytest
import torch
import triton
import triton.language as tl

from kernels.common.launch import interpreted


@triton.jit
def multiply(a, b, c, SIDE: tl.constexpr):
    rows = tl.arange(0, SIDE)
    places = rows[:, None] * SIDE + rows[None, :]
    product = tl.dot(tl.load(a + places), tl.load(b + places))
    tl.store(c + places, product.to(tl.bfloat16))


@pytest.mark.skipif(not interpreted(), reason="a GPU needs no interpreter")
def test_a_bfloat16_product_is_the_product_of_numbers_and_not_of_bit_patterns():
    """Triton multiplies the bit patterns (triton#11584), and every result is off by powers of ten."""
    a, b = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    c = torch.empty_like(a)
    multiply[(1,)](a, b, c, SIDE=16)
    assert torch.equal(c, (a.float() @ b.float()).bfloat16())
