"""Backward kernel of temporal attention in plain multiply-adds: exact float32, no tensor cores.

    first loop over key frames u, rising:   m, l (online softmax), delta_t = sum_u a_tu dA_tu, with dA_tu = dO_t v_u
    second loop:                            a_tu again, dS_tu = scale a_tu (dA_tu - delta_t)
                                            dq_t += dS_tu k_u, dk_u = sum_t dS_tu q_t, dv_u = sum_t a_tu dO_t
    "fused":      second loop falling, dk_u = dk'_u - dk'_{u+1} carried along; dq_t by (dS_tu - dS_{t+1,u}) k'_u
    "telescoped": dA_tu = dA_{t,u-1} + dO_t v'_u carried along; third loop, falling: dv'_u = dv_u + dv'_{u+1}

Every number is written by one program, in a fixed order of operations: bitwise repeatable.
"""

import triton
import triton.language as tl

from kernels.common.blocks import store_rows
from kernels.temporal.fp32_kernels import add_to, load_key, load_queries, load_rows_float32, locate, row_products


@triton.jit
def column_products(a, b_left, b_right, RIGHT: tl.constexpr):
    """Sum of `a_t b_t` over the query frames: [P, Q] and [P, Q, D] -> [P, 1, D]."""
    left = tl.sum(a[:, :, None] * b_left, 1, keep_dims=True)
    right = left
    if RIGHT > 0:
        right = tl.sum(a[:, :, None] * b_right, 1, keep_dims=True)
    return left, right


