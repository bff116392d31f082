"""Backward kernel of LayerNorm and self-subtract: x and the incoming gradient are read once, dx is written once.

    g_t = dout_t - dout_{t+1}            for 1 <= t < F - 1 (adjoint of the difference); g_t = dout_t otherwise
    h_t = (x_t - mean_t) r_t,  r_t = 1 / sqrt(var_t + eps)                   recomputed
    dx_t = r_t (w g_t - mean(w g_t) - h_t mean(w g_t h_t))
    dweight = sum g_t h_t,  dbias = sum g_t        each program sums its own rows; a second step adds the programs up

No atomics and a number of programs that does not depend on the device: bitwise repeatable.
"""

import triton
import triton.language as tl

from kernels.layer_norm.forward import normalize


@triton.jit
def layer_norm_difference_backward(
    x, weight, grad_out, grad_x, partial_weight, partial_bias,
    eps, rows, positions, programs,
    x_clip, x_frame, x_position, grad_out_clip, grad_out_frame, grad_out_position,
    FRAMES: tl.constexpr, CHANNELS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One program: every `programs`-th of the `rows` (clip, position) pairs. `grad_x` is contiguous."""
    program = tl.program_id(0)
    origin = tl.program_id(0) * 0
    if WIDE:
        origin = origin.to(tl.int64)
    column = tl.arange(0, COLUMNS)
    inside = column < CHANNELS
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    sum_weight = tl.zeros([COLUMNS], tl.float32)
    sum_bias = tl.zeros([COLUMNS], tl.float32)
    for pair in range(program, rows, programs):
        clip = (origin + pair) // positions
        position = (origin + pair) % positions
        x_row = x + (clip * x_clip + position * x_position) * UNIT
        g_row = grad_out + (clip * grad_out_clip + position * grad_out_position) * UNIT
        grad_row = grad_x + (clip * FRAMES * positions + position) * CHANNELS
        later = tl.zeros([COLUMNS], tl.float32)
        for i in range(FRAMES):
            t = FRAMES - 1 - i
            row = tl.load(x_row + (origin + t) * x_frame * UNIT + column, mask=inside, other=0.0).to(tl.float32)
            arrived = tl.load(g_row + (origin + t) * grad_out_frame * UNIT + column, mask=inside, other=0.0).to(
                tl.float32
            )
            g = arrived - tl.where(t >= 1, later, 0.0)
            later = arrived
            normalized, scale = normalize(row, inside, CHANNELS, eps)
            sum_weight += g * normalized
            sum_bias += g
            g *= gain
            mean = tl.sum(g, 0) / CHANNELS
            projection = tl.sum(g * normalized, 0) / CHANNELS
            gradient = (g - mean - normalized * projection) * scale
            target = grad_row + (origin + t) * positions * CHANNELS + column
            tl.store(target, gradient.to(grad_x.dtype.element_ty), mask=inside)
    tl.store(partial_weight + program * CHANNELS + column, sum_weight, mask=inside)
    tl.store(partial_bias + program * CHANNELS + column, sum_bias, mask=inside)
