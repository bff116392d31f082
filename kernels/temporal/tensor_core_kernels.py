"""Forward kernel of temporal attention for 16-bit types: block-diagonal products on tensor cores.

    S = scale q k^T            one tile holds ROWS / PADDED_FRAMES positions of one head, so that
    A = softmax(S)             S is block-diagonal: frames of other positions are masked away
    O = A v                    "off"
    O = A v, q' k' for q k     "fused":      q'_t = q_t - q_{t-1} for t >= 2, likewise k'
    O = (A L) v'               "telescoped": v = L v', L lower triangular ones over rows 1.., row 0 apart

`A L` (a suffix sum of each row of A) replaces integrating v: exact to 16 bits, and nothing is rounded twice.
"""

import triton
import triton.language as tl

from kernels.common.blocks import halves, load_rows, product, store_rows


@triton.jit
def locate(positions, heads, PADDED_FRAMES: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """Head and clip of a program, position and frame of its rows, [ROWS] each. Heads run fastest over programs."""
    POSITIONS: tl.constexpr = ROWS // PADDED_FRAMES
    program = tl.program_id(0)
    row = tl.arange(0, ROWS)
    if WIDE:
        program = program.to(tl.int64)
        row = row.to(tl.int64)
    tiles = tl.cdiv(positions, POSITIONS)
    position = (program // heads) % tiles * POSITIONS + row // PADDED_FRAMES
    return program % heads, program // heads // tiles, position, row % PADDED_FRAMES


@triton.jit
def summing_matrix(frame, position):
    """`L`, of which column t sums what stands at frame t and later, row 0 apart: [ROWS, ROWS] of 0 and 1."""
    source, target = frame[:, None], frame[None, :]
    counts = (source == target) | ((target >= 1) & (source > target))
    return tl.where(counts & (position[:, None] == position[None, :]), 1.0, 0.0).to(tl.bfloat16)


@triton.jit
def summed(a, ones):
    """`a ones`, products of float32 and of 0 and 1: [ROWS, ROWS]."""
    high, low = halves(a)
    return product(high, ones) + product(low, ones)


@triton.jit
def difference_matrix(frame, position):
    """`D` with `x' = D x` within each block: 1 at u = t, -1 at u = t - 1 from t = 2 on. [ROWS, ROWS]."""
    t, u = frame[:, None], frame[None, :]
    d = (t == u).to(tl.float32) - ((t >= 2) & (u == t - 1)).to(tl.float32)
    return tl.where(position[:, None] == position[None, :], d, 0.0).to(tl.bfloat16)


@triton.jit
def difference(d, left, right, RIGHT: tl.constexpr):
    """`D x` of the two tiles: summed in float32, rounded once."""
    dtype = left.dtype
    left = product(d.to(dtype), left).to(dtype)
    if RIGHT > 0:
        right = product(d.to(dtype), right).to(dtype)
    return left, right


@triton.jit
def block_softmax(
    q_left, q_right, k_left, k_right, scale_log2, key_frame, position, FRAMES: tl.constexpr, RIGHT: tl.constexpr
):
    """`softmax(scale q k^T)` within each position: [ROWS, ROWS], zero outside the blocks."""
    s = product(q_left, tl.trans(k_left))
    if RIGHT > 0:
        s += product(q_right, tl.trans(k_right))
    inside = (position[:, None] == position[None, :]) & (key_frame < FRAMES)[None, :]
    s = tl.where(inside, s * scale_log2, float("-inf"))
    a = tl.exp2(s - tl.max(s, 1)[:, None])
    return a / tl.sum(a, 1)[:, None]


@triton.jit
def matrix_forward(
    q, k, v, out, attention,
    scale_log2, positions, heads,
    q_clip, q_frame, q_position, q_head,
    k_clip, k_frame, k_position, k_head,
    v_clip, v_frame, v_position, v_head,
    QUERY_FRAMES: tl.constexpr, FRAMES: tl.constexpr, PADDED_FRAMES: tl.constexpr, ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    SELF_SUBTRACT: tl.constexpr, WIDE: tl.constexpr, EMIT_ATTENTION: tl.constexpr,
):  # fmt: skip
    """One program: `ROWS / PADDED_FRAMES` positions of one head of one clip."""
    head, clip, position, frame = locate(positions, heads, PADDED_FRAMES, ROWS, WIDE)
    query_valid = (position < positions) & (frame < QUERY_FRAMES)
    key_valid = (position < positions) & (frame < FRAMES)

    q_rows = clip * q_clip + head * q_head + frame * q_frame + position * q_position
    k_rows = clip * k_clip + head * k_head + frame * k_frame + position * k_position
    v_rows = clip * v_clip + head * v_head + frame * v_frame + position * v_position
    # [ROWS, LEFT] and [ROWS, RIGHT]
    q_left, q_right = load_rows(q, q_rows, query_valid, LEFT, RIGHT, HEAD_DIM)
    k_left, k_right = load_rows(k, k_rows, key_valid, LEFT, RIGHT, HEAD_DIM)
    v_left, v_right = load_rows(v, v_rows, key_valid, LEFT, RIGHT, HEAD_DIM)

    if SELF_SUBTRACT == "fused":
        d = difference_matrix(frame, position)
        q_left, q_right = difference(d, q_left, q_right, RIGHT)
        k_left, k_right = difference(d, k_left, k_right, RIGHT)
    a = block_softmax(q_left, q_right, k_left, k_right, scale_log2, frame, position, FRAMES, RIGHT)  # [ROWS, ROWS]
    if EMIT_ATTENTION:
        block = ((clip * positions + position) * heads + head) * (QUERY_FRAMES * FRAMES) + frame * FRAMES
        inside = (position[:, None] == position[None, :]) & query_valid[:, None] & key_valid[None, :]
        tl.store(attention + (block[:, None] + frame[None, :]), a, mask=inside)
    if SELF_SUBTRACT == "telescoped":
        a = summed(a, summing_matrix(frame, position))
    a = a.to(v_left.dtype)

    out_rows = (((clip * QUERY_FRAMES + frame) * positions + position) * heads + head) * HEAD_DIM
    o_left = product(a, v_left)
    o_right = o_left
    if RIGHT > 0:
        o_right = product(a, v_right)
    store_rows(out, out_rows, query_valid, o_left, o_right, LEFT, RIGHT, HEAD_DIM)