@triton.jit
def exact_backward(
    q, k, v, grad_out, grad_q, grad_k, grad_v, grad_attention,
    scale, scale_log2, positions, heads,
    q_clip, q_frame, q_position, q_head,
    k_clip, k_frame, k_position, k_head,
    v_clip, v_frame, v_position, v_head,
    grad_out_clip, grad_out_frame, grad_out_position, grad_out_head,
    grad_q_clip, grad_q_frame, grad_q_position, grad_q_head,
    grad_k_clip, grad_k_frame, grad_k_position, grad_k_head,
    QUERY_FRAMES: tl.constexpr, FRAMES: tl.constexpr, PADDED_QUERIES: tl.constexpr, ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    SELF_SUBTRACT: tl.constexpr, WIDE: tl.constexpr, EMIT_GRADIENT: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One program: `ROWS / PADDED_QUERIES` positions (P) of one head of one clip, all query frames (Q)."""
    POSITIONS: tl.constexpr = ROWS // PADDED_QUERIES
    head, clip, position, frame, origin = locate(positions, heads, PADDED_QUERIES, POSITIONS, WIDE)
    key_valid = (position < positions)[:, None]  # [P, 1]
    query_valid = key_valid & (frame < QUERY_FRAMES)[None, :]  # [P, Q]

    q_rows = (clip * q_clip + head * q_head + position * q_position)[:, None] + (frame * q_frame)[None, :]
    k_rows = (clip * k_clip + head * k_head + position * k_position)[:, None]  # [P, 1], frame 0
    v_rows = (clip * v_clip + head * v_head + position * v_position)[:, None]
    g_rows = (clip * grad_out_clip + head * grad_out_head + position * grad_out_position)[:, None]
    g_rows = g_rows + (frame * grad_out_frame)[None, :]
    q_left, q_right = load_queries(q, q_rows, q_frame, frame, query_valid, LEFT, RIGHT, HEAD_DIM, SELF_SUBTRACT)
    g_left, g_right = load_rows_float32(grad_out, g_rows, query_valid, LEFT, RIGHT, HEAD_DIM)

    block = ((clip * positions + position) * heads + head) * (QUERY_FRAMES * FRAMES)
    attention_rows = block[:, None] + frame[None, :] * FRAMES  # [P, Q]
    largest = tl.full([POSITIONS, PADDED_QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([POSITIONS, PADDED_QUERIES], tl.float32)
    lost = tl.zeros([POSITIONS, PADDED_QUERIES], tl.float32)
    delta = tl.zeros([POSITIONS, PADDED_QUERIES], tl.float32)
    grad_a = tl.zeros([POSITIONS, PADDED_QUERIES], tl.float32)
    for u in tl.range(0, FRAMES, num_stages=STAGES):
        k_left, k_right = load_key(k, k_rows, origin + u, k_frame, key_valid, LEFT, RIGHT, HEAD_DIM, SELF_SUBTRACT)
        v_left, v_right = load_rows_float32(v, v_rows + (origin + u) * v_frame, key_valid, LEFT, RIGHT, HEAD_DIM)
        s = row_products(q_left, q_right, k_left, k_right, RIGHT) * scale_log2  # [P, Q]
        step = row_products(g_left, g_right, v_left, v_right, RIGHT)
        if SELF_SUBTRACT == "telescoped":
            grad_a = step + tl.where(u >= 2, grad_a, 0.0)
        else:
            grad_a = step
        if EMIT_GRADIENT:
            tl.store(grad_attention + (attention_rows + u), grad_a, mask=query_valid)
        larger = tl.maximum(largest, s)
        shrink = tl.exp2(largest - larger)
        a = tl.exp2(s - larger)
        largest = larger
        total, lost = add_to(total * shrink, lost * shrink, a, True)
        delta = delta * shrink + a * grad_a
    delta = delta / total

    grad_k_rows = (clip * grad_k_clip + head * grad_k_head + position * grad_k_position)[:, None]  # [P, 1]
    # row t of dq' belongs to frame t and, subtracted, to frame t - 1 (down to frame 1)
    t = frame[:, None]
    subtracted = (frame[None, :] == t + 1) & (t >= 1)  # [Q, Q]
    grad_q_left = tl.zeros_like(q_left)
    grad_q_right = tl.zeros_like(q_right)
    later_left = tl.zeros([POSITIONS, 1, LEFT], tl.float32)
    later_right = tl.zeros([POSITIONS, 1, RIGHT if RIGHT > 0 else LEFT], tl.float32)
    for i in tl.range(0, FRAMES, num_stages=STAGES):
        u = FRAMES - 1 - i if SELF_SUBTRACT == "fused" else i
        k_left, k_right = load_key(k, k_rows, origin + u, k_frame, key_valid, LEFT, RIGHT, HEAD_DIM, SELF_SUBTRACT)
        v_left, v_right = load_rows_float32(v, v_rows + (origin + u) * v_frame, key_valid, LEFT, RIGHT, HEAD_DIM)
        s = row_products(q_left, q_right, k_left, k_right, RIGHT) * scale_log2
        a = tl.exp2(s - largest) / total
        step = row_products(g_left, g_right, v_left, v_right, RIGHT)
        if SELF_SUBTRACT == "telescoped":
            grad_a = step + tl.where(u >= 2, grad_a, 0.0)
        else:
            grad_a = step
        grad_s = a * (grad_a - delta) * scale  # [P, Q]

        by_query = grad_s
        if SELF_SUBTRACT == "fused":
            by_query = grad_s - tl.sum(tl.where(subtracted[None, :, :], grad_s[:, None, :], 0.0), 2)
        grad_q_left += by_query[:, :, None] * k_left
        if RIGHT > 0:
            grad_q_right += by_query[:, :, None] * k_right
        left, right = column_products(grad_s, q_left, q_right, RIGHT)
        rows = grad_k_rows + (origin + u) * grad_k_frame
        if SELF_SUBTRACT == "fused":
            difference_left = left - tl.where(u >= 1, later_left, 0.0)
            difference_right = right - tl.where(u >= 1, later_right, 0.0)
            store_rows(grad_k, rows, key_valid, difference_left, difference_right, LEFT, RIGHT, HEAD_DIM)
            later_left, later_right = left, right
        else:
            store_rows(grad_k, rows, key_valid, left, right, LEFT, RIGHT, HEAD_DIM)
        if SELF_SUBTRACT != "telescoped":
            left, right = column_products(a, g_left, g_right, RIGHT)
            store_rows(grad_v, rows, key_valid, left, right, LEFT, RIGHT, HEAD_DIM)

    if SELF_SUBTRACT == "telescoped":
        lost_left = tl.zeros_like(later_left)
        lost_right = tl.zeros_like(later_right)
        for i in range(FRAMES):
            u = FRAMES - 1 - i
            k_left, k_right = load_key(k, k_rows, origin + u, k_frame, key_valid, LEFT, RIGHT, HEAD_DIM, SELF_SUBTRACT)
            s = row_products(q_left, q_right, k_left, k_right, RIGHT) * scale_log2
            left, right = column_products(tl.exp2(s - largest) / total, g_left, g_right, RIGHT)
            later_left, lost_left = add_to(later_left, lost_left, left, u >= 1)
            if RIGHT > 0:
                later_right, lost_right = add_to(later_right, lost_right, right, u >= 1)
            rows = grad_k_rows + (origin + u) * grad_k_frame
            store_rows(grad_v, rows, key_valid, later_left, later_right, LEFT, RIGHT, HEAD_DIM)

    grad_q_rows = (clip * grad_q_clip + head * grad_q_head + position * grad_q_position)[:, None]
    grad_q_rows = grad_q_rows + (frame * grad_q_frame)[None, :]
    store_rows(grad_q, grad_q_rows, query_valid, grad_q_left, grad_q_right, LEFT, RIGHT, HEAD_DIM)
