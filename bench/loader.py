"""Clips a second of the loader: H.264 videos on disk to clips on the device, by decoder and number of workers.

Draws a small synthetic set first (dataloading/synthetic), into a folder that is removed afterwards. A decoder or a
package that is not there gives a row that says so: a bare GPU machine has neither DALI nor PyAV.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from bench.common.record import Row, add_output, failure, output_folder, write_table
from bench.common.table import Column, row_table

COLUMNS = (
    *map(Column, ("decoder", "device", "workers")), Column("pixels", "image_size"),
    *map(Column, ("batch", "clips", "skipped")), Column("clips/s", "clips_per_second", ".1f"), Column("note"),
)  # fmt: skip
NEEDED = ("av", "cv2", "nvidia.dali")


def missing_packages() -> list[str]:
    """Which of the packages that the loader needs cannot be imported here."""
    import importlib

    missing = []
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    return missing


def draw_set(folder: Path, size: int, frames: int, identities: int) -> tuple[list, object]:
    """A synthetic set of H.264 videos with whole-frame boxes: its training videos and its index."""
    from dataloading import FaceIndex, read_dataset
    from dataloading.faces.prepare import prepare
    from dataloading.synthetic import synthesize

    synthesize(folder, identities=identities, frames=frames, size=size, workers=1, progress=False)
    dataset = read_dataset(folder)
    prepare(dataset, detect=False, workers=1)
    index = FaceIndex.read(dataset.root)
    return [video for video in dataset.videos if video.split == "train"], index


def measure(
    videos: list, index: object, decoder: str, device: str, workers: int, image_size: int, batch: int, count: int
) -> Row:
    """Clips a second over one epoch, after one that warms up files, decoders and the graph."""
    import torch

    from dataloading.clips.loader import ClipLoader
    from dataloading.clips.sampling import TrainingClips

    row = _row(decoder, device, workers, image_size, batch)
    clips = TrainingClips(videos, index, clips_per_video=-(-count // len(videos))).epoch(0)
    loader = ClipLoader(clips, batch, image_size, augment=True, device=device, decoder=decoder, workers=workers)
    for _ in loader:
        pass
    started, seen = time.perf_counter(), 0
    for loaded in loader:
        seen += len(loaded.labels)
    if device == "cuda":
        torch.cuda.synchronize()
    row |= {"clips": seen, "skipped": len(loader.skipped), "clips_per_second": seen / (time.perf_counter() - started)}
    return row


def _row(decoder: str, device: str, workers: int, image_size: int, batch: int, note: str = "") -> Row:
    return {
        "decoder": decoder, "device": device, "workers": workers, "image_size": image_size, "batch": batch,
        "clips": None, "skipped": None, "clips_per_second": None, "note": note,
    }  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes."""
    parser.add_argument("--workers", type=int, action="append", help="threads that decode (repeatable; default by CPU)")
    parser.add_argument("--image-size", type=int, help="pixels (default 300; 64 on a CPU)")
    parser.add_argument("--clips", type=int, help="clips an epoch (default 256; 24 on a CPU)")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure and write; 1 if nothing could be measured."""
    import os

    import torch

    on_gpu = torch.cuda.is_available()
    size = arguments.image_size or (300 if on_gpu else 64)
    count = arguments.clips or (256 if on_gpu else 24)
    cores = os.cpu_count() or 1
    workers = arguments.workers or sorted({1, min(4, cores), cores})
    plan = [("pyav", "cuda" if on_gpu else "cpu"), *([("dali", "cuda")] if on_gpu else [])]
    batch = 8
    folder = output_folder(arguments.output, "loader", arguments.commit)
    rows: list[Row] = []
    if missing := missing_packages():
        note = f"not measured: {', '.join(missing)} cannot be imported here"
        rows = [_row(decoder, device, n, size, batch, note) for decoder, device in plan for n in workers]
        write_table(folder, "loader", rows)
    else:
        with tempfile.TemporaryDirectory() as name:
            videos, index = draw_set(Path(name) / "set", size, frames=24, identities=8)
            for decoder, device in plan:
                for number in workers:
                    rows.append(_safely(videos, index, decoder, device, number, size, batch, count))
                    write_table(folder, "loader", rows)  # what is measured is kept if the run is cut short
                    print(f"{decoder} {number} workers", file=sys.stderr, flush=True)
    print(row_table(COLUMNS, rows))
    print(f"\n{folder}")
    return 0 if any(row["clips_per_second"] for row in rows) else 1


def _safely(videos, index, decoder: str, device: str, workers: int, size: int, batch: int, count: int) -> Row:
    try:
        return measure(videos, index, decoder, device, workers, size, batch, count)
    except Exception as error:
        return _row(decoder, device, workers, size, batch, failure(error))
