"""Rendering of a synthetic video and its H.264 file: real and fake videos pass through the same lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np

from dataloading.dataset import ORIGINAL
from dataloading.io import replacing
from dataloading.synthetic.forgery import (
    HALVES,
    LATENT_CORRELATION_FRAMES,
    PARTS,
    POSE_CORRELATION_FRAMES,
    WHOLE,
    Extent,
    flicker_order,
    smooth_process,
)
from dataloading.synthetic.identity import draw_identity
from dataloading.synthetic.inner_face import (
    EYELID_LATENT,
    FACE_MIDDLE,
    LATENTS,
    LIDS_CLOSE,
    MOUTH_LATENTS,
    InnerFace,
    landmarks,
)
from dataloading.synthetic.portrait import Portrait, draw_background, draw_portrait

MANIPULATIONS = ("blend", "flicker", "both")
ALL_MANIPULATIONS = (*MANIPULATIONS, *PARTS)  # those of parts are drawn where they are asked for
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
    """Content of one video.

    `source` is the number of the person with the pasted inner face (`blend` and `both`), `extent` is where and when it
    is forged; it means nothing for an original. The region of one of `PARTS` is that part.
    """

    seed: int
    video: int
    person: int
    source_video: int
    source: int
    manipulation: str  # ORIGINAL or one of ALL_MANIPULATIONS
    frames: int
    size: int
    extent: Extent = field(default_factory=Extent)


@lru_cache(maxsize=4)
def _portrait(seed: int, person: int, side: int) -> Portrait:
    # A pair of people makes eight videos in a row: their layers are drawn once for all of them.
    return draw_portrait(draw_identity(seed, person), side)


def _generator(plan: VideoPlan, use: str, variant: int = 0) -> np.random.Generator:
    """Return a random stream for one use in a video, the same in a real video and in the fakes made from it."""
    streams = ("background", "latents", "order", "pose", "noise", "mismatch", "strange")
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

    A real video and the fakes made from it share pose, light and latents. In the forged frames of `flicker` and `both`
    the latents are those of another time: all of them in another order or, where only some frames are forged, each
    drawn by itself; in those of `mouth` the two of the mouth are, and in those of `eyes` the lids are open. The mask of
    a frame that is not forged is empty; in a real video the mask is that of the inner face, which is where a flickering
    one is masked.
    """
    side = SUPERSAMPLING * plan.size
    portrait = _portrait(plan.seed, plan.person, side)
    person, extent = portrait.identity, plan.extent
    own = InnerFace(portrait)
    pasted = gain = None
    if plan.manipulation in ("blend", "both"):
        pasted = InnerFace(_portrait(plan.seed, plan.source, side), covers=person, region=extent.region)
        gain = _color_mismatch(plan) * (1 - SEAM_SHADE * pasted.seam)
    latents, strange, forged_frames = _latents(plan)
    moves = _moves(plan)
    noise = _generator(plan, "noise", (ORIGINAL, *ALL_MANIPULATIONS).index(plan.manipulation))
    down, across = np.mgrid[0 : plan.size, 0 : plan.size].astype(np.float32) / plan.size - 0.5

    still, hair = (layer[own.window].astype(np.float32) for layer in (portrait.head, portrait.hair))
    inside, bare = still[..., 3:] / 255, 1 - hair[..., 3:] / 255
    head = _with_hair(portrait)
    face = head[own.window][..., :3]
    region = inside * (pasted.cut if pasted else own.mask)
    if plan.manipulation in PARTS:
        region = region * own.part(plan.manipulation)
    whole_mask = np.zeros((side, side), np.uint8)
    whole_mask[own.window] = np.rint(255 * (region * bare)[..., 0])
    whole_mask = _small(whole_mask, plan.size)
    background = _small(draw_background(_generator(plan, "background"), side), plan.size)
    body = _small(portrait.body, plan.size)

    for frame in range(plan.frames):
        forged = frame in forged_frames
        drawn = still[..., :3]
        if not (forged and pasted and extent.region == WHOLE):
            # A person's own face shows through its soft mask.
            state = strange if forged and not pasted else latents
            drawn = drawn + inside * own.mask * (own.draw(state[frame]) - drawn)
        if forged and pasted:
            # A pasted one keeps its own skin around that mask, has its colors multiplied, and ends at a shaded cut.
            other = pasted.skin + pasted.mask * (pasted.draw(strange[frame]) - pasted.skin)
            drawn = drawn + region * (gain * other - drawn)
        face[:] = cv2.add(bare * drawn, hair[..., :3], dtype=cv2.CV_8U)
        move = moves[frame]
        matrix = _head_matrix(move, person.center_y + person.chin)
        picture = _shifted(background, move["camera_x"], move["camera_y"]).astype(np.float32)
        picture = _over(picture, _shifted(body, 0.4 * move["shift_x"], 0.3 * move["shift_y"]))
        picture = _over(picture, _small(_warped(head, matrix), plan.size))
        picture *= (1 + move["light"] + move["light_x"] * across + move["light_y"] * down)[..., None]
        grain = SENSOR_NOISE * noise.standard_normal((plan.size, plan.size), dtype=np.float32)
        mask = _warped(whole_mask, matrix)
        if plan.manipulation != ORIGINAL and not forged:
            mask = np.zeros_like(mask)
        yield cv2.add(picture, cv2.merge([grain] * 3), dtype=cv2.CV_8U), mask


