"""Kernels of relevance through temporal attention, all float32; the formulas are those of `reference.py`.

A tile is several positions times all (padded) frames of one head, and its score matrix [ROWS, ROWS] is block-diagonal:
pairs of different positions are masked. The whole softmax lies in one tile, so relevance needs a single pass, and
the map is summed over heads in registers. A value that is not finite may reach the other positions of its tile.
"""

import triton
import triton.language as tl

from kernels.common.blocks import product
from kernels.relevance.blocks import CHUNK, load_chunk, outer, outer_with_magnitudes, ratio


@triton.jit
def locate_rows(
    tile, positions, FRAMES: tl.constexpr, PADDED_FRAMES: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr
):
    """Position and frame of each row of a tile, and whether they exist: three times [ROWS]."""
    row = tl.arange(0, ROWS)
    position = tile * (ROWS // PADDED_FRAMES) + row // PADDED_FRAMES
    frame = row % PADDED_FRAMES
    if WIDE:
        position = position.to(tl.int64)
        frame = frame.to(tl.int64)
    return position, frame, (position < positions) & (frame < FRAMES)


@triton.jit
def attention_of(z, position, valid, scale_log2):
    """Softmax of `z` over the valid rows of the same position: [ROWS, ROWS], zero elsewhere."""
    same = (position[:, None] == position[None, :]) & valid[None, :]
    s = tl.where(same, z * scale_log2, float("-inf"))
    largest = tl.max(s, 1)
    largest = tl.where(largest == float("-inf"), 0.0, largest)  # rows past the last position
    a = tl.exp2(s - largest[:, None])
    total = tl.sum(a, 1)
    return a / tl.where(total > 0, total, 1.0)[:, None]


@triton.jit
def relevance_of(
    x, x_rows, other, other_rows, result, rows, valid, first, weight,
    HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write `x * (weight other) / 2`, columns `first .. first + CHUNK`."""
    tile = product(weight, load_chunk(other, other_rows, valid, first, HEAD_DIM), PRECISION)
    tile = tile * load_chunk(x, x_rows, valid, first, HEAD_DIM) * 0.5
    columns = first + tl.arange(0, CHUNK)
    written = valid[:, None] & (columns < HEAD_DIM)[None, :]
    tl.store(result + (rows[:, None] + columns[None, :]), tile, mask=written)


@triton.jit
def temporal_relevance_rows(
    q, k, v, u, relevance_q, relevance_k, relevance_v,
    scale_log2, eps, positions, heads,
    q_clip, q_frame, q_position, q_head,
    k_clip, k_frame, k_position, k_head,
    v_clip, v_frame, v_position, v_head,
    u_clip, u_frame, u_position, u_head,
    FRAMES: tl.constexpr, PADDED_FRAMES: tl.constexpr, ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """R_q, R_k and R_v, contiguous, of one head of some positions."""
    program = tl.program_id(0)
    tiles = tl.cdiv(positions, ROWS // PADDED_FRAMES)
    head = (program % heads).to(tl.int64)
    clip = (program // heads // tiles).to(tl.int64)
    position, frame, valid = locate_rows(program // heads % tiles, positions, FRAMES, PADDED_FRAMES, ROWS, WIDE)
    q += clip * q_clip + head * q_head
    k += clip * k_clip + head * k_head
    v += clip * v_clip + head * v_head
    u += clip * u_clip + head * u_head
    q_rows = frame * q_frame + position * q_position
    k_rows = frame * k_frame + position * k_position
    v_rows = frame * v_frame + position * v_position
    u_rows = frame * u_frame + position * u_position
    z, magnitude = outer_with_magnitudes(q, q_rows, valid, k, k_rows, valid, ROWS, ROWS, HEAD_DIM, PRECISION)
    uv = outer(u, u_rows, valid, v, v_rows, valid, ROWS, ROWS, HEAD_DIM, PRECISION)
    a = attention_of(z, position, valid, scale_log2)
    w = ratio(a * uv * 0.5, z, magnitude, eps)

    first = clip * FRAMES * positions * heads * HEAD_DIM + head * HEAD_DIM
    rows = (frame * positions + position) * (heads * HEAD_DIM)
    for start in range(0, HEAD_DIM, CHUNK):
        relevance_of(q, q_rows, k, k_rows, relevance_q + first, rows, valid, start, w, HEAD_DIM, PRECISION)
        relevance_of(k, k_rows, q, q_rows, relevance_k + first, rows, valid, start, tl.trans(w), HEAD_DIM, PRECISION)
        relevance_of(v, v_rows, u, u_rows, relevance_v + first, rows, valid, start, tl.trans(a), HEAD_DIM, PRECISION)


@triton.jit
def temporal_map(
    q, k, v, u, grad_out, row, result,
    scale_log2, positions, heads,
    q_clip, q_frame, q_position, q_head,
    k_clip, k_frame, k_position, k_head,
    v_clip, v_frame, v_position, v_head,
    u_clip, u_frame, u_position, u_head,
    grad_out_clip, grad_out_frame, grad_out_position, grad_out_head,
    FRAMES: tl.constexpr, PADDED_FRAMES: tl.constexpr, ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
    HAS_U: tl.constexpr, HAS_GRAD_OUT: tl.constexpr, CLAMP_EACH: tl.constexpr, ROLL_OUT: tl.constexpr,
):  # fmt: skip
    """The head-mean positive map of some positions.

    `ROLL_OUT`: result [B, S, F] is `row` [B, S, F] plus row times map; otherwise result [B, S, F, F] is the map.
    """
    program = tl.program_id(0)
    tiles = tl.cdiv(positions, ROWS // PADDED_FRAMES)
    clip = (program // tiles).to(tl.int64)
    position, frame, valid = locate_rows(program % tiles, positions, FRAMES, PADDED_FRAMES, ROWS, WIDE)
    q += clip * q_clip
    k += clip * k_clip
    v += clip * v_clip
    if HAS_U:
        u += clip * u_clip
    if HAS_GRAD_OUT:
        grad_out += clip * grad_out_clip
    total = tl.zeros([ROWS, ROWS], tl.float32)
    for head in range(heads):
        z = outer(
            q + head * q_head, frame * q_frame + position * q_position, valid,
            k + head * k_head, frame * k_frame + position * k_position, valid,
            ROWS, ROWS, HEAD_DIM, PRECISION,
        )  # fmt: skip
        weighted = attention_of(z, position, valid, scale_log2)
        v_rows = frame * v_frame + position * v_position
        if HAS_U:
            weighted *= 0.5 * outer(
                u + head * u_head, frame * u_frame + position * u_position, valid, v + head * v_head, v_rows, valid,
                ROWS, ROWS, HEAD_DIM, PRECISION,
            )  # fmt: skip
        if HAS_GRAD_OUT:
            weighted *= outer(
                grad_out + head * grad_out_head, frame * grad_out_frame + position * grad_out_position, valid,
                v + head * v_head, v_rows, valid,
                ROWS, ROWS, HEAD_DIM, PRECISION,
            )  # fmt: skip
        if CLAMP_EACH:
            weighted = tl.maximum(weighted, 0.0)
        total += weighted
    mean = tl.maximum(total / heads, 0.0)
    place = clip * positions + position
    if ROLL_OUT:
        carried = tl.load(row + place * FRAMES + frame, mask=valid, other=0.0)
        moved = carried + tl.sum(carried[:, None] * mean, 0)
        tl.store(result + place * FRAMES + frame, moved, mask=valid)
    else:
        written = (position[:, None] == position[None, :]) & valid[:, None] & valid[None, :]
        rows = (place * FRAMES + frame) * FRAMES
        tl.store(result + rows[:, None] + frame[None, :], mean, mask=written)
