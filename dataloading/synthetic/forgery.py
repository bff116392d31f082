"""Motion of a synthetic video: smooth Gaussian processes, the shuffle that makes one flicker, and where and when."""

from __future__ import annotations

from dataclasses import dataclass

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


PERIOD = 6
"""Frames after which the forged frames of a video repeat: each six consecutive frames hold equally many."""

HALVES = {"left": (1, 0), "right": (-1, 0), "upper": (0, 1), "lower": (0, -1)}
"""By half of the inner face, in the picture: the direction, in x and y, in which the other half lies."""

WHOLE = "whole"
PARTS = ("mouth", "eyes")  # manipulations of a part of the inner face, which is their region
WHOLE_REGIONS = ("flicker",)  # half a face in another state would disagree with its other half: a trace in one frame
P_WHOLE, P_ALL_FRAMES, P_ONE_FRAME = 0.5, 0.5, 0.25


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Where and when a fake is forged.

    Attributes:
        region: `whole` inner face, one of `HALVES`, or one of `PARTS`.
        frames: the forged frames, rising; None is all of them.
    """

    region: str = WHOLE
    frames: tuple[int, ...] | None = None

    def forged(self, frame: int) -> bool:
        """Return whether a frame is forged."""
        return self.frames is None or frame in self.frames


def draw_extent(rng: np.random.Generator, manipulation: str, frames: int) -> Extent:
    """Draw where and when one fake is forged.

    Half of the fakes are forged in the whole inner face and half in one of its four halves, except `flicker`, which is
    always whole, and those of `PARTS`. Half are forged in all frames; a quarter in one and a quarter in two, at random
    places, of each six consecutive frames; but `eyes`, which would blink between them, always in all.
    """
    half = str(rng.choice(list(HALVES)))
    whole = rng.random() < P_WHOLE or manipulation in WHOLE_REGIONS
    chance, places = rng.random(), rng.permutation(PERIOD)
    if chance < P_ALL_FRAMES or manipulation == "eyes":
        forged = None
    else:
        of_six = places[: 1 if chance < P_ALL_FRAMES + P_ONE_FRAME else 2]
        forged = tuple(frame for frame in range(frames) if frame % PERIOD in of_six)
    if manipulation in PARTS:
        return Extent(region=manipulation, frames=forged)
    return Extent(region=WHOLE if whole else half, frames=forged)
