"""Rendering of a synthetic video and its H.264 file: real and fake videos pass through the same lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np

from dataloading.dataset import ORIGINAL
from dataloading.io import replacing
from dataloading.synthetic.forgery import (
    LATENT_CORRELATION_FRAMES,
    POSE_CORRELATION_FRAMES,
    flicker_order,
    smooth_process,
)
from dataloading.synthetic.identity import draw_identity
from dataloading.synthetic.inner_face import LATENTS, InnerFace
from dataloading.synthetic.portrait import Portrait, draw_background, draw_portrait

MANIPULATIONS = ("blend", "flicker", "both")
SUPERSAMPLING = 2
POSE = {  # standard deviations: fractions of the side, radians, relative changes
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
SEAM_SHADE = 0.25
SENSOR_NOISE = 1.2  # gray levels


@dataclass(frozen=True)
class VideoPlan:
    """Content of one video. `source` is the number of the person with the pasted inner face (`blend` and `both`)."""

    seed: int
    video: int
    person: int
    source_video: int
    source: int
    manipulation: str  # ORIGINAL or one of MANIPULATIONS
    frames: int
    size: int


@lru_cache(maxsize=4)
def _portrait(seed: int, person: int, side: int) -> Portrait:
    # A pair of people makes eight videos in a row: their layers are drawn once for all of them.
    return draw_portrait(draw_identity(seed, person), side)


def _generator(plan: VideoPlan, use: str, variant: int = 0) -> np.random.Generator:
    """Return a random stream for one use in a video, the same in a real video and in the fakes made from it."""
    streams = ("background", "latents", "order", "pose", "noise", "mismatch")
    return np.random.default_rng((plan.seed, plan.video, 10 + streams.index(use), variant))


def _color_mismatch(plan: VideoPlan) -> np.ndarray:
    """Return gains of the three channels of a pasted face: visibly lighter or darker, and of another tint."""
    rng = _generator(plan, "mismatch", plan.source_video)
    lighter = rng.choice((-1, 1)) * rng.uniform(0.17, 0.26)
    tint = rng.standard_normal(3)
    tint -= tint.mean()
    return (1 + lighter + 0.12 * tint / np.abs(tint).max()).astype(np.float32)


def _over(below: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Put premultiplied uint8 RGBA over float32 RGB."""
    return below * (1 - layer[..., 3:].astype(np.float32) * (1 / 255)) + layer[..., :3]


