"""Backward kernels of spatial attention: two, so that every number is written by one program and repeats bit for bit.

    A  = exp2(scale_log2 q k^T - offset) * factor     recomputed (see forward.py)
    dA = dO v^T
    dS = A * (dA - delta),  delta = rowsum(dO * O) = rowsum(A * dA)
    spatial_backward_queries   (a tile of queries, over all keys):   dq = scale dS k;  writes delta, and dA if asked
    spatial_backward_keys      (a tile of keys, over all queries):   dk = scale dS^T q,  dv = A^T dO;  reads delta

Seven products where five would do with atomic additions: the price of a result that repeats.
"""

import triton
import triton.language as tl

from kernels.common.blocks import load_rows, locate, product, store_rows, tile_rows
from kernels.spatial.forward import attention_of, load_normalizer, scores


@triton.jit
def row_sum_of_product(a_left, a_right, b_left, b_right, RIGHT: tl.constexpr):
    """Sum of `a * b` over the columns in float32: [ROWS]."""
    total = tl.sum(a_left.to(tl.float32) * b_left.to(tl.float32), 1)
    if RIGHT > 0:
        total += tl.sum(a_right.to(tl.float32) * b_right.to(tl.float32), 1)
    return total


@triton.jit
def spatial_backward_queries(
    q, k, v, out, offset, factor, grad_out, delta, grad_q, grad_attention,
    scale, scale_log2, queries, positions, heads, frames,
    q_clip, q_frame, q_position, q_head,
    k_clip, k_frame, k_position, k_head,
    v_clip, v_frame, v_position, v_head,
    out_clip, out_frame, out_position, out_head,
    grad_out_clip, grad_out_frame, grad_out_position, grad_out_head,
    grad_q_clip, grad_q_frame, grad_q_position, grad_q_head,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    HEAD_DIM: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr, EMIT_GRADIENT: tl.constexpr,
):  # fmt: skip
    """One program: `ROWS` queries of one head of one frame row, against all its keys."""
    tile, head, frame, clip = locate(tl.program_id(0), tl.cdiv(queries, ROWS), heads, frames)
    query = tile_rows(tile * ROWS, ROWS, WIDE)  # [ROWS]
    query_valid = query < queries
    q += clip * q_clip + frame * q_frame + head * q_head
    k += clip * k_clip + frame * k_frame + head * k_head
    v += clip * v_clip + frame * v_frame + head * v_head
    out += clip * out_clip + frame * out_frame + head * out_head
    grad_out += clip * grad_out_clip + frame * grad_out_frame + head * grad_out_head
    group = (clip * frames + frame) * heads + head

    g_left, g_right = load_rows(grad_out, query * grad_out_position, query_valid, LEFT, RIGHT, HEAD_DIM)
    o_left, o_right = load_rows(out, query * out_position, query_valid, LEFT, RIGHT, HEAD_DIM)
    mean = row_sum_of_product(g_left, g_right, o_left, o_right, RIGHT)  # [ROWS]
    tl.store(delta + group * queries + query, mean, mask=query_valid)
    offset += group * queries
    factor += group * queries
    offset_of, factor_of = load_normalizer(offset, factor, query, query_valid, q.dtype.element_ty)
    q_left, q_right = load_rows(q, query * q_position, query_valid, LEFT, RIGHT, HEAD_DIM)

    grad_left = tl.zeros([ROWS, LEFT], tl.float32)
    grad_right = tl.zeros([ROWS, RIGHT if RIGHT > 0 else 16], tl.float32)
    if EMIT_GRADIENT:
        grad_attention += group * queries * positions
    for start in range(0, positions, COLUMNS):
        key = tile_rows(start, COLUMNS, WIDE)
        valid = key < positions
        k_left, k_right = load_rows(k, key * k_position, valid, LEFT, RIGHT, HEAD_DIM)
        v_left, v_right = load_rows(v, key * v_position, valid, LEFT, RIGHT, HEAD_DIM)
        ragged = start + COLUMNS > positions
        s = scores(q_left, q_right, k_left, k_right, valid, ragged, RIGHT, PRECISION)  # [ROWS, COLUMNS]
        a = attention_of(s, scale_log2, offset_of[:, None], factor_of[:, None], q.dtype.element_ty)
        grad_a = product(g_left, tl.trans(v_left), PRECISION)
        if RIGHT > 0:
            grad_a += product(g_right, tl.trans(v_right), PRECISION)
        if EMIT_GRADIENT:
            written = query_valid[:, None] & valid[None, :]
            tl.store(grad_attention + (query * positions)[:, None] + key[None, :], grad_a, mask=written)
        grad_s = (a * (grad_a - mean[:, None])).to(k_left.dtype)
        grad_left += product(grad_s, k_left, PRECISION)
        if RIGHT > 0:
            grad_right += product(grad_s, k_right, PRECISION)

    grad_q += clip * grad_q_clip + frame * grad_q_frame + head * grad_q_head
    grad_left = grad_left * scale
    grad_right = grad_right * scale
    store_rows(grad_q, query * grad_q_position, query_valid, grad_left, grad_right, LEFT, RIGHT, HEAD_DIM)


