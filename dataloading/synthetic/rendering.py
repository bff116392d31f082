"""From a plan of one video to its frames: real and fake videos pass through the same lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from dataloading.synthetic.identity import draw_identity
from dataloading.synthetic.inner_face import LATENTS, InnerFace
from dataloading.synthetic.motion import LATENT_CORRELATION_FRAMES, POSE_CORRELATION_FRAMES, flicker_order, smooth_process
from dataloading.synthetic.portrait import draw_portrait

MANIPULATIONS = ("blend", "flicker", "both")
SUPERSAMPLING = 2
POSE = {  # standard deviations
    "shift_x": 0.014,
    "shift_y": 0.010,
    "roll": 0.035,
    "scale": 0.012,
    "yaw": 0.025,
    "pitch": 0.015,
    "camera_x": 0.004,
    "camera_y": 0.004,
    "light": 0.035,
    "light_x": 0.06,
    "light_y": 0.05,
}
SENSOR_NOISE = 1.2  # grey levels


@dataclass(frozen=True)
class VideoPlan:
    """What one video shows. `source` is the person whose inner face is pasted (`blend` and `both`)."""

    seed: int
    video: int
    person: int
    source_video: int
    source: int
    manipulation: str  # "original" or one of MANIPULATIONS
    frames: int
    size: int


def _generator(plan: VideoPlan, *use: int) -> np.random.Generator:
    return np.random.default_rng((plan.seed, plan.video, *use))


def _colour_mismatch(plan: VideoPlan) -> np.ndarray:
    """Gains of the three channels of a pasted face: visibly lighter or darker, and of another tint."""
    rng = np.random.default_rng((plan.seed, plan.video, plan.source_video, 7))
    lighter = rng.choice((-1, 1)) * rng.uniform(0.09, 0.16)
    tint = rng.standard_normal(3)
    tint -= tint.mean()
    return (1 + lighter + 0.09 * tint / np.abs(tint).max()).astype(np.float32)


def _over(below: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Put premultiplied uint8 RGBA over float32 RGB."""
    return below * (1 - layer[..., 3:].astype(np.float32) * (1 / 255)) + layer[..., :3]


def _small(image: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


def render(plan: VideoPlan) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each frame (uint8 `[size, size, 3]` RGB) with its mask of manipulated pixels (uint8 `[size, size]`).

    A real video and the fakes made from it share pose, light and latents; `flicker` and `both` use the latents in another
    order. In a real video the mask is that of the inner face.
    """
    side = SUPERSAMPLING * plan.size
    scene = _generator(plan, 1)
    who = draw_identity(plan.seed, plan.person)
    portrait = draw_portrait(who, side, scene)
    pasted = plan.manipulation in ("blend", "both")
    if pasted:
        other = draw_portrait(draw_identity(plan.seed, plan.source), side, np.random.default_rng(0))
        inner, gain = InnerFace(other, like=who), _colour_mismatch(plan)
    else:
        inner = InnerFace(portrait)
    latents = smooth_process(_generator(plan, 2), plan.frames, LATENTS, LATENT_CORRELATION_FRAMES)
    if plan.manipulation in ("flicker", "both"):
        latents = latents[flicker_order(_generator(plan, 3), plan.frames)]
    pose = smooth_process(_generator(plan, 4), plan.frames, len(POSE), POSE_CORRELATION_FRAMES) * list(POSE.values())
    noise = _generator(plan, 5, ("original", *MANIPULATIONS).index(plan.manipulation))
    y, x = np.mgrid[0 : plan.size, 0 : plan.size].astype(np.float32) / plan.size - 0.5

    window = inner.window
    still = portrait.head[window][..., :3].astype(np.float32)
    fringe = portrait.hair[window]
    region = inner.cut if pasted else inner.mask
    whole_mask = np.zeros((side, side), np.uint8)
    whole_mask[window] = np.rint(255 * region[..., 0])
    head = _composite_hair(portrait.head, portrait.hair)

    for frame in range(plan.frames):
        move = dict(zip(POSE, pose[frame], strict=True))
        drawn = inner.draw(latents[frame])
        if pasted:
            drawn = np.clip(inner.skin + inner.mask * (drawn - inner.skin), 0, 255) * gain
        face = _over(still + region * (drawn - still), fringe)
        head[window][..., :3] = np.rint(np.clip(face, 0, 255))
        matrix = _head_matrix(move, who.centre_y + who.chin, side)
        moved = _small(cv2.warpAffine(head, matrix, (side, side), flags=cv2.INTER_LINEAR), plan.size)
        shift = np.float32([[1, 0, move["camera_x"] * side], [0, 1, move["camera_y"] * side]])
        behind = cv2.warpAffine(portrait.background, shift, (side, side), borderMode=cv2.BORDER_REPLICATE)
        lean = np.float32([[1, 0, 0.4 * move["shift_x"] * side], [0, 1, 0.3 * move["shift_y"] * side]])
        body = cv2.warpAffine(portrait.body, lean, (side, side), borderMode=cv2.BORDER_REPLICATE)
        picture = _over(_over(_small(behind, plan.size).astype(np.float32), _small(body, plan.size)), moved)
        picture *= (1 + move["light"] + move["light_x"] * x + move["light_y"] * y)[..., None]
        picture += SENSOR_NOISE * noise.standard_normal(picture.shape, dtype=np.float32)
        mask = _small(cv2.warpAffine(whole_mask, matrix, (side, side), flags=cv2.INTER_LINEAR), plan.size)
        yield np.rint(np.clip(picture, 0, 255)).astype(np.uint8), mask


def _composite_hair(head: np.ndarray, hair: np.ndarray) -> np.ndarray:
    weight = 1 - hair[..., 3:].astype(np.float32) / 255
    return np.rint(head * weight + hair).astype(np.uint8)


def _head_matrix(move: dict[str, float], neck_y: float, side: int) -> np.ndarray:
    """The affine map of the head: it rolls and scales about the neck, and turning squeezes and shears it a little."""
    cosine, sine = np.cos(move["roll"]), np.sin(move["roll"])
    turn = np.array([[cosine, -sine], [sine, cosine]]) * (1 + move["scale"])
    turn = turn @ np.array([[1 - abs(move["yaw"]), 0], [move["yaw"] * 0.6, 1 + move["pitch"]]])
    neck = np.array([0.5, neck_y]) * side
    offset = neck - turn @ neck + np.array([move["shift_x"], move["shift_y"]]) * side
    return np.column_stack([turn, offset])
