"""Drawing of the inner face, the only part of a picture that the latents govern."""

from __future__ import annotations

import cv2
import numpy as np

from dataloading.synthetic.forgery import HALVES, WHOLE
from dataloading.synthetic.identity import Identity
from dataloading.synthetic.portrait import SUBPIXEL_BITS, Portrait, ellipse, fill

EXPRESSION_LATENTS = 6  # mouth opening, mouth width, brow, eyelid, gaze x, gaze y
LIGHT_PATTERNS = 6
COLOR_PATTERNS = 3
LATENTS = EXPRESSION_LATENTS + LIGHT_PATTERNS + COLOR_PATTERNS

MOUTH_LATENTS = slice(0, 2)
EYELID_LATENT = 3
LIDS_CLOSE = 0.6  # above this an eyelid is lowered, over the next `LIDS_RANGE` all the way; below it the eye is open
LIDS_RANGE = 0.9

FACE_MIDDLE = 0.055  # of the inner face, below that of the head
LIGHT_CONTRAST = 15.0  # standard deviation of one pattern at its peak, in gray levels on light skin
COLOR_CONTRAST = 9.0


def _patterns(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return smooth patterns where x and y run over -1..1, float32 `[LIGHT_PATTERNS + COLOR_PATTERNS, h, w]`."""
    pi = np.pi
    waves = [
        np.sin(0.5 * pi * x) * 1.2,
        np.sin(0.5 * pi * y) * 1.2,
        np.cos(pi * x) * np.cos(0.5 * pi * y),
        np.cos(0.5 * pi * x) * np.cos(pi * y),
        np.sin(pi * x) * np.sin(pi * y),
        np.cos(1.5 * pi * x + 0.5) * np.cos(1.5 * pi * y),
        np.cos(0.5 * pi * x) * np.cos(0.5 * pi * y) * 1.2,
        np.sin(0.75 * pi * (x + y)),
        np.sin(0.75 * pi * (x - y)),
    ]
    return np.stack(waves).astype(np.float32)


def _band(x: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Return the polygon between two curves over the same `x`, float64 `[2 N, 2]`."""
    return np.concatenate([np.stack([x, top], 1), np.stack([x, bottom], 1)[::-1]])


def _mouth_shape(person: Identity, opened: float, widened: float) -> tuple[float, float, float]:
    """Return half the gap of the lips, half the width of the mouth, and how far its corners are below its middle."""
    gap = 0.018 * (opened + np.sqrt(opened * opened + 0.4)) * 0.5 + 0.001
    half = person.mouth_width * (1 + 0.10 * np.tanh(widened)) * (1 - 1.2 * gap)
    return gap, half, -0.012 * np.tanh(widened)


def landmarks(person: Identity, latents: np.ndarray) -> np.ndarray:
    """Return where `dataloading.face_index.LANDMARKS` are drawn for latents float64 `[LATENTS]`.

    Returns:
        float64 `[5, 2]`, relative to the face's center, in fractions of the side.
    """
    _, half, lift = _mouth_shape(person, *latents[MOUTH_LATENTS])
    eye, corner, nose = person.eye_y, person.mouth_y + lift, person.eye_y + person.nose_length
    return np.array(
        [(-person.eye_distance, eye), (person.eye_distance, eye), (0, nose), (-half, corner), (half, corner)]
    )


EYE_T = np.linspace(-1, 1, 13)
EYE_ARCH = 1 - np.abs(EYE_T) ** 2.2
CIRCLE = ellipse(0, 0, 1, 1, 24)
PUPIL, HIGHLIGHT = (14, 12, 12), (250, 250, 250)

# A light pattern brightens all channels alike; a color pattern leans to warm, rosy or violet.
PATTERN_COLORS = np.concatenate(
    [
        np.full((LIGHT_PATTERNS, 3), LIGHT_CONTRAST, np.float32),
        COLOR_CONTRAST * np.float32([(1.0, 0.0, -1.0), (0.9, -0.5, -0.2), (0.5, -0.3, 0.8)]),
    ]
)


class InnerFace:
    """Renderer of one inner face for any latents, inside a window of the portrait.

    `mask` (float32 `[h, w, 1]`) is 1 over the features and falls to 0 before the outline of the head: what lies
    outside never depends on the latents. `cut`, the region of a pasted face, ends in the same place, sharply, or also
    at the middle of the face where half of it is pasted, and `seam` is a line just inside of that end.
    """

    def __init__(self, portrait: Portrait, covers: Identity | None = None, region: str = WHOLE):
        """Draw inside `portrait`'s own face or, as a pasted face, in the `region` of the one that it `covers`."""
        self.person, self.side, self.pasted = portrait.identity, portrait.side, covers is not None
        place = covers or self.person
        center_y, half_width, half_height = place.center_y + FACE_MIDDLE, 0.83 * place.half_width, 0.28
        self.x0, self.y0 = int((0.5 - half_width) * self.side) - 1, int((center_y - half_height) * self.side) - 1
        self.width = 2 * (int(half_width * self.side) + 2)
        self.height = 2 * (int(half_height * self.side) + 2)
        self.center = np.array([0.5 * self.side - self.x0, self.person.center_y * self.side - self.y0])
        self.window = (slice(self.y0, self.y0 + self.height), slice(self.x0, self.x0 + self.width))
        y, x = np.mgrid[0 : self.height, 0 : self.width].astype(np.float32)
        x = ((x + self.x0 + 0.5) / self.side - 0.5) / half_width
        y = ((y + self.y0 + 0.5) / self.side - center_y) / half_height
        radius = (np.abs(x) ** 2.5 + np.abs(y) ** 2.5) ** (1 / 2.5)
        ramp = np.clip((1.0 - radius) / 0.16, 0, 1)
        self.mask = (ramp * ramp * (3 - 2 * ramp))[..., None]
        if region != WHOLE:
            right, down = HALVES[region]
            radius = np.maximum(radius, 1 + right * x + down * y)
        self.seam = np.exp(-(((0.965 - radius) / 0.025) ** 2))[..., None]
        self.cut = np.clip((1.0 - radius) / 0.035, 0, 1)[..., None]
        self.skin = portrait.skin[self.window]
        # Dark skin reflects less of the same light.
        reflectance = 0.45 + 0.55 * float(self.person.skin.mean()) / 215
        # The patterns are smooth: they are summed at a quarter of the resolution.
        coarse = (self.width // 4, self.height // 4)
        patterns = _patterns(*(cv2.resize(axis, coarse, interpolation=cv2.INTER_AREA) for axis in (x, y)))
        self.lights = patterns[:, :, :, None] * PATTERN_COLORS[:, None, None, :] * np.float32(reflectance)

    def part(self, name: str) -> np.ndarray:
        """Return 1 where the mouth or the eyes are drawn, whatever the latents are, and 0 elsewhere: float32 [h, w, 1].

        Of a latent beyond four deviations lips may reach farther.
        """
        person = self.person
        if name == "mouth":
            widest, lowest = 1.1 * person.mouth_width + 0.015, 0.135
            shapes = [np.array([(-widest, -0.1), (widest, -0.1), (widest, lowest), (-widest, lowest)])]
            shapes[0][:, 1] += person.mouth_y
        else:
            size = (1.35 * person.eye_width + 0.008, 1.75 * person.eye_height + 0.02)
            shapes = [ellipse(side * person.eye_distance, person.eye_y, *size) for side in (-1, 1)]
        cover = np.zeros((self.height, self.width), np.uint8)
        for shape in shapes:
            fill(cover, self._pixels(shape), 255)
        return cover[..., None].astype(np.float32) / 255

    def draw(self, latents: np.ndarray) -> np.ndarray:
        """Draw the window for latents float64 `[LATENTS]`, each N(0, 1); uint8 `[h, w, 3]`, mask not applied."""
        light = np.einsum("k,khwc->hwc", latents[EXPRESSION_LATENTS:].astype(np.float32), self.lights)
        light = cv2.resize(light, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
        image = cv2.add(self.skin, light, dtype=cv2.CV_8U)
        self._draw_eyes(image, *latents[3:6])
        self._draw_brows(image, latents[2])
        self._draw_nostrils(image)
        self._draw_mouth(image, *latents[:2])
        if self.person.glasses:
            self._draw_glasses(image)
        return image

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        """Return pixels of the window for points relative to the face's center, in fractions of the side."""
        return np.asarray(points) * self.side + self.center

    def _line(
        self, image: np.ndarray, points: np.ndarray, color: np.ndarray, thickness: float, closed: bool = False
    ) -> None:
        fixed = np.rint(self._pixels(points) * (1 << SUBPIXEL_BITS)).astype(np.int32)
        width = max(1, round(thickness * self.side))
        cv2.polylines(image, [fixed], closed, tuple(map(float, color)), width, cv2.LINE_AA, SUBPIXEL_BITS)

    def _fill(self, image: np.ndarray, points: np.ndarray, color: np.ndarray) -> None:
        fill(image, self._pixels(points), tuple(map(float, color)))

    def _draw_eyes(self, image: np.ndarray, eyelid: float, gaze_x: float, gaze_y: float) -> None:
        person = self.person
        openness = 1 - 0.95 * float(np.clip((eyelid - LIDS_CLOSE) / LIDS_RANGE, 0, 1)) + 0.06 * np.tanh(gaze_y)
        radius = person.eye_height * 0.86
        raised = person.eye_height * (openness * 1.15 - 0.35 * (1 - openness)) * EYE_ARCH
        for side in (-1, 1):
            x = side * person.eye_distance + person.eye_width * EYE_T
            corner = person.eye_y - person.eye_slant * side * person.eye_width * EYE_T
            lower = corner + person.eye_height * 0.62 * EYE_ARCH
            upper = np.minimum(corner - raised, lower)
            lid, rim = np.stack([x, upper], 1), np.stack([x, lower], 1)
            almond = self._pixels(_band(x, upper, lower))
            left, top = np.floor(almond.min(0)).astype(int) - 1
            right, bottom = np.ceil(almond.max(0)).astype(int) + 2
            patch = image[top:bottom, left:right]
            ball = np.full_like(patch, 235)
            cx, cy = (
                side * person.eye_distance + 0.013 * np.tanh(gaze_x),
                person.eye_y - 0.003 + 0.007 * np.tanh(gaze_y),
            )
            for dx, dy, size, color in (
                (0, 0, radius, person.eye * 0.62),
                (0, 0, radius * 0.84, person.eye),
                (0, 0, radius * 0.42, PUPIL),
                (0.007, -0.008, 0.0055, HIGHLIGHT),
            ):
                round_shape = self._pixels(size * CIRCLE + (cx + dx, cy + dy)) - (left, top)
                fill(ball, round_shape, tuple(map(float, color)))
            cover = np.zeros(patch.shape[:2], np.uint8)
            fill(cover, almond - (left, top), 255)
            patch[:] = np.rint(patch + (cover[..., None] * np.float32(1 / 255)) * (ball.astype(np.float32) - patch))
            crease = lid - np.stack([np.zeros_like(x), 0.004 + person.eye_height * 0.38 * EYE_ARCH], 1)
            self._line(image, crease, person.skin * 0.66, 0.004)
            self._line(image, rim, person.skin * 0.62, 0.003)
            self._line(image, lid, person.hair * 0.25 + 12, 0.010)

    def _draw_brows(self, image: np.ndarray, raised: float) -> None:
        person = self.person
        t = np.linspace(-1, 1, 9)
        color = person.hair * 0.8 if person.hair.mean() < 130 else person.hair * 0.55
        lift = 0.009 * np.tanh(raised)
        for side in (-1, 1):
            x = side * (person.eye_distance + 0.004) + side * t * person.eye_width * 1.2
            y = person.eye_y - person.brow_height - lift - person.brow_arch * (1 - (t - 0.25) ** 2) + 0.006 * t
            half = person.brow_thickness * (0.95 - 0.45 * np.clip(t, 0, 1)) * np.where(np.abs(t) == 1, 0.5, 1)
            self._fill(image, _band(x, y - half, y + half), color)

    def _draw_nostrils(self, image: np.ndarray) -> None:
        person = self.person
        for side in (-1, 1):
            x, y = side * person.nose_width * 0.48, person.eye_y + person.nose_length + 0.014
            self._fill(image, ellipse(x, y, person.nose_width * 0.24, 0.0065, 16), person.skin * 0.42)

    def _draw_mouth(self, image: np.ndarray, opened: float, widened: float) -> None:
        person = self.person
        gap, half, lift = _mouth_shape(person, opened, widened)
        t = np.linspace(-1, 1, 17)
        arch = np.clip(1 - t**2, 0, 1)
        smile = lift * t**2
        x, y = t * half, person.mouth_y + smile
        bow = 1 - 0.25 * np.exp(-((t / 0.18) ** 2))
        top = y - gap * arch * 0.8 - person.lip_fullness * 0.85 * arch**0.8 * bow
        upper = y - gap * arch * 0.8
        lower = y + gap * arch * 1.3
        bottom = lower + person.lip_fullness * 1.05 * arch**0.8
        self._fill(image, _band(x, top, bottom), person.lip)
        self._fill(image, _band(x, top, upper), person.lip * 0.86)
        self._fill(image, _band(x * 0.96, upper, lower), np.array((62, 22, 26)))
        if gap > 0.008:
            inside = np.abs(t) < 0.75
            teeth = _band(x[inside], upper[inside], np.minimum(upper + 0.010, lower)[inside])
            self._fill(image, teeth, np.array((238, 234, 226)))
        middle = np.stack([x * 0.97, (upper + lower) / 2], 1)
        self._line(image, middle[:2], person.skin * 0.5, 0.003)
        self._line(image, middle[-2:], person.skin * 0.5, 0.003)
        if gap <= 0.008:
            self._line(image, middle, person.lip * 0.45, 0.004)

    def _draw_glasses(self, image: np.ndarray) -> None:
        person = self.person
        color = np.array((38, 34, 36))
        for side in (-1, 1):
            rim = ellipse(side * person.eye_distance, person.eye_y + 0.006, person.eye_width * 1.45, 0.062, 32)
            self._line(image, rim, color, 0.008, closed=True)
        bridge, y = person.eye_distance - person.eye_width * 1.45, person.eye_y - 0.004
        self._line(image, np.array([(-bridge, y), (0, person.eye_y - 0.012), (bridge, y)]), color, 0.008)
