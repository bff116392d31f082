"""Relevance through spatial attention: Triton kernels, float32 in and out; the formulas are those of `reference.py`.

    spatial_relevance    R_q (a tile of queries, over all keys)  R_q = q * (W k) / 2,    W = (P * u v^T / 2) / stab(z)
                         R_k (a tile of keys, over all queries)  R_k = k * (W^T q) / 2
                         R_v (a tile of keys, over all queries)  R_v = v * (P^T u) / 2
    spatial_map          (a tile of both, over heads)            max(mean_h(P * u v^T / 2 * do v^T), 0), or row times it

P = exp(scale z - row_max) * inv_row_sum, with the row stats of the forward kernel of spatial attention: two numbers a
row and not one logarithm, whose rounding would put every entry of its row off alike.

Tensor cores have no float32 products. Three of float16 make one: `split_heads` writes each operand as two float16
parts, high + low = x / scale with a power of two for each head of a frame row, and a b = low high + high low +
high high, which leaves out 2^-24 of it. That is the width of three tf32 products in half their time; and 16-bit tiles
are multiplied from where an asynchronous copy puts them, transposed or not, so that the rows of a program stay in
shared memory while it goes through all others. Of narrow heads, whose short sums do not hide what tensor cores cut
off, the parts are one, of float32, and products are plain multiply-adds.

The sums over a loop are added up by plain additions, not by tensor cores. That is more exact, and on sm_90 it waits
for the last product of an iteration, as the copies for a later one must: Triton 3.7 gives a tile with other uses
beside that product no second buffer, and the copy would overwrite what the product still reads.

Every number is written by one program, so results repeat bit for bit. Columns past the last key are not masked: their
score is 0, which may be far above the largest of the row, and their attention infinite; but values there are zeros, so
that the ratio rule gives them no relevance, and nothing of them is stored. The map is reduced over heads in registers;
as a rollout step the program multiplies its tile with the carried row and writes one partial sum a key.
"""

import triton
import triton.language as tl

from kernels.common.blocks import load_columns, locate, store_columns, tile_rows, zeros
from kernels.relevance.blocks import SMALLEST_MAGNITUDE, ratio
from kernels.spatial.kernels import load_row_stats, probabilities

# The largest of a head is brought to 2^14 .. 2^15: float16 ends at 65,504, and what is 2^-38 of the largest vanishes.
TOP_EXPONENT = tl.constexpr(14)
# Scales stay within 2^-100 .. 2^100, so that their products of two stay within float32.
FIRST_EXPONENT = tl.constexpr((127 - 100) << 23)
LAST_EXPONENT = tl.constexpr((127 + 100) << 23)


@triton.jit
def power_of_two(largest):
    """Return a power of two that brings magnitudes up to `largest` below 2^15, and its inverse; elementwise."""
    bits = largest.to(tl.int32, bitcast=True) & 0x7F800000
    bits = tl.minimum(tl.maximum(bits, FIRST_EXPONENT), LAST_EXPONENT)
    scale = bits - (TOP_EXPONENT << 23)
    factor = (254 << 23) - scale
    return factor.to(tl.float32, bitcast=True), scale.to(tl.float32, bitcast=True)


@triton.jit
def split(x, dtype: tl.constexpr):
    """Return the high and the low part of a scaled float32 `x`; in float32 the high one is all of it."""
    high = x.to(dtype)
    if dtype == tl.float32:
        low = high
    else:
        low = (x - high.to(tl.float32)).to(dtype)
    return high, low


@triton.jit
def joined(high, low):
    """Return the float32 whose parts these are."""
    x = high.to(tl.float32)
    if high.dtype != tl.float32:
        x += low.to(tl.float32)
    return x


