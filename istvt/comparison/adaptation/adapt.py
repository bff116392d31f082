"""A detector is adapted to a new data set, and evaluated before and after on this set and on those that it knew.

    gradient = mean over the clips of a batch of  cross-entropy(label, z)                     new and rehearsed clips
                                                + w tau^2 KL(sigmoid(z_old/tau) || sigmoid(z/tau))    rehearsed clips

z is the logit of the network that learns, z_old that of the network it started from. Clips of the old data sets among
the new ones (rehearsal) and the old network's probabilities as targets on them (distillation) keep what was learned; a
plain continuation has neither. Ideas: Khan and Dai, "Video Transformer for Deepfake Detection with Incremental
Learning", ACM Multimedia 2021, who fine-tune on few videos of a new data set; Li and Hoiem, "Learning without
Forgetting", ECCV 2016, for distillation from the old network. The best epoch has the highest mean of the validation
AUCs of all sets.

    OUTPUT/                                      a run of its own, as of `istvt train`
    OUTPUT/evaluations/{before,after}-{new,old}/ the evaluations, as of `istvt evaluate`
    OUTPUT/adaptation.md, .html, .json           what changed
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from dataloading.dataset import only_class
from dataloading.errors import InputError
from dataloading.layouts import open_dataset, require_directory
from istvt.comparison.adaptation.pages import AdaptationResult, SetChange, change_of, write_adaptation
from istvt.comparison.models import Bars, no_bars
from istvt.config import Adaptation, AdaptationSettings, DataSettings, TrainingSettings
from istvt.model.checkpoint import CheckpointInfo, learned_sets, read_info
from istvt.report.evaluate_checkpoint import evaluate_checkpoint, is_evaluated
from istvt.report.evaluation_files import read_evaluation
from istvt.run_dir import MODEL_FILE, TRAINING_STATES, model_file
from istvt.training.trainer import train

NEW, OLD = "new", "old"


@dataclass(frozen=True)
class _Start:
    """What is adapted: the old network's file and metadata, and the data sets by name, the new one first."""

    checkpoint: Path
    info: CheckpointInfo
    sets: Mapping[str, DataSettings]

    @property
    def old(self) -> tuple[DataSettings, ...]:
        return tuple(data for name, data in self.sets.items() if name != NEW)


def adapt(
    checkpoint: str | Path,
    data: DataSettings,
    output: str | Path,
    *,
    keep: DataSettings | Sequence[DataSettings] | None = None,
    settings: AdaptationSettings | None = None,
    training: TrainingSettings | None = None,
    split: str = "test",
    device: str = "auto",
    precision: str = "auto",
    bootstrap: int = 2000,
    console: Console | None = None,
    bars: Bars = no_bars,
) -> AdaptationResult:
    """Continue a trained detector on a new data set, and report what it knows before and after.

    A call that was stopped goes on where it was. With several processes (torchrun) the first one evaluates and writes.

    Args:
        checkpoint: model file of the old network, of any architecture, or the directory of its run, which stays as it
            is.
        data: the new data set, with videos of both classes. Clips are cropped to the region of the checkpoint.
        output: directory of the new run.
        keep: the data sets that the old network learned; None for those that its checkpoint names: its own, and of an
            adapted one those that it kept.
        settings: rehearsal and distillation.
        training: of the new run; None for the defaults.
        split: that is evaluated.
        device: "auto", "cpu", "cuda" or "cuda:N"; under torchrun "cuda" is one GPU a process.
        precision: of the evaluations.
        bootstrap: resamples behind the intervals.
        console: for the progress of training; None for none.
        bars: shows that of evaluations.

    Returns:
        The changes; the new model file is its `checkpoint`. In other processes than the first it has no changes.

    Raises:
        InputError: there is no such checkpoint, a data set is missing, has one class or no videos to evaluate, or
            `output` is the old run or holds something else; before anything is written.
    """
    settings = settings or AdaptationSettings()
    training = training or TrainingSettings()
    if training.backbone_weights is not None:
        raise InputError(
            "training.backbone_weights is given, but an adapted run starts from another run; expected none"
        )
    start = _checked(checkpoint, data, Path(output), keep, split)
    adaptation = Adaptation(start.checkpoint, start.info.checksum, start.old, settings)
    trained = train(
        start.sets[NEW], start.info.config, training, output, adaptation=adaptation, device=device, console=console
    )
    if os.environ.get("RANK", "0") != "0":
        return AdaptationResult(str(start.checkpoint), str(trained.checkpoint), trained.best_epoch, settings, [])
    how = {"split": split, "precision": precision, "bootstrap": bootstrap}
    models = {"before": start.checkpoint, "after": trained.checkpoint}
    changes: list[SetChange] = []
    for name, each in start.sets.items():
        found = {}
        for when, model in models.items():
            place = Path(output) / "evaluations" / f"{when}-{name}"
            if not is_evaluated(model, each, place, **how):
                with bars(f"{when}, {name} set") as update:
                    evaluate_checkpoint(model, each, place, **how, device=device, resumable=True, advance=update)
            found[when] = read_evaluation(place)[1]
        changes.append(change_of(name, each, found["before"], found["after"], bootstrap))
    result = AdaptationResult(
        str(start.checkpoint), str(trained.checkpoint), trained.best_epoch, settings, changes, split, bootstrap
    )
    return write_adaptation(result, Path(output))


def _checked(
    checkpoint: str | Path,
    data: DataSettings,
    output: Path,
    keep: DataSettings | Sequence[DataSettings] | None,
    split: str,
) -> _Start:
    """Return what is adapted, after all that can be known before anything is written."""
    checkpoint = model_file(checkpoint)
    info = read_info(checkpoint)
    run = checkpoint.parent.resolve()
    if output.resolve() == run or run in output.resolve().parents:
        raise InputError(f"{output} is in the run that is adapted, which stays as it is; choose another --output")
    if (output / MODEL_FILE).exists() and not (output / TRAINING_STATES).is_dir():
        raise InputError(f"{output} holds a model that this command has not written; choose another --output")
    if keep is None:
        old = _known_sets(checkpoint, info)
    else:
        old = [keep] if isinstance(keep, DataSettings) else list(keep)
    names = [NEW, OLD, *(f"{OLD}-{number}" for number in range(2, len(old) + 1))]
    # Crops of another part of the face would be nothing that the network knows.
    sets = {name: replace(each, region=info.region) for name, each in zip(names, [data, *old], strict=False)}
    for name, each in sets.items():
        _require_classes(name, each, split)
    return _Start(checkpoint, info, sets)


def _known_sets(checkpoint: Path, info: CheckpointInfo) -> list[DataSettings]:
    """Return the data sets that a network learned, by its checkpoint.

    Raises:
        InputError: it names none, or one is not there.
    """
    sets = learned_sets(info, checkpoint)
    if not sets:
        raise InputError(f"checkpoint {checkpoint}: names no data set that it learned; expected one by --keep")
    for each in sets:
        try:
            require_directory(each.root)
        except InputError as error:
            raise InputError(f"{each.root}, which {checkpoint} learned, is not there; expected it by --keep") from error
    return sets


def _require_classes(name: str, data: DataSettings, split: str) -> None:
    """Refuse a data set without both classes where they are learned or measured.

    Raises:
        InputError: it is not there, or lacks a class or a split.
    """
    dataset, _ = open_dataset(**data.source)
    for part in dict.fromkeys(("train", "val", split)):
        only = only_class(dataset.split_videos(part))
        if only is not None and part != "val":
            raise InputError(
                f"{data.root}, the {name} data set, has only {only} videos in its {part} split; expected both classes"
            )
