"""`istvt experiment`."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from istvt.cli.console import starting
from istvt.config import ISTVTConfig


def add(parser: ArgumentParser, base: ISTVTConfig) -> None:
    """The options."""
    parser.add_argument("--output", "--out", type=Path, default=Path("runs/experiment"), help="directory of the runs")
    parser.add_argument("--documents", type=Path | None, default=None, help="also write its pages to this directory")
    parser.add_argument(
        "--readme", type=Path | None, default=None, help="also write a short table between this file's markers"
    )


def run(options: Namespace, console: Console) -> int:
    """What each attention can see: train `spatial_only` and the full model on the synthetic set, with several seeds.

    The first judges each frame alone and cannot see flicker; the full model can; both see blend. Then measure whether
    the explanations of the full models are true of them: deletion curves, pointing game, heat inside the mask."""
    with starting(console):
        from bench.experiments.synthetic import experiment

    return experiment(options.output, console, options.documents, options.readme)