@triton.jit
def split_heads(
    x, parts, scales,
    positions, padded, heads, frames, distance,
    stride_xb, stride_xf, stride_xs, stride_xh,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr, INT64_OFFSETS: tl.constexpr,
):  # fmt: skip
    """Write the parts of one head of a frame row and its scale.

    Parts are `[2, B, F, N, padded, WIDTH]`: zeros beyond the last position and column, so that no load needs a mask.
    """
    _, head, frame, clip = locate(tl.program_id(0), 1, heads, frames)
    group = (clip * frames + frame) * heads + head
    x += clip * stride_xb + frame * stride_xf + head * stride_xh
    largest = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(0, positions, BLOCK_M):
        row = tile_rows(start, BLOCK_M, INT64_OFFSETS)
        tile = load_columns(x, row * stride_xs, row < positions, 0, BLOCK_D, HEAD_DIM)
        largest = tl.maximum(largest, tl.abs(tile))
    factor, scale = power_of_two(tl.max(tl.max(largest, 1), 0))
    tl.store(scales + group, scale)
    high_parts = parts + group * padded * WIDTH
    low_parts = high_parts + distance
    for start in range(0, padded, BLOCK_M):
        row = tile_rows(start, BLOCK_M, INT64_OFFSETS)
        tile = load_columns(x, row * stride_xs, row < positions, 0, BLOCK_D, HEAD_DIM)
        high, low = split(tile * factor, parts.dtype.element_ty)
        store_columns(high_parts, row * WIDTH, row < padded, high, 0, BLOCK_D, WIDTH)
        if parts.dtype.element_ty != tl.float32:
            store_columns(low_parts, row * WIDTH, row < padded, low, 0, BLOCK_D, WIDTH)


@triton.jit
def load_part(pointer, rows, FIRST: tl.constexpr, BLOCK: tl.constexpr):
    """Return columns `FIRST .. FIRST + BLOCK` of the rows at offsets `rows`."""
    columns = FIRST + tl.arange(0, BLOCK)
    return tl.load(pointer + (rows[:, None] + columns[None, :]))


@triton.jit
def load_parts(parts, distance, rows, BLOCK_D0: tl.constexpr, BLOCK_D1: tl.constexpr):
    """Return the high parts of rows, two blocks of columns, and the low parts, which are `distance` further on."""
    high0 = load_part(parts, rows, 0, BLOCK_D0)
    high1 = high0
    if BLOCK_D1 > 0:
        high1 = load_part(parts, rows, BLOCK_D0, BLOCK_D1)
    low0 = high0
    low1 = high1
    if parts.dtype.element_ty != tl.float32:
        low0 = load_part(parts + distance, rows, 0, BLOCK_D0)
        if BLOCK_D1 > 0:
            low1 = load_part(parts + distance, rows, BLOCK_D0, BLOCK_D1)
    return high0, high1, low0, low1


@triton.jit
def absolute(high, low):
    """Return the parts of `|x|`: the low one changes its sign with the high one."""
    if high.dtype != tl.float32:
        sign = high.to(tl.int16, bitcast=True) & -32768
        low = (low.to(tl.int16, bitcast=True) ^ sign).to(tl.float16, bitcast=True)
    return tl.abs(high), low


@triton.jit
def product_of_parts(a_high, a_low, b_high, b_low):
    """Return `a b`, small products first, so that less is cut off of their sum."""
    if a_high.dtype == tl.float32:
        c = tl.dot(a_high, b_high, input_precision="ieee")
    else:
        c = tl.dot(a_low, b_high)
        c = tl.dot(a_high, b_low, c)
        c = tl.dot(a_high, b_high, c)
    return c


@triton.jit
def product_of_rows(a_high0, a_high1, a_low0, a_low1, b_high0, b_high1, b_low0, b_low1):
    """Return `a b^T` of parts: [BLOCK_M, BLOCK_N]; the sums of the two blocks of columns are added in float32."""
    c = product_of_parts(a_high0, a_low0, tl.trans(b_high0), tl.trans(b_low0))
    return c + product_of_parts(a_high1, a_low1, tl.trans(b_high1), tl.trans(b_low1))


