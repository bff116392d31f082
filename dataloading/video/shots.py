"""Shot boundaries of a video: hard cuts, dissolves and fades, from thumbnails of its frames as they are decoded.

Two frames differ by `1 - c`, where `c` is the correlation of their thumbnails with each channel's mean taken out,
the best over small shifts of the picture. It ignores brightness and contrast (flashes, exposure), most of a pan, and
what moves in a part of the picture (a face that talks); a frame without structure (black, white) correlates with none.

A *hard cut* lies before frame `t` if no frame of a few after it looks like one of a few before it (a flash passes, and
the picture is there again), and by far more than neighboring frames differ there (a pan, a shaking camera and a face
that flickers differ at every frame).

A *gradual transition* from frame `a` to frame `b` shows mixtures of the two: `x = A + w (B - A)` with a weight `w` that
rises from 0 to 1, and little else. Its contrast is that of a mixture, which is lower than that of either end; while a
camera moves from `A` to `B`, pictures in between have as much contrast as these. A fade is a transition whose other end
is black or white.
"""

from collections import deque
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

THUMBNAIL = (24, 32)  # height and width
REACH = 4  # frames compared before and after a hard cut; a flash is shorter
SHIFT = 4  # thumbnail pixels, in each direction
LEAST_DIFFERENCE = 0.2  # of a cut; 0 is the same picture and 1 another one
TIMES_USUAL = 2.5  # of the differences between neighboring frames around a cut
NOISE = 3.0  # gray levels; thumbnails with less structure correlate with none
SPANS = (8, 12, 16, 24, 32, 48)  # frames in which a gradual transition, or a part of a longer one, is looked for
LEAST_MIXED = 3  # frames that are well between both ends
LARGEST_RESIDUE = 0.45  # of a frame of a transition, beside the difference of the two ends
MOTION = 0.5  # contrast of a frame in between: 0 is a mixture's, 1 that of the two ends

Shot = tuple[int, int]  # its first and its last frame


