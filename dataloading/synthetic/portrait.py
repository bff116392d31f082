"""Drawing of the still parts of a video: body, head, hair and background."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dataloading.synthetic.identity import Identity

SUBPIXEL_BITS = 4


def fill(image: np.ndarray, points: np.ndarray, color: float | tuple[float, ...]) -> None:
    """Fill the antialiased polygon `points` (float pixels `[N, 2]`) in place; `image` is uint8."""
    fixed = np.rint(np.asarray(points) * (1 << SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(image, [fixed], color, cv2.LINE_AA, SUBPIXEL_BITS)


def ellipse(x: float, y: float, half_width: float, half_height: float, points: int = 48) -> np.ndarray:
    """Return points of an ellipse, float64 `[points, 2]`."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([x + half_width * np.cos(angle), y + half_height * np.sin(angle)], axis=1)


@dataclass(frozen=True)
class Portrait:
    """Still layers of one person, `side` pixels square; layers with alpha are uint8 RGBA with colors premultiplied."""

    identity: Identity
    side: int
    skin: np.ndarray  # float32 [side, side, 3]: the face's skin, over the whole square
    head: np.ndarray  # [side, side, 4]: hair behind, ears and head with that skin
    hair: np.ndarray  # [side, side, 4]: what falls in front of the face
    body: np.ndarray  # [side, side, 4]: neck and shoulders


class _Layer:
    def __init__(self, side: int):
        self.side = side
        self.color = np.zeros((side, side, 3), np.float32)
        self.alpha = np.zeros((side, side, 1), np.float32)

    def coverage(self, *shapes: np.ndarray, blur: float = 0.0) -> np.ndarray:
        """Coverage in 0..1, float32 `[side, side, 1]`, of shapes given in fractions of the side."""
        image = np.zeros((self.side, self.side), np.uint8)
        for shape in shapes:
            fill(image, shape * self.side, 255)
        if blur:
            image = cv2.GaussianBlur(image, (0, 0), blur * self.side)
        return image[..., None].astype(np.float32) / 255

    def paint(self, coverage: np.ndarray, color: np.ndarray) -> None:
        self.color = self.color * (1 - coverage) + coverage * color
        self.alpha = self.alpha * (1 - coverage) + coverage

    def finish(self) -> np.ndarray:
        return np.rint(np.clip(np.concatenate([self.color, 255 * self.alpha], axis=2), 0, 255)).astype(np.uint8)


