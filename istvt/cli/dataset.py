"""`istvt dataset`."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from istvt.cli.options import add_dataset
from istvt.config import ISTVTConfig


def add(parser: ArgumentParser, base: ISTVTConfig) -> None:
    """The options."""
    add_dataset(parser)
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
