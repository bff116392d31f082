"""`istvt dataset`: the videos of a data set by class, split and manipulation."""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from istvt.cli.console import print_lines, starting
from istvt.cli.options import add_dataset
from istvt.config import ISTVTConfig


def add(parser: ArgumentParser, base: ISTVTConfig) -> None:
    """Add the options."""
    add_dataset(parser)
    parser.add_argument("--list", dest="list_all", action="store_true", help="name every file that is left out")


def run(options: Namespace, console: Console) -> int:
    """Print what a data set holds: videos by class, split and manipulation, and what is left out and why."""
    with starting(console):
        from dataloading import format_summary, read_dataset

    dataset = read_dataset(options.dataset, options.layout, options.compression, options.originals)
    print_lines(console, format_summary(dataset.summary()))
    if options.list_all:
        print_lines(console, *(f"  {item.path}: {item.reason}" for item in dataset.left_out))
    return 0
