"""Spatial flash attention: Triton forward and backward kernels, over the positions of each frame row.

    S  = q k^T                                            tiles [BLOCK_M, BLOCK_N] of one head of one frame row
    m, l, acc <- online softmax over tiles of keys        o = sum_u exp2(scale_log2 S_tu - m_t) v_u / l_t
    P  = exp2(scale_log2 S - lse)                         recomputed backward; lse = m + log2(l), base 2
    dP = do v^T,  dS = P * (dP - delta)                   delta = rowsum(do * o) = rowsum(P * dP)
    dq = scale dS k,  dk = scale dS^T q,  dv = P^T do

Backward has no atomic additions: every number is written by one program, in a fixed order, and repeats bit for bit.
Either `spatial_backward` makes all three gradients from five products (of wide heads dq and dk from four, and dv comes
from two more), a program a head of a frame row, which adds the dq of one block of keys after another; or, where there
are few heads and frame rows, where an attention gradient is asked for, and where the registers do not suffice,
`spatial_backward_queries` (dq) and `spatial_backward_keys` (dk and dv) make them from seven. In float32 row_max = m
and inv_row_sum = 1 / l stand for lse: a logarithm is rounded to float32, which puts every entry of its row off alike,
and the whole of it twice as far as eager PyTorch is. Where an attention matrix (or its gradient) is asked for, a second
pass over the keys (or the loop of dq) writes it. Without v forward writes the row stats alone.
The scale is not negative here: the caller moves a negative one into q.

On sm_90 the tiles of a loop are written to shared memory by cp.async (generic proxy) and read by wgmma (async proxy),
which takes a fence.proxy.async between the two. Triton's pass that puts it there counts reads by wgmma since
https://github.com/triton-lang/triton/pull/9610 (in releases 3.7 by https://github.com/triton-lang/triton/pull/10537),
and is content with one fence between the start of a copy and the product. So every tile is loaded before the first
product: then one wait for all of them stands before the fence. With v loaded after q k^T 3.7.1 waited for it behind the
fence, an order that nothing in PTX guarantees.
"""

import triton
import triton.language as tl

from kernels.common.blocks import (
    add_product,
    load_rows,
    locate,
    product,
    product_transposed,
    store_columns,
    store_rows,
    tile_rows,
    zeros,
)


@triton.jit
def scores(q0, q1, k0, k1, valid, ragged, BLOCK_D1: tl.constexpr, PRECISION: tl.constexpr):
    """Return `q k^T`, unscaled: [BLOCK_M, BLOCK_N]; in a `ragged` tile -inf for keys that are not `valid`."""
    s = product_transposed(q0, q1, k0, k1, BLOCK_D1, PRECISION)
    if ragged:  # only the last tile has such keys: elsewhere masking would be a tenth of the instructions for nothing
        s = tl.where(valid[None, :], s, float("-inf"))
    return s


@triton.jit
def load_row_stats(lse, row_max, inv_row_sum, first, query, valid):
    """Return lse twice, or row_max and inv_row_sum where there is no lse, of queries `first + query`: [BLOCK]."""
    if lse is not None:
        shift = tl.load(lse + first + query, mask=valid, other=0.0)
        factor = shift
    else:
        shift = tl.load(row_max + first + query, mask=valid, other=0.0)
        factor = tl.load(inv_row_sum + first + query, mask=valid, other=0.0)
    return shift, factor


@triton.jit
def probabilities(s, scale_log2, shift, factor, lse):
    """Return P of scores `s`, with the row stats spread over the keys."""
    p = tl.exp2(s * scale_log2 - shift)
    if lse is None:
        p = p * factor
    return p


@triton.jit
def row_sum_of_product(a0, a1, b0, b1, BLOCK_D1: tl.constexpr):
    """Return the sum of `a * b` over the columns, in float32: [BLOCK_M]."""
    total = tl.sum(a0.to(tl.float32) * b0.to(tl.float32), 1)
    if BLOCK_D1 > 0:
        total += tl.sum(a1.to(tl.float32) * b1.to(tl.float32), 1)
    return total


