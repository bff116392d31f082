"""`istvt train`: training runs."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace
from rich.console import Console

from istvt.cli.console import print_lines, starting
from istvt.cli.options import LATEST_RUN, add_device, add_model, check_default_data, check_device_name, settings_of
from istvt.cli.parser import OptionParser
from istvt.config import DataSettings, DetectorConfig, Tracker, TrainingSettings
from istvt.model.architectures import architecture, recommended_training


def add(parser: OptionParser, base: DetectorConfig) -> None:
    """Add the options."""
    parser.add_argument(
        "--output",
        "--out",
        type=Path,
        default=LATEST_RUN,
        help="directory of the run: best.safetensors, checkpoints, curves",
    )
    add_device(parser)
    parser.add_data_set("data")
    add_model(parser, base)
    parser.add_class_arguments(TrainingSettings, "training")
    parser.set_defaults({"data.region": architecture(base.architecture).region})
    parser.set_defaults({f"training.{name}": value for name, value in recommended_training(base).items()})
    parser.add_argument("--tracker", type=Tracker | None, default=None, help="short for --training.tracker")
    parser.add_argument(
        "--backbone-weights", type=Path | None, default=None, help="short for --training.backbone_weights"
    )


def run(options: Namespace, console: Console) -> int:
    """Train a detector, validate it by video each epoch, keep the checkpoint with the best validation AUC.

      istvt train --data data/FaceForensics++ --preset seed --backbone-weights xception.pth --output runs/ffpp

    A run that was stopped or killed goes on from its last checkpoint when the same command is given again: there is one
    before and after the validation of each epoch, and more every so many minutes or steps."""
    from dataloading.layouts import require_directory

    if options.backbone_weights is not None:
        options.training.backbone_weights = options.backbone_weights
    if options.tracker is not None:
        options.training.tracker = options.tracker
    data = settings_of(DataSettings, options.data)
    model = settings_of(architecture(options.model.architecture).config, options.model)
    training = settings_of(TrainingSettings, options.training)
    check_device_name(options.device)
    check_default_data(data)
    require_directory(data.root)
    with starting(console):
        from istvt.training.trainer import train
    result = train(data, model, training, options.output, device=options.device, console=console)
    print_lines(console, f"best epoch {result.best_epoch}: {result.checkpoint}")
    return 0
