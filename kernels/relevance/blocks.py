"""Triton building blocks of the relevance kernels: the ratio rule, and `a b^T` of rows never held in a tile whole.

A float32 product on tensor cores holds each operand as three tf32 tiles. Three or four such products of whole rows at a
time do not fit into registers, so rows are read `BLOCK_K` columns at a time (again from cache for each product). Tensor
cores cut their sums off, sm_80 those of four columns: what they lose grows with the columns that they add up.
"""

import triton
import triton.language as tl

from kernels.common.blocks import product
from kernels.relevance import reference

SMALLEST_MAGNITUDE = tl.constexpr(reference.SMALLEST_MAGNITUDE)


@triton.jit
def ratio(relevance, total, magnitude, eps, smallest=SMALLEST_MAGNITUDE):
    """Return `relevance / (total + eps * sign(total) * magnitude)`, as `kernels.relevance.ratio` does."""
    signed = tl.where(total > 0, magnitude, tl.where(total < 0, -magnitude, 0.0))
    denominator = total + eps * signed
    something = tl.abs(denominator) > smallest
    return tl.where(something, relevance / tl.where(something, denominator, 1.0), 0.0)


@triton.jit
def load_block(pointer, rows, valid, first, HEAD_DIM: tl.constexpr, BLOCK_K: tl.constexpr):
    """Return columns `first .. first + BLOCK_K` of the rows at offsets `rows`; zero where not `valid`."""
    columns = first + tl.arange(0, BLOCK_K)
    mask = valid[:, None] & (columns < HEAD_DIM)[None, :]
    return tl.load(pointer + (rows[:, None] + columns[None, :]), mask=mask, other=0.0)


@triton.jit
def row_products(
    a, a_rows, a_valid, b, b_rows, b_valid,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr,
    MAGNITUDE: tl.constexpr, BLOCK_K: tl.constexpr = 32,
):  # fmt: skip
    """Return `a b^T` of rows in memory, and where `MAGNITUDE` `|a| |b|^T` (else zeros): [BLOCK_M, BLOCK_N] each."""
    c = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    magnitude = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(0, HEAD_DIM, BLOCK_K):
        a_block = load_block(a, a_rows, a_valid, first, HEAD_DIM, BLOCK_K)  # [BLOCK_M, BLOCK_K]
        b_block = load_block(b, b_rows, b_valid, first, HEAD_DIM, BLOCK_K)  # [BLOCK_N, BLOCK_K]
        c += product(a_block, tl.trans(b_block), PRECISION)
        if MAGNITUDE:
            magnitude += product(tl.abs(a_block), tl.trans(tl.abs(b_block)), PRECISION)
    return c, magnitude
