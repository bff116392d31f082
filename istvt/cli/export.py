"""`istvt export`: a checkpoint as a `torch.export` program or as ONNX."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from dataloading.errors import InputError
from istvt.cli.console import print_lines, progress_bar, starting
from istvt.config import DetectorConfig


def add(parser: ArgumentParser, base: DetectorConfig) -> None:
    """Add the options."""
    parser.add_argument("checkpoint", type=Path, help="a .safetensors file of istvt train, or the run's directory")
    parser.add_argument(
        "--output", "--out", type=Path, required=True, help="the file to write: NAME.pt2 (torch.export) or NAME.onnx"
    )


def run(options: Namespace, console: Console) -> int:
    """Write a checkpoint as a program for other runtimes, and check its logits before the file stays.

      istvt export runs/ffpp --output model.onnx

    NAME.pt2 is a torch.export program, which PyTorch runs without this project; NAME.onnx is ONNX of opset 23, which
    takes pip install 'istvt[export]'. Both take float32 clips [clips, frames, 3, size, size] in [-1, 1], any number of
    them, and return one logit a clip, positive = fake. The file's metadata describes the preprocessing: size, crop,
    colors, frames, and what a logit means. Kernels of this project are not in it."""
    output = options.output
    if not output.parent.is_dir():
        raise InputError(f"{output}: there is no directory {output.parent}; expected a file in one")
    with starting(console):
        from istvt.inference.export import export
    with progress_bar(console, "exporting") as update:
        written = export(options.checkpoint, output, advance=lambda what, done, total: update(done, total, what))
    print_lines(
        console,
        f"{output}: {written.format}, {output.stat().st_size / 2**20:,.1f} MiB; logits of {written.clips} drawn clips "
        f"differ from the model's by at most {written.difference:.1e}, and among themselves by {written.spread:.1e}",
    )
    for caveat in written.metadata["checkpoint"]["caveats"]:
        print_lines(console, caveat, style="yellow")
    return 0
