"""`istvt prepare`: the face index of a data set."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from istvt.cli import PROBLEM_FOUND
from istvt.cli.console import print_lines, starting
from istvt.cli.options import add_dataset
from istvt.config import ISTVTConfig


def add(parser: ArgumentParser, base: ISTVTConfig) -> None:
    """Add the options."""
    add_dataset(parser)
    parser.add_argument(
        "--detector", type=str, default="auto", help="yuface, dlib, opencv; auto takes the best installed"
    )
    parser.add_argument("--no-detect", dest="no_detect", action="store_true", help="videos are face crops already")
    parser.add_argument("--boxes", type=Path | None, default=None, help="JSON file of face boxes made elsewhere")
    parser.add_argument("--every", type=int, default=5, help="look for the face in every N-th frame")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="prepare videos again whose boxes were made in another way than these options ask for",
    )


def run(options: Namespace, console: Console) -> int:
    """Find the main face of every video of a data set and write its boxes to face_index.jsonl in the set's root.

    Goes on where an earlier run stopped. A video without a face, too short for a clip or damaged is listed at the end
    with the reason, and never stops the run (the exit status is 1 then)."""
    with starting(console):
        from dataloading import format_summary, read_dataset
        from dataloading.faces.prepare import prepare, unusable

    dataset = read_dataset(options.dataset, options.layout, options.compression, options.originals)
    index = prepare(
        dataset,
        detector=options.detector,
        detect=not options.no_detect,
        boxes=options.boxes,
        every=options.every,
        workers=options.workers,
        replace=options.replace,
        before=lambda: print_lines(console, format_summary(dataset.summary())),
    )
    return PROBLEM_FOUND if unusable(index, dataset.videos) else 0
