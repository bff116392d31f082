"""Random video scores, and the terminal output of an evaluation."""

import io
from pathlib import Path

import numpy as np
from rich.console import Console

from dataloading.clips.sampling import Clip
from dataloading.dataset import Video
from istvt.inference.video_score import VideoScore
from istvt.report.summary import summary


def video_score(name, label, probability, manipulation=None, clips=None):
    clips = [probability] if clips is None else clips
    manipulation = manipulation or ("Deepfakes" if label else "original")
    return VideoScore(name, f"/set/{name}.mp4", label, manipulation, probability, clips, [[0, 1, 2]] * len(clips))


def random_scores(real, fake, seed=0, manipulations=("Deepfakes",), clips=4, gap=1.5):
    """Overlapping classes; clips of one video are alike."""
    generator = np.random.default_rng(seed)
    scores = []
    for position in range(real + fake):
        label = int(position >= real)
        center = generator.normal(gap if label else -gap, 1.5)
        values = 1 / (1 + np.exp(-(center + generator.normal(0, 0.5, clips))))
        manipulation = manipulations[position % len(manipulations)] if label else "original"
        scores.append(
            video_score(f"{manipulation}/{position}", label, float(values.mean()), manipulation, values.tolist())
        )
    return scores


def seed_scores():
    """The seed's test set of 40 real and 40 fake videos, with its 39, 1, 7 and 33 verdicts."""
    counts = [(0, 0.2, 39), (0, 0.8, 1), (1, 0.3, 7), (1, 0.9, 33)]
    return [video_score(f"{label}-{p}-{i}", label, p) for label, p, count in counts for i in range(count)]


def printed(evaluation, width=100):
    """The summary as a terminal of that width shows it."""
    console = Console(file=io.StringIO(), width=width)
    console.print(summary(evaluation))
    return console.file.getvalue()


def clip_of(folder, start, label=0):
    name = f"{folder}/000_001"
    video = Video(Path(f"/set/{name}.mp4"), label, folder if label else "original", "test", name, "000")
    return Clip(video, np.arange(start, start + 6), (0.0, 0.0, 1.0, 1.0), label, 0)
