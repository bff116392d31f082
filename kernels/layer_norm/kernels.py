"""LayerNorm and self-subtract in one pass: Triton forward and backward kernels.

    h_t   = (x_t - mean_t) r_t,  r_t = 1 / sqrt(var_t + eps)             over the channels of one position, float32
    out_t = n_t - n_{t-1} for t >= 2, n_t otherwise;  n_t = w h_t + b    n_{t-1} stays in registers, one rounding
    g_t   = do_t - do_{t+1} for 1 <= t < F - 1, do_t otherwise           adjoint of the difference
    dx_t  = r_t (w g_t - mean(w g_t) - h_t mean(w g_t h_t))              h_t recomputed
    dw    = sum g_t h_t,  db = sum g_t                                   partial sums of a program, then their sum

Forward reads and writes each element once; backward reads x and do and writes dx once. No atomics, and a number of
programs that does not depend on the device: bitwise repeatable.
"""

import triton
import triton.language as tl


@triton.jit
def normalize(x, inside, CHANNELS: tl.constexpr, eps):
    """Return `(x - mean) / sqrt(var + eps)`, zero outside, and `1 / sqrt(var + eps)`: [BLOCK_N] and a scalar."""
    mean = tl.sum(x, 0) / CHANNELS
    x = tl.where(inside, x - mean, 0.0)
    r = 1.0 / tl.sqrt(tl.sum(x * x, 0) / CHANNELS + eps)
    return x * r, r


@triton.jit
def load_parameter(pointer, CHANNELS: tl.constexpr, BLOCK_N: tl.constexpr):
    """Return a weight or bias in float32: [BLOCK_N], zero outside.

    As [1, BLOCK_N] it is loaded by itself, 16 bytes a thread side by side. As [BLOCK_N] it would be with as many
    elements a thread as x has: in float32 beside 16-bit x half of each sector, asked for twice.
    """
    column = tl.arange(0, BLOCK_N)[None, :]
    parameter = tl.load(pointer + column, mask=column < CHANNELS, other=0.0)
    return tl.reshape(parameter, [BLOCK_N]).to(tl.float32)


@triton.jit
def layer_norm_difference_forward(
    x, weight, bias, out, eps, positions, stride_xb, stride_xf, stride_xs,
    FRAMES: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_N: tl.constexpr, UNIT: tl.constexpr,
    INT64_OFFSETS: tl.constexpr,
):  # fmt: skip
    """Run one program: all frames of one position of one clip. `out` is contiguous; strides of x count `UNIT` elements.

    Triton infers an aligned address only from a stride that is a multiple of 16 elements. 728 is a multiple of 8: with
    strides in units of 8 a row is read 16 bytes at a time.
    """
    program = tl.program_id(0)
    origin = tl.program_id(0) * 0
    if INT64_OFFSETS:
        program = program.to(tl.int64)
        origin = origin.to(tl.int64)
    clip = program // positions
    position = program % positions
    # channel, w, b, x_t, h_t, n_t: [BLOCK_N]
    channel = tl.arange(0, BLOCK_N)
    inside = channel < CHANNELS
    w = load_parameter(weight, CHANNELS, BLOCK_N)
    b = load_parameter(bias, CHANNELS, BLOCK_N)
    x_row = x + (clip * stride_xb + position * stride_xs) * UNIT
    out_row = out + (clip * FRAMES * positions + position) * CHANNELS
    before = tl.zeros([BLOCK_N], tl.float32)
    x_t = tl.load(x_row + channel, mask=inside, other=0.0)
    for t in range(FRAMES):
        following = tl.load(
            x_row + (origin + t + 1) * stride_xf * UNIT + channel, mask=inside & (t + 1 < FRAMES), other=0.0
        )
        h_t, _ = normalize(x_t.to(tl.float32), inside, CHANNELS, eps)
        n_t = h_t * w + b
        difference = n_t - tl.where(t >= 2, before, 0.0)
        target = out_row + (origin + t) * positions * CHANNELS + channel
        tl.store(target, difference.to(out.dtype.element_ty), mask=inside)
        before = n_t
        x_t = following


@triton.jit
def layer_norm_difference_backward(
    x, weight, do, dx, partial_weight, partial_bias,
    eps, rows, positions, programs,
    stride_xb, stride_xf, stride_xs, stride_dob, stride_dof, stride_dos,
    FRAMES: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_N: tl.constexpr, UNIT: tl.constexpr,
    INT64_OFFSETS: tl.constexpr,
):  # fmt: skip
    """Run one program: every `programs`-th of the `rows` (clip, position) pairs. `dx` is contiguous."""
    program = tl.program_id(0)
    origin = tl.program_id(0) * 0
    if INT64_OFFSETS:
        origin = origin.to(tl.int64)
    # channel, w, x_t, h_t, g, dx_t: [BLOCK_N]
    channel = tl.arange(0, BLOCK_N)
    inside = channel < CHANNELS
    w = load_parameter(weight, CHANNELS, BLOCK_N)
    sum_weight = tl.zeros([BLOCK_N], tl.float32)
    sum_bias = tl.zeros([BLOCK_N], tl.float32)
    for pair in range(program, rows, programs):
        clip = (origin + pair) // positions
        position = (origin + pair) % positions
        x_row = x + (clip * stride_xb + position * stride_xs) * UNIT
        do_row = do + (clip * stride_dob + position * stride_dos) * UNIT
        dx_row = dx + (clip * FRAMES * positions + position) * CHANNELS
        later = tl.zeros([BLOCK_N], tl.float32)
        for i in range(FRAMES):
            t = FRAMES - 1 - i
            x_t = tl.load(x_row + (origin + t) * stride_xf * UNIT + channel, mask=inside, other=0.0).to(tl.float32)
            do_t = tl.load(do_row + (origin + t) * stride_dof * UNIT + channel, mask=inside, other=0.0).to(tl.float32)
            g = do_t - tl.where(t >= 1, later, 0.0)
            later = do_t
            h_t, r_t = normalize(x_t, inside, CHANNELS, eps)
            sum_weight += g * h_t
            sum_bias += g
            g *= w
            mean = tl.sum(g, 0) / CHANNELS
            projection = tl.sum(g * h_t, 0) / CHANNELS
            dx_t = (g - mean - h_t * projection) * r_t
            target = dx_row + (origin + t) * positions * CHANNELS + channel
            tl.store(target, dx_t.to(dx.dtype.element_ty), mask=inside)
    tl.store(partial_weight + program * CHANNELS + channel, sum_weight, mask=inside)
    tl.store(partial_bias + program * CHANNELS + channel, sum_bias, mask=inside)