class ShotFinder:
    """Finds the shots of a video from the thumbnails of its frames, given one after the other.

    Memory does not grow with the video: some dozens of thumbnails are kept.
    """

    def __init__(self) -> None:
        self._recent: deque[np.ndarray] = deque(maxlen=REACH + max(SPANS) + REACH)
        self._steps: deque[float] = deque(maxlen=self._recent.maxlen - 1)  # differences between neighbors in it
        self._frames = 0
        self._cuts: list[int] = []  # the first frames after hard cuts
        self._mixed: list[Shot] = []  # first and last frames of gradual transitions

    def add(self, thumbnail: np.ndarray) -> float:
        """Look at the next frame's thumbnail, uint8 [24, 32, 3]; return its difference from the one before."""
        picture = thumbnail.astype(np.float32)
        if self._recent:
            self._steps.append(difference(self._recent[-1], picture))
        self._recent.append(picture)
        self._frames += 1
        self._look_for_cut(REACH)
        if self._frames % 2 == 0:
            self._look_for_mixtures(REACH)
        return self._steps[-1] if self._steps else 0.0

    def shots(self) -> list[Shot]:
        """Return the first and last frame (inclusive) of each shot, ascending; frames of transitions are in none."""
        for after in range(REACH - 1, 0, -1):
            self._look_for_cut(after)
            self._look_for_mixtures(after)
        outside = np.zeros(self._frames + 2, bool)
        outside[[0, -1]] = True
        for first, last in self._mixed:
            # A cut between shots that move or are much alike may look like a mixture as well.
            if last - first > 2 * REACH and any(first < cut <= last for cut in self._cuts):
                continue
            outside[first + 1 : last + 2] = True
        borders = np.flatnonzero(np.diff(outside.astype(np.int8)))
        shots = []
        for first, stop in borders.reshape(-1, 2).tolist():
            cuts = [cut for cut in self._cuts if first < cut < stop]
            shots += [(start, end - 1) for start, end in pairwise([first, *cuts, stop])]
        return shots

    def _look_for_cut(self, after: int) -> None:
        """Look for a hard cut before the frame that has `after` frames from it on."""
        cut = len(self._recent) - after
        if cut < 1 or self._steps[cut - 1] < LEAST_DIFFERENCE:
            return
        before = range(max(cut - REACH, 0), cut)
        least = LEAST_DIFFERENCE
        around = [self._steps[i] for i in range(before[0], len(self._recent) - 1) if i != cut - 1]
        if around:
            least = max(least, TIMES_USUAL * float(np.median(around)))
        pairs = ((i, j) for i in reversed(before) for j in range(cut, len(self._recent)))
        if all(difference(self._recent[i], self._recent[j]) >= least for i, j in pairs):
            self._cuts.append(self._frames - after)

    def _look_for_mixtures(self, after: int) -> None:
        """Look for gradual transitions whose last frame has `after` frames from it on."""
        recent = list(self._recent)
        end = len(recent) - after
        for span in SPANS:
            start = end - span
            if start < 0:
                return
            mixed = _mixture(recent[start : end + 1])
            # As with a hard cut, what follows does not look like what was before: a flash may rise slowly.
            if (
                mixed is not None
                and all(difference(recent[start], later) >= LEAST_DIFFERENCE for later in recent[end:])
                and all(
                    difference(recent[end], p) >= LEAST_DIFFERENCE for p in recent[max(start - REACH + 1, 0) : start]
                )
            ):
                first = self._frames - len(recent) + start
                self._mixed.append((first + mixed[0], first + mixed[1]))


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Return how much two thumbnails, float32 [24, 32, 3], differ: from 0, the same picture, to 2, its negative."""
    a, b = (picture - picture.mean(axis=(0, 1)) for picture in (first, second))
    noise = NOISE**2 * a.size
    energies = float((a * a).sum()), float((b * b).sum())
    flat = noise / (max(energies) + noise)  # two flat pictures are alike
    straight = float((a * b).sum()) / np.sqrt((energies[0] + noise) * (energies[1] + noise)) + flat
    return 1 - (straight if straight > 1 - LEAST_DIFFERENCE / 4 else max(straight, _best_shifted(a, b, noise) + flat))


def _best_shifted(a: np.ndarray, b: np.ndarray, noise: float) -> float:
    """Return the largest correlation of what two pictures have in common where one is shifted against the other."""
    height, width = THUMBNAIL
    padded = (height + SHIFT, width + SHIFT)
    spectra = (np.fft.rfft2(picture, padded, axes=(0, 1)) for picture in (a, b))
    products = np.fft.irfft2((next(spectra) * next(spectra).conj()).sum(axis=2), padded)
    dy, dx = np.mgrid[-SHIFT : SHIFT + 1, -SHIFT : SHIFT + 1]
    energy_a, energy_b = _energy(a, dy, dx), _energy(b, -dy, -dx)
    noise = noise * (height - abs(dy)) * (width - abs(dx)) / (height * width)
    return float((products[dy, dx] / np.sqrt((energy_a + noise) * (energy_b + noise))).max())


def _energy(picture: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """Return the sum of squares of the part of a picture that is left of it when it is shifted by (dy, dx)."""
    height, width = THUMBNAIL
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = (picture * picture).sum(axis=2).cumsum(axis=0).cumsum(axis=1)
    top, bottom, left, right = (np.maximum(side, 0) for side in (dy, -dy, dx, -dx))
    bottom, right = height - bottom, width - right
    return sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]


def _mixture(pictures: Sequence[np.ndarray]) -> tuple[int, int] | None:
    """Return the first and last picture that is mixed of the first and the last of all, or None."""
    start, end = pictures[0], pictures[-1]
    step = (end - start).ravel()
    size = float(step @ step)
    if size < step.size * (2 * NOISE) ** 2:
        return None
    inner = np.stack([(picture - start).ravel() for picture in pictures])
    weights = inner @ step / size
    [middle] = np.nonzero((weights > 0.15) & (weights < 0.85))
    if len(middle) < LEAST_MIXED or (np.diff(middle) > 1).any() or (np.diff(weights[middle]) < -0.1).any():
        return None
    w, shown = weights[middle, None], inner[middle] + start.ravel()
    residues = np.linalg.norm(shown - start.ravel() - w * step, axis=1) / np.sqrt(size)
    if residues.max() > LARGEST_RESIDUE:
        return None
    mixtures = start.ravel() + w * step
    mixture = _contrast(mixtures)
    moving = (1 - w[:, 0]) * _contrast(start.ravel()[None]) + w[:, 0] * _contrast(end.ravel()[None])
    if (_contrast(shown) - mixture).sum() > MOTION * (moving - mixture).sum():
        return None
    # The weight rises evenly. Where it is near 0 or 1 it shows what moves in a shot as well.
    slope, offset = np.polyfit(middle, weights[middle], 1)
    if slope <= 0:
        return None
    first, last = (int(frame) for frame in (np.ceil((0.02 - offset) / slope), np.floor((0.98 - offset) / slope)))
    if last - first > 2 * len(middle):  # it does not rise evenly
        return None
    return max(first, 1), min(last, len(pictures) - 2)


def _contrast(pictures: np.ndarray) -> np.ndarray:
    """Return the variance of each of n thumbnails, float32 [n, 24 * 32 * 3], with each channel's mean taken out."""
    return pictures.reshape(len(pictures), -1, 3).var(axis=1).sum(axis=1)
