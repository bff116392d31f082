"""`istvt calibrate`: the temperature of a checkpoint that has none, from its validation videos."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from dataloading.dataset import SPLITS
from dataloading.errors import InputError
from istvt.cli.console import print_lines, progress_bar, starting
from istvt.cli.options import add_device, add_precision, check_counts, check_device_name
from istvt.config import DataSettings, DetectorConfig

MAX_ERRORS = (0.01, 0.02, 0.05, 0.1, 0.2)
_Z = NormalDist().inv_cdf(0.975)


def add(parser: ArgumentParser, base: DetectorConfig) -> None:
    """Add the options."""
    parser.add_argument("checkpoint", type=Path, help="a .safetensors file, or the directory of a run")
    parser.add_argument(
        "--root",
        type=Path | None,
        default=None,
        help="the data set, where it is not at the place that the checkpoint says it was trained on; of an adapted "
        "checkpoint, in place of all that it learned",
    )
    parser.add_argument(
        "--output", "--out", type=Path | None, default=None, help="the file to write; default: the checkpoint itself"
    )
    parser.add_argument(
        "--split", choices=SPLITS, default="val", help="val as in training, or one that the model has not seen"
    )
    parser.add_argument(
        "--replace", action="store_true", help="calibrate again a checkpoint that has a calibration already"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="clips scored together; fewer take less memory")
    add_device(parser)
    add_precision(parser)


def run(options: Namespace, console: Console) -> int:
    """Give a checkpoint of an earlier version what `predict --max-error` needs, from its validation videos.

      istvt calibrate runs/old

    These are scored, and their scores and the temperature that fits them are kept in the checkpoint.

    Its weights stay as they are, bit for bit, and so does every verdict. Its checksum is another one afterwards: an
    evaluation of before counts as one of another model."""
    check_counts(options, "batch_size")
    check_device_name(options.device)
    output = options.output
    if output is not None and output.is_dir():
        raise InputError(f"--output {output}: is a directory; expected a file to write")
    if output is not None and not output.parent.is_dir():
        raise InputError(f"--output {output}: there is no directory {output.parent}; expected a file in one")
    with starting(console):
        from istvt.inference.calibration import band_of, calibrate_checkpoint, temperature_interval
        from istvt.model.checkpoint import learned_sets, read_info
        from istvt.run_dir import MODEL_FILE, model_file, only_run
    file = model_file(options.checkpoint)
    info = read_info(file)
    if info.calibration is not None and not options.replace:
        raise InputError(f"checkpoint {file}: has a calibration; expected --replace, which makes it again")
    data = None
    if options.root is not None:
        data = [replace((learned_sets(info, file) or [DataSettings()])[0], root=options.root)]
    # A run that is training writes this file itself.
    in_run = (output or file).name == MODEL_FILE
    lock = only_run((output or file).parent) if in_run else contextlib.nullcontext()
    with lock, progress_bar(console, "scoring clips") as update:
        how = {name: options[name] for name in ("split", "device", "precision", "batch_size")}
        found = calibrate_checkpoint(file, data, output, **how, advance=update)
    made = found.calibration
    low, high = temperature_interval(made, _Z)
    print_lines(
        console,
        *(f"{video.name}: {reason}" for video, reason in found.skipped),
        f"temperature {made.temperature:.2f} (95% interval {low:.2f} to {high:.2f}), of {len(made.real)} real and "
        f"{len(made.fake)} fake videos of the {options.split} split",
    )
    for max_error in MAX_ERRORS:
        try:
            print_lines(console, f"  --max-error {max_error:g}: {band_of(made, max_error)}")
        except InputError as error:
            print_lines(console, f"  {error}", style="dim")
    print_lines(console, f"calibrated: {found.file}")
    return 0
