"""Relevance through temporal attention: Triton kernels, all float32; the formulas are those of `reference.py`.

    temporal_relevance   R_q = q * (W k) / 2,  R_k = k * (W^T q) / 2,  R_v = v * (P^T u) / 2
                         z = q k^T,  P = softmax(scale z),  W = (P * u v^T / 2) / stab(z)
    temporal_map         max(mean_h(P * u v^T / 2 * do v^T), 0), or row times it, added to the row

A tile is several positions times all (padded) frames of one head, and its score matrix [BLOCK_M, BLOCK_M] is
block-diagonal: pairs of different positions are masked. The whole softmax lies in one tile, so relevance needs a single
pass, and the map is summed over heads in registers. A value that is not finite may reach the other positions of its
tile.
"""

import triton
import triton.language as tl

from kernels.common.blocks import product, tile_frames
from kernels.relevance.blocks import load_block, ratio, row_products

BLOCK_K = tl.constexpr(32)
# Of a sum: with 32 the rollout step of 64 columns was 1.6 times as far off as eager's on sm_80, with 16 it is 1.2.
SUMMED_K = tl.constexpr(16)


@triton.jit
def block_softmax(z, position, valid, scale_log2):
    """Return the softmax of `z` over the valid rows of the same position: [BLOCK_M, BLOCK_M], zero elsewhere."""
    same = (position[:, None] == position[None, :]) & valid[None, :]
    s = tl.where(same, z * scale_log2, float("-inf"))
    m_i = tl.max(s, 1)
    m_i = tl.where(m_i == float("-inf"), 0.0, m_i)  # rows past the last position
    p = tl.exp2(s - m_i[:, None])
    l_i = tl.sum(p, 1)
    return p / tl.where(l_i > 0, l_i, 1.0)[:, None]


