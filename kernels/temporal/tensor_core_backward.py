"""Backward kernel of temporal attention for 16-bit types: block-diagonal products on tensor cores.

    A  = softmax(scale q k^T)                    recomputed; q, k, v and dO are all that is read
    dA = dO v^T                                  "telescoped": (dO v'^T) L^T, prefix sums in float32
    dS = scale A * (dA - rowsum(A * dA))
    dq = dS k, dk = dS^T q, dv = A^T dO          "telescoped": dv' = (A L)^T dO
    "fused": dq = (D^T dS) k', dk = (dS D)^T q'  with D the difference over frames, applied to the small dS

Every number is written by one program, in a fixed order of operations: bitwise repeatable.
"""

import triton
import triton.language as tl

from kernels.common.blocks import halves, load_rows, product, store_rows
from kernels.temporal.tensor_core_kernels import (
    block_softmax,
    difference,
    difference_matrix,
    locate,
    summed,
    summing_matrix,
)


@triton.jit
def matrix_backward(
    q, k, v, grad_out, grad_q, grad_k, grad_v, grad_attention,
    scale, scale_log2, positions, heads,
    q_clip, q_frame, q_position, q_head,
    k_clip, k_frame, k_position, k_head,
    v_clip, v_frame, v_position, v_head,
    grad_out_clip, grad_out_frame, grad_out_position, grad_out_head,
    grad_q_clip, grad_q_frame, grad_q_position, grad_q_head,
    grad_k_clip, grad_k_frame, grad_k_position, grad_k_head,
    QUERY_FRAMES: tl.constexpr, FRAMES: tl.constexpr, PADDED_FRAMES: tl.constexpr, ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    SELF_SUBTRACT: tl.constexpr, WIDE: tl.constexpr, EMIT_GRADIENT: tl.constexpr,
):  # fmt: skip
    """One program: `ROWS / PADDED_FRAMES` positions of one head of one clip (grad_v: strides of grad_k)."""
    head, clip, position, frame = locate(positions, heads, PADDED_FRAMES, ROWS, WIDE)
    query_valid = (position < positions) & (frame < QUERY_FRAMES)
    key_valid = (position < positions) & (frame < FRAMES)

    q_rows = clip * q_clip + head * q_head + frame * q_frame + position * q_position
    k_rows = clip * k_clip + head * k_head + frame * k_frame + position * k_position
    v_rows = clip * v_clip + head * v_head + frame * v_frame + position * v_position
    grad_out_rows = clip * grad_out_clip + head * grad_out_head + frame * grad_out_frame + position * grad_out_position
    # [ROWS, LEFT] and [ROWS, RIGHT]
    q_left, q_right = load_rows(q, q_rows, query_valid, LEFT, RIGHT, HEAD_DIM)
    k_left, k_right = load_rows(k, k_rows, key_valid, LEFT, RIGHT, HEAD_DIM)
    v_left, v_right = load_rows(v, v_rows, key_valid, LEFT, RIGHT, HEAD_DIM)
    g_left, g_right = load_rows(grad_out, grad_out_rows, query_valid, LEFT, RIGHT, HEAD_DIM)

    if SELF_SUBTRACT == "fused":
        d = difference_matrix(frame, position)
        q_left, q_right = difference(d, q_left, q_right, RIGHT)
        k_left, k_right = difference(d, k_left, k_right, RIGHT)
    a = block_softmax(q_left, q_right, k_left, k_right, scale_log2, frame, position, FRAMES, RIGHT)  # [ROWS, ROWS]
    inside = (position[:, None] == position[None, :]) & (frame < FRAMES)[None, :]
    grad_a = product(g_left, tl.trans(v_left))  # [ROWS, ROWS]
    if RIGHT > 0:
        grad_a += product(g_right, tl.trans(v_right))
    grad_a = tl.where(inside, grad_a, 0.0)
    if SELF_SUBTRACT == "telescoped":
        ones = summing_matrix(frame, position)
        grad_a = tl.where(inside, summed(grad_a, tl.trans(ones)), 0.0)
    if EMIT_GRADIENT:
        block = ((clip * positions + position) * heads + head) * (QUERY_FRAMES * FRAMES) + frame * FRAMES
        written = inside & query_valid[:, None] & key_valid[None, :]
        tl.store(grad_attention + (block[:, None] + frame[None, :]), grad_a, mask=written)
    grad_s = a * (grad_a - tl.sum(a * grad_a, 1)[:, None]) * scale  # [ROWS, ROWS]

    # grad v
    weights = a
    if SELF_SUBTRACT == "telescoped":
        weights = summed(a, ones)
    weights = tl.trans(weights.to(g_left.dtype))
    grad_k_rows = clip * grad_k_clip + head * grad_k_head + frame * grad_k_frame + position * grad_k_position
    left = product(weights, g_left)
    right = left
    if RIGHT > 0:
        right = product(weights, g_right)
    store_rows(grad_v, grad_k_rows, key_valid, left, right, LEFT, RIGHT, HEAD_DIM)

    # grad k, then grad q
    by_key = grad_s
    by_query = grad_s
    if SELF_SUBTRACT == "fused":
        high, low = halves(grad_s)
        by_key = product(high, d) + product(low, d)
        # rows past QUERY_FRAMES of grad_s are zero, so the same D serves fewer queries
        by_query = product(tl.trans(d), high) + product(tl.trans(d), low)
    by_key = tl.trans(by_key.to(q_left.dtype))
    left = product(by_key, q_left)
    right = left
    if RIGHT > 0:
        right = product(by_key, q_right)
    store_rows(grad_k, grad_k_rows, key_valid, left, right, LEFT, RIGHT, HEAD_DIM)

    by_query = by_query.to(k_left.dtype)
    grad_q_rows = clip * grad_q_clip + head * grad_q_head + frame * grad_q_frame + position * grad_q_position
    left = product(by_query, k_left)
    right = left
    if RIGHT > 0:
        right = product(by_query, k_right)
    store_rows(grad_q, grad_q_rows, query_valid, left, right, LEFT, RIGHT, HEAD_DIM)
