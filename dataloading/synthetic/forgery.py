"""Motion of a synthetic video: smooth stationary Gaussian processes, and the shuffle that makes one flicker."""

from __future__ import annotations

import numpy as np

LATENT_CORRELATION_FRAMES = 5.0
"""exp(-(lag / this)^2 / 2) is the correlation of an inner-face latent with itself `lag` frames later."""

POSE_CORRELATION_FRAMES = 16.0


def smooth_process(rng: np.random.Generator, frames: int, dimensions: int, correlation_frames: float) -> np.ndarray:
    """Draw independent stationary Gaussian processes, float64 `[frames, dimensions]`.

    White noise filtered by a Gaussian kernel of unit energy: every value is N(0, 1), and the correlation at lag `d` is
    `exp(-d^2 / (2 correlation_frames^2))` up to the kernel's cut at four of its standard deviations.
    """
    deviation = correlation_frames / np.sqrt(2)
    reach = int(np.ceil(4 * deviation))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    kernel /= np.sqrt(np.sum(kernel**2))
    noise = rng.standard_normal((frames + 2 * reach, dimensions))
    return np.stack([np.convolve(noise[:, d], kernel, mode="valid") for d in range(dimensions)], axis=1)


def flicker_order(rng: np.random.Generator, frames: int, gap: int = 6) -> np.ndarray:
    """Draw a random order of `frames` frames in which neighbors were at least `gap` frames apart, int64 `[frames]`.

    The gap shrinks to `frames // 4` in short videos, where no such order need exist. The order is drawn without
    looking at the latents, so a frame at any place of it has the same distribution as any frame of the smooth video.
    """
    gap = max(1, min(gap, frames // 4))
    while True:
        left = list(rng.permutation(frames))
        order = [left.pop()]
        while left:
            far = [i for i, frame in enumerate(left) if abs(frame - order[-1]) >= gap]
            if not far:
                break
            order.append(left.pop(far[0]))
        if not left:
            return np.array(order, dtype=np.int64)
