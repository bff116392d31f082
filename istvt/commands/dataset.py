"""`istvt dataset`."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from ..config import ISTVTConfig


def add(parser: ArgumentParser, base: ISTVTConfig) -> None:
    """The options."""
    parser.add_argument("dataset", type=Path, help="root of the data set")
    parser.add_argument("--layout", type=str, default="auto", help="its layout; auto recognises it")
    parser.add_argument("--compression", type=str, default="c23", help="FaceForensics++ compression: raw, c23, c40")
    parser.add_argument(
        "--originals", type=Path | None, default=None, help="DeeperForensics: root with the real videos"
    )
    parser.add_argument("--list", dest="list_all", action="store_true", help="name every file that is left out")


def run(options: Namespace, console: Console) -> int:
    """Say what a data set holds: videos by class, split and manipulation, and what is left out and why."""
    from dataloading import format_summary, read_dataset

    dataset = read_dataset(options.dataset, options.layout, options.compression, options.originals)
    console.print(format_summary(dataset.summary()), markup=False, highlight=False)
    if options.list_all:
        for item in dataset.left_out:
            console.print(f"  {item.path}: {item.reason}", markup=False, highlight=False, soft_wrap=True)
    return 0