@triton.jit
def store_relevance(
    x, x_rows, other, other_rows, result, rows, valid, first, weight,
    HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write `x * (weight other) / 2`, columns `first .. first + BLOCK_K`."""
    tile = product(weight, load_block(other, other_rows, valid, first, HEAD_DIM, BLOCK_K), PRECISION)
    tile = tile * load_block(x, x_rows, valid, first, HEAD_DIM, BLOCK_K) * 0.5
    columns = first + tl.arange(0, BLOCK_K)
    written = valid[:, None] & (columns < HEAD_DIM)[None, :]
    tl.store(result + (rows[:, None] + columns[None, :]), tile, mask=written)


@triton.jit
def temporal_relevance(
    q, k, v, u, relevance_q, relevance_k, relevance_v,
    scale_log2, eps, positions, heads,
    stride_qb, stride_qf, stride_qs, stride_qh,
    stride_kb, stride_kf, stride_ks, stride_kh,
    stride_vb, stride_vf, stride_vs, stride_vh,
    stride_ub, stride_uf, stride_us, stride_uh,
    FRAMES: tl.constexpr, PADDED_FRAMES: tl.constexpr, BLOCK_M: tl.constexpr,
    HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr, INT64_OFFSETS: tl.constexpr,
):  # fmt: skip
    """Write R_q, R_k and R_v, contiguous, of one head of some positions."""
    program = tl.program_id(0)
    tiles = tl.cdiv(positions, BLOCK_M // PADDED_FRAMES)
    head = (program % heads).to(tl.int64)
    clip = (program // heads // tiles).to(tl.int64)
    position, frame = tile_frames(program // heads % tiles, PADDED_FRAMES, BLOCK_M, INT64_OFFSETS)
    valid = (position < positions) & (frame < FRAMES)
    q += clip * stride_qb + head * stride_qh
    k += clip * stride_kb + head * stride_kh
    v += clip * stride_vb + head * stride_vh
    u += clip * stride_ub + head * stride_uh
    # offsets of rows: [BLOCK_M]; z, magnitude, uv, p, w: [BLOCK_M, BLOCK_M]
    q_rows = frame * stride_qf + position * stride_qs
    k_rows = frame * stride_kf + position * stride_ks
    v_rows = frame * stride_vf + position * stride_vs
    u_rows = frame * stride_uf + position * stride_us
    z, magnitude = row_products(
        q, q_rows, valid, k, k_rows, valid, BLOCK_M, BLOCK_M, HEAD_DIM, PRECISION, True, SUMMED_K
    )
    uv, _ = row_products(u, u_rows, valid, v, v_rows, valid, BLOCK_M, BLOCK_M, HEAD_DIM, PRECISION, False, SUMMED_K)
    p = block_softmax(z, position, valid, scale_log2)
    w = ratio(p * uv * 0.5, z, magnitude, eps)

    first = clip * FRAMES * positions * heads * HEAD_DIM + head * HEAD_DIM
    rows = (frame * positions + position) * (heads * HEAD_DIM)
    for start in range(0, HEAD_DIM, BLOCK_K):
        store_relevance(q, q_rows, k, k_rows, relevance_q + first, rows, valid, start, w, HEAD_DIM, PRECISION)
        store_relevance(k, k_rows, q, q_rows, relevance_k + first, rows, valid, start, tl.trans(w), HEAD_DIM, PRECISION)
        store_relevance(v, v_rows, u, u_rows, relevance_v + first, rows, valid, start, tl.trans(p), HEAD_DIM, PRECISION)


@triton.jit
def temporal_map(
    q, k, v, u, do, row, result,
    scale_log2, positions, heads,
    stride_qb, stride_qf, stride_qs, stride_qh,
    stride_kb, stride_kf, stride_ks, stride_kh,
    stride_vb, stride_vf, stride_vs, stride_vh,
    stride_ub, stride_uf, stride_us, stride_uh,
    stride_dob, stride_dof, stride_dos, stride_doh,
    FRAMES: tl.constexpr, PADDED_FRAMES: tl.constexpr, BLOCK_M: tl.constexpr,
    HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr, INT64_OFFSETS: tl.constexpr, CLAMP_EACH: tl.constexpr,
):  # fmt: skip
    """Write the head-mean positive map of some positions; without u or do these factors are 1.

    With `row` [B, S, F] result [B, S, F] is row plus row times map; without it result [B, S, F, F] is the map.
    """
    program = tl.program_id(0)
    tiles = tl.cdiv(positions, BLOCK_M // PADDED_FRAMES)
    clip = (program // tiles).to(tl.int64)
    position, frame = tile_frames(program % tiles, PADDED_FRAMES, BLOCK_M, INT64_OFFSETS)
    valid = (position < positions) & (frame < FRAMES)
    q += clip * stride_qb
    k += clip * stride_kb
    v += clip * stride_vb
    if u is not None:
        u += clip * stride_ub
    if do is not None:
        do += clip * stride_dob
    heads_sum = tl.zeros([BLOCK_M, BLOCK_M], tl.float32)
    for head in range(heads):
        # z, weighted, uv, dp: [BLOCK_M, BLOCK_M]
        z, _ = row_products(
            q + head * stride_qh, frame * stride_qf + position * stride_qs, valid,
            k + head * stride_kh, frame * stride_kf + position * stride_ks, valid,
            BLOCK_M, BLOCK_M, HEAD_DIM, PRECISION, False, SUMMED_K,
        )  # fmt: skip
        weighted = block_softmax(z, position, valid, scale_log2)
        v_rows = frame * stride_vf + position * stride_vs
        if u is not None:
            uv, _ = row_products(
                u + head * stride_uh, frame * stride_uf + position * stride_us, valid,
                v + head * stride_vh, v_rows, valid, BLOCK_M, BLOCK_M, HEAD_DIM, PRECISION, False, SUMMED_K,
            )  # fmt: skip
            weighted *= 0.5 * uv
        if do is not None:
            dp, _ = row_products(
                do + head * stride_doh, frame * stride_dof + position * stride_dos, valid,
                v + head * stride_vh, v_rows, valid, BLOCK_M, BLOCK_M, HEAD_DIM, PRECISION, False, SUMMED_K,
            )  # fmt: skip
            weighted *= dp
        if CLAMP_EACH:
            weighted = tl.maximum(weighted, 0.0)
        heads_sum += weighted
    mean = tl.maximum(heads_sum / heads, 0.0)
    place = clip * positions + position
    if row is not None:
        carried = tl.load(row + place * FRAMES + frame, mask=valid, other=0.0)  # [BLOCK_M]
        moved = carried + tl.sum(carried[:, None] * mean, 0)
        tl.store(result + place * FRAMES + frame, moved, mask=valid)
    else:
        written = (position[:, None] == position[None, :]) & valid[:, None] & valid[None, :]
        rows = (place * FRAMES + frame) * FRAMES
        tl.store(result + rows[:, None] + frame[None, :], mean, mask=written)
