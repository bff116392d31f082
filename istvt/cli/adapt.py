"""`istvt adapt`: a trained detector learns a new forgery and keeps what it knows."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from jsonargparse import Namespace
from rich.console import Console

from dataloading.dataset import SPLITS
from dataloading.errors import InputError
from istvt.cli.compare import print_tables
from istvt.cli.console import print_lines, progress_bar, starting
from istvt.cli.options import (
    add_checkpoint,
    add_device,
    add_precision,
    check_architecture,
    check_checkpoint,
    check_counts,
    check_default_data,
    check_device_name,
    settings_of,
)
from istvt.cli.parser import OptionParser
from istvt.config import AdaptationSettings, DataSettings, DetectorConfig, TrainingSettings

_OF_NEW_SET = {"train_clips", "decoder", "workers"}  # those of the old one are the new one's
_OF_CHECKPOINT = {"region"}


def add(parser: OptionParser, base: DetectorConfig) -> None:
    """Add the options."""
    add_checkpoint(parser, "--from")
    parser.add_argument(
        "--output",
        "--out",
        type=Path,
        default=Path("runs/adapted"),
        help="directory of the new run, never that of --from",
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="that is evaluated before and after")
    parser.add_argument("--bootstrap", type=int, default=2000, help="resamples behind the intervals")
    add_device(parser)
    add_precision(parser)
    parser.add_data_set("data", skip=_OF_CHECKPOINT)
    parser.add_data_set("keep", skip={"root", *_OF_NEW_SET, *_OF_CHECKPOINT})
    parser.groups["keep"].title = "Settings of the data set that the detector learned"
    parser.add_argument(
        "--keep.root",
        type=Path | None,
        default=None,
        help="the data set that the detector learned; default: what the checkpoint says of it",
    )
    parser.add_class_arguments(AdaptationSettings, "adaptation")
    parser.add_class_arguments(TrainingSettings, "training", skip={"backbone_weights"})


def run(options: Namespace, console: Console) -> int:
    """Teach a trained detector a new forgery, so that it keeps what it knows, and report both before and after.

      istvt adapt --from runs/old --data data/new --output runs/adapted

    Clips of the data sets that it learned are mixed with the new ones (rehearsal: --adaptation.rehearsal), and on these
    the new network keeps to the old one's probabilities (--adaptation.distillation). The old data set is the one that
    the checkpoint names, or --keep DIR; a few of its videos are better than none. The new one needs videos of both
    classes. --data and --keep take a directory, or options of a group, such as --data.manipulations FaceShifter.

    The result is a run of its own, as of `istvt train`, of the same architecture; the old run stays as it is. It goes
    on where it was stopped when the same command is given again. adaptation.md, .html and .json in it hold accuracy and
    AUC on new and old videos before and after, with 95 % intervals."""
    from dataloading.layouts import require_directory

    check_counts(options, "bootstrap")
    check_device_name(options.device)
    data, keep = settings_of(DataSettings, options.data), _kept(options.keep)
    training = settings_of(TrainingSettings, options.training)
    settings = settings_of(AdaptationSettings, options.adaptation)
    check_checkpoint(options, "from")
    check_default_data(data)
    for each in filter(None, (data, keep)):
        require_directory(each.root)
    with starting(console):
        from istvt.comparison.adaptation.adapt import adapt
    check_architecture(options, "from")
    result = adapt(
        options["from"],
        data,
        options.output,
        keep=keep,
        settings=settings,
        training=training,
        **{name: options[name] for name in ("split", "device", "precision", "bootstrap")},
        console=console,
        bars=partial(progress_bar, console),
    )
    if result.page:
        print_tables(console, [result.table])
        print_lines(console, *result.notes, *result.method, style="dim")
        print_lines(console, f"\npage: {result.page}")
    return 0


def _kept(options: Namespace) -> DataSettings | None:
    """Return the old data set that is given, if one is."""
    if options.root is not None:
        return settings_of(DataSettings, options)
    given = [name for name, value in options.as_dict().items() if value != getattr(DataSettings, name, None)]
    if given := [name for name in given if name not in ("root", "__path__")]:
        raise InputError(f"--keep.{given[0]} is given without --keep DIR, whose videos it selects")
    return None