@triton.jit
def spatial_relevance(
    a, b, c, d, a_scale, b_scale, c_scale, d_scale, row_max, inv_row_sum, relevance,
    scale_log2, eps, positions, padded, heads, frames, distance,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D0: tl.constexpr, BLOCK_D1: tl.constexpr,
    INT64_OFFSETS: tl.constexpr, OF: tl.constexpr,
):  # fmt: skip
    """Write R_q, R_k or R_v (`OF` is "q", "k" or "v"), contiguous, of `BLOCK_M` rows of one head of one frame row.

    The program owns rows of a and c and loops over all rows of b and d, parts by `split_heads`: `z = a b^T` and
    `u v^T = c d^T`, where (a, b, c, d) are (q, k, u, v) for R_q, and (k, q, v, u), which transposes both, for R_k and
    R_v. Rows past the last position are zeros and have no relevance.
    """
    tile, head, frame, clip = locate(tl.program_id(0), tl.cdiv(positions, BLOCK_M), heads, frames)
    own = tile_rows(tile * BLOCK_M, BLOCK_M, False)
    own_valid = own < positions
    group = (clip * frames + frame) * heads + head
    first = group * positions
    a += group * padded * WIDTH
    b += group * padded * WIDTH
    c += group * padded * WIDTH
    d += group * padded * WIDTH
    # z and its magnitude stay multiples of a power of two, which cancels in w b.
    z_scale = tl.load(a_scale + group) * tl.load(b_scale + group)
    z_scale_log2 = z_scale * scale_log2
    smallest = SMALLEST_MAGNITUDE / z_scale
    if OF == "q":
        shift, factor = load_row_stats(None, row_max, inv_row_sum, first, own, own_valid)  # [BLOCK_M]
    a_high0, a_high1, a_low0, a_low1 = load_parts(a, distance, own * WIDTH, BLOCK_D0, BLOCK_D1)
    if OF != "v":
        c_high0, c_high1, c_low0, c_low1 = load_parts(c, distance, own * WIDTH, BLOCK_D0, BLOCK_D1)
        a_abs_high0, a_abs_low0 = absolute(a_high0, a_low0)
        a_abs_high1, a_abs_low1 = absolute(a_high1, a_low1)
    acc0, acc1 = zeros(BLOCK_M, BLOCK_D0, BLOCK_D1)  # [BLOCK_M, D]
    largest = tl.full([BLOCK_M], 2.0**-100, tl.float32)
    for start in range(0, positions, BLOCK_N):
        # z, magnitude, p, uv, w: [BLOCK_M, BLOCK_N]; b, d: [BLOCK_N, D]
        other = tile_rows(start, BLOCK_N, False)
        valid = other < positions
        b_high0, b_high1, b_low0, b_low1 = load_parts(b, distance, other * WIDTH, BLOCK_D0, BLOCK_D1)
        d_high0, d_high1, d_low0, d_low1 = load_parts(d, distance, other * WIDTH, BLOCK_D0, BLOCK_D1)
        if OF != "q":
            shift, factor = load_row_stats(None, row_max, inv_row_sum, first, other, valid)  # [BLOCK_N]
        z = product_of_rows(a_high0, a_high1, a_low0, a_low1, b_high0, b_high1, b_low0, b_low1)
        if OF == "q":
            p = probabilities(z, z_scale_log2, shift[:, None], factor[:, None], None)
        else:
            p = probabilities(z, z_scale_log2, shift[None, :], factor[None, :], None)
        if OF == "v":
            w_high, w_low = split(p * 2.0**14, d_high0.dtype)
            acc0 += product_of_parts(w_high, w_low, d_high0, d_low0)
            acc1 += product_of_parts(w_high, w_low, d_high1, d_low1)
        else:
            b_abs_high0, b_abs_low0 = absolute(b_high0, b_low0)
            b_abs_high1, b_abs_low1 = absolute(b_high1, b_low1)
            magnitude = product_of_rows(
                a_abs_high0, a_abs_high1, a_abs_low0, a_abs_low1, b_abs_high0, b_abs_high1, b_abs_low0, b_abs_low1,
            )  # fmt: skip
            w = ratio(p, z, magnitude, eps, smallest)  # before the next product: one tile is kept instead of three
            w *= product_of_rows(c_high0, c_high1, c_low0, c_low1, d_high0, d_high1, d_low0, d_low1)
            m_new = tl.maximum(largest, tl.max(tl.abs(w), 1))
            w_factor, _ = power_of_two(m_new)
            _, before = power_of_two(largest)
            alpha = before * w_factor  # 1, or where a larger w appeared a smaller power of two
            largest = m_new
            w_high, w_low = split(w * w_factor[:, None], b_high0.dtype)
            acc0 = acc0 * alpha[:, None] + product_of_parts(w_high, w_low, b_high0, b_low0)
            acc1 = acc1 * alpha[:, None] + product_of_parts(w_high, w_low, b_high1, b_low1)
    # x: own rows of v, or of q or k, for the product with the sums
    scale = tl.load(c_scale + group) * tl.load(d_scale + group)
    if OF == "v":
        x_high0, x_high1, x_low0, x_low1 = load_parts(c, distance, own * WIDTH, BLOCK_D0, BLOCK_D1)
        scale *= 0.5 * 2.0**-14
    else:
        x_high0, x_high1, x_low0, x_low1 = load_parts(a, distance, own * WIDTH, BLOCK_D0, BLOCK_D1)
        _, w_scale = power_of_two(largest)
        scale = ((scale * 0.25) * w_scale)[:, None]
    relevance += (clip * frames + frame) * positions * heads * HEAD_DIM + head * HEAD_DIM
    own = tile_rows(tile * BLOCK_M, BLOCK_M, INT64_OFFSETS)
    rows = own * (heads * HEAD_DIM)
    acc0 = acc0 * scale * joined(x_high0, x_low0)
    store_columns(relevance, rows, own_valid, acc0, 0, BLOCK_D0, HEAD_DIM)
    acc1 = acc1 * scale * joined(x_high1, x_low1)
    store_columns(relevance, rows, own_valid, acc1, BLOCK_D0, BLOCK_D1, HEAD_DIM)


