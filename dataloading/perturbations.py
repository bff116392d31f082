"""Perturbations of clips, to measure how robust a detector is: compression, low resolution, occlusion, lost frames.

The first three are those of the paper (section IV-D, Fig. 5 and 6), which perturbs the test set only. They act where
its figure shows that they do: on the face crop in the size of the model's input, as 8-bit RGB, before normalization (in
Fig. 5 the blocks of JPEG and the squares are as large as they are in a crop of 300 pixels). Nine evenly spaced
strengths are the points of Fig. 6: `jpeg:10..50`, `downscale:0.1..0.9`, `dropout:8..40`.

- *Pictures* (`jpeg` to `saturation`) change each frame of the crop. Lengths are those of a crop of 300 pixels, and are
  scaled with the model's input.
- *Clips* (`shift`, `drop`, `fps`) change which pixels or frames of the video make the clip.
- *Videos* (`h264`): the whole pictures of the video are encoded once more (`dataloading.video.reencode`) before faces
  are cut out, as an upload does. A crop store has a region of each picture only: then that region is encoded.

What is drawn by chance is the same in all frames of a clip where a change from frame to frame would be a temporal trace
of its own that no video has: the squares of `dropout` (as in the paper) and the direction of `shift`, and every factor.
Noise is drawn for each frame, as a camera's is: the same in all frames, it would be dirt on the lens, and vanish from
the difference of two frames. Draws depend on the seed, the video and the clip's first frame, not on the strength: of 40
squares the first 8 are those of 8, the noise of 20 is twice that of 10, and of two curves the same frames are lost.
"""

import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from dataloading.clips.sampling import Clip
from dataloading.clips.store import is_store
from dataloading.errors import InputError
from dataloading.face_index import FaceEntry

SIDE = 300  # pixels of the crop that lengths are given for: the input of the paper
SQUARE = 16  # pixels
STEPS = 9  # of a..b: the points of Fig. 6
MOST_STRENGTHS = 100
_MIDDLE_GRAY = 128.0  # the center of contrast, as in training augmentation

Stage = Literal["picture", "clip", "video"]
Order = Literal["rising", "falling", "both"]


@dataclass(frozen=True)
class Perturbation:
    """A way to change clips.

    Attributes:
        name: As it is asked for.
        what: It does, in one sentence without its full stop.
        unit: Of a strength.
        low, high: The strengths that it can have.
        strengths: Those that it has where none are asked for.
        stage: What it changes.
        order: Whether rising or falling strengths change more; both where 1 changes nothing.
        whole: Strengths are whole numbers.
    """

    name: str
    what: str
    unit: str
    low: float
    high: float
    strengths: tuple[float, ...]
    stage: Stage
    order: Order = "rising"
    whole: bool = False


def _spread(low: float, high: float, steps: int, whole: bool = False) -> tuple[float, ...]:
    values = np.linspace(low, high, steps)
    return tuple(dict.fromkeys(np.rint(values).tolist() if whole else values.round(6).tolist()))


