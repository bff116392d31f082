"""`istvt compare`: the paper's tables, of any detectors on any data sets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from dataloading.errors import InputError
from istvt.cli.console import print_lines, progress_bar, starting
from istvt.cli.options import check_device_name
from istvt.config import DetectorConfig

if TYPE_CHECKING:
    from istvt.comparison.pages import Comparison
    from istvt.comparison.tables import Table


def add(parser: ArgumentParser, base: DetectorConfig) -> None:
    """Add the options."""
    parser.add_argument("settings", type=Path, help="YAML file: detectors, data sets, seeds, perturbations")
    parser.add_argument(
        "--output", "--out", type=Path, default=Path("runs/comparison"), help="directory of everything written"
    )
    parser.add_argument(
        "--published", action="store_true", help="put the paper's numbers beside the measured ones, marked as published"
    )
    parser.add_argument(
        "--device",
        type=str,
        default="auto",
        help="auto, cpu, cuda or cuda:N; auto is every GPU of this machine, and several such as cuda:0,cuda:1 train a "
        "model each at a time",
    )
    parser.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="ray: the machines of a Ray cluster score the videos, while models are trained on this one",
    )
    parser.add_argument("--address", type=str | None, default=None, help="of the Ray cluster, as HOST:PORT")
    parser.add_argument(
        "--cores", type=int | None, default=None, help="with --engine ray: cores of each worker without a GPU"
    )


def run(options: Namespace, console: Console) -> int:
    """Train and evaluate several detectors and write the paper's tables of them, with intervals and paired tests.

      istvt compare compare.yaml --output runs/comparison

    The YAML file names what is compared; docs/comparing-detectors.md has every field:

      data:
        ffpp: {root: data/FaceForensics++}
        celeb: {root: data/Celeb-DF-v2}
      detectors:
        istvt: {architecture: istvt}
        stil: {architecture: stil}
        joint: {model: {attention: joint, self_subtract: false}, variant_of: istvt}
      train: [ffpp]
      test: [ffpp, celeb]
      seeds: [0, 1, 2]
      training: {epochs: 20}
      perturb: ["jpeg:10..50"]

    Everything is checked before anything is trained. A model that is there already is not trained again, and a
    comparison that was stopped goes on when the same command is given again. Tables I (within a set), II (across sets),
    III (variants) and of the tests are in comparison.md, .csv and .html, which has the curves too."""
    from istvt.cli.options import engine_of, shard_of

    for name in options.device.split(","):
        check_device_name(name)
    options.shard = None
    shard_of(options)
    if not options.settings.is_file():
        problem = "is a directory" if options.settings.is_dir() else "no such file"
        raise InputError(f"{options.settings}: {problem}; expected the YAML file of a comparison")
    with starting(console):
        from istvt.comparison.compare import compare
    with engine_of(options, console) as engine:
        result = compare(
            options.settings,
            options.output,
            device=options.device,
            published=options.published,
            engine=engine,
            console=console,
            bars=partial(progress_bar, console),
        )
    print_comparison(console, result)
    return 0


def print_comparison(console: Console, result: Comparison) -> None:
    """Print the tables, how they were made, and where the files are."""
    from istvt.comparison.tables import method_sentences

    print_tables(console, result.tables)
    print_lines(console, *result.results.notes, *method_sentences(result.results), style="dim")
    print_lines(console, f"\npage: {result.page}")


def print_tables(console: Console, tables: Sequence[Table]) -> None:
    """Print tables with their captions and notes."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Column
    from rich.table import Table as Grid
    from rich.text import Text

    for table in tables:
        columns = [Column(Text(name), justify="right" if place else "left") for place, name in enumerate(table.header)]
        grid = Grid(*columns, title=Text(table.title, "bold"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for row in table.rows:
            grid.add_row(*(Text(cell, no_wrap=False) for cell in row))
        console.print(grid)
        source = [f"Published, not measured here: {table.published}"] if table.published else []
        print_lines(console, *filter(None, [table.caption, *source, *table.notes, ""]), style="dim")
