"""Temporal attention for 16-bit types: block-diagonal products on tensor cores; Triton forward and backward kernels.

    P  = softmax(scale q k^T)              one tile: BLOCK_M / PADDED_FRAMES positions of one head, and frames of other
    o  = P v                               positions are masked away; backward reads q, k, v and do and nothing else
    dP = do v^T,  dS = scale P * (dP - rowsum(P * dP))
    dq = dS k,  dk = dS^T q,  dv = P^T do
    "telescoped" (v = L v', L lower triangular ones over rows 1.., row 0 apart):  o = (P L) v',  dP = (do v'^T) L^T,
    dv' = (P L)^T do

`P L` (a suffix sum of each row of P) replaces integrating v: exact to 16 bits, and nothing is rounded twice. There is
no "fused" here: differences of rounded projections are what 16-bit types must not take, so that mode runs in the
float32 kernels. Every number is written by one program, in a fixed order of operations: bitwise repeatable.
"""

import triton
import triton.language as tl

from kernels.common.blocks import add_product, load_rows, product, product_transposed, store_rows, tile_frames, zeros


@triton.jit
def locate(positions, heads, PADDED_FRAMES: tl.constexpr, BLOCK_M: tl.constexpr, INT64_OFFSETS: tl.constexpr):
    """Return head and clip of a program, and position and frame of its rows, [BLOCK_M] each. Heads run fastest."""
    program = tl.program_id(0)
    if INT64_OFFSETS:
        program = program.to(tl.int64)
    tiles = tl.cdiv(positions, BLOCK_M // PADDED_FRAMES)
    position, frame = tile_frames((program // heads) % tiles, PADDED_FRAMES, BLOCK_M, INT64_OFFSETS)
    return program % heads, program // heads // tiles, position, frame


@triton.jit
def suffix_sum_matrix(frame, position):
    """Return the 0-1 matrix `L`: `x L` at frame t sums `x` over frames from t on, row 0 apart; [BLOCK_M, BLOCK_M]."""
    source, target = frame[:, None], frame[None, :]
    counts = (source == target) | ((target >= 1) & (source > target))
    return tl.where(counts & (position[:, None] == position[None, :]), 1.0, 0.0).to(tl.bfloat16)


@triton.jit
def product_with_ones(x, ones):
    """Return `x ones` in float32, of a float32 `x` and a matrix of 0 and 1: [BLOCK_M, BLOCK_M].

    `x` is split into a sum of two bfloat16 tiles: 16 bits of mantissa, the exponent range of float32.
    """
    high = x.to(tl.bfloat16)
    low = (x - high.to(tl.float32)).to(tl.bfloat16)
    return product(high, ones) + product(low, ones)


@triton.jit
def block_softmax(q0, q1, k0, k1, scale_log2, inside, BLOCK_D1: tl.constexpr):
    """Return `softmax(scale q k^T)` within each position: [BLOCK_M, BLOCK_M], zero outside the blocks."""
    s = product_transposed(q0, q1, k0, k1, BLOCK_D1)
    s = tl.where(inside, s * scale_log2, float("-inf"))
    p = tl.exp2(s - tl.max(s, 1)[:, None])
    return p / tl.sum(p, 1)[:, None]


@triton.jit
def store_product(
    pointer, rows, valid, a, b0, b1, BLOCK_M: tl.constexpr, BLOCK_D0: tl.constexpr, BLOCK_D1: tl.constexpr,
    HEAD_DIM: tl.constexpr,
):  # fmt: skip
    """Write `a b` to the `valid` rows: [BLOCK_M, BLOCK_M] and [BLOCK_M, D]."""
    x0, x1 = zeros(BLOCK_M, BLOCK_D0, BLOCK_D1)
    x0, x1 = add_product(x0, x1, a, b0, b1, BLOCK_D1)
    store_rows(pointer, rows, valid, x0, x1, BLOCK_D0, BLOCK_D1, HEAD_DIM)


@triton.jit
def tensor_core_forward(
    q, k, v, o, attention,
    scale_log2, positions, heads,
    stride_qb, stride_qf, stride_qs, stride_qh,
    stride_kb, stride_kf, stride_ks, stride_kh,
    stride_vb, stride_vf, stride_vs, stride_vh,
    QUERY_FRAMES: tl.constexpr, FRAMES: tl.constexpr, PADDED_FRAMES: tl.constexpr, BLOCK_M: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_D0: tl.constexpr, BLOCK_D1: tl.constexpr,
    SELF_SUBTRACT: tl.constexpr, INT64_OFFSETS: tl.constexpr,
):  # fmt: skip
    """Run one program: `BLOCK_M / PADDED_FRAMES` positions of one head of one clip."""
    head, clip, position, frame = locate(positions, heads, PADDED_FRAMES, BLOCK_M, INT64_OFFSETS)
    query_valid = (position < positions) & (frame < QUERY_FRAMES)
    key_valid = (position < positions) & (frame < FRAMES)
    inside = (position[:, None] == position[None, :]) & (frame < FRAMES)[None, :]

    # q, k, v: [BLOCK_M, D]; p: [BLOCK_M, BLOCK_M]
    q_rows = clip * stride_qb + head * stride_qh + frame * stride_qf + position * stride_qs
    k_rows = clip * stride_kb + head * stride_kh + frame * stride_kf + position * stride_ks
    v_rows = clip * stride_vb + head * stride_vh + frame * stride_vf + position * stride_vs
    q0, q1 = load_rows(q, q_rows, query_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    k0, k1 = load_rows(k, k_rows, key_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    v0, v1 = load_rows(v, v_rows, key_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    p = block_softmax(q0, q1, k0, k1, scale_log2, inside, BLOCK_D1)
    if attention is not None:  # [B, S, N, F_q, F]
        block = ((clip * positions + position) * heads + head) * (QUERY_FRAMES * FRAMES) + frame * FRAMES
        written = inside & query_valid[:, None] & key_valid[None, :]
        tl.store(attention + (block[:, None] + frame[None, :]), p, mask=written)
    if SELF_SUBTRACT == "telescoped":
        p = product_with_ones(p, suffix_sum_matrix(frame, position))

    # o: [B, F_q, S, N, D]
    o_rows = (((clip * QUERY_FRAMES + frame) * positions + position) * heads + head) * HEAD_DIM
    store_product(o, o_rows, query_valid, p.to(v0.dtype), v0, v1, BLOCK_M, BLOCK_D0, BLOCK_D1, HEAD_DIM)


@triton.jit
def tensor_core_backward(
    q, k, v, do, dq, dk, dv, grad_attention,
    scale, scale_log2, positions, heads,
    stride_qb, stride_qf, stride_qs, stride_qh,
    stride_kb, stride_kf, stride_ks, stride_kh,
    stride_vb, stride_vf, stride_vs, stride_vh,
    stride_dob, stride_dof, stride_dos, stride_doh,
    stride_dqb, stride_dqf, stride_dqs, stride_dqh,
    stride_dkb, stride_dkf, stride_dks, stride_dkh,
    QUERY_FRAMES: tl.constexpr, FRAMES: tl.constexpr, PADDED_FRAMES: tl.constexpr, BLOCK_M: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_D0: tl.constexpr, BLOCK_D1: tl.constexpr,
    SELF_SUBTRACT: tl.constexpr, INT64_OFFSETS: tl.constexpr,
):  # fmt: skip
    """Run one program: `BLOCK_M / PADDED_FRAMES` positions of one head of one clip. `dv` has the strides of `dk`."""
    head, clip, position, frame = locate(positions, heads, PADDED_FRAMES, BLOCK_M, INT64_OFFSETS)
    query_valid = (position < positions) & (frame < QUERY_FRAMES)
    key_valid = (position < positions) & (frame < FRAMES)
    inside = (position[:, None] == position[None, :]) & (frame < FRAMES)[None, :]

    # q, k, v, do: [BLOCK_M, D]; p, dp, ds: [BLOCK_M, BLOCK_M]
    q_rows = clip * stride_qb + head * stride_qh + frame * stride_qf + position * stride_qs
    k_rows = clip * stride_kb + head * stride_kh + frame * stride_kf + position * stride_ks
    v_rows = clip * stride_vb + head * stride_vh + frame * stride_vf + position * stride_vs
    do_rows = clip * stride_dob + head * stride_doh + frame * stride_dof + position * stride_dos
    q0, q1 = load_rows(q, q_rows, query_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    k0, k1 = load_rows(k, k_rows, key_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    v0, v1 = load_rows(v, v_rows, key_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    do0, do1 = load_rows(do, do_rows, query_valid, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    p = block_softmax(q0, q1, k0, k1, scale_log2, inside, BLOCK_D1)
    dp = tl.where(inside, product_transposed(do0, do1, v0, v1, BLOCK_D1), 0.0)
    if SELF_SUBTRACT == "telescoped":
        ones = suffix_sum_matrix(frame, position)
        dp = tl.where(inside, product_with_ones(dp, tl.trans(ones)), 0.0)
    if grad_attention is not None:  # [B, S, N, F_q, F]
        block = ((clip * positions + position) * heads + head) * (QUERY_FRAMES * FRAMES) + frame * FRAMES
        written = inside & query_valid[:, None] & key_valid[None, :]
        tl.store(grad_attention + (block[:, None] + frame[None, :]), dp, mask=written)
    ds = p * (dp - tl.sum(p * dp, 1)[:, None]) * scale

    # dv, dk and dq: [BLOCK_M, D], one after another
    if SELF_SUBTRACT == "telescoped":
        p = product_with_ones(p, ones)
    p = tl.trans(p.to(do0.dtype))
    dk_rows = clip * stride_dkb + head * stride_dkh + frame * stride_dkf + position * stride_dks
    store_product(dv, dk_rows, key_valid, p, do0, do1, BLOCK_M, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    ds = ds.to(q0.dtype)
    store_product(dk, dk_rows, key_valid, tl.trans(ds), q0, q1, BLOCK_M, BLOCK_D0, BLOCK_D1, HEAD_DIM)
    dq_rows = clip * stride_dqb + head * stride_dqh + frame * stride_dqf + position * stride_dqs
    store_product(dq, dq_rows, query_valid, ds, k0, k1, BLOCK_M, BLOCK_D0, BLOCK_D1, HEAD_DIM)
