"""`istvt dataset`: the videos of a data set by class, split and manipulation."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from dataloading.errors import InputError
from istvt.cli import PROBLEM_FOUND
from istvt.cli.console import counted, print_lines, progress_bar, starting
from istvt.cli.options import add_dataset
from istvt.config import DetectorConfig


def add(parser: ArgumentParser, base: DetectorConfig) -> None:
    """Add the options."""
    add_dataset(parser)
    parser.add_argument("--list", dest="list_all", action="store_true", help="name every file that is left out")
    parser.add_argument("--verify", action="store_true", help="of a crop store: read every file and check its checksum")


def run(options: Namespace, console: Console) -> int:
    """Print what a data set holds: videos by class, split and manipulation, and what is left out and why.

      istvt dataset data/FaceForensics++

    With --verify every file of a crop store is read again and compared with its checksum; those that are not what was
    written are listed (the exit status is 1 then)."""
    with starting(console):
        from dataloading import format_summary, read_dataset
        from dataloading.clips.store import MANIFEST, is_store
        from dataloading.layouts import local_root, require_directory

    if options.verify:
        require_directory(options.dataset)
        root = local_root(options.dataset)
        if not is_store(root):
            raise InputError(f"--verify checks a crop store, and {options.dataset} has no {MANIFEST}; expected one")
        return _verify(root, console)

    dataset = read_dataset(options.dataset, options.layout, options.compression, options.originals)
    print_lines(console, format_summary(dataset.summary()))
    if options.list_all:
        print_lines(console, *(f"  {item.path}: {item.reason}" for item in dataset.left_out))
    return 0


def _verify(root: Path, console: Console) -> int:
    """Print what is not as it was written to a crop store."""
    from dataloading.clips.cutting import verify

    with progress_bar(console, "reading files") as update:
        count, problems = verify(root, update)
    print_lines(console, *problems)
    if problems:
        again = "delete what is named in it, and `istvt prepare` with its --crops writes it again"
        print_lines(console, f"{root}: {counted(len(problems), 'file')} of {count} differ; {again}")
        return PROBLEM_FOUND
    print_lines(console, f"{root}: all {counted(count, 'file')} are what was written")
    return 0
