"""Clips a second of the loader: H.264 videos on disk to clips on the device, by decoder and number of workers.

Draws a small synthetic set first, into a folder that is removed afterwards. What cannot be measured is a record that
says why: a bare GPU machine has neither DALI nor PyAV.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.common.record import Row, add_output, output_folder, write_as_measured
from bench.common.table import Column, row_table
from bench.common.timing import attempt

COLUMNS = (
    *map(Column, ("decoder", "device", "workers")), Column("pixels", "image_size"),
    *map(Column, ("batch", "clips", "skipped")), Column("clips/s", "clips_per_second", ".1f"), Column("note"),
)  # fmt: skip
BATCH = 8


def draw_set(folder: Path, size: int) -> tuple[list, Any]:
    """Draw a synthetic set of H.264 videos with whole-frame boxes; return its training videos and its index."""
    from dataloading import FaceIndex, read_dataset
    from dataloading.faces.prepare import prepare
    from dataloading.synthetic import synthesize

    synthesize(folder, identities=8, frames=24, size=size, workers=1, progress=False)
    dataset = read_dataset(folder)
    prepare(dataset, detect=False, workers=1)
    return dataset.split_videos("train"), FaceIndex.read(dataset.root)


def measure(videos: list, index: Any, decoder: str, device: str, workers: int, image_size: int, count: int) -> Row:
    """Return clips a second over one epoch, after one that warms up files, decoders and the graph."""
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


def measure_all(folder: Path, workers: list[int], size: int, count: int) -> Iterator[Row]:
    """Yield a record for each decoder and number of workers, on videos drawn into `folder`."""
    drawn, missing = attempt(partial(draw_set, folder, size))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for decoder, number in itertools.product(("pyav", "dali") if device == "cuda" else ("pyav",), workers):
        given = decoder, device, number, size, count
        measured, note = attempt(partial(measure, *drawn, *given)) if drawn else (None, missing)
        measured = measured or dict.fromkeys(("clips", "skipped", "clips_per_second"))
        row = {"decoder": decoder, "device": device, "workers": number, "image_size": size, "batch": BATCH}
        yield row | measured | {"note": note}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add sizes."""
    parser.add_argument("--workers", type=int, action="append", help="threads that decode (repeatable; default by CPU)")
    parser.add_argument("--image-size", type=int, help="pixels (default 300; 64 on a CPU)")
    parser.add_argument("--clips", type=int, help="clips an epoch (default 256; 24 on a CPU)")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure and write; return 1 if nothing could be measured."""
    on_gpu, cores = torch.cuda.is_available(), os.cpu_count() or 1
    workers = arguments.workers or sorted({1, min(4, cores), cores})
    size, count = arguments.image_size or (300 if on_gpu else 64), arguments.clips or (256 if on_gpu else 24)
    folder = output_folder(arguments.output, "loader", arguments.commit)
    with tempfile.TemporaryDirectory() as name:
        rows = write_as_measured(folder, "loader", measure_all(Path(name) / "set", workers, size, count), COLUMNS)
    print(row_table(COLUMNS, rows), folder, sep="\n\n")
    return 0 if any(row["clips_per_second"] for row in rows) else 1