def _moves(plan: VideoPlan) -> list[dict[str, float]]:
    """Return pose, camera and light of each frame, by the names of `POSE`."""
    pose = smooth_process(_generator(plan, "pose"), plan.frames, len(POSE), POSE_CORRELATION_FRAMES)
    return [{name: deviation * row[k] for k, (name, deviation) in enumerate(POSE.items())} for row in pose]


def _latents(plan: VideoPlan) -> tuple[np.ndarray, np.ndarray, frozenset[int]]:
    """Return the latents of a real video, those of forged frames, each float64 `[frames, LATENTS]`, and these frames.

    Each forged frame's are N(0, 1), whichever frames are forged: a frame by itself does not betray that they are of
    another time. Those of `blend` are the smooth ones. In `eyes` the lids alone differ: they are open where they would
    be closing, so that each frame is one that a real video may hold, and only such frames are forged.
    """
    latents = smooth_process(_generator(plan, "latents"), plan.frames, LATENTS, LATENT_CORRELATION_FRAMES)
    if plan.manipulation == ORIGINAL:
        return latents, latents, frozenset()
    forged = frozenset(filter(plan.extent.forged, range(plan.frames)))
    if plan.manipulation == "blend":
        return latents, latents, forged
    strange = latents.copy()
    if plan.manipulation == "eyes":
        strange[:, EYELID_LATENT] = np.minimum(latents[:, EYELID_LATENT], LIDS_CLOSE)
        return latents, strange, forged & frozenset(np.flatnonzero(latents[:, EYELID_LATENT] > LIDS_CLOSE).tolist())
    if plan.extent.frames is None:
        other = latents[flicker_order(_generator(plan, "order"), plan.frames)]
    else:
        other = _generator(plan, "strange").standard_normal(latents.shape)
    changed = MOUTH_LATENTS if plan.manipulation == "mouth" else slice(None)
    strange[:, changed] = other[:, changed]
    return latents, strange, forged


def forged_frames(plan: VideoPlan) -> tuple[int, ...]:
    """Return the frames of a video that are forged, rising."""
    return tuple(sorted(_latents(plan)[2]))


def face_rows(plan: VideoPlan) -> np.ndarray:
    """Return where the face is in each frame, as a boxes file has it: from hairline to chin, and its landmarks.

    The landmarks are those of the face that is drawn: in forged frames, of the pasted one and of the other latents.

    Returns:
        float64 `[frames, 15]`: frame, x0, y0, x1, y1, and x and y of each of `dataloading.face_index.LANDMARKS`, in
        pixels.
    """
    person, source = draw_identity(plan.seed, plan.person), draw_identity(plan.seed, plan.source)
    latents, strange, forged = _latents(plan)
    across, top, bottom = person.half_width, -person.hairline, person.chin
    corners = np.array([(-across, top), (across, top), (across, bottom), (-across, bottom)])
    center, of_source = np.array([0.5, person.center_y]), np.array([0.5, source.center_y])
    rows = []
    for frame, move in enumerate(_moves(plan)):
        points = landmarks(person, (strange if frame in forged else latents)[frame]) + center
        if frame in forged and plan.manipulation in ("blend", "both"):
            pasted = landmarks(source, strange[frame]) + of_source
            other_half = np.array(HALVES.get(plan.extent.region, (0, 0)))
            inside = (pasted - center - (0, FACE_MIDDLE)) @ other_half <= 0
            points = np.where(inside[:, None], pasted, points)
        matrix = _head_matrix(move, person.center_y + person.chin)
        box, points = (plan.size * (places @ matrix[:, :2].T + matrix[:, 2]) for places in (corners + center, points))
        rows.append([frame, *box.min(axis=0), *box.max(axis=0), *points.ravel()])
    return np.array(rows)


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
