"""Kernels of relevance through spatial attention, all float32; the formulas are those of `reference.py`.

    spatial_normalizer          (a tile of queries, over all keys)       largest score and sum of each softmax row
    spatial_relevance_queries   (a tile of queries, over all keys)       R_q
    spatial_relevance_keys      (a tile of keys, over all queries)       R_k
    spatial_relevance_values    (a tile of keys, over all queries)       R_v
    spatial_map                 (a tile of queries and keys, over heads) the head-mean positive map, or row times it

Every number is written by one program, so results repeat bit for bit. Columns past the last key are not masked: their
score is 0, which may be far above the largest of the row, and their attention infinite; but values there are zeros, so
that the ratio rule gives them no relevance, and nothing of them is stored. The map is reduced over heads in registers;
as a rollout step the program multiplies its tile with the carried row and writes one partial sum a key.
"""

import triton
import triton.language as tl

from kernels.common.blocks import load_rows, locate, product, store_rows, tile_rows
from kernels.relevance.blocks import outer, outer_with_magnitudes, ratio


@triton.jit
def spatial_normalizer(
    q, k, largest_score, row_sum,
    scale_log2, positions, heads, frames,
    q_clip, q_frame, q_position, q_head,
    k_clip, k_frame, k_position, k_head,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """`exp2(scale_log2 q k^T - largest_score) / row_sum` is attention; both are [B, F, N, S].

    Two numbers a row and not one logarithm: a logarithm rounds, and every entry of its row would be off by as much.
    """
    tile, head, frame, clip = locate(tl.program_id(0), tl.cdiv(positions, ROWS), heads, frames)
    query = tile_rows(tile * ROWS, ROWS, WIDE)
    query_valid = query < positions
    q += clip * q_clip + frame * q_frame + head * q_head
    k += clip * k_clip + frame * k_frame + head * k_head
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for start in range(0, positions, COLUMNS):
        key = tile_rows(start, COLUMNS, WIDE)
        valid = key < positions
        z = outer(q, query * q_position, query_valid, k, key * k_position, valid, ROWS, COLUMNS, HEAD_DIM, PRECISION)
        s = tl.where(valid[None, :], z * scale_log2, float("-inf"))
        larger = tl.maximum(largest, tl.max(s, 1))
        total = total * tl.exp2(largest - larger) + tl.sum(tl.exp2(s - larger[:, None]), 1)
        largest = larger
    row = ((clip * frames + frame) * heads + head) * positions + query
    tl.store(largest_score + row, largest, mask=query_valid)
    tl.store(row_sum + row, total, mask=query_valid)


@triton.jit
def spatial_relevance_queries(
    q, k, v, u, largest_score, row_sum, relevance_q,
    scale_log2, eps, positions, heads, frames,
    q_clip, q_frame, q_position, q_head,
    k_clip, k_frame, k_position, k_head,
    v_clip, v_frame, v_position, v_head,
    u_clip, u_frame, u_position, u_head,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    HEAD_DIM: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """`R_q = q * (W k) / 2`, contiguous. Rows past the last key are zeros and have no relevance."""
    tile, head, frame, clip = locate(tl.program_id(0), tl.cdiv(positions, ROWS), heads, frames)
    query = tile_rows(tile * ROWS, ROWS, WIDE)
    query_valid = query < positions
    q += clip * q_clip + frame * q_frame + head * q_head
    k += clip * k_clip + frame * k_frame + head * k_head
    v += clip * v_clip + frame * v_frame + head * v_head
    u += clip * u_clip + frame * u_frame + head * u_head
    group = (clip * frames + frame) * heads + head
    largest = tl.load(largest_score + group * positions + query, mask=query_valid, other=0.0)
    total = tl.load(row_sum + group * positions + query, mask=query_valid, other=1.0)
    left = tl.zeros([ROWS, LEFT], tl.float32)
    right = tl.zeros([ROWS, RIGHT if RIGHT > 0 else 16], tl.float32)
    for start in range(0, positions, COLUMNS):
        key = tile_rows(start, COLUMNS, WIDE)
        valid = key < positions
        z, magnitude = outer_with_magnitudes(
            q, query * q_position, query_valid, k, key * k_position, valid, ROWS, COLUMNS, HEAD_DIM, PRECISION
        )
        uv = outer(u, query * u_position, query_valid, v, key * v_position, valid, ROWS, COLUMNS, HEAD_DIM, PRECISION)
        a = tl.exp2(z * scale_log2 - largest[:, None]) / total[:, None]
        w = ratio(a * uv * 0.5, z, magnitude, eps)
        k_left, k_right = load_rows(k, key * k_position, valid, LEFT, RIGHT, HEAD_DIM)
        left += product(w, k_left, PRECISION)
        if RIGHT > 0:
            right += product(w, k_right, PRECISION)
    q_left, q_right = load_rows(q, query * q_position, query_valid, LEFT, RIGHT, HEAD_DIM)
    left = left * q_left * 0.5
    if RIGHT > 0:
        right = right * q_right * 0.5
    relevance_q += (clip * frames + frame) * positions * heads * HEAD_DIM + head * HEAD_DIM
    store_rows(relevance_q, query * (heads * HEAD_DIM), query_valid, left, right, LEFT, RIGHT, HEAD_DIM)


@triton.jit
def spatial_relevance_keys(
    q, k, v, u, largest_score, row_sum, relevance_k,
    scale_log2, eps, positions, heads, frames,
    q_clip, q_frame, q_position, q_head,
    k_clip, k_frame, k_position, k_head,
    v_clip, v_frame, v_position, v_head,
    u_clip, u_frame, u_position, u_head,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    HEAD_DIM: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """`R_k = k * (W^T q) / 2`, contiguous: tiles are [keys, queries] here."""
    tile, head, frame, clip = locate(tl.program_id(0), tl.cdiv(positions, ROWS), heads, frames)
    key = tile_rows(tile * ROWS, ROWS, WIDE)
    key_valid = key < positions
    q += clip * q_clip + frame * q_frame + head * q_head
    k += clip * k_clip + frame * k_frame + head * k_head
    v += clip * v_clip + frame * v_frame + head * v_head
    u += clip * u_clip + frame * u_frame + head * u_head
    group = (clip * frames + frame) * heads + head
    largest_score += group * positions
    row_sum += group * positions
    left = tl.zeros([ROWS, LEFT], tl.float32)
    right = tl.zeros([ROWS, RIGHT if RIGHT > 0 else 16], tl.float32)
    for start in range(0, positions, COLUMNS):
        query = tile_rows(start, COLUMNS, WIDE)
        valid = query < positions
        largest = tl.load(largest_score + query, mask=valid, other=0.0)
        total = tl.load(row_sum + query, mask=valid, other=1.0)
        z, magnitude = outer_with_magnitudes(
            k, key * k_position, key_valid, q, query * q_position, valid, ROWS, COLUMNS, HEAD_DIM, PRECISION
        )
        uv = outer(v, key * v_position, key_valid, u, query * u_position, valid, ROWS, COLUMNS, HEAD_DIM, PRECISION)
        a = tl.exp2(z * scale_log2 - largest[None, :]) / total[None, :]
        w = ratio(a * uv * 0.5, z, magnitude, eps)
        q_left, q_right = load_rows(q, query * q_position, valid, LEFT, RIGHT, HEAD_DIM)
        left += product(w, q_left, PRECISION)
        if RIGHT > 0:
            right += product(w, q_right, PRECISION)
    k_left, k_right = load_rows(k, key * k_position, key_valid, LEFT, RIGHT, HEAD_DIM)
    left = left * k_left * 0.5
    if RIGHT > 0:
        right = right * k_right * 0.5
    relevance_k += (clip * frames + frame) * positions * heads * HEAD_DIM + head * HEAD_DIM
    store_rows(relevance_k, key * (heads * HEAD_DIM), key_valid, left, right, LEFT, RIGHT, HEAD_DIM)


@triton.jit
def spatial_relevance_values(
    q, k, v, u, largest_score, row_sum, relevance_v,
    scale_log2, positions, heads, frames,
    q_clip, q_frame, q_position, q_head,
    k_clip, k_frame, k_position, k_head,
    v_clip, v_frame, v_position, v_head,
    u_clip, u_frame, u_position, u_head,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    HEAD_DIM: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """`R_v = v * (A^T u) / 2`, contiguous. Apart from R_k: both sums at once do not fit into registers."""
    tile, head, frame, clip = locate(tl.program_id(0), tl.cdiv(positions, ROWS), heads, frames)
    key = tile_rows(tile * ROWS, ROWS, WIDE)
    key_valid = key < positions
    q += clip * q_clip + frame * q_frame + head * q_head
    k += clip * k_clip + frame * k_frame + head * k_head
    v += clip * v_clip + frame * v_frame + head * v_head
    u += clip * u_clip + frame * u_frame + head * u_head
    group = (clip * frames + frame) * heads + head
    largest_score += group * positions
    row_sum += group * positions
    left = tl.zeros([ROWS, LEFT], tl.float32)
    right = tl.zeros([ROWS, RIGHT if RIGHT > 0 else 16], tl.float32)
    for start in range(0, positions, COLUMNS):
        query = tile_rows(start, COLUMNS, WIDE)
        valid = query < positions
        largest = tl.load(largest_score + query, mask=valid, other=0.0)
        total = tl.load(row_sum + query, mask=valid, other=1.0)
        z = outer(k, key * k_position, key_valid, q, query * q_position, valid, ROWS, COLUMNS, HEAD_DIM, PRECISION)
        a = tl.exp2(z * scale_log2 - largest[None, :]) / total[None, :]
        u_left, u_right = load_rows(u, query * u_position, valid, LEFT, RIGHT, HEAD_DIM)
        left += product(a, u_left, PRECISION)
        if RIGHT > 0:
            right += product(a, u_right, PRECISION)
    v_left, v_right = load_rows(v, key * v_position, key_valid, LEFT, RIGHT, HEAD_DIM)
    left = left * v_left * 0.5
    if RIGHT > 0:
        right = right * v_right * 0.5
    relevance_v += (clip * frames + frame) * positions * heads * HEAD_DIM + head * HEAD_DIM
    store_rows(relevance_v, key * (heads * HEAD_DIM), key_valid, left, right, LEFT, RIGHT, HEAD_DIM)


@triton.jit
def spatial_map(
    q, k, v, u, grad_out, largest_score, row_sum, row, result,
    scale_log2, positions, heads, frames,
    q_clip, q_frame, q_position, q_head,
    k_clip, k_frame, k_position, k_head,
    v_clip, v_frame, v_position, v_head,
    u_clip, u_frame, u_position, u_head,
    grad_out_clip, grad_out_frame, grad_out_position, grad_out_head,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    HAS_U: tl.constexpr, HAS_GRAD_OUT: tl.constexpr, CLAMP_EACH: tl.constexpr, ROLL_OUT: tl.constexpr,
):  # fmt: skip
    """One tile of the map, summed over heads.

    `ROLL_OUT`: result [B, F, query tiles, S] holds `row` [B, F, S] of this tile's queries times the map; otherwise
    result [B, F, S, S] is the map.
    """
    query_tiles = tl.cdiv(positions, ROWS)
    tile, key_tile, frame, clip = locate(tl.program_id(0), query_tiles, tl.cdiv(positions, COLUMNS), frames)
    query = tile_rows(tile * ROWS, ROWS, WIDE)
    key = tile_rows(key_tile.to(tl.int32) * COLUMNS, COLUMNS, WIDE)
    query_valid = query < positions
    key_valid = key < positions
    q += clip * q_clip + frame * q_frame
    k += clip * k_clip + frame * k_frame
    v += clip * v_clip + frame * v_frame
    group = clip * frames + frame
    largest_score += group * heads * positions
    row_sum += group * heads * positions
    if HAS_U:
        u += clip * u_clip + frame * u_frame
    if HAS_GRAD_OUT:
        grad_out += clip * grad_out_clip + frame * grad_out_frame
    heads_sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    for head in range(heads):
        largest = tl.load(largest_score + head * positions + query, mask=query_valid, other=0.0)
        total = tl.load(row_sum + head * positions + query, mask=query_valid, other=1.0)
        z = outer(
            q + head * q_head, query * q_position, query_valid, k + head * k_head, key * k_position, key_valid,
            ROWS, COLUMNS, HEAD_DIM, PRECISION,
        )  # fmt: skip
        weighted = tl.exp2(z * scale_log2 - largest[:, None]) / total[:, None]
        if HAS_U:
            weighted *= 0.5 * outer(
                u + head * u_head, query * u_position, query_valid, v + head * v_head, key * v_position, key_valid,
                ROWS, COLUMNS, HEAD_DIM, PRECISION,
            )  # fmt: skip
        if HAS_GRAD_OUT:
            weighted *= outer(
                grad_out + head * grad_out_head, query * grad_out_position, query_valid,
                v + head * v_head, key * v_position, key_valid,
                ROWS, COLUMNS, HEAD_DIM, PRECISION,
            )  # fmt: skip
        if CLAMP_EACH:
            weighted = tl.maximum(weighted, 0.0)
        heads_sum += weighted
    mean = tl.maximum(heads_sum / heads, 0.0)
    if ROLL_OUT:
        carried = tl.load(row + group * positions + query, mask=query_valid, other=0.0)
        partial = tl.sum(carried[:, None] * mean, 0)
        tl.store(result + (group * query_tiles + tile) * positions + key, partial, mask=key_valid)
    else:
        result += group * positions * positions
        written = query_valid[:, None] & key_valid[None, :]
        tl.store(result + (query * positions)[:, None] + key[None, :], mean, mask=written)
