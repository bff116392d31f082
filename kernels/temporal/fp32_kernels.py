"""Temporal attention in plain multiply-adds: exact float32, no tensor cores; Triton forward and backward kernels.

    S_tu = scale q_t k_u,  o_t = sum_u exp(S_tu - m_t) v_u / l_t     online softmax, one key frame u at a time
    delta_t = sum_u P_tu dP_tu,  dP_tu = do_t v_u                    backward, first loop over u, with m and l
    dS_tu = scale P_tu (dP_tu - delta_t)                             second loop: P_tu and dP_tu again
    dq_t = sum_u dS_tu k_u,  dk_u = sum_t dS_tu q_t,  dv_u = sum_t P_tu do_t

    "fused":      q'_t = q_t - q_{t-1} and k'_u likewise from 2 on; dk_u = dk'_u - dk'_{u+1} in a falling loop
    "telescoped": v_u = v'_u + v_{u-1} from 2 on, and so dP_tu; dv'_u = dv_u + dv'_{u+1} in a third, falling loop

A tile is P positions of one head, with Q query frames each. Every number is written by one program, in a fixed order
of operations: bitwise repeatable.
"""

import triton
import triton.language as tl

from kernels.common.blocks import load_rows, store_rows


@triton.jit
def row_products(a0, a1, b0, b1, BLOCK_D1: tl.constexpr):
    """Return the sum of `a * b` over the columns: [P, Q, D] and [P, 1, D] -> [P, Q]."""
    s = tl.sum(a0 * b0, 2)
    if BLOCK_D1 > 0:
        s += tl.sum(a1 * b1, 2)
    return s


@triton.jit
def column_products(p, b0, b1, BLOCK_D1: tl.constexpr):
    """Return the sum of `p_t b_t` over the query frames: [P, Q] and [P, Q, D] -> [P, 1, D]."""
    x0 = tl.sum(p[:, :, None] * b0, 1, keep_dims=True)
    x1 = x0
    if BLOCK_D1 > 0:
        x1 = tl.sum(p[:, :, None] * b1, 1, keep_dims=True)
    return x0, x1


@triton.jit
def add_to(total, lost, x, goes_on):
    """Return `total + x` (`x` alone where a sum begins), and what rounding lost of the sum so far (Kahan).

    Plain running sums over 128 frames are three times as far off as PyTorch's.
    """
    total = tl.where(goes_on, total, 0.0)
    rest = x - tl.where(goes_on, lost, 0.0)
    result = total + rest
    return result, (result - total) - rest


@triton.jit
def online_softmax(s, m_i, l_i, l_lost):
    """Return p, alpha and the new m, l (and what l lost) of one more key frame with scores `s`: [P, Q] each."""
    m_new = tl.maximum(m_i, s)
    alpha = tl.exp2(m_i - m_new)
    p = tl.exp2(s - m_new)
    l_i, l_lost = add_to(l_i * alpha, l_lost * alpha, p, True)
    return p, alpha, m_new, l_i, l_lost