@triton.jit
def product_in_one_sum(a_high0, a_high1, a_low0, a_low1, b_high0, b_high1, b_low0, b_low1):
    """Return `a b^T` of float16 parts: [BLOCK_M, BLOCK_N], in half the registers of `product_of_rows`.

    One sum of all columns, of which tensor cores cut off more, always towards zero: not for scores, whose absolute
    error is a relative one of the probability.
    """
    c = tl.dot(a_low0, tl.trans(b_high0))
    c = tl.dot(a_high0, tl.trans(b_low0), c)
    c = tl.dot(a_low1, tl.trans(b_high1), c)
    c = tl.dot(a_high1, tl.trans(b_low1), c)
    c = tl.dot(a_high0, tl.trans(b_high0), c)
    return tl.dot(a_high1, tl.trans(b_high1), c)


@triton.jit
def add_rows(acc, a, b, distance, a_rows, b_rows, first, BLOCK_K: tl.constexpr):
    """Return `acc + a b^T` of the columns `first .. first + BLOCK_K` of parts in memory: [BLOCK_M, BLOCK_N]."""
    columns = first + tl.arange(0, BLOCK_K)
    a_rows = a_rows[:, None] + columns[None, :]
    b_rows = b_rows[None, :] + columns[:, None]
    a_high = tl.load(a + a_rows)  # [BLOCK_M, BLOCK_K]
    b_high = tl.load(b + b_rows)  # [BLOCK_K, BLOCK_N]
    a_low = a_high
    b_low = b_high
    if a.dtype.element_ty != tl.float32:
        a_low = tl.load(a + distance + a_rows)
        b_low = tl.load(b + distance + b_rows)
    return acc + product_of_parts(a_high, a_low, b_high, b_low)