def _small(image: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


def render(plan: VideoPlan) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each frame (uint8 `[size, size, 3]` RGB) with its mask of manipulated pixels (uint8 `[size, size]`).

    A real video and the fakes made from it share pose, light and latents; `flicker` and `both` use the latents in
    another order. In a real video the mask is that of the inner face, which is where a flickering one is masked.
    """
    side = SUPERSAMPLING * plan.size
    portrait = _portrait(plan.seed, plan.person, side)
    person = portrait.identity
    if plan.manipulation in ("blend", "both"):
        source = _portrait(plan.seed, plan.source, side)
        inner, gain = InnerFace(source, covers=person), _color_mismatch(plan)
    else:
        inner, gain = InnerFace(portrait), np.ones(3, np.float32)
    latents = smooth_process(_generator(plan, "latents"), plan.frames, LATENTS, LATENT_CORRELATION_FRAMES)
    if plan.manipulation in ("flicker", "both"):
        latents = latents[flicker_order(_generator(plan, "order"), plan.frames)]
    pose = smooth_process(_generator(plan, "pose"), plan.frames, len(POSE), POSE_CORRELATION_FRAMES)
    noise = _generator(plan, "noise", (ORIGINAL, *MANIPULATIONS).index(plan.manipulation))
    down, across = np.mgrid[0 : plan.size, 0 : plan.size].astype(np.float32) / plan.size - 0.5

    constant, weight, region = _face_terms(portrait, inner, gain)
    head = _with_hair(portrait)
    face = head[inner.window][..., :3]
    whole_mask = np.zeros((side, side), np.uint8)
    whole_mask[inner.window] = np.rint(255 * region[..., 0])
    whole_mask = _small(whole_mask, plan.size)
    background = _small(draw_background(_generator(plan, "background"), side), plan.size)
    body = _small(portrait.body, plan.size)

    for frame in range(plan.frames):
        move = {name: deviation * pose[frame, k] for k, (name, deviation) in enumerate(POSE.items())}
        drawn = cv2.multiply(inner.draw(latents[frame]), weight, dtype=cv2.CV_32F)
        face[:] = cv2.add(drawn, constant, dtype=cv2.CV_8U)
        matrix = _head_matrix(move, person.center_y + person.chin)
        picture = _shifted(background, move["camera_x"], move["camera_y"]).astype(np.float32)
        picture = _over(picture, _shifted(body, 0.4 * move["shift_x"], 0.3 * move["shift_y"]))
        picture = _over(picture, _small(_warped(head, matrix), plan.size))
        picture *= (1 + move["light"] + move["light_x"] * across + move["light_y"] * down)[..., None]
        grain = SENSOR_NOISE * noise.standard_normal((plan.size, plan.size), dtype=np.float32)
        yield cv2.add(picture, cv2.merge([grain] * 3), dtype=cv2.CV_8U), _warped(whole_mask, matrix)


def _face_terms(portrait: Portrait, inner: InnerFace, gain: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return constant and weight (float32 `[h, w, 3]`) of the face, `constant + weight * drawn`, and the drawn region.

    A person's own face shows through its soft mask. A pasted one keeps its own skin around that mask, has its colors
    multiplied by `gain`, and ends at a cut along which it is shaded.
    """
    still = portrait.head[inner.window][..., :3].astype(np.float32)
    hair = portrait.hair[inner.window].astype(np.float32)
    bare = 1 - hair[..., 3:] / 255
    inside = portrait.head[inner.window][..., 3:].astype(np.float32) / 255
    region = inside * (inner.cut if inner.pasted else inner.mask)
    own = inner.mask if inner.pasted else np.ones_like(inner.mask)
    if inner.pasted:
        gain = gain * (1 - SEAM_SHADE * inner.seam)
    weight = bare * region * own * gain
    constant = bare * (still * (1 - region) + region * (1 - own) * inner.skin * gain) + hair[..., :3]
    return constant, weight, region * bare


def _with_hair(portrait: Portrait) -> np.ndarray:
    bare = 1 - portrait.hair[..., 3:].astype(np.float32) / 255
    return np.rint(portrait.head * bare + portrait.hair).astype(np.uint8)


def _shifted(image: np.ndarray, x: float, y: float) -> np.ndarray:
    side = len(image)
    matrix = np.float32([[1, 0, x * side], [0, 1, y * side]])
    return cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _warped(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply an affine map whose offset is in fractions of the side; pixel centers lie at halves."""
    side = len(image)
    turn = matrix[:, :2]
    offset = matrix[:, 2] * side + turn @ (0.5, 0.5) - 0.5
    return cv2.warpAffine(image, np.column_stack([turn, offset]), (side, side), flags=cv2.INTER_LINEAR)


def _head_matrix(move: dict[str, float], neck_y: float) -> np.ndarray:
    """Return the affine map of the head: roll and scale about the neck; turning squeezes and shears it a little."""
    cosine, sine = np.cos(move["roll"]), np.sin(move["roll"])
    turn = np.array([[cosine, -sine], [sine, cosine]]) * (1 + move["scale"])
    turn = turn @ np.array([[1 - abs(move["yaw"]), 0], [move["yaw"] * 0.6, 1 + move["pitch"]]])
    neck = np.array([0.5, neck_y])
    return np.column_stack([turn, neck - turn @ neck + (move["shift_x"], move["shift_y"])])


# All frames are intra frames and no state of the rate control passes from one to the next: keyint=1 rules out
# prediction, mbtree=0 and rc-lookahead=0 rule out looking ahead, and qcomp=1 makes the quantizer of crf independent of
# how complex the frames before were. What a frame decodes to then depends on that frame alone. One thread, so that the
# files are reproducible.
X264_PARAMETERS = "keyint=1:scenecut=0:bframes=0:mbtree=0:rc-lookahead=0:qcomp=1:threads=1:lookahead-threads=1"


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int, crf: int = 23) -> None:
    """Write frames (uint8 `[H, W, 3]` RGB or `[H, W]` gray, even sides) as intra-only H.264, yuv420p, in an MP4 file.

    The file is there whole or not at all.
    """
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = None
        for image in frames:
            if stream is None:
                stream = container.add_stream(
                    "libx264", rate=fps, options={"crf": str(crf), "preset": "fast", "x264-params": X264_PARAMETERS}
                )
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.thread_count = 1
            frame = av.VideoFrame.from_ndarray(image, format="rgb24" if image.ndim == 3 else "gray")
            container.mux(stream.encode(frame))
        if stream is None:
            raise ValueError("a video needs at least one frame")
        container.mux(stream.encode(None))
