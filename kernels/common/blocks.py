"""Triton building blocks of all kernels: program index to tile, loads and stores of split heads, matrix products.

A head of `HEAD_DIM` columns lies in two blocks of `BLOCK_D0` and `BLOCK_D1` columns, powers of two (96 = 64 + 32):
`x0` and `x1` below. With a `BLOCK_D1` of 0 there is no second block, and `x1` is never read.
"""

import triton
import triton.language as tl

IEEE = tl.constexpr("ieee")  # Triton 3.6 refuses a plain string as the default of an argument


@triton.jit
def locate(program, tiles, heads, frames):
    """Return tile, head, frame row and clip of a program; tiles run fastest, so that they share keys in cache.

    Head, frame row and clip are 64-bit: multiplied by a stride, they may leave the 32-bit range.
    """
    tile = program % tiles
    group = (program // tiles).to(tl.int64)
    return tile, group % heads, group // heads % frames, group // heads // frames


@triton.jit
def tile_frames(tile, PADDED_FRAMES: tl.constexpr, BLOCK_M: tl.constexpr, INT64_OFFSETS: tl.constexpr):
    """Return position and frame of each row of a tile that holds all frames of several positions: [BLOCK_M] each."""
    row = tl.arange(0, BLOCK_M)
    position = tile * (BLOCK_M // PADDED_FRAMES) + row // PADDED_FRAMES
    frame = row % PADDED_FRAMES
    if INT64_OFFSETS:
        position = position.to(tl.int64)
        frame = frame.to(tl.int64)
    return position, frame


@triton.jit
def tile_rows(first, BLOCK: tl.constexpr, INT64_OFFSETS: tl.constexpr):
    """Return the positions `first .. first + BLOCK`: [BLOCK]."""
    rows = first + tl.arange(0, BLOCK)
    if INT64_OFFSETS:
        rows = rows.to(tl.int64)
    return rows


@triton.jit
def product(a, b, PRECISION: tl.constexpr = IEEE):
    """Return `a b`, accumulated in float32; 16-bit operands use tensor cores."""
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def product_transposed(a0, a1, b0, b1, BLOCK_D1: tl.constexpr, PRECISION: tl.constexpr = IEEE):
    """Return `a b^T`: [M, D] and [N, D] -> [M, N]."""
    c = product(a0, tl.trans(b0), PRECISION)
    if BLOCK_D1 > 0:
        c += product(a1, tl.trans(b1), PRECISION)
    return c


@triton.jit
def add_product(acc0, acc1, a, b0, b1, BLOCK_D1: tl.constexpr, PRECISION: tl.constexpr = IEEE):
    """Return `acc + a b`: [M, N] and [N, D] -> [M, D]."""
    acc0 += product(a, b0, PRECISION)
    if BLOCK_D1 > 0:
        acc1 += product(a, b1, PRECISION)
    return acc0, acc1


@triton.jit
def zeros(BLOCK_M: tl.constexpr, BLOCK_D0: tl.constexpr, BLOCK_D1: tl.constexpr):
    """Return [BLOCK_M, D] zeros."""
    return tl.zeros([BLOCK_M, BLOCK_D0], tl.float32), tl.zeros([BLOCK_M, BLOCK_D1 if BLOCK_D1 > 0 else 16], tl.float32)


@triton.jit
def load_columns(pointer, rows, valid, FIRST: tl.constexpr, BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Return columns `FIRST .. FIRST + BLOCK` of the rows at offsets `rows`; zero where not `valid`."""
    columns = FIRST + tl.arange(0, BLOCK)
    mask = tl.expand_dims(valid, -1)
    if FIRST + BLOCK > HEAD_DIM:
        mask = mask & (columns < HEAD_DIM)
    return tl.load(pointer + (tl.expand_dims(rows, -1) + columns), mask=mask, other=0.0)


@triton.jit
def load_rows(pointer, rows, valid, BLOCK_D0: tl.constexpr, BLOCK_D1: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Return the rows at offsets `rows`; zero where not `valid`."""
    x0 = load_columns(pointer, rows, valid, 0, BLOCK_D0, HEAD_DIM)
    x1 = x0
    if BLOCK_D1 > 0:
        x1 = load_columns(pointer, rows, valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    return x0, x1


@triton.jit
def store_columns(pointer, rows, valid, x, FIRST: tl.constexpr, BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Write `x` to columns `FIRST .. FIRST + BLOCK` of the `valid` rows, rounded once."""
    columns = FIRST + tl.arange(0, BLOCK)
    mask = tl.expand_dims(valid, -1)
    if FIRST + BLOCK > HEAD_DIM:
        mask = mask & (columns < HEAD_DIM)
    tl.store(pointer + (tl.expand_dims(rows, -1) + columns), x.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def store_rows(pointer, rows, valid, x0, x1, BLOCK_D0: tl.constexpr, BLOCK_D1: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Write `x` to the `valid` rows at offsets `rows`, rounded once."""
    store_columns(pointer, rows, valid, x0, 0, BLOCK_D0, HEAD_DIM)
    if BLOCK_D1 > 0:
        store_columns(pointer, rows, valid, x1, BLOCK_D0, BLOCK_D1, HEAD_DIM)
