"""Forward kernel of temporal attention in plain multiply-adds: exact float32, no tensor cores.

s_tu = scale q_t k_u             one key frame u at a time against all query frames t of a tile
m, l, o <- online softmax        o_t = sum_u exp(s_tu - m_t) v_u / l_t
"fused":      q'_t = q_t - q_{t-1} by a second load, k'_u = k_u - k_{u-1} carried along the loop over u
"telescoped": v_u = v'_u + v_{u-1} carried along the loop (both from u = 2 on; row 0 apart), with what rounding lost
"""

import triton
import triton.language as tl

from kernels.common.blocks import load_rows, store_rows


@triton.jit
def row_products(a_left, a_right, b_left, b_right, RIGHT: tl.constexpr):
    """Sum of `a * b` over the columns: [P, Q, D] and [P, 1, D] -> [P, Q]."""
    s = tl.sum(a_left * b_left, 2)
    if RIGHT > 0:
        s += tl.sum(a_right * b_right, 2)
    return s


@triton.jit
def add_to(total, lost, x, goes_on):
    """`total + x` (`x` alone where a sum begins), and what rounding lost of the sum so far (Kahan).

    Plain running sums over 128 frames are three times as far off as PyTorch's.
    """
    total = tl.where(goes_on, total, 0.0)
    rest = x - tl.where(goes_on, lost, 0.0)
    result = total + rest
    return result, (result - total) - rest


@triton.jit
def load_rows_float32(pointer, rows, valid, LEFT: tl.constexpr, RIGHT: tl.constexpr, HEAD_DIM: tl.constexpr):
    """`load_rows`, widened."""
    left, right = load_rows(pointer, rows, valid, LEFT, RIGHT, HEAD_DIM)
    return left.to(tl.float32), right.to(tl.float32)


@triton.jit
def load_queries(
    q, rows, frame_stride, frame, valid,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, HEAD_DIM: tl.constexpr, SELF_SUBTRACT: tl.constexpr,
):  # fmt: skip
    """Queries of a tile, differenced where "fused": [P, Q, LEFT] and [P, Q, RIGHT]."""
    left, right = load_rows_float32(q, rows, valid, LEFT, RIGHT, HEAD_DIM)
    if SELF_SUBTRACT == "fused":
        before = valid & (frame >= 2)[None, :]
        left_before, right_before = load_rows_float32(q, rows - frame_stride, before, LEFT, RIGHT, HEAD_DIM)
        left -= left_before
        right -= right_before
    return left, right


@triton.jit
def load_key(
    k, rows, u, frame_stride, valid,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, HEAD_DIM: tl.constexpr, SELF_SUBTRACT: tl.constexpr,
):  # fmt: skip
    """Key frame `u` ([1, 1]) of a tile, differenced where "fused": [P, 1, LEFT] and [P, 1, RIGHT]."""
    left, right = load_rows_float32(k, rows + u * frame_stride, valid, LEFT, RIGHT, HEAD_DIM)
    if SELF_SUBTRACT == "fused":
        before = valid & (u >= 2)
        left_before, right_before = load_rows_float32(k, rows + (u - 1) * frame_stride, before, LEFT, RIGHT, HEAD_DIM)
        left -= left_before
        right -= right_before
    return left, right


