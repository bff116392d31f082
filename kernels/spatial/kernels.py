"""Forward kernel of spatial attention: softmax over the positions of a frame row, a tile of keys at a time.

    s = q k^T                          [ROWS, COLUMNS], of one head of one frame row
    m, l, o <- online softmax          o = sum_u exp2(scale_log2 s_u - m) v_u / l
    A = exp2(scale_log2 s - offset) * factor      of a row, all that backward needs of the softmax

In 16 bits the offset is the log-sum-exp, m + log2(l), and the factor 1. In float32 they are m and 1 / l: a logarithm is
rounded to float32, which puts every entry of its row off alike, and the whole of it twice as far as eager PyTorch is.
With `EMIT_ATTENTION` a second pass over the keys writes `exp2(scale_log2 s - m) / l`.
The scale is not negative here: the caller moves a negative one into q.
"""

import triton
import triton.language as tl

from kernels.common.blocks import load_rows, locate, product, store_rows, tile_rows


@triton.jit
def scores(q_left, q_right, k_left, k_right, valid, ragged, RIGHT: tl.constexpr, PRECISION: tl.constexpr):
    """`q k^T`, unscaled: [ROWS, COLUMNS], in a `ragged` tile -inf in the columns of keys that are not `valid`."""
    s = product(q_left, tl.trans(k_left), PRECISION)
    if RIGHT > 0:
        s += product(q_right, tl.trans(k_right), PRECISION)
    if ragged:  # the last tile alone: elsewhere a tenth of a program's instructions would change nothing
        s = tl.where(valid[None, :], s, float("-inf"))
    return s


@triton.jit
def load_normalizer(offset, factor, query, valid, dtype: tl.constexpr):
    """Offset and factor of softmax rows, [ROWS] each; nobody reads the factor of 16-bit dtypes."""
    offset_of = tl.load(offset + query, mask=valid, other=0.0)
    factor_of = offset_of
    if dtype == tl.float32:
        factor_of = tl.load(factor + query, mask=valid, other=0.0)
    return offset_of, factor_of


@triton.jit
def attention_of(s, scale_log2, offset, factor, dtype: tl.constexpr):
    """Attention of scores `s`, offset and factor spread over the keys."""
    a = tl.exp2(s * scale_log2 - offset)
    if dtype == tl.float32:
        a = a * factor
    return a


@triton.jit
def spatial_forward(
    q, k, v, out, offset, factor, attention,
    scale_log2, queries, positions, heads, frames,
    q_clip, q_frame, q_position, q_head,
    k_clip, k_frame, k_position, k_head,
    v_clip, v_frame, v_position, v_head,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    HEAD_DIM: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    PRECISION: tl.constexpr, WIDE: tl.constexpr, EMIT_ATTENTION: tl.constexpr,
):  # fmt: skip
    """One program: `ROWS` queries of one head of one frame row, against all its keys."""
    tile, head, frame, clip = locate(tl.program_id(0), tl.cdiv(queries, ROWS), heads, frames)
    query = tile_rows(tile * ROWS, ROWS, WIDE)  # [ROWS]
    query_valid = query < queries
    q += clip * q_clip + frame * q_frame + head * q_head
    k += clip * k_clip + frame * k_frame + head * k_head
    v += clip * v_clip + frame * v_frame + head * v_head
    q_left, q_right = load_rows(q, query * q_position, query_valid, LEFT, RIGHT, HEAD_DIM)

    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    o_left = tl.zeros([ROWS, LEFT], tl.float32)
    o_right = tl.zeros([ROWS, RIGHT if RIGHT > 0 else 16], tl.float32)
    for start in range(0, positions, COLUMNS):
        key = tile_rows(start, COLUMNS, WIDE)
        valid = key < positions
        k_left, k_right = load_rows(k, key * k_position, valid, LEFT, RIGHT, HEAD_DIM)
        ragged = start + COLUMNS > positions
        s = scores(q_left, q_right, k_left, k_right, valid, ragged, RIGHT, PRECISION)  # [ROWS, COLUMNS]
        larger = tl.maximum(largest, tl.max(s, 1) * scale_log2)
        a = tl.exp2(s * scale_log2 - larger[:, None])
        shrink = tl.exp2(largest - larger)
        largest = larger
        total = total * shrink + tl.sum(a, 1)
        v_left, v_right = load_rows(v, key * v_position, valid, LEFT, RIGHT, HEAD_DIM)
        a = a.to(v_left.dtype)
        o_left = o_left * shrink[:, None] + product(a, v_left, PRECISION)
        if RIGHT > 0:
            o_right = o_right * shrink[:, None] + product(a, v_right, PRECISION)

    group = (clip * frames + frame) * heads + head
    factor_of = 1.0 / total
    if q.dtype.element_ty == tl.float32:
        tl.store(offset + group * queries + query, largest, mask=query_valid)
        tl.store(factor + group * queries + query, factor_of, mask=query_valid)
    else:
        tl.store(offset + group * queries + query, largest + tl.log2(total), mask=query_valid)
    out += (clip * frames + frame) * queries * heads * HEAD_DIM + head * HEAD_DIM
    o_left = o_left * factor_of[:, None]
    o_right = o_right * factor_of[:, None]
    store_rows(out, query * (heads * HEAD_DIM), query_valid, o_left, o_right, LEFT, RIGHT, HEAD_DIM)

    if EMIT_ATTENTION:
        attention += group * queries * positions
        for start in range(0, positions, COLUMNS):
            key = tile_rows(start, COLUMNS, WIDE)
            valid = key < positions
            k_left, k_right = load_rows(k, key * k_position, valid, LEFT, RIGHT, HEAD_DIM)
            ragged = start + COLUMNS > positions
            s = scores(q_left, q_right, k_left, k_right, valid, ragged, RIGHT, PRECISION)
            a = tl.exp2(s * scale_log2 - largest[:, None]) * factor_of[:, None]
            written = query_valid[:, None] & valid[None, :]
            tl.store(attention + (query * positions)[:, None] + key[None, :], a, mask=written)
