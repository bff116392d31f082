"""Forward kernel of LayerNorm and self-subtract: each element is read once and written once.

n_t = (x_t - mean_t) / sqrt(var_t + eps) * weight + bias        over the channels of one position, float32
out_t = n_t             for t = 0 (class row) and t = 1
out_t = n_t - n_{t-1}   for t >= 2; n_{t-1} stays in registers, one rounding at the end
"""

import triton
import triton.language as tl


@triton.jit
def normalize(x, inside, CHANNELS: tl.constexpr, eps):
    """`(x - mean) / sqrt(var + eps)`, zero outside, and `1 / sqrt(var + eps)`: [COLUMNS] and a scalar."""
    mean = tl.sum(x, 0) / CHANNELS
    x = tl.where(inside, x - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 0) / CHANNELS + eps)
    return x * scale, scale


@triton.jit
def layer_norm_difference_forward(
    x, weight, bias, out, eps, positions, x_clip, x_frame, x_position,
    FRAMES: tl.constexpr, CHANNELS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One program: all frames of one position of one clip. `out` is contiguous; strides of x count `UNIT` elements.

    Triton sees that an address is aligned only where a stride is a multiple of 16 elements. 728 is one of 8: the unit
    says so, and a row is read 16 bytes at a time.
    """
    program = tl.program_id(0)
    origin = tl.program_id(0) * 0
    if WIDE:
        program = program.to(tl.int64)
        origin = origin.to(tl.int64)
    clip = program // positions
    position = program % positions
    column = tl.arange(0, COLUMNS)
    inside = column < CHANNELS
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    offset = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    x_row = x + (clip * x_clip + position * x_position) * UNIT
    out_row = out + (clip * FRAMES * positions + position) * CHANNELS
    before = tl.zeros([COLUMNS], tl.float32)
    row = tl.load(x_row + column, mask=inside, other=0.0)
    for t in range(FRAMES):
        following = tl.load(
            x_row + (origin + t + 1) * x_frame * UNIT + column, mask=inside & (t + 1 < FRAMES), other=0.0
        )
        normalized, _ = normalize(row.to(tl.float32), inside, CHANNELS, eps)
        normalized = normalized * gain + offset
        difference = normalized - tl.where(t >= 2, before, 0.0)
        target = out_row + (origin + t) * positions * CHANNELS + column
        tl.store(target, difference.to(out.dtype.element_ty), mask=inside)
        before = normalized
        row = following
