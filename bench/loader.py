"""Clips a second of the loader: H.264 videos on disk to clips on the device, by decoder and number of workers.

Draws a small synthetic set first, into a folder that is removed afterwards. What cannot be measured is a record that
says why: a bare GPU machine has neither DALI nor PyAV.
"""

import argparse
import atexit
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from bench.common.record import Row
from bench.common.tasks import Task

BATCH = 8


@cache
def draw_set(folder: Path, size: int) -> tuple[list, Any]:
    """Draw a synthetic set of H.264 videos with whole-frame boxes; return its training videos and its index."""
    from dataloading import FaceIndex, read_dataset
    from dataloading.faces.prepare import prepare
    from dataloading.synthetic import synthesize

    synthesize(folder, identities=8, frames=24, size=size, workers=1, progress=False)
    dataset = read_dataset(folder)
    prepare(dataset, detect=False, workers=1)
    return dataset.split_videos("train"), FaceIndex.read(dataset.root)


def measure(folder: Path, decoder: str, device: str, workers: int, image_size: int, count: int) -> Row:
    """Return clips a second over one epoch, after one that warms up files, decoders and the graph."""
    videos, index = draw_set(folder, image_size)
    from dataloading.clips.loader import ClipLoader
    from dataloading.clips.sampling import TrainingClips

    clips = TrainingClips(videos, index, clips_per_video=-(-count // len(videos))).epoch(0)
    loader = ClipLoader(clips, BATCH, image_size, augment=True, device=device, decoder=decoder, workers=workers)
    for _ in loader:
        pass
    started, seen = time.perf_counter(), 0
    for loaded in loader:
        seen += len(loaded.labels)
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return {"clips": seen, "skipped": len(loader.skipped), "clips_per_second": seen / seconds}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add sizes."""
    parser.add_argument("--workers", type=int, action="append", help="threads that decode (repeatable; default by CPU)")
    parser.add_argument("--image-size", type=int, help="pixels (default 300; 64 on a CPU)")
    parser.add_argument("--clips", type=int, help="clips an epoch (default 256; 24 on a CPU)")


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """Yield each decoder and number of workers."""
    on_gpu, cores = torch.cuda.is_available(), os.cpu_count() or 1
    workers = arguments.workers or sorted({1, min(4, cores), cores})
    size, count = arguments.image_size or (300 if on_gpu else 64), arguments.clips or (256 if on_gpu else 24)
    device = "cuda" if on_gpu else "cpu"
    videos = Path(tempfile.mkdtemp()) / "set"
    atexit.register(shutil.rmtree, videos.parent, ignore_errors=True)
    for decoder, number in itertools.product(("pyav", "dali") if on_gpu else ("pyav",), workers):
        row = {"decoder": decoder, "device": device, "workers": number, "image_size": size, "batch": BATCH}
        yield Task("loader", row, partial(measure, videos, decoder, device, number, size, count))
