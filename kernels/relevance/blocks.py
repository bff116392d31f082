"""Triton building blocks of the relevance kernels: the ratio rule, and `a b^T` of rows never held in a tile whole.

A float32 product on tensor cores holds each operand as three tf32 tiles. Three or four such products of whole rows at a
time do not fit into registers, so rows are read `CHUNK` columns at a time (again from cache for each product).
"""

import triton
import triton.language as tl

from kernels.common.blocks import product
from kernels.relevance import stabilizer

NOTHING = tl.constexpr(stabilizer.NOTHING)
CHUNK = tl.constexpr(32)


@triton.jit
def ratio(relevance, total, magnitude, eps):
    """`relevance / (total + eps * sign(total) * magnitude)`; 0 where that is nothing (see `stabilizer.py`)."""
    signed = tl.where(total > 0, magnitude, tl.where(total < 0, -magnitude, 0.0))
    denominator = total + eps * signed
    something = tl.abs(denominator) > NOTHING
    return tl.where(something, relevance / tl.where(something, denominator, 1.0), 0.0)


@triton.jit
def load_chunk(pointer, rows, valid, first, HEAD_DIM: tl.constexpr):
    """Columns `first .. first + CHUNK` of the rows at offsets `rows`; zero where not `valid`."""
    columns = first + tl.arange(0, CHUNK)
    mask = valid[:, None] & (columns < HEAD_DIM)[None, :]
    return tl.load(pointer + (rows[:, None] + columns[None, :]), mask=mask, other=0.0)


@triton.jit
def outer(
    a, a_rows, a_valid, b, b_rows, b_valid,
    A: tl.constexpr, B: tl.constexpr, HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`a b^T` of `A` rows and `B` rows in memory: [A, B]."""
    c = tl.zeros([A, B], tl.float32)
    for first in range(0, HEAD_DIM, CHUNK):
        a_part = load_chunk(a, a_rows, a_valid, first, HEAD_DIM)
        b_part = load_chunk(b, b_rows, b_valid, first, HEAD_DIM)
        c += product(a_part, tl.trans(b_part), PRECISION)
    return c


@triton.jit
def outer_with_magnitudes(
    a, a_rows, a_valid, b, b_rows, b_valid,
    A: tl.constexpr, B: tl.constexpr, HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`a b^T` and `|a| |b|^T`: [A, B] each."""
    c = tl.zeros([A, B], tl.float32)
    magnitude = tl.zeros([A, B], tl.float32)
    for first in range(0, HEAD_DIM, CHUNK):
        a_part = load_chunk(a, a_rows, a_valid, first, HEAD_DIM)
        b_part = load_chunk(b, b_rows, b_valid, first, HEAD_DIM)
        c += product(a_part, tl.trans(b_part), PRECISION)
        magnitude += product(tl.abs(a_part), tl.trans(tl.abs(b_part)), PRECISION)
    return c, magnitude
