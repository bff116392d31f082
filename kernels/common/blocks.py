"""Triton building blocks that the kernels share: where a program is, tiles of rows split in powers of two, products."""

import triton
import triton.language as tl

IEEE = tl.constexpr("ieee")  # Triton 3.6 takes no plain text as the default of an argument


@triton.jit
def locate(program, tiles, heads, frames):
    """Tile, head, frame row and clip of a program; tiles run fastest, so that they share keys and values in cache.

    Head, frame row and clip are 64-bit: multiplied by a stride, they may leave the 32-bit range.
    """
    tile = program % tiles
    group = (program // tiles).to(tl.int64)
    return tile, group % heads, group // heads % frames, group // heads // frames


@triton.jit
def tile_rows(first, COUNT: tl.constexpr, WIDE: tl.constexpr):
    """Positions `first .. first + COUNT`: [COUNT], 64-bit where WIDE."""
    rows = first + tl.arange(0, COUNT)
    if WIDE:
        rows = rows.to(tl.int64)
    return rows


@triton.jit
def product(a, b, PRECISION: tl.constexpr = IEEE):
    """`a @ b` accumulated in float32; 16-bit operands use tensor cores."""
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def halves(x):
    """`x` (float32) as a sum of two bfloat16 tiles: 16 bits of mantissa, the exponent range of float32."""
    high = x.to(tl.bfloat16)
    low = (x - high.to(tl.float32)).to(tl.bfloat16)
    return high, low


@triton.jit
def load_columns(pointer, rows, valid, FIRST: tl.constexpr, COLUMNS: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Columns `FIRST .. FIRST + COLUMNS` of the rows at offsets `rows`; zero where not `valid`."""
    columns = FIRST + tl.arange(0, COLUMNS)
    mask = tl.expand_dims(valid, -1)
    if FIRST + COLUMNS > HEAD_DIM:
        mask = mask & (columns < HEAD_DIM)
    return tl.load(pointer + (tl.expand_dims(rows, -1) + columns), mask=mask, other=0.0)


@triton.jit
def load_rows(pointer, rows, valid, LEFT: tl.constexpr, RIGHT: tl.constexpr, HEAD_DIM: tl.constexpr):
    """The rows at offsets `rows` as two tiles of `LEFT` and `RIGHT` columns.

    `RIGHT` may be 0: then the second tile repeats the first and nobody reads it.
    """
    left = load_columns(pointer, rows, valid, 0, LEFT, HEAD_DIM)
    right = left
    if RIGHT > 0:
        right = load_columns(pointer, rows, valid, LEFT, RIGHT, HEAD_DIM)
    return left, right


@triton.jit
def store_columns(pointer, rows, valid, tile, FIRST: tl.constexpr, COLUMNS: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Write `tile` to columns `FIRST .. FIRST + COLUMNS` of the `valid` rows, rounded once."""
    columns = FIRST + tl.arange(0, COLUMNS)
    mask = tl.expand_dims(valid, -1)
    if FIRST + COLUMNS > HEAD_DIM:
        mask = mask & (columns < HEAD_DIM)
    tl.store(pointer + (tl.expand_dims(rows, -1) + columns), tile.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def store_rows(pointer, rows, valid, left, right, LEFT: tl.constexpr, RIGHT: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Write the two tiles of `load_rows`."""
    store_columns(pointer, rows, valid, left, 0, LEFT, HEAD_DIM)
    if RIGHT > 0:
        store_columns(pointer, rows, valid, right, LEFT, RIGHT, HEAD_DIM)
