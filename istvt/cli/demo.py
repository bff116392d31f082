"""`istvt demo`."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from istvt.cli.console import starting
from istvt.config import ISTVTConfig


def add(parser: ArgumentParser, base: ISTVTConfig) -> None:
    """The options."""
    parser.add_argument("--output", "--out", type=Path, default=Path("runs/demo"), help="directory of all it writes")


def run(options: Namespace, console: Console) -> int:
    """The whole path in a few minutes: draw videos, prepare, train, evaluate on unseen people, score a fresh video.

    Run again, it uses what is already there."""
    with starting(console):
        from istvt.cli.run_demo import demo

    return demo(options.output, console)