@triton.jit
def spatial_backward_keys(
    q, k, v, offset, factor, grad_out, delta, grad_k, grad_v,
    scale, scale_log2, queries, positions, heads, frames,
    q_clip, q_frame, q_position, q_head,
    k_clip, k_frame, k_position, k_head,
    v_clip, v_frame, v_position, v_head,
    grad_out_clip, grad_out_frame, grad_out_position, grad_out_head,
    grad_k_clip, grad_k_frame, grad_k_position, grad_k_head,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    HEAD_DIM: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr, GRAD_K: tl.constexpr, GRAD_V: tl.constexpr,
):  # fmt: skip
    """One program: `ROWS` keys of one head of one frame row, against all its queries (grad_v: strides of grad_k).

    It writes grad_k, grad_v or both: see `kernels.spatial.configs.splits_keys`.

    Nothing is masked in the loop. Rows past the last query hold zeros of q and dO and add nothing; rows past the last
    key are never stored.
    """
    tile, head, frame, clip = locate(tl.program_id(0), tl.cdiv(positions, ROWS), heads, frames)
    key = tile_rows(tile * ROWS, ROWS, WIDE)  # [ROWS]
    key_valid = key < positions
    q += clip * q_clip + frame * q_frame + head * q_head
    k += clip * k_clip + frame * k_frame + head * k_head
    v += clip * v_clip + frame * v_frame + head * v_head
    grad_out += clip * grad_out_clip + frame * grad_out_frame + head * grad_out_head
    group = (clip * frames + frame) * heads + head
    offset += group * queries
    factor += group * queries
    delta += group * queries
    k_left, k_right = load_rows(k, key * k_position, key_valid, LEFT, RIGHT, HEAD_DIM)
    v_left, v_right = load_rows(v, key * v_position, key_valid, LEFT, RIGHT, HEAD_DIM)

    grad_k_left = tl.zeros([ROWS, LEFT], tl.float32)
    grad_k_right = tl.zeros([ROWS, RIGHT if RIGHT > 0 else 16], tl.float32)
    grad_v_left = tl.zeros([ROWS, LEFT], tl.float32)
    grad_v_right = tl.zeros([ROWS, RIGHT if RIGHT > 0 else 16], tl.float32)
    for start in range(0, queries, COLUMNS):
        query = tile_rows(start, COLUMNS, WIDE)
        valid = query < queries
        q_left, q_right = load_rows(q, query * q_position, valid, LEFT, RIGHT, HEAD_DIM)
        offset_of, factor_of = load_normalizer(offset, factor, query, valid, q.dtype.element_ty)
        s = product(k_left, tl.trans(q_left), PRECISION)  # [ROWS, COLUMNS], transposed
        if RIGHT > 0:
            s += product(k_right, tl.trans(q_right), PRECISION)
        a = attention_of(s, scale_log2, offset_of[None, :], factor_of[None, :], q.dtype.element_ty)
        g_left, g_right = load_rows(grad_out, query * grad_out_position, valid, LEFT, RIGHT, HEAD_DIM)
        if GRAD_V:
            weights = a.to(g_left.dtype)
            grad_v_left += product(weights, g_left, PRECISION)
            if RIGHT > 0:
                grad_v_right += product(weights, g_right, PRECISION)
        if GRAD_K:
            mean = tl.load(delta + query, mask=valid, other=0.0)
            grad_a = product(v_left, tl.trans(g_left), PRECISION)
            if RIGHT > 0:
                grad_a += product(v_right, tl.trans(g_right), PRECISION)
            grad_s = (a * (grad_a - mean[None, :])).to(q_left.dtype)
            grad_k_left += product(grad_s, q_left, PRECISION)
            if RIGHT > 0:
                grad_k_right += product(grad_s, q_right, PRECISION)

    offset = clip * grad_k_clip + frame * grad_k_frame + head * grad_k_head
    rows = key * grad_k_position
    if GRAD_K:
        grad_k_left = grad_k_left * scale
        grad_k_right = grad_k_right * scale
        store_rows(grad_k + offset, rows, key_valid, grad_k_left, grad_k_right, LEFT, RIGHT, HEAD_DIM)
    if GRAD_V:
        store_rows(grad_v + offset, rows, key_valid, grad_v_left, grad_v_right, LEFT, RIGHT, HEAD_DIM)