@triton.jit
def spatial_forward(
    q, k, v, o, lse, row_max, inv_row_sum, attention,
    scale_log2, queries, positions, heads, frames,
    stride_qb, stride_qf, stride_qs, stride_qh,
    stride_kb, stride_kf, stride_ks, stride_kh,
    stride_vb, stride_vf, stride_vs, stride_vh,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_D0: tl.constexpr, BLOCK_D1: tl.constexpr,
    PRECISION: tl.constexpr, INT64_OFFSETS: tl.constexpr,
):  # fmt: skip
    """Run one program: `BLOCK_M` queries of one head of one frame row, against all its keys."""
    tile, head, frame, clip = locate(tl.program_id(0), tl.cdiv(queries, BLOCK_M), heads, frames)
    query = tile_rows(tile * BLOCK_M, BLOCK_M, INT64_OFFSETS)
    query_valid = query < queries
    q += clip * stride_qb + frame * stride_qf + head * stride_qh
    k += clip * stride_kb + frame * stride_kf + head * stride_kh
    if v is not None:
        v += clip * stride_vb + frame * stride_vf + head * stride_vh
    q0, q1 = load_rows(q, query * stride_qs, query_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)  # [BLOCK_M, D]

    m_i = tl.full([BLOCK_M], float("-inf"), tl.float32)
    l_i = tl.zeros([BLOCK_M], tl.float32)
    acc0, acc1 = zeros(BLOCK_M, BLOCK_D0, BLOCK_D1)  # [BLOCK_M, D]
    for start in range(0, positions, BLOCK_N):
        key = tile_rows(start, BLOCK_N, INT64_OFFSETS)
        key_valid = key < positions
        # k, v: [BLOCK_N, D]; s, p: [BLOCK_M, BLOCK_N]
        k0, k1 = load_rows(k, key * stride_ks, key_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
        if v is not None:  # before the first product: see above
            v0, v1 = load_rows(v, key * stride_vs, key_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
        s = scores(q0, q1, k0, k1, key_valid, start + BLOCK_N > positions, BLOCK_D1, PRECISION)
        m_new = tl.maximum(m_i, tl.max(s, 1) * scale_log2)
        p = tl.exp2(s * scale_log2 - m_new[:, None])
        alpha = tl.exp2(m_i - m_new)
        m_i = m_new
        l_i = l_i * alpha + tl.sum(p, 1)
        if v is not None:
            acc0 = acc0 * alpha[:, None]
            if BLOCK_D1 > 0:
                acc1 = acc1 * alpha[:, None]
            acc0, acc1 = add_product(acc0, acc1, p.to(v0.dtype), v0, v1, BLOCK_D1, PRECISION)

    # lse, row_max, inv_row_sum: [B, F, N, S_q]; o: [B, F, S_q, N, D]
    group = (clip * frames + frame) * heads + head
    factor = 1.0 / l_i
    if lse is not None:
        tl.store(lse + group * queries + query, m_i + tl.log2(l_i), mask=query_valid)
    else:
        tl.store(row_max + group * queries + query, m_i, mask=query_valid)
        tl.store(inv_row_sum + group * queries + query, factor, mask=query_valid)
    if v is not None:
        o += (clip * frames + frame) * queries * heads * HEAD_DIM + head * HEAD_DIM
        acc0 = acc0 * factor[:, None]
        acc1 = acc1 * factor[:, None]
        store_rows(o, query * (heads * HEAD_DIM), query_valid, acc0, acc1, BLOCK_D0, BLOCK_D1, HEAD_DIM)

    if attention is not None:  # [B, F, N, S_q, S]
        attention += group * queries * positions
        for start in range(0, positions, BLOCK_N):
            key = tile_rows(start, BLOCK_N, INT64_OFFSETS)
            key_valid = key < positions
            k0, k1 = load_rows(k, key * stride_ks, key_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
            s = scores(q0, q1, k0, k1, key_valid, start + BLOCK_N > positions, BLOCK_D1, PRECISION)
            p = tl.exp2(s * scale_log2 - m_i[:, None]) * factor[:, None]
            written = query_valid[:, None] & key_valid[None, :]
            tl.store(attention + (query * positions)[:, None] + key[None, :], p, mask=written)


@triton.jit
def spatial_backward_queries(
    q, k, v, o, lse, row_max, inv_row_sum, do, delta, dq, grad_attention,
    scale, scale_log2, queries, positions, heads, frames,
    stride_qb, stride_qf, stride_qs, stride_qh,
    stride_kb, stride_kf, stride_ks, stride_kh,
    stride_vb, stride_vf, stride_vs, stride_vh,
    stride_ob, stride_of, stride_os, stride_oh,
    stride_dob, stride_dof, stride_dos, stride_doh,
    stride_dqb, stride_dqf, stride_dqs, stride_dqh,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_D0: tl.constexpr, BLOCK_D1: tl.constexpr,
    PRECISION: tl.constexpr, INT64_OFFSETS: tl.constexpr,
):  # fmt: skip
    """Run one program: dq and delta of `BLOCK_M` queries of one head of one frame row, against all its keys."""
    tile, head, frame, clip = locate(tl.program_id(0), tl.cdiv(queries, BLOCK_M), heads, frames)
    query = tile_rows(tile * BLOCK_M, BLOCK_M, INT64_OFFSETS)
    query_valid = query < queries
    q += clip * stride_qb + frame * stride_qf + head * stride_qh
    k += clip * stride_kb + frame * stride_kf + head * stride_kh
    v += clip * stride_vb + frame * stride_vf + head * stride_vh
    o += clip * stride_ob + frame * stride_of + head * stride_oh
    do += clip * stride_dob + frame * stride_dof + head * stride_doh
    group = (clip * frames + frame) * heads + head

    # do, o, q: [BLOCK_M, D]; delta, shift, factor: [BLOCK_M]
    do0, do1 = load_rows(do, query * stride_dos, query_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    o0, o1 = load_rows(o, query * stride_os, query_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    delta_i = row_sum_of_product(do0, do1, o0, o1, BLOCK_D1)
    tl.store(delta + group * queries + query, delta_i, mask=query_valid)
    shift, factor = load_row_stats(lse, row_max, inv_row_sum, group * queries, query, query_valid)
    q0, q1 = load_rows(q, query * stride_qs, query_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)

    dq0, dq1 = zeros(BLOCK_M, BLOCK_D0, BLOCK_D1)
    if grad_attention is not None:  # [B, F, N, S_q, S]
        grad_attention += group * queries * positions
    for start in range(0, positions, BLOCK_N):
        key = tile_rows(start, BLOCK_N, INT64_OFFSETS)
        key_valid = key < positions
        # k, v: [BLOCK_N, D]; s, p, dp, ds: [BLOCK_M, BLOCK_N]
        k0, k1 = load_rows(k, key * stride_ks, key_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
        v0, v1 = load_rows(v, key * stride_vs, key_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
        s = scores(q0, q1, k0, k1, key_valid, start + BLOCK_N > positions, BLOCK_D1, PRECISION)
        p = probabilities(s, scale_log2, shift[:, None], factor[:, None], lse)
        dp = product_transposed(do0, do1, v0, v1, BLOCK_D1, PRECISION)
        if grad_attention is not None:
            written = query_valid[:, None] & key_valid[None, :]
            tl.store(grad_attention + (query * positions)[:, None] + key[None, :], dp, mask=written)
        ds = (p * (dp - delta_i[:, None])).to(k0.dtype)
        dq0, dq1 = add_product(dq0, dq1, ds, k0, k1, BLOCK_D1, PRECISION)

    dq += clip * stride_dqb + frame * stride_dqf + head * stride_dqh
    dq0 = dq0 * scale
    dq1 = dq1 * scale
    store_rows(dq, query * stride_dqs, query_valid, dq0, dq1, BLOCK_D0, BLOCK_D1, HEAD_DIM)


@triton.jit
def spatial_backward_keys(
    q, k, v, lse, row_max, inv_row_sum, do, delta, dk, dv,
    scale, scale_log2, queries, positions, heads, frames,
    stride_qb, stride_qf, stride_qs, stride_qh,
    stride_kb, stride_kf, stride_ks, stride_kh,
    stride_vb, stride_vf, stride_vs, stride_vh,
    stride_dob, stride_dof, stride_dos, stride_doh,
    stride_dkb, stride_dkf, stride_dks, stride_dkh,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_D0: tl.constexpr, BLOCK_D1: tl.constexpr,
    PRECISION: tl.constexpr, INT64_OFFSETS: tl.constexpr,
):  # fmt: skip
    """Run one program: dk, dv or both of `BLOCK_M` keys of one head of one frame row, against all its queries.

    `dk` and `dv` have the same strides; one of them may be None (see `splits_keys` and `leaves_values` of
    `kernels.spatial.configs`).
    Nothing is masked in the loop. Rows past the last query hold zeros of q and do and add nothing; rows past the last
    key are never stored.
    """
    tile, head, frame, clip = locate(tl.program_id(0), tl.cdiv(positions, BLOCK_M), heads, frames)
    key = tile_rows(tile * BLOCK_M, BLOCK_M, INT64_OFFSETS)
    key_valid = key < positions
    q += clip * stride_qb + frame * stride_qf + head * stride_qh
    k += clip * stride_kb + frame * stride_kf + head * stride_kh
    v += clip * stride_vb + frame * stride_vf + head * stride_vh
    do += clip * stride_dob + frame * stride_dof + head * stride_doh
    group = (clip * frames + frame) * heads + head
    k0, k1 = load_rows(k, key * stride_ks, key_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)  # [BLOCK_M, D]
    v0, v1 = load_rows(v, key * stride_vs, key_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)

    dk0, dk1 = zeros(BLOCK_M, BLOCK_D0, BLOCK_D1)
    dv0, dv1 = zeros(BLOCK_M, BLOCK_D0, BLOCK_D1)
    for start in range(0, queries, BLOCK_N):
        query = tile_rows(start, BLOCK_N, INT64_OFFSETS)
        query_valid = query < queries
        # q, do: [BLOCK_N, D]; shift, factor, delta: [BLOCK_N]; s, p, dp, ds (transposed): [BLOCK_M, BLOCK_N]
        q0, q1 = load_rows(q, query * stride_qs, query_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
        shift, factor = load_row_stats(lse, row_max, inv_row_sum, group * queries, query, query_valid)
        s = product_transposed(k0, k1, q0, q1, BLOCK_D1, PRECISION)
        p = probabilities(s, scale_log2, shift[None, :], factor[None, :], lse)
        do0, do1 = load_rows(do, query * stride_dos, query_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
        if dv is not None:
            dv0, dv1 = add_product(dv0, dv1, p.to(do0.dtype), do0, do1, BLOCK_D1, PRECISION)
        if dk is not None:
            delta_i = tl.load(delta + group * queries + query, mask=query_valid, other=0.0)
            dp = product_transposed(v0, v1, do0, do1, BLOCK_D1, PRECISION)
            ds = (p * (dp - delta_i[None, :])).to(q0.dtype)
            dk0, dk1 = add_product(dk0, dk1, ds, q0, q1, BLOCK_D1, PRECISION)

    offset = clip * stride_dkb + frame * stride_dkf + head * stride_dkh
    rows = key * stride_dks
    if dk is not None:
        dk0 = dk0 * scale
        dk1 = dk1 * scale
        store_rows(dk + offset, rows, key_valid, dk0, dk1, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    if dv is not None:
        store_rows(dv + offset, rows, key_valid, dv0, dv1, BLOCK_D0, BLOCK_D1, HEAD_DIM)


@triton.jit
def fragment_order(
    x, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, WARPS_M: tl.constexpr, WARPS_N: tl.constexpr, WGMMA: tl.constexpr
):
    """Return the product `x` [BLOCK_N, BLOCK_D] as [quadruples, threads, 4]: four neighbors are one thread's registers.

    A tensor core leaves rows i, i + 8 and columns j, j + 1 with a thread. Written in this order a tile goes from
    registers to memory and back 16 bytes at a time, with no exchange through shared memory. Where the compiler deals
    its warps out otherwise than over [WARPS_M, WARPS_N] the result is the same, by way of shared memory.
    """
    COLUMNS: tl.constexpr = WARPS_N if 8 * WARPS_N <= BLOCK_D else BLOCK_D // 8  # of warps
    ROW_TILES: tl.constexpr = BLOCK_N // (16 * WARPS_M)
    COLUMN_TILES: tl.constexpr = BLOCK_D // (8 * COLUMNS)
    if WGMMA:
        x = tl.reshape(x, [ROW_TILES, WARPS_M, 2, 8, COLUMNS, COLUMN_TILES, 4, 2])
        x = tl.permute(x, [0, 5, 4, 1, 3, 6, 2, 7])
    else:
        x = tl.reshape(x, [ROW_TILES, WARPS_M, 2, 8, COLUMN_TILES, COLUMNS, 4, 2])
        x = tl.permute(x, [0, 4, 1, 5, 3, 6, 2, 7])
    return tl.reshape(x, [ROW_TILES * COLUMN_TILES, WARPS_M * COLUMNS * 32, 4])


@triton.jit
def row_order(
    x, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, WARPS_M: tl.constexpr, WARPS_N: tl.constexpr, WGMMA: tl.constexpr
):
    """Return [BLOCK_N, BLOCK_D] of an `x` in `fragment_order`."""
    COLUMNS: tl.constexpr = WARPS_N if 8 * WARPS_N <= BLOCK_D else BLOCK_D // 8
    ROW_TILES: tl.constexpr = BLOCK_N // (16 * WARPS_M)
    COLUMN_TILES: tl.constexpr = BLOCK_D // (8 * COLUMNS)
    if WGMMA:
        x = tl.reshape(x, [ROW_TILES, COLUMN_TILES, COLUMNS, WARPS_M, 8, 4, 2, 2])
        x = tl.permute(x, [0, 3, 6, 4, 2, 1, 5, 7])
    else:
        x = tl.reshape(x, [ROW_TILES, COLUMN_TILES, WARPS_M, COLUMNS, 8, 4, 2, 2])
        x = tl.permute(x, [0, 2, 6, 4, 1, 3, 5, 7])
    return tl.reshape(x, [BLOCK_N, BLOCK_D])


@triton.jit
def fragment_pointers(
    pointer, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, WARPS_M: tl.constexpr, WARPS_N: tl.constexpr
):
    """Return the pointers of a tile in `fragment_order`, contiguous from `pointer` on."""
    THREADS: tl.constexpr = WARPS_M * (WARPS_N if 8 * WARPS_N <= BLOCK_D else BLOCK_D // 8) * 32
    quadruple = tl.arange(0, BLOCK_N * BLOCK_D // (4 * THREADS)) * (4 * THREADS)
    thread = tl.arange(0, THREADS) * 4
    return pointer + (quadruple[:, None, None] + thread[None, :, None] + tl.arange(0, 4)[None, None, :])


@triton.jit
def add_to_dq(
    ds, k, dq, dq_sum, first, scale, rows, valid,
    FIRST_COLUMN: tl.constexpr, LAST: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, HEAD_DIM: tl.constexpr,
    WARPS_M: tl.constexpr, WARPS_N: tl.constexpr, WGMMA: tl.constexpr,
):  # fmt: skip
    """Add `dS k` of one block of keys to the sum of those before it, `BLOCK_D` columns; write `dq` with the last."""
    if BLOCK_D > 0:
        pointers = fragment_pointers(dq_sum, BLOCK_N, BLOCK_D, WARPS_M, WARPS_N)
        before = tl.load(pointers, mask=first > 0, other=0.0)
        total = product(ds, k) + row_order(before, BLOCK_N, BLOCK_D, WARPS_M, WARPS_N, WGMMA)
        if LAST:
            store_columns(dq, rows, valid, total * scale, FIRST_COLUMN, BLOCK_D, HEAD_DIM)
        else:
            tl.store(pointers, fragment_order(total, BLOCK_N, BLOCK_D, WARPS_M, WARPS_N, WGMMA))


@triton.jit
def backward_of_keys(
    q, k, v, minus_lse, do, delta, dq_sum, dq, dk, dv, first, scale, scale_log2, queries, positions,
    stride_qs, stride_ks, stride_vs, stride_dos, stride_dqs, stride_dks,
    LAST: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_D0: tl.constexpr, BLOCK_D1: tl.constexpr, INT64_OFFSETS: tl.constexpr,
    WARPS_M: tl.constexpr, WARPS_N: tl.constexpr, WGMMA: tl.constexpr,
):  # fmt: skip
    """Write dk and dv of `BLOCK_M` keys, and add their share of dq, against all queries of the head and frame row."""
    key = tile_rows(first, BLOCK_M, INT64_OFFSETS)
    key_valid = key < positions
    k0, k1 = load_rows(k, key * stride_ks, key_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)  # [BLOCK_M, D]
    v0, v1 = load_rows(v, key * stride_vs, key_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    dk0, dk1 = zeros(BLOCK_M, BLOCK_D0, BLOCK_D1)
    dv0, dv1 = zeros(BLOCK_M, BLOCK_D0, BLOCK_D1)
    dq_sum1 = dq_sum + tl.cdiv(queries, BLOCK_N) * (BLOCK_N * BLOCK_D0)
    for start in range(0, queries, BLOCK_N):
        query = tile_rows(start, BLOCK_N, INT64_OFFSETS)
        query_valid = query < queries
        # q, do: [BLOCK_N, D]; offset, delta: [BLOCK_N]; s, p, dp, ds (transposed): [BLOCK_M, BLOCK_N]
        q0, q1 = load_rows(q, query * stride_qs, query_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
        offset = tl.load(minus_lse + query, mask=query_valid, other=0.0)
        do0, do1 = load_rows(do, query * stride_dos, query_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
        delta_i = tl.load(delta + query, mask=query_valid, other=0.0)
        s = product_transposed(k0, k1, q0, q1, BLOCK_D1)
        p = tl.exp2(s * scale_log2 + offset[None, :])
        if LAST:  # rows past the last key have a score of 0: exp2 may overflow, and infinity times their k is not 0
            p = tl.where(key_valid[:, None], p, 0.0)
        if dv is not None:
            dv0, dv1 = add_product(dv0, dv1, p.to(do0.dtype), do0, do1, BLOCK_D1)
        dp = product_transposed(v0, v1, do0, do1, BLOCK_D1)
        ds = (p * (dp - delta_i[None, :])).to(q0.dtype)
        dk0, dk1 = add_product(dk0, dk1, ds, q0, q1, BLOCK_D1)
        ds = tl.trans(ds)
        rows = query * stride_dqs
        # Where products are not of warp groups Triton gives all those of a block of code the same warps, and too few
        # rows of dq to eight of them, which then repeat the work: in a block of its own a product gets its own.
        if WGMMA or start >= 0:
            add_to_dq(
                ds, k0, dq, dq_sum + start * BLOCK_D0, first, scale, rows, query_valid,
                0, LAST, BLOCK_N, BLOCK_D0, HEAD_DIM, WARPS_M, WARPS_N, WGMMA,
            )  # fmt: skip
        if WGMMA or start >= 0:
            add_to_dq(
                ds, k1, dq, dq_sum1 + start * BLOCK_D1, first, scale, rows, query_valid,
                BLOCK_D0, LAST, BLOCK_N, BLOCK_D1, HEAD_DIM, WARPS_M, WARPS_N, WGMMA,
            )  # fmt: skip

    rows = key * stride_dks
    store_rows(dk, rows, key_valid, dk0 * scale, dk1 * scale, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    if dv is not None:
        store_rows(dv, rows, key_valid, dv0, dv1, BLOCK_D0, BLOCK_D1, HEAD_DIM)


@triton.jit
def spatial_backward(
    q, k, v, o, lse, do, row_sums, dq_sum, dq, dk, dv,
    scale, scale_log2, queries, positions, heads, frames,
    stride_qb, stride_qf, stride_qs, stride_qh,
    stride_kb, stride_kf, stride_ks, stride_kh,
    stride_vb, stride_vf, stride_vs, stride_vh,
    stride_ob, stride_of, stride_os, stride_oh,
    stride_dob, stride_dof, stride_dos, stride_doh,
    stride_dqb, stride_dqf, stride_dqs, stride_dqh,
    stride_dkb, stride_dkf, stride_dks, stride_dkh,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_DELTA: tl.constexpr, STAGES: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_D0: tl.constexpr, BLOCK_D1: tl.constexpr, INT64_OFFSETS: tl.constexpr,
    WARPS_M: tl.constexpr, WARPS_N: tl.constexpr, WGMMA: tl.constexpr,
):  # fmt: skip
    """Run one program: dq, dk and dv of one head of one frame row, 16-bit; `BLOCK_M` keys after another.

    `dk` and `dv` have the same strides; `dv` may be None. `row_sums` `[B, F, N, 2, S_q]` takes delta and -lse;
    `dq_sum` the sums of dq of the blocks of keys so far, `BLOCK_N` queries after another, all of the first `BLOCK_D0`
    columns before the rest. A program writes and reads its own part of both alone; barriers order that.
    """
    _, head, frame, clip = locate(tl.program_id(0), 1, heads, frames)
    q += clip * stride_qb + frame * stride_qf + head * stride_qh
    k += clip * stride_kb + frame * stride_kf + head * stride_kh
    v += clip * stride_vb + frame * stride_vf + head * stride_vh
    o += clip * stride_ob + frame * stride_of + head * stride_oh
    do += clip * stride_dob + frame * stride_dof + head * stride_doh
    dq += clip * stride_dqb + frame * stride_dqf + head * stride_dqh
    dk += clip * stride_dkb + frame * stride_dkf + head * stride_dkh
    if dv is not None:
        dv += clip * stride_dkb + frame * stride_dkf + head * stride_dkh
    group = (clip * frames + frame) * heads + head
    lse += group * queries
    delta = row_sums + group * 2 * queries
    minus_lse = delta + queries
    dq_sum += group * (tl.cdiv(queries, BLOCK_N) * BLOCK_N) * (BLOCK_D0 + BLOCK_D1)

    for start in tl.range(0, queries, BLOCK_DELTA, num_stages=STAGES):
        query = tile_rows(start, BLOCK_DELTA, INT64_OFFSETS)
        query_valid = query < queries
        do0, do1 = load_rows(do, query * stride_dos, query_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)  # [BLOCK_DELTA, D]
        o0, o1 = load_rows(o, query * stride_os, query_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
        tl.store(delta + query, row_sum_of_product(do0, do1, o0, o1, BLOCK_D1), mask=query_valid)
        tl.store(minus_lse + query, -tl.load(lse + query, mask=query_valid, other=0.0), mask=query_valid)
    tl.debug_barrier()

    last = (tl.cdiv(positions, BLOCK_M) - 1) * BLOCK_M
    for first in range(0, last, BLOCK_M):
        backward_of_keys(
            q, k, v, minus_lse, do, delta, dq_sum, dq, dk, dv, first, scale, scale_log2, queries, positions,
            stride_qs, stride_ks, stride_vs, stride_dos, stride_dqs, stride_dks,
            False, BLOCK_M, BLOCK_N, HEAD_DIM, BLOCK_D0, BLOCK_D1, INT64_OFFSETS, WARPS_M, WARPS_N, WGMMA,
        )  # fmt: skip
        tl.debug_barrier()
    backward_of_keys(
        q, k, v, minus_lse, do, delta, dq_sum, dq, dk, dv, last, scale, scale_log2, queries, positions,
        stride_qs, stride_ks, stride_vs, stride_dos, stride_dqs, stride_dks,
        True, BLOCK_M, BLOCK_N, HEAD_DIM, BLOCK_D0, BLOCK_D1, INT64_OFFSETS, WARPS_M, WARPS_N, WGMMA,
    )  # fmt: skip