def smooth_noise(rng: np.random.Generator, side: int, cells: int) -> np.ndarray:
    """Draw noise of about `cells` bumps a side, float32 `[side, side]`, roughly in -1..1."""
    coarse = rng.standard_normal((cells + 3, cells + 3)).astype(np.float32) * 0.6
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def head_outline(person: Identity, grow: float = 0.0) -> np.ndarray:
    """Return the outline of skull and jaw in fractions of the side, float64 `[96, 2]`."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    sine, cosine = np.sin(angle), np.cos(angle)
    down = np.clip(sine, 0, 1)
    half_width = (person.half_width + grow) * (1 - person.jaw * down**1.6)
    height = np.where(sine > 0, person.chin, person.crown) + grow
    wide = np.sign(cosine) * np.abs(cosine) ** 0.92
    return np.stack([0.5 + half_width * wide, person.center_y + height * np.sign(sine) * np.abs(sine) ** 0.96], axis=1)


def _skin(person: Identity, side: int) -> np.ndarray:
    rng = np.random.default_rng(person.texture_seed)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    x, y = (x - 0.5) / person.half_width, (y - person.center_y) / person.chin
    edge = np.clip(x**2 * 0.9 + y**2 * 0.8, 0, 1.4)
    light = 1.06 - 0.24 * edge**1.5 - 0.05 * y
    light += 0.018 * smooth_noise(rng, side, 9) + 0.012 * smooth_noise(rng, side, 34)

    def bump(cx: float, cy: float, width: float, height: float) -> np.ndarray:
        return np.exp(-(((x - cx) / width) ** 2) - ((y - cy) / height) ** 2)

    sockets = bump(-0.42, -0.12, 0.24, 0.13) + bump(0.42, -0.12, 0.24, 0.13)
    light -= 0.09 * sockets + 0.05 * bump(0, 0.66, 0.30, 0.05)
    light += 0.05 * bump(0, -0.55, 0.6, 0.25) + 0.04 * bump(0, 0.90, 0.2, 0.1)
    nose_y = (person.eye_y + person.nose_length) / person.chin
    bridge = bump(0, nose_y - 0.22, 0.075, 0.26)
    light += 0.09 * bridge + 0.08 * bump(0, nose_y - 0.02, 0.07, 0.05)
    width = person.nose_width / person.half_width
    light -= 0.10 * (bump(-width, nose_y, 0.05, 0.07) + bump(width, nose_y, 0.05, 0.07))
    light -= 0.13 * bump(0, nose_y + 0.085, width * 0.95, 0.035)
    light -= 0.06 * (bump(-0.13, nose_y - 0.2, 0.05, 0.22) + bump(0.13, nose_y - 0.2, 0.05, 0.22))
    skin = person.skin * light[..., None]
    blush = person.blush * (bump(-0.52, 0.22, 0.24, 0.17) + bump(0.52, 0.22, 0.24, 0.17))[..., None]
    skin *= 1 + blush * np.float32((0.02, -0.16, -0.12))
    if person.freckles:
        spots = np.clip(smooth_noise(rng, side, side // 6) - 0.55, 0, 1) * np.exp(-(((y - 0.15) / 0.25) ** 2))
        skin *= 1 - person.freckles * 0.5 * spots[..., None] * np.float32((0.5, 0.8, 1.0))
    if person.beard:
        mouth = (person.mouth_y - 0.005) / person.chin
        lower = 1 / (1 + np.exp(-(y - mouth + 0.16 + 0.22 * (1 - np.abs(x))) * 14))
        lips = np.exp(-((x / 0.30) ** 4) - ((y - mouth - 0.02) / 0.10) ** 4)
        stubble = 0.85 + 0.16 * smooth_noise(rng, side, side // 4)
        cover = np.clip(person.beard * lower * (1 - 0.9 * lips) * stubble, 0, 1)[..., None]
        skin = skin * (1 - cover) + cover * (person.hair * 0.8 + 0.1 * person.skin)
    return np.clip(skin, 0, 255).astype(np.float32)


def _strands(person: Identity, side: int) -> np.ndarray:
    rng = np.random.default_rng(person.texture_seed + 1)
    coarse = rng.standard_normal((8, 48)).astype(np.float32)
    streaks = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    y = np.linspace(0, 1, side, dtype=np.float32)[:, None]
    light = 1.0 + 0.13 * streaks + 0.28 * np.exp(-(((y - 0.20) / 0.07) ** 2))
    return np.clip((person.hair + 8) * light[..., None], 0, 255)


def _hair_behind(person: Identity, layer: _Layer) -> np.ndarray | None:
    half, top = person.half_width, person.center_y - person.crown
    if person.hair_style == "bald":
        return None
    if person.hair_style == "long":
        falls = ((1, 0.075, 0.45), (1, 0.09, 1.1), (-1, 0.09, 1.1), (-1, 0.075, 0.45))
        sides = np.array([(0.5 - s * (half + t), y) for s, t, y in falls])
        return layer.coverage(ellipse(0.5, top + 0.33, half + 0.075, 0.37), sides)
    if person.hair_style == "bob":
        return layer.coverage(ellipse(0.5, top + 0.33, half + 0.07, 0.37), ellipse(0.5, 0.66, half + 0.085, 0.17))
    if person.hair_style == "curly":
        angle = np.linspace(np.pi * 0.95, np.pi * 2.05, 17)
        x, y = 0.5 + (half + 0.02) * np.cos(angle), person.center_y - 0.04 + (person.crown - 0.03) * np.sin(angle)
        curls = [ellipse(*at, 0.075, 0.075) for at in zip(x, y, strict=True)]
        return layer.coverage(ellipse(0.5, top + 0.30, half + 0.05, 0.33), *curls)
    if person.hair_style == "bun":
        return layer.coverage(ellipse(0.5, top + 0.005, 0.10, 0.085), ellipse(0.5, top + 0.30, half + 0.03, 0.33))
    return layer.coverage(ellipse(0.5, top + 0.27, half + 0.035, 0.31))


def _hair_in_front(person: Identity, layer: _Layer) -> np.ndarray | None:
    """Everything of the (slightly grown) head above a hairline curve."""
    if person.hair_style == "bald":
        return None
    head = layer.coverage(head_outline(person, grow=0.022))
    side = layer.side
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    across = (x - 0.5) / person.half_width
    line = person.center_y - person.hairline
    if person.hair_style == "fringe":
        curve = line + 0.10 + 0.012 * np.cos(across * 40) - 0.02 * across**2
    elif person.hair_style == "bob":
        curve = line + 0.085 + 0.05 * np.abs(across) ** 3
    elif person.hair_style == "side_part":
        curve = line - 0.01 + 0.09 * np.abs(across - person.parting) ** 1.2
    elif person.hair_style == "curly":
        curve = line + 0.03 + 0.025 * np.abs(np.sin(across * 7)) + 0.04 * across**2
    else:
        curve = line + 0.02 + 0.06 * np.abs(across) ** 2.2
    temples = 0.30 * np.clip((np.abs(across) - 0.86) / 0.14, 0, 1)
    if person.hair_style in ("long", "bob"):
        temples *= 2.2
    above = np.clip((curve + temples - y) * side / 2.5 + 0.5, 0, 1)
    return head * above[..., None]


def _head(person: Identity, skin: np.ndarray, strands: np.ndarray) -> np.ndarray:
    layer = _Layer(len(skin))
    behind = _hair_behind(person, layer)
    if behind is not None:
        layer.paint(behind, strands * 0.72)
    ears = [ellipse(0.5 + s * (person.half_width + 0.004), person.center_y + 0.01, 0.030, 0.062) for s in (-1, 1)]
    layer.paint(layer.coverage(*ears), person.skin * 0.86)
    inner = [ellipse(0.5 + s * (person.half_width + 0.012), person.center_y + 0.01, 0.013, 0.036) for s in (-1, 1)]
    layer.paint(layer.coverage(*inner, blur=0.004), person.skin * 0.70)
    layer.paint(layer.coverage(head_outline(person)), skin)
    return layer.finish()


def _hair(person: Identity, strands: np.ndarray) -> np.ndarray:
    layer = _Layer(len(strands))
    front = _hair_in_front(person, layer)
    if front is not None:
        layer.paint(front, strands)
    return layer.finish()


def _body(person: Identity, side: int) -> np.ndarray:
    layer = _Layer(side)
    chin = person.center_y + person.chin
    neck = np.array([(0.5 - 0.15, chin - 0.16), (0.5 + 0.15, chin - 0.16), (0.5 + 0.17, 1.2), (0.5 - 0.17, 1.2)])
    layer.paint(layer.coverage(neck), person.skin * 0.78)
    layer.paint(layer.coverage(ellipse(0.5, chin - 0.03, 0.17, 0.07), blur=0.015) * layer.alpha, person.skin * 0.58)
    layer.paint(layer.coverage(ellipse(0.5, 1.20, 0.56, 0.24)), person.clothes)
    collar = layer.coverage(ellipse(0.5, 0.965, 0.18, 0.035))
    layer.paint(collar * 0.9, person.skin * 0.72)
    return layer.finish()


def draw_background(rng: np.random.Generator, side: int) -> np.ndarray:
    """Draw a blurred room, uint8 `[side, side, 3]`."""
    base = rng.uniform(70, 200) + rng.uniform(-28, 28, 3)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    slope = rng.uniform(-40, 40, 2)
    image = base.astype(np.float32) + (slope[0] * (x - 0.5) + slope[1] * (y - 0.5))[..., None].astype(np.float32)
    shapes = np.clip(image, 0, 255).astype(np.uint8)
    for _ in range(rng.integers(3, 8)):
        color = tuple(float(v) for v in np.clip(base + rng.uniform(-45, 45) + rng.uniform(-25, 25, 3), 0, 255))
        cx, cy, w, h = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.05, 0.25), rng.uniform(0.05, 0.4)
        if rng.random() < 0.5:
            fill(shapes, ellipse(cx, cy, w, w) * side, color)
        else:
            corners = [(cx - w, cy - h), (cx + w, cy - h), (cx + w, cy + h), (cx - w, cy + h)]
            fill(shapes, np.array(corners) * side, color)
    blurred = cv2.GaussianBlur(shapes, (0, 0), side * float(rng.uniform(0.008, 0.035)))
    textured = blurred + (3 * smooth_noise(rng, side, 40))[..., None]
    return np.rint(np.clip(textured, 0, 255)).astype(np.uint8)


def draw_portrait(person: Identity, side: int) -> Portrait:
    """Draw the still layers of `person` at `side` pixels."""
    skin, strands = _skin(person, side), _strands(person, side)
    return Portrait(
        person, side, skin, head=_head(person, skin, strands), hair=_hair(person, strands), body=_body(person, side)
    )