@triton.jit
def locate(positions, heads, PADDED_QUERIES: tl.constexpr, POSITIONS: tl.constexpr, WIDE: tl.constexpr):
    """Head and clip of a program, its positions [P] and query frames [Q], and an offset of 0, [1, 1], as wide."""
    program = tl.program_id(0)
    offset = tl.arange(0, POSITIONS)
    frame = tl.arange(0, PADDED_QUERIES)
    origin = tl.zeros([1, 1], tl.int32)
    if WIDE:
        program = program.to(tl.int64)
        offset = offset.to(tl.int64)
        frame = frame.to(tl.int64)
        origin = origin.to(tl.int64)
    tiles = tl.cdiv(positions, POSITIONS)
    position = (program // heads) % tiles * POSITIONS + offset
    return program % heads, program // heads // tiles, position, frame, origin


@triton.jit
def exact_forward(
    q, k, v, out, attention,
    scale_log2, positions, heads,
    q_clip, q_frame, q_position, q_head,
    k_clip, k_frame, k_position, k_head,
    v_clip, v_frame, v_position, v_head,
    QUERY_FRAMES: tl.constexpr, FRAMES: tl.constexpr, PADDED_QUERIES: tl.constexpr, ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    SELF_SUBTRACT: tl.constexpr, WIDE: tl.constexpr, EMIT_ATTENTION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One program: `ROWS / PADDED_QUERIES` positions (P) of one head of one clip, all query frames (Q)."""
    POSITIONS: tl.constexpr = ROWS // PADDED_QUERIES
    head, clip, position, frame, origin = locate(positions, heads, PADDED_QUERIES, POSITIONS, WIDE)
    key_valid = (position < positions)[:, None]  # [P, 1]
    query_valid = key_valid & (frame < QUERY_FRAMES)[None, :]  # [P, Q]

    q_rows = (clip * q_clip + head * q_head + position * q_position)[:, None] + (frame * q_frame)[None, :]
    k_rows = (clip * k_clip + head * k_head + position * k_position)[:, None]  # [P, 1], frame 0
    v_rows = (clip * v_clip + head * v_head + position * v_position)[:, None]
    q_left, q_right = load_queries(q, q_rows, q_frame, frame, query_valid, LEFT, RIGHT, HEAD_DIM, SELF_SUBTRACT)

    largest = tl.full([POSITIONS, PADDED_QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([POSITIONS, PADDED_QUERIES], tl.float32)
    lost = tl.zeros([POSITIONS, PADDED_QUERIES], tl.float32)
    o_left = tl.zeros_like(q_left)
    o_right = tl.zeros_like(q_right)
    k_left_before, k_right_before = load_rows_float32(k, k_rows, key_valid, LEFT, RIGHT, HEAD_DIM)
    v_left, v_right = load_rows_float32(v, v_rows, key_valid, LEFT, RIGHT, HEAD_DIM)
    lost_left = tl.zeros_like(v_left)
    lost_right = tl.zeros_like(v_right)
    for u in tl.range(0, FRAMES, num_stages=STAGES):
        k_left, k_right = load_rows_float32(k, k_rows + (origin + u) * k_frame, key_valid, LEFT, RIGHT, HEAD_DIM)
        next_left, next_right = load_rows_float32(v, v_rows + (origin + u) * v_frame, key_valid, LEFT, RIGHT, HEAD_DIM)
        if SELF_SUBTRACT == "telescoped":
            v_left, lost_left = add_to(v_left, lost_left, next_left, u >= 2)
            if RIGHT > 0:
                v_right, lost_right = add_to(v_right, lost_right, next_right, u >= 2)
        else:
            v_left, v_right = next_left, next_right
        if SELF_SUBTRACT == "fused":
            difference_left = k_left - tl.where(u >= 2, k_left_before, 0.0)
            difference_right = k_right - tl.where(u >= 2, k_right_before, 0.0)
            s = row_products(q_left, q_right, difference_left, difference_right, RIGHT) * scale_log2
            k_left_before, k_right_before = k_left, k_right
        else:
            s = row_products(q_left, q_right, k_left, k_right, RIGHT) * scale_log2  # [P, Q]
        larger = tl.maximum(largest, s)
        shrink = tl.exp2(largest - larger)
        a = tl.exp2(s - larger)
        largest = larger
        total, lost = add_to(total * shrink, lost * shrink, a, True)
        o_left = o_left * shrink[:, :, None] + a[:, :, None] * v_left
        if RIGHT > 0:
            o_right = o_right * shrink[:, :, None] + a[:, :, None] * v_right

    o_left = o_left / total[:, :, None]
    o_right = o_right / total[:, :, None]
    row = clip * (QUERY_FRAMES * positions) + frame[None, :] * positions + position[:, None]
    store_rows(out, (row * heads + head) * HEAD_DIM, query_valid, o_left, o_right, LEFT, RIGHT, HEAD_DIM)

    if EMIT_ATTENTION:
        block = ((clip * positions + position) * heads + head) * (QUERY_FRAMES * FRAMES)
        attention_rows = block[:, None] + frame[None, :] * FRAMES  # [P, Q]
        for u in range(FRAMES):
            k_left, k_right = load_key(k, k_rows, origin + u, k_frame, key_valid, LEFT, RIGHT, HEAD_DIM, SELF_SUBTRACT)
            s = row_products(q_left, q_right, k_left, k_right, RIGHT) * scale_log2
            tl.store(attention + (attention_rows + u), tl.exp2(s - largest) / total, mask=query_valid)