@triton.jit
def add_to_one(sums, index, x, FIRST: tl.constexpr, TILES: tl.constexpr):
    """Return the tuple `sums` of tiles `FIRST .. FIRST + TILES` with `x` added to tile `index`.

    Halving takes fewer branches than to compare with each, of which LLVM makes a table of jumps.
    """
    if TILES == 1:
        result = (sums[0] + x,)
    else:
        HALF: tl.constexpr = TILES // 2
        low = sums[:HALF]
        high = sums[HALF:]
        if index < FIRST + HALF:
            low = add_to_one(low, index, x, FIRST, HALF)
        else:
            high = add_to_one(high, index, x, FIRST + HALF, TILES - HALF)
        result = low + high
    return result


@triton.jit(do_not_specialize=["heads", "frames"])  # code for one head or one frame row would spill
def spatial_map(
    q, k, v, u, do, q_scale, k_scale, v_scale, u_scale, do_scale, row_max, inv_row_sum, row, result,
    scale_log2, positions, padded, heads, frames, distance,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TILES: tl.constexpr, TWO_SUMS: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK_D0: tl.constexpr, BLOCK_D1: tl.constexpr, BLOCK_K: tl.constexpr,
    INT64_OFFSETS: tl.constexpr, CLAMP_EACH: tl.constexpr,
):  # fmt: skip
    """Write `BLOCK_M` keys by `TILES * BLOCK_N` queries of the map, summed over heads.

    Without u or do, parts by `split_heads`, these factors are 1. Row stats are padded with zeros to `padded` positions.
    With `row` [B, F, query tiles, TILES * BLOCK_N], zeros at its end, result [B, F, query tiles, S] holds the row of
    these queries times the map; without it result [B, F, S, S] is the map.

    The rows of k and v of the keys are read once a head, and tiles of queries are gone through. Their sums over heads
    stay in registers; products are of one tile at a time, and the first `TWO_SUMS` of them are more exact. With a
    `BLOCK_K` products are made of as many columns at a time, from memory, and added up in float32.
    """
    query_tiles = tl.cdiv(positions, BLOCK_N * TILES)
    query_tile, key_tile, frame, clip = locate(tl.program_id(0), query_tiles, tl.cdiv(positions, BLOCK_M), frames)
    first_query = query_tile * (BLOCK_N * TILES)
    key = tile_rows(key_tile.to(tl.int32) * BLOCK_M, BLOCK_M, False)
    key_valid = key < positions
    # Within a tile, so that they are constants of a thread: one pointer a tile instead of one a load.
    key_rows = tl.arange(0, BLOCK_M) * WIDTH
    query_rows = tl.arange(0, BLOCK_N) * WIDTH
    group = clip * frames + frame
    sums = ()
    for _ in tl.static_range(TILES):
        sums += (tl.zeros([BLOCK_M, BLOCK_N], tl.float32),)
    tiles = tl.minimum(TILES, tl.cdiv(positions - first_query, BLOCK_N))
    for number in range(heads):
        head = group * heads + number
        # z, uv, dp, weighted: [BLOCK_M, BLOCK_N], keys by queries; k, v: [BLOCK_M, D]; q, u, do: [BLOCK_N, D]
        keys = (head * padded + key_tile * BLOCK_M) * WIDTH
        queries = head * padded * WIDTH
        z_scale_log2 = scale_log2 * tl.load(q_scale + head) * tl.load(k_scale + head)
        if u is not None:
            uv_scale = 0.5 * tl.load(u_scale + head) * tl.load(v_scale + head)
        if do is not None:
            dp_scale = tl.load(do_scale + head) * tl.load(v_scale + head)
        if BLOCK_K == 0:
            k_high0, k_high1, k_low0, k_low1 = load_parts(k + keys, distance, key_rows, BLOCK_D0, BLOCK_D1)
            if u is not None or do is not None:
                v_high0, v_high1, v_low0, v_low1 = load_parts(v + keys, distance, key_rows, BLOCK_D0, BLOCK_D1)
        for index in range(tiles):
            at = queries + (first_query + index * BLOCK_N) * WIDTH
            query = tile_rows(first_query + index * BLOCK_N, BLOCK_N, False)
            shift = tl.load(row_max + head * padded + query)[None, :]
            factor = tl.load(inv_row_sum + head * padded + query)[None, :]
            if BLOCK_K == 0:
                q_high0, q_high1, q_low0, q_low1 = load_parts(q + at, distance, query_rows, BLOCK_D0, BLOCK_D1)
                z = product_of_rows(k_high0, k_high1, k_low0, k_low1, q_high0, q_high1, q_low0, q_low1)
            else:
                z = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
                for column in range(0, WIDTH, BLOCK_K):
                    z = add_rows(z, k + keys, q + at, distance, key_rows, query_rows, column, BLOCK_K)
            weighted = probabilities(z, z_scale_log2, shift, factor, None)
            if BLOCK_K == 0:
                if u is not None:
                    u_high0, u_high1, u_low0, u_low1 = load_parts(u + at, distance, query_rows, BLOCK_D0, BLOCK_D1)
                    if TWO_SUMS < 2:
                        uv = product_in_one_sum(
                            v_high0, v_high1, v_low0, v_low1, u_high0, u_high1, u_low0, u_low1,
                        )  # fmt: skip
                    else:
                        uv = product_of_rows(v_high0, v_high1, v_low0, v_low1, u_high0, u_high1, u_low0, u_low1)
                    weighted *= uv_scale * uv
                if do is not None:
                    do_high0, do_high1, do_low0, do_low1 = load_parts(do + at, distance, query_rows, BLOCK_D0, BLOCK_D1)
                    if TWO_SUMS + (u is None) < 3:
                        dp = product_in_one_sum(
                            v_high0, v_high1, v_low0, v_low1, do_high0, do_high1, do_low0, do_low1,
                        )  # fmt: skip
                    else:
                        dp = product_of_rows(v_high0, v_high1, v_low0, v_low1, do_high0, do_high1, do_low0, do_low1)
                    weighted *= dp_scale * dp
            elif u is not None or do is not None:
                uv = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
                dp = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
                for column in range(0, WIDTH, BLOCK_K):  # together: v is read once
                    if u is not None:
                        uv = add_rows(uv, v + keys, u + at, distance, key_rows, query_rows, column, BLOCK_K)
                    if do is not None:
                        dp = add_rows(dp, v + keys, do + at, distance, key_rows, query_rows, column, BLOCK_K)
                if u is not None:
                    weighted *= uv_scale * uv
                if do is not None:
                    weighted *= dp_scale * dp
            if CLAMP_EACH:
                weighted = tl.maximum(weighted, 0.0)
            sums = add_to_one(sums, index, weighted, 0, TILES)
    products = tl.zeros([BLOCK_M], tl.float32)
    for index in tl.static_range(TILES):
        query = tile_rows(first_query + index * BLOCK_N, BLOCK_N, False)
        query_valid = query < positions
        mean = tl.maximum(sums[index] / heads, 0.0)
        if row is not None:
            at = (group * query_tiles + query_tile) * (BLOCK_N * TILES) + index * BLOCK_N
            carried = tl.load(row + at + tl.arange(0, BLOCK_N))
            products += tl.sum(carried[None, :] * mean, 1)
        else:
            tile = result + group * positions * positions
            written = query_valid[None, :] & key_valid[:, None]
            query = tile_rows(first_query + index * BLOCK_N, BLOCK_N, INT64_OFFSETS)
            tl.store(tile + (query * positions)[None, :] + key[:, None], mean, mask=written)
    if row is not None:
        tl.store(result + (group * query_tiles + query_tile) * positions + key, products, mask=key_valid)
