"""Relevance through spatial attention: Triton kernels, all float32; the formulas are those of `reference.py`.

    spatial_relevance    R_q (a tile of queries, over all keys)  R_q = q * (W k) / 2,    W = (P * u v^T / 2) / stab(z)
                         R_k (a tile of keys, over all queries)  R_k = k * (W^T q) / 2
                         R_v (a tile of keys, over all queries)  R_v = v * (P^T u) / 2
    spatial_map          (a tile of both, over heads)            max(mean_h(P * u v^T / 2 * do v^T), 0), or row times it

P = exp(scale z - row_max) * inv_row_sum, with the row stats of the forward kernel of spatial attention: two numbers a
row and not one logarithm, whose rounding would put every entry of its row off alike.

Every number is written by one program, so results repeat bit for bit. Columns past the last key are not masked: their
score is 0, which may be far above the largest of the row, and their attention infinite; but values there are zeros, so
that the ratio rule gives them no relevance, and nothing of them is stored. The map is reduced over heads in registers;
as a rollout step the program multiplies its tile with the carried row and writes one partial sum a key.
"""

import triton
import triton.language as tl

from kernels.common.blocks import add_product, load_rows, locate, store_rows, tile_rows, zeros
from kernels.relevance.blocks import ratio, row_products
from kernels.spatial.kernels import load_row_stats, probabilities