@triton.jit
def load_rows_float32(pointer, rows, valid, BLOCK_D0: tl.constexpr, BLOCK_D1: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Return `load_rows`, widened."""
    x0, x1 = load_rows(pointer, rows, valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    return x0.to(tl.float32), x1.to(tl.float32)


@triton.jit
def load_differenced(
    pointer, rows, stride_f, frame, valid,
    BLOCK_D0: tl.constexpr, BLOCK_D1: tl.constexpr, HEAD_DIM: tl.constexpr, SELF_SUBTRACT: tl.constexpr,
):  # fmt: skip
    """Return the rows of `frame` ([1, Q] or [1, 1]), where "fused" less those of the frame before: [P, ., D]."""
    x0, x1 = load_rows_float32(pointer, rows, valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    if SELF_SUBTRACT == "fused":
        before0, before1 = load_rows_float32(
            pointer, rows - stride_f, valid & (frame >= 2), BLOCK_D0, BLOCK_D1, HEAD_DIM
        )
        x0 -= before0
        x1 -= before1
    return x0, x1


@triton.jit
def grad_probabilities(dp_before, do0, do1, v0, v1, u, BLOCK_D1: tl.constexpr, SELF_SUBTRACT: tl.constexpr):
    """Return dP of key frame u: [P, Q]."""
    dp = row_products(do0, do1, v0, v1, BLOCK_D1)
    if SELF_SUBTRACT == "telescoped":
        dp += tl.where(u >= 2, dp_before, 0.0)
    return dp


@triton.jit
def locate(positions, heads, PADDED_QUERIES: tl.constexpr, POSITIONS: tl.constexpr, INT64_OFFSETS: tl.constexpr):
    """Return head and clip of a program, its positions [P], query frames [Q] and an offset of 0, [1, 1], as wide."""
    program = tl.program_id(0)
    offset = tl.arange(0, POSITIONS)
    frame = tl.arange(0, PADDED_QUERIES)
    origin = tl.zeros([1, 1], tl.int32)
    if INT64_OFFSETS:
        program = program.to(tl.int64)
        offset = offset.to(tl.int64)
        frame = frame.to(tl.int64)
        origin = origin.to(tl.int64)
    tiles = tl.cdiv(positions, POSITIONS)
    position = (program // heads) % tiles * POSITIONS + offset
    return program % heads, program // heads // tiles, position, frame, origin


@triton.jit
def fp32_forward(
    q, k, v, o, attention,
    scale_log2, positions, heads,
    stride_qb, stride_qf, stride_qs, stride_qh,
    stride_kb, stride_kf, stride_ks, stride_kh,
    stride_vb, stride_vf, stride_vs, stride_vh,
    QUERY_FRAMES: tl.constexpr, FRAMES: tl.constexpr, PADDED_QUERIES: tl.constexpr, BLOCK_M: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_D0: tl.constexpr, BLOCK_D1: tl.constexpr,
    SELF_SUBTRACT: tl.constexpr, INT64_OFFSETS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Run one program: `BLOCK_M / PADDED_QUERIES` positions (P) of one head of one clip, all query frames (Q)."""
    POSITIONS: tl.constexpr = BLOCK_M // PADDED_QUERIES
    head, clip, position, frame, origin = locate(positions, heads, PADDED_QUERIES, POSITIONS, INT64_OFFSETS)
    key_valid = (position < positions)[:, None]  # [P, 1]
    query_valid = key_valid & (frame < QUERY_FRAMES)[None, :]  # [P, Q]

    # offsets of query rows: [P, Q], of keys and values at frame 0: [P, 1]; q: [P, Q, D]
    q_rows = (clip * stride_qb + head * stride_qh + position * stride_qs)[:, None] + (frame * stride_qf)[None, :]
    k_rows = (clip * stride_kb + head * stride_kh + position * stride_ks)[:, None]
    v_rows = (clip * stride_vb + head * stride_vh + position * stride_vs)[:, None]
    q0, q1 = load_differenced(
        q, q_rows, stride_qf, frame[None, :], query_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM, SELF_SUBTRACT
    )

    m_i = tl.full([POSITIONS, PADDED_QUERIES], float("-inf"), tl.float32)
    l_i = tl.zeros([POSITIONS, PADDED_QUERIES], tl.float32)
    l_lost = tl.zeros([POSITIONS, PADDED_QUERIES], tl.float32)
    acc0 = tl.zeros_like(q0)
    acc1 = tl.zeros_like(q1)
    k0_before, k1_before = load_rows_float32(k, k_rows, key_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    v0, v1 = load_rows_float32(v, v_rows, key_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    v0_lost = tl.zeros_like(v0)
    v1_lost = tl.zeros_like(v1)
    for u in tl.range(0, FRAMES, num_stages=STAGES):
        # k, v: [P, 1, D]; s, p, alpha: [P, Q]
        k0, k1 = load_rows_float32(k, k_rows + (origin + u) * stride_kf, key_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
        next0, next1 = load_rows_float32(v, v_rows + (origin + u) * stride_vf, key_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
        if SELF_SUBTRACT == "telescoped":
            v0, v0_lost = add_to(v0, v0_lost, next0, u >= 2)
            if BLOCK_D1 > 0:
                v1, v1_lost = add_to(v1, v1_lost, next1, u >= 2)
        else:
            v0, v1 = next0, next1
        if SELF_SUBTRACT == "fused":
            difference0 = k0 - tl.where(u >= 2, k0_before, 0.0)
            difference1 = k1 - tl.where(u >= 2, k1_before, 0.0)
            s = row_products(q0, q1, difference0, difference1, BLOCK_D1) * scale_log2
            k0_before, k1_before = k0, k1
        else:
            s = row_products(q0, q1, k0, k1, BLOCK_D1) * scale_log2
        p, alpha, m_i, l_i, l_lost = online_softmax(s, m_i, l_i, l_lost)
        acc0 = acc0 * alpha[:, :, None] + p[:, :, None] * v0
        if BLOCK_D1 > 0:
            acc1 = acc1 * alpha[:, :, None] + p[:, :, None] * v1

    # o: [B, F_q, S, N, D]
    acc0 = acc0 / l_i[:, :, None]
    acc1 = acc1 / l_i[:, :, None]
    row = clip * (QUERY_FRAMES * positions) + frame[None, :] * positions + position[:, None]
    store_rows(o, (row * heads + head) * HEAD_DIM, query_valid, acc0, acc1, BLOCK_D0, BLOCK_D1, HEAD_DIM)

    if attention is not None:  # [B, S, N, F_q, F]
        block = ((clip * positions + position) * heads + head) * (QUERY_FRAMES * FRAMES)
        attention_rows = block[:, None] + frame[None, :] * FRAMES
        for u in range(FRAMES):
            k0, k1 = load_differenced(
                k, k_rows + (origin + u) * stride_kf, stride_kf, origin + u, key_valid,
                BLOCK_D0, BLOCK_D1, HEAD_DIM, SELF_SUBTRACT,
            )  # fmt: skip
            s = row_products(q0, q1, k0, k1, BLOCK_D1) * scale_log2
            tl.store(attention + (attention_rows + u), tl.exp2(s - m_i) / l_i, mask=query_valid)


@triton.jit
def fp32_backward(
    q, k, v, do, dq, dk, dv, grad_attention,
    scale, scale_log2, positions, heads,
    stride_qb, stride_qf, stride_qs, stride_qh,
    stride_kb, stride_kf, stride_ks, stride_kh,
    stride_vb, stride_vf, stride_vs, stride_vh,
    stride_dob, stride_dof, stride_dos, stride_doh,
    stride_dqb, stride_dqf, stride_dqs, stride_dqh,
    stride_dkb, stride_dkf, stride_dks, stride_dkh,
    QUERY_FRAMES: tl.constexpr, FRAMES: tl.constexpr, PADDED_QUERIES: tl.constexpr, BLOCK_M: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_D0: tl.constexpr, BLOCK_D1: tl.constexpr,
    SELF_SUBTRACT: tl.constexpr, INT64_OFFSETS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Run one program: `BLOCK_M / PADDED_QUERIES` positions (P) of one head of one clip, all query frames (Q).

    `dv` has the strides of `dk`.
    """
    POSITIONS: tl.constexpr = BLOCK_M // PADDED_QUERIES
    head, clip, position, frame, origin = locate(positions, heads, PADDED_QUERIES, POSITIONS, INT64_OFFSETS)
    key_valid = (position < positions)[:, None]  # [P, 1]
    query_valid = key_valid & (frame < QUERY_FRAMES)[None, :]  # [P, Q]

    # offsets of query rows: [P, Q], of keys and values at frame 0: [P, 1]; q, do: [P, Q, D]
    q_rows = (clip * stride_qb + head * stride_qh + position * stride_qs)[:, None] + (frame * stride_qf)[None, :]
    k_rows = (clip * stride_kb + head * stride_kh + position * stride_ks)[:, None]
    v_rows = (clip * stride_vb + head * stride_vh + position * stride_vs)[:, None]
    do_rows = (clip * stride_dob + head * stride_doh + position * stride_dos)[:, None] + (frame * stride_dof)[None, :]
    q0, q1 = load_differenced(
        q, q_rows, stride_qf, frame[None, :], query_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM, SELF_SUBTRACT
    )
    do0, do1 = load_rows_float32(do, do_rows, query_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)

    block = ((clip * positions + position) * heads + head) * (QUERY_FRAMES * FRAMES)
    attention_rows = block[:, None] + frame[None, :] * FRAMES  # [P, Q] of [B, S, N, F_q, F]
    m_i = tl.full([POSITIONS, PADDED_QUERIES], float("-inf"), tl.float32)
    l_i = tl.zeros([POSITIONS, PADDED_QUERIES], tl.float32)
    l_lost = tl.zeros([POSITIONS, PADDED_QUERIES], tl.float32)
    delta = tl.zeros([POSITIONS, PADDED_QUERIES], tl.float32)
    dp = tl.zeros([POSITIONS, PADDED_QUERIES], tl.float32)
    for u in tl.range(0, FRAMES, num_stages=STAGES):
        # k, v: [P, 1, D]; s, p, dp, alpha: [P, Q]
        k0, k1 = load_differenced(
            k, k_rows + (origin + u) * stride_kf, stride_kf, origin + u, key_valid,
            BLOCK_D0, BLOCK_D1, HEAD_DIM, SELF_SUBTRACT,
        )  # fmt: skip
        v0, v1 = load_rows_float32(v, v_rows + (origin + u) * stride_vf, key_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
        s = row_products(q0, q1, k0, k1, BLOCK_D1) * scale_log2
        dp = grad_probabilities(dp, do0, do1, v0, v1, u, BLOCK_D1, SELF_SUBTRACT)
        if grad_attention is not None:
            tl.store(grad_attention + (attention_rows + u), dp, mask=query_valid)
        p, alpha, m_i, l_i, l_lost = online_softmax(s, m_i, l_i, l_lost)
        delta = delta * alpha + p * dp
    delta = delta / l_i

    dk_rows = (clip * stride_dkb + head * stride_dkh + position * stride_dks)[:, None]  # [P, 1]
    # row t of dq' belongs to frame t and, subtracted, to frame t - 1 (down to frame 1)
    t = frame[:, None]
    subtracted = (frame[None, :] == t + 1) & (t >= 1)  # [Q, Q]
    dq0 = tl.zeros_like(q0)
    dq1 = tl.zeros_like(q1)
    later0 = tl.zeros([POSITIONS, 1, BLOCK_D0], tl.float32)
    later1 = tl.zeros([POSITIONS, 1, BLOCK_D1 if BLOCK_D1 > 0 else BLOCK_D0], tl.float32)
    for i in tl.range(0, FRAMES, num_stages=STAGES):
        # k, v, dk, dv: [P, 1, D]; s, p, dp, ds: [P, Q]
        u = FRAMES - 1 - i if SELF_SUBTRACT == "fused" else i
        k0, k1 = load_differenced(
            k, k_rows + (origin + u) * stride_kf, stride_kf, origin + u, key_valid,
            BLOCK_D0, BLOCK_D1, HEAD_DIM, SELF_SUBTRACT,
        )  # fmt: skip
        v0, v1 = load_rows_float32(v, v_rows + (origin + u) * stride_vf, key_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
        s = row_products(q0, q1, k0, k1, BLOCK_D1) * scale_log2
        p = tl.exp2(s - m_i) / l_i
        dp = grad_probabilities(dp, do0, do1, v0, v1, u, BLOCK_D1, SELF_SUBTRACT)
        ds = p * (dp - delta) * scale

        by_query = ds
        if SELF_SUBTRACT == "fused":
            by_query = ds - tl.sum(tl.where(subtracted[None, :, :], ds[:, None, :], 0.0), 2)
        dq0 += by_query[:, :, None] * k0
        if BLOCK_D1 > 0:
            dq1 += by_query[:, :, None] * k1
        dk0, dk1 = column_products(ds, q0, q1, BLOCK_D1)
        rows = dk_rows + (origin + u) * stride_dkf
        if SELF_SUBTRACT == "fused":
            difference0 = dk0 - tl.where(u >= 1, later0, 0.0)
            difference1 = dk1 - tl.where(u >= 1, later1, 0.0)
            store_rows(dk, rows, key_valid, difference0, difference1, BLOCK_D0, BLOCK_D1, HEAD_DIM)
            later0, later1 = dk0, dk1
        else:
            store_rows(dk, rows, key_valid, dk0, dk1, BLOCK_D0, BLOCK_D1, HEAD_DIM)
        if SELF_SUBTRACT != "telescoped":
            dv0, dv1 = column_products(p, do0, do1, BLOCK_D1)
            store_rows(dv, rows, key_valid, dv0, dv1, BLOCK_D0, BLOCK_D1, HEAD_DIM)

    if SELF_SUBTRACT == "telescoped":
        later0_lost = tl.zeros_like(later0)
        later1_lost = tl.zeros_like(later1)
        for i in range(FRAMES):
            u = FRAMES - 1 - i
            k0, k1 = load_rows_float32(k, k_rows + (origin + u) * stride_kf, key_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
            s = row_products(q0, q1, k0, k1, BLOCK_D1) * scale_log2
            dv0, dv1 = column_products(tl.exp2(s - m_i) / l_i, do0, do1, BLOCK_D1)
            later0, later0_lost = add_to(later0, later0_lost, dv0, u >= 1)
            if BLOCK_D1 > 0:
                later1, later1_lost = add_to(later1, later1_lost, dv1, u >= 1)
            rows = dk_rows + (origin + u) * stride_dkf
            store_rows(dv, rows, key_valid, later0, later1, BLOCK_D0, BLOCK_D1, HEAD_DIM)

    dq_rows = (clip * stride_dqb + head * stride_dqh + position * stride_dqs)[:, None] + (frame * stride_dqf)[None, :]
    store_rows(dq, dq_rows, query_valid, dq0, dq1, BLOCK_D0, BLOCK_D1, HEAD_DIM)
