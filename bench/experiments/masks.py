"""Masks: whether the Y-shaped network and ISTVT's mask head find forgeries that differ in where and when they are.

Each is trained with one seed on `blend` of a varied synthetic set, in which half of the fakes are forged in one half of
the face only, and half in one or two of each six frames only; it is judged on people that it has never seen, beside
masks that need no network. What is finished is kept in the output folder, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.report.markdown import replace_section, table
from istvt.config import PRESETS, DataSettings, DetectorConfig, TrainingSettings
from istvt.model.architectures import model_preset

if TYPE_CHECKING:
    from rich.console import Console

    from istvt.evaluation.results import Estimate, MaskRow
    from istvt.report.evaluation_files import StoredEvaluation

IDENTITIES, SPLITS, VIDEO_SIZE, VIDEO_FRAMES = 160, (0.6, 0.1, 0.3), 96, 16
MASK_HEAD = 4
DETECTORS: dict[str, DetectorConfig] = {
    "istvt": replace(PRESETS["small"], mask_head=MASK_HEAD),
    "y_network": model_preset("y_network"),
}
KIND, CLIPS, TRAIN_CLIPS = "blend", 2, 3  # clips of each video: in evaluation, and random ones in an epoch
EPOCHS = {"istvt": 14, "y_network": 6}
TRAINING = TrainingSettings(batch_size=8, learning_rate=1e-3, execution="eager", tracker="none")
SECTION = "masks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where to write, and which part."""
    parser.add_argument("--output", type=Path, default=Path("runs/masks"), help="folder of the videos and runs")
    parser.add_argument("--document", type=Path, help="also write the table between the markers of this file")
    parser.add_argument("--detectors", nargs="+", choices=list(DETECTORS), metavar="NAME", help="only these")


def run(arguments: argparse.Namespace) -> int:
    """Run what is missing, print the table and write it."""
    from rich.console import Console

    names = arguments.detectors or list(DETECTORS)
    found = dict(measure(arguments.output, names, Console()))
    text = section(found)
    print(f"\n{text}")
    if arguments.document:
        arguments.document.write_text(replace_section(arguments.document.read_text(), SECTION, text))
        print(f"written to {arguments.document}")
    return 0


def draw(output: Path) -> Path:
    """Draw the videos, as far as they are not there; return their folder."""
    from dataloading import read_dataset
    from dataloading.face_index import FILE_NAME
    from dataloading.faces.prepare import prepare
    from dataloading.synthetic import synthesize

    folder = output / "videos"
    if not (folder / FILE_NAME).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        how = {"frames": VIDEO_FRAMES, "size": VIDEO_SIZE, "splits": SPLITS, "varied": True}
        synthesize(folder, identities=IDENTITIES, **how)
        prepare(read_dataset(folder), detect=False)
    return folder


def measure(output: Path, names: Iterable[str], console: Console) -> Iterator[tuple[str, StoredEvaluation]]:
    """Train and evaluate what is missing; yield the evaluation of each detector."""
    from istvt.cli.console import progress_bar
    from istvt.report.evaluate_checkpoint import evaluate_checkpoint, is_evaluated
    from istvt.report.evaluation_files import read_evaluation
    from istvt.training.trainer import train

    data = DataSettings(root=draw(output), manipulations=[KIND], evaluation_clips=CLIPS, train_clips=TRAIN_CLIPS)
    for name in names:
        folder = output / name
        how = {"split": "test", "precision": "float32", "bootstrap": 2000}
        console.rule(name)
        training = replace(TRAINING, epochs=EPOCHS[name], warmup_epochs=0.1 * EPOCHS[name])
        train(data, DETECTORS[name], training, folder, console=console)
        if not is_evaluated(folder, data, folder / "evaluation", **how):
            with progress_bar(console, f"scoring with {name}") as update:
                evaluate_checkpoint(folder, data, folder / "evaluation", **how, advance=update)
        yield name, read_evaluation(folder / "evaluation")[0]


def section(found: dict[str, StoredEvaluation]) -> str:
    """Return the table of detectors and of masks without a network, and a sentence on what was measured."""
    above = "above the mean mask"
    header = ["", "AUC", "IoU", above, "IoU of fakes", above, "pixels right", "of fakes"]
    rows, without = [], []
    for name, evaluation in found.items():
        model, *others = evaluation.masks.rows
        [mean] = [row for row in others if row.name.startswith("mean")]
        pooled, of_fakes = (model.pooled_iou, mean.model_above_pooled), (model.iou, mean.model_above)
        rows.append(
            [
                f"`{name}`, {EPOCHS[name]} epochs",
                *map(_value, (evaluation.videos.auc, *pooled, *of_fakes, *_right(model))),
            ]
        )
        without = [
            [row.name, "", _value(row.pooled_iou), "", _value(row.iou), "", *map(_value, _right(row))] for row in others
        ]
    of = next(iter(found.values())).masks
    return (
        f"{table(header, [*rows, *without], align='lrrrrrrr')}\n\nOne training each, the preset `small`, 95 % "
        f"intervals over videos: {of.real} real and {of.fake} forged videos of people that were not "
        f"trained on. The first IoU is that of all their pixels together, real ones included; that of fakes, and "
        f"pixels right, are means over videos. Of the pixels of a fake {100 * of.forged_share:.1f} % are forged."
    )


def _right(row: MaskRow) -> tuple[Estimate, Estimate]:
    return row.accuracy, row.accuracy_of_fakes


def _value(estimate: Estimate) -> str:
    return f"{estimate.value:.3f}" if estimate.low is None else str(estimate)
