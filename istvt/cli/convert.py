"""`istvt convert`: state dicts of the authors' code to checkpoints, and back."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from dataloading.errors import InputError
from istvt.cli.console import print_lines, starting
from istvt.config import DetectorConfig


def add(parser: ArgumentParser, base: DetectorConfig) -> None:
    """Add the options."""
    parser.add_argument("source", type=Path, help="a state dict of the authors' code (.pth), or a checkpoint")
    parser.add_argument("output", type=Path, help="the file to write: a checkpoint (.safetensors), or a state dict")
    parser.add_argument(
        "--to",
        choices=["auto", "checkpoint", "authors"],
        default="auto",
        help="what to write; auto: a state dict of the authors' code from a checkpoint, else a checkpoint",
    )
    parser.add_argument(
        "--heads", type=int, default=8, help="attention heads of the authors' model, which their file does not record"
    )


def run(options: Namespace, console: Console) -> int:
    """Convert a state dict of the ISTVT authors' released code into a checkpoint, or a checkpoint into one of theirs.

      istvt convert authors.pth published.safetensors
      istvt convert published.safetensors authors.pth

    Every number stays as it is, bit for bit, and only tensors are read: no code in a file is run. Of their Xception the
    entry flow is kept, which is all that the network uses. A checkpoint becomes one of theirs if its model is theirs
    (--preset published)."""
    source, output = options.source, options.output
    if output.is_dir():
        raise InputError(f"{output}: is a directory; expected a file to write")
    if not output.parent.is_dir():
        raise InputError(f"{output}: there is no directory {output.parent}; expected a file in one")
    if output.exists() and source.exists() and output.samefile(source):
        raise InputError(f"{output}: is the file to convert; expected another one to write")
    with starting(console):
        from istvt.device import versions
        from istvt.model.authors import load_authors, save_authors
        from istvt.model.checkpoint import CheckpointInfo, is_checkpoint, load_model, save_model

    to = options.to
    if to == "auto":
        to = "authors" if source.is_dir() or is_checkpoint(source) else "checkpoint"
    if to == "authors":
        model, _ = load_model(source)
        save_authors(output, model)
        format_written = "a state dict of the authors' code"
    else:
        model, ignored = load_authors(source, options.heads)
        save_model(output, model, CheckpointInfo(model.config, versions=versions()))
        format_written = f"a checkpoint; {len(ignored)} tensors of Xception beyond the entry flow were ignored"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print_lines(console, f"{output}: {parameters:,} parameters as {format_written}")
    return 0