PERTURBATIONS = {
    item.name: item
    for item in (
        Perturbation(
            "jpeg", "each frame is compressed as JPEG (Pillow, chroma at half resolution)", "quality", 1, 100,
            _spread(10, 50, STEPS), "picture", "falling", whole=True,
        ),
        Perturbation(
            "downscale", "each frame is averaged to a part of its sides and enlarged again without smoothing",
            "scale", 0.02, 1, _spread(0.1, 0.9, STEPS), "picture", "falling",
        ),
        Perturbation(
            "dropout", "black squares of 16 pixels, the same in all frames of a clip", "squares", 1, 300,
            _spread(8, 40, STEPS), "picture", whole=True,
        ),
        Perturbation(
            "blur", "each frame is blurred by a Gaussian", "sigma in pixels", 0.1, 30, (1, 2, 3, 4, 6, 8), "picture"
        ),
        Perturbation(
            "noise", "Gaussian noise is added to each channel, another one in each frame", "sigma in gray levels",
            0.5, 128, (5, 10, 15, 20, 30, 40), "picture",
        ),
        Perturbation(
            "brightness", "all frames are multiplied by a factor", "factor", 0, 5,
            _spread(0.5, 1.5, STEPS), "picture", "both",
        ),
        Perturbation(
            "contrast", "distances from middle gray are multiplied by a factor", "factor", 0, 5,
            _spread(0.5, 1.5, STEPS), "picture", "both",
        ),
        Perturbation(
            "saturation", "distances of colors from their gray are multiplied by a factor", "factor", 0, 5,
            _spread(0, 2, STEPS), "picture", "both",
        ),
        Perturbation(
            "shift", "the box of the face is moved, one way for all frames of a clip", "part of its side", 0.01, 0.5,
            _spread(0.05, 0.3, 6), "clip",
        ),
        Perturbation(
            "drop", "frames of the video are lost by chance, and the next ones take their places", "part lost",
            0.01, 0.9, _spread(0.1, 0.7, 7), "clip",
        ),
        Perturbation(
            "fps", "frames are left out down to a rate; a video of a lower one stays as it is", "frames per second",
            1, 240, (3, 5, 8, 10, 12, 15, 20), "clip", "falling",
        ),
        Perturbation(
            "h264", "the video is encoded once more with H.264 (libx264)", "crf", 0, 51, (23, 28, 35, 40), "video",
            whole=True,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """A perturbation at some strengths, those that change least first; with order "both" they rise."""

    perturbation: Perturbation
    strengths: tuple[float, ...]

    @property
    def name(self) -> str:
        """Name of the perturbation."""
        return self.perturbation.name


def parse_sweeps(texts: Sequence[str]) -> list[Sweep]:
    """Return what texts such as `"jpeg:10..50"` ask for.

    `NAME:a..b` has nine evenly spaced strengths (whole numbers are rounded), `NAME:a..b/n` n of them, `NAME:a,b,c`
    those, and `NAME` the perturbation's own.

    Raises:
        InputError: A name is unknown or comes twice, or a strength is no number or out of range.
    """
    sweeps: list[Sweep] = []
    for text in texts:
        name, colon, values = text.partition(":")
        if name not in PERTURBATIONS:
            raise InputError(f"perturb is {text!r}: no perturbation {name!r}; expected {', '.join(PERTURBATIONS)}")
        if any(sweep.name == name for sweep in sweeps):
            raise InputError(f"perturb names {name} twice; expected all its strengths in one, as in {name}:a,b,c")
        perturbation = PERTURBATIONS[name]
        strengths = _strengths(text, values, perturbation) if colon else perturbation.strengths
        ordered = sorted(set(strengths), reverse=perturbation.order == "falling")
        sweeps.append(Sweep(perturbation, tuple(ordered)))
    return sweeps


def check_root(sweeps: Sequence[Sweep], root: str | Path) -> None:
    """Refuse what cannot be done to the videos of a data set.

    Raises:
        InputError: The box of a face is to be moved, and the data set is a crop store.
    """
    if any(sweep.name == "shift" for sweep in sweeps) and is_store(Path(root)):
        raise InputError(
            f"perturb names shift, which moves boxes in the whole picture, and {root} is a crop store, which keeps "
            "what lies in the boxes; expected the data set that it was cut from"
        )


def _strengths(text: str, values: str, perturbation: Perturbation) -> Sequence[float]:
    low, high, whole = perturbation.low, perturbation.high, perturbation.whole
    kind = "whole numbers" if whole else "numbers"
    expected = f"expected {kind} from {low:g} to {high:g}, as a..b, a..b/n or a,b,c"
    try:
        if ".." in values:
            ends, slash, steps = values.partition("/")
            first, last = map(float, ends.split(".."))
            count = int(steps) if slash else STEPS
            given = [first, last]
        else:
            given = [float(value) for value in values.split(",")]
            count = len(given)
    except ValueError:
        raise InputError(f"perturb is {text!r}; {expected}") from None
    for strength in given:
        if not low <= strength <= high:
            raise InputError(f"perturb is {text!r}: {perturbation.unit} {strength:g}; {expected}")
        if whole and strength != int(strength):
            raise InputError(f"perturb is {text!r}: {perturbation.unit} {strength:g}; {expected}")
    if not (2 if ".." in values else 1) <= count <= MOST_STRENGTHS:
        raise InputError(f"perturb is {text!r}: {count} strengths; expected 2 to {MOST_STRENGTHS}")
    return _spread(*given, count, whole) if ".." in values else given


def perturb_pictures(
    name: str, frames: np.ndarray, strength: float, random: np.random.Generator | int = 0
) -> np.ndarray:
    """Return the frames of a clip changed by one of the perturbations of pictures.

    Args:
        name: Of the perturbation.
        frames: RGB uint8 [T, H, W, 3], the face crop.
        strength: In its unit.
        random: Where it draws: a generator (`generator_of` a clip), or a seed.

    Returns:
        uint8 [T, H, W, 3], in memory of its own.

    Raises:
        InputError: There is no such perturbation of pictures.
    """
    if name not in _CHANGES:
        raise InputError(f"{name!r} does not change pictures; expected one of {', '.join(_CHANGES)}")
    return _CHANGES[name](frames, strength, np.random.default_rng(random))


def generator_of(clip: Clip, name: str, seed: int = 0) -> np.random.Generator:
    """Return the generator of what a perturbation draws for a clip: the same for each strength."""
    return np.random.default_rng([seed, *_keys(name, clip.video.name), int(clip.frames[0])])


def perturb_clip(name: str, clip: Clip, entry: FaceEntry, strength: float, seed: int = 0) -> Clip:
    """Return the clip of other frames, or with another box, by one of the perturbations of clips.

    It begins where `clip` does, or as much earlier as it must to end within the shot.

    Args:
        name: Of the perturbation.
        clip: Consecutive frames.
        entry: The boxes of its video.
        strength: In its unit.
        seed: Of what is drawn.

    Raises:
        InputError: The shot has too few frames.
    """
    if name == "shift":
        x0, y0, x1, y1 = clip.box
        angle = generator_of(clip, name, seed).uniform(0, 2 * np.pi)
        x, y = strength * (x1 - x0) * np.cos(angle), strength * (y1 - y0) * np.sin(angle)
        return replace(clip, box=(x0 + x, y0 + y, x1 + x, y1 + y))
    start, count = int(clip.frames[0]), len(clip.frames)
    first, last = next(shot for shot in entry.clip_ranges if shot[0] <= start <= shot[1])
    last = min(last, (clip.video.first_frames or entry.frames) - 1)
    if name == "drop":
        lost = np.random.default_rng([seed, *_keys(name, clip.video.name)]).random(entry.frames) < strength
        kept = first + np.flatnonzero(~lost[first : last + 1])
        place = min(int(np.searchsorted(kept, start)), len(kept) - count)
        frames, needed = kept[max(place, 0) : place + count], count
    elif name == "fps":
        steps = np.floor(np.arange(count) * max(entry.fps / strength, 1.0) + 1e-9).astype(np.int64)
        needed = int(steps[-1]) + 1
        place = min(start, last + 1 - needed)
        frames = place + steps if place >= first else steps[:0]
    else:
        raise InputError(f"{name!r} does not change clips; expected one of shift, drop, fps")
    if len(frames) < count:
        unit = PERTURBATIONS[name].unit
        raise InputError(
            f"{clip.video.path}: frames {first} to {last} are too few for a clip at {strength:g} {unit}; it needs "
            f"{needed}{' that are left' if name == 'drop' else ''}."
        )
    return replace(clip, frames=frames, box=entry.box(frames))


def _keys(*texts: str) -> list[int]:
    return [zlib.crc32(text.encode(errors="surrogateescape")) for text in texts]


def _jpeg(frames: np.ndarray, quality: float, _: np.random.Generator) -> np.ndarray:
    from PIL import Image

    changed = np.empty_like(frames)
    for frame, place in zip(frames, changed, strict=True):
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=int(quality))
        place[:] = np.asarray(Image.open(file))
    return changed


def _downscale(frames: np.ndarray, scale: float, _: np.random.Generator) -> np.ndarray:
    height, width = frames.shape[1:3]
    small = max(round(scale * width), 1), max(round(scale * height), 1)

    def change(frame: np.ndarray) -> np.ndarray:
        reduced = cv2.resize(frame, small, interpolation=cv2.INTER_AREA)
        return cv2.resize(reduced, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)  # the other one shifts

    return np.stack([change(frame) for frame in frames])


def _dropout(frames: np.ndarray, squares: float, random: np.random.Generator) -> np.ndarray:
    changed = frames.copy()
    height, width = frames.shape[1:3]
    side = max(round(SQUARE * min(height, width) / SIDE), 1)
    places = random.random((int(squares), 2)) * (height - side + 1, width - side + 1)
    for y, x in places.astype(int):
        changed[:, y : y + side, x : x + side] = 0
    return changed


def _blur(frames: np.ndarray, sigma: float, _: np.random.Generator) -> np.ndarray:
    scaled = sigma * min(frames.shape[1:3]) / SIDE
    return np.stack([cv2.GaussianBlur(frame, (0, 0), scaled) for frame in frames])


def _noise(frames: np.ndarray, sigma: float, random: np.random.Generator) -> np.ndarray:
    return _as_bytes(frames + sigma * random.standard_normal(frames.shape, np.float32))


def _brightness(frames: np.ndarray, factor: float, _: np.random.Generator) -> np.ndarray:
    return _as_bytes(factor * frames.astype(np.float32))


def _contrast(frames: np.ndarray, factor: float, _: np.random.Generator) -> np.ndarray:
    # Not about the mean of each picture, as Pillow does it: that differs from frame to frame.
    return _as_bytes(_MIDDLE_GRAY + factor * (frames.astype(np.float32) - _MIDDLE_GRAY))


def _saturation(frames: np.ndarray, factor: float, _: np.random.Generator) -> np.ndarray:
    from PIL import Image, ImageEnhance

    return np.stack([np.asarray(ImageEnhance.Color(Image.fromarray(frame)).enhance(factor)) for frame in frames])


def _as_bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)


_CHANGES: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "jpeg": _jpeg,
    "downscale": _downscale,
    "dropout": _dropout,
    "blur": _blur,
    "noise": _noise,
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
}