@triton.jit
def spatial_relevance(
    a, b, c, d, row_max, inv_row_sum, relevance,
    scale_log2, eps, positions, heads, frames,
    stride_ab, stride_af, stride_as, stride_ah,
    stride_bb, stride_bf, stride_bs, stride_bh,
    stride_cb, stride_cf, stride_cs, stride_ch,
    stride_db, stride_df, stride_ds, stride_dh,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_D0: tl.constexpr, BLOCK_D1: tl.constexpr,
    PRECISION: tl.constexpr, INT64_OFFSETS: tl.constexpr, OF: tl.constexpr,
):  # fmt: skip
    """Write R_q, R_k or R_v (`OF` is "q", "k" or "v"), contiguous, of `BLOCK_M` rows of one head of one frame row.

    The program owns rows of a and c and loops over all rows of b and d: `z = a b^T` and `u v^T = c d^T`, where
    (a, b, c, d) are (q, k, u, v) for R_q, and (k, q, v, u), which transposes both, for R_k and R_v. Rows past the last
    position are zeros and have no relevance. R_k and R_v are apart: both sums at once do not fit into registers.
    """
    tile, head, frame, clip = locate(tl.program_id(0), tl.cdiv(positions, BLOCK_M), heads, frames)
    own = tile_rows(tile * BLOCK_M, BLOCK_M, INT64_OFFSETS)
    own_valid = own < positions
    a += clip * stride_ab + frame * stride_af + head * stride_ah
    b += clip * stride_bb + frame * stride_bf + head * stride_bh
    c += clip * stride_cb + frame * stride_cf + head * stride_ch
    d += clip * stride_db + frame * stride_df + head * stride_dh
    first = ((clip * frames + frame) * heads + head) * positions
    if OF == "q":
        shift, factor = load_row_stats(None, row_max, inv_row_sum, first, own, own_valid)  # [BLOCK_M]
    acc0, acc1 = zeros(BLOCK_M, BLOCK_D0, BLOCK_D1)  # [BLOCK_M, D]
    for start in range(0, positions, BLOCK_N):
        # z, magnitude, p, uv, w: [BLOCK_M, BLOCK_N]; y: [BLOCK_N, D]
        other = tile_rows(start, BLOCK_N, INT64_OFFSETS)
        valid = other < positions
        z, magnitude = row_products(
            a, own * stride_as, own_valid, b, other * stride_bs, valid,
            BLOCK_M, BLOCK_N, HEAD_DIM, PRECISION, OF != "v",
        )  # fmt: skip
        if OF == "q":
            p = probabilities(z, scale_log2, shift[:, None], factor[:, None], None)
        else:
            shift, factor = load_row_stats(None, row_max, inv_row_sum, first, other, valid)  # [BLOCK_N]
            p = probabilities(z, scale_log2, shift[None, :], factor[None, :], None)
        if OF == "v":
            w = p
            y0, y1 = load_rows(d, other * stride_ds, valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
        else:
            uv, _ = row_products(
                c, own * stride_cs, own_valid, d, other * stride_ds, valid,
                BLOCK_M, BLOCK_N, HEAD_DIM, PRECISION, False,
            )  # fmt: skip
            w = ratio(p * uv * 0.5, z, magnitude, eps)
            y0, y1 = load_rows(b, other * stride_bs, valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
        acc0, acc1 = add_product(acc0, acc1, w, y0, y1, BLOCK_D1, PRECISION)
    if OF == "v":
        x0, x1 = load_rows(c, own * stride_cs, own_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    else:
        x0, x1 = load_rows(a, own * stride_as, own_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    acc0 = acc0 * x0 * 0.5
    if BLOCK_D1 > 0:
        acc1 = acc1 * x1 * 0.5
    relevance += (clip * frames + frame) * positions * heads * HEAD_DIM + head * HEAD_DIM
    store_rows(relevance, own * (heads * HEAD_DIM), own_valid, acc0, acc1, BLOCK_D0, BLOCK_D1, HEAD_DIM)


@triton.jit
def spatial_map(
    q, k, v, u, do, row_max, inv_row_sum, row, result,
    scale_log2, positions, heads, frames,
    stride_qb, stride_qf, stride_qs, stride_qh,
    stride_kb, stride_kf, stride_ks, stride_kh,
    stride_vb, stride_vf, stride_vs, stride_vh,
    stride_ub, stride_uf, stride_us, stride_uh,
    stride_dob, stride_dof, stride_dos, stride_doh,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr, INT64_OFFSETS: tl.constexpr, CLAMP_EACH: tl.constexpr,
):  # fmt: skip
    """Write one tile of the map, summed over heads; without u or do these factors are 1.

    With `row` [B, F, S] result [B, F, query tiles, S] holds the row of this tile's queries times the map; without it
    result [B, F, S, S] is the map.
    """
    query_tiles = tl.cdiv(positions, BLOCK_M)
    tile, key_tile, frame, clip = locate(tl.program_id(0), query_tiles, tl.cdiv(positions, BLOCK_N), frames)
    query = tile_rows(tile * BLOCK_M, BLOCK_M, INT64_OFFSETS)
    key = tile_rows(key_tile.to(tl.int32) * BLOCK_N, BLOCK_N, INT64_OFFSETS)
    query_valid = query < positions
    key_valid = key < positions
    q += clip * stride_qb + frame * stride_qf
    k += clip * stride_kb + frame * stride_kf
    v += clip * stride_vb + frame * stride_vf
    group = clip * frames + frame
    row_max += group * heads * positions
    inv_row_sum += group * heads * positions
    if u is not None:
        u += clip * stride_ub + frame * stride_uf
    if do is not None:
        do += clip * stride_dob + frame * stride_dof
    heads_sum = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for head in range(heads):
        # z, weighted, uv, dp: [BLOCK_M, BLOCK_N]
        shift, factor = load_row_stats(None, row_max, inv_row_sum, head * positions, query, query_valid)
        z, _ = row_products(
            q + head * stride_qh, query * stride_qs, query_valid, k + head * stride_kh, key * stride_ks, key_valid,
            BLOCK_M, BLOCK_N, HEAD_DIM, PRECISION, False,
        )  # fmt: skip
        weighted = probabilities(z, scale_log2, shift[:, None], factor[:, None], None)
        if u is not None:
            uv, _ = row_products(
                u + head * stride_uh, query * stride_us, query_valid, v + head * stride_vh, key * stride_vs, key_valid,
                BLOCK_M, BLOCK_N, HEAD_DIM, PRECISION, False,
            )  # fmt: skip
            weighted *= 0.5 * uv
        if do is not None:
            dp, _ = row_products(
                do + head * stride_doh, query * stride_dos, query_valid, v + head * stride_vh, key * stride_vs,
                key_valid, BLOCK_M, BLOCK_N, HEAD_DIM, PRECISION, False,
            )  # fmt: skip
            weighted *= dp
        if CLAMP_EACH:
            weighted = tl.maximum(weighted, 0.0)
        heads_sum += weighted
    mean = tl.maximum(heads_sum / heads, 0.0)
    if row is not None:
        carried = tl.load(row + group * positions + query, mask=query_valid, other=0.0)  # [BLOCK_M]
        partial = tl.sum(carried[:, None] * mean, 0)  # [BLOCK_N]
        tl.store(result + (group * query_tiles + tile) * positions + key, partial, mask=key_valid)
    else:
        result += group * positions * positions
        written = query_valid[:, None] & key_valid[None, :]
        tl.store(result + (query * positions)[:, None] + key[None, :], mean, mask=written)
