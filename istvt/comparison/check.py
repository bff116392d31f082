"""Checks of a comparison before anything is trained: data sets, clips, checkpoints, perturbations, memory, runs.

What does not fit is one sentence that names the place in the settings file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataloading.clips.sampling import Clips
from dataloading.dataset import Dataset
from dataloading.errors import InputError
from dataloading.face_index import FaceIndex
from dataloading.faces.prepare import prepare
from dataloading.layouts import index_of_region, open_dataset, read_dataset
from dataloading.perturbations import check_root
from dataloading.synthetic import synthesize
from istvt.comparison.settings import ELSEWHERE, Plan, PlannedModel
from istvt.config import DetectorConfig
from istvt.evaluation.evaluate import split_clips
from istvt.evaluation.robustness import perturbed_clips
from istvt.model.checkpoint import CheckpointInfo, load_model
from istvt.training.trainer import check_run


@dataclass(frozen=True)
class CheckedPlan:
    """A plan that can be carried out.

    Attributes:
        plan: whose checkpoints know the set that they were trained on.
        configs: configuration of the models of each detector.
        layouts: layout of each data set.
        trained: models that need no training.
    """

    plan: Plan
    configs: dict[str, DetectorConfig]
    layouts: dict[str, str]
    trained: set[Path]


def checked(
    plan: Plan, where: str = "settings", device: str = "auto", advance: Callable[[str], None] | None = None
) -> CheckedPlan:
    """Check all that a comparison needs, and draw its synthetic sets; nothing is trained.

    Args:
        plan: of the comparison.
        where: begins the sentences of errors: the settings file.
        device: that models are trained on.
        advance: called with what is being checked.

    Raises:
        InputError: something is missing, or does not fit.
    """
    say = advance or (lambda what: None)
    models, configs = [], {}
    for model in plan.models:
        if model.config is None:
            say(f"reading {model.checkpoint}")
            model, config = _of_checkpoint(plan, model, where)
        else:
            config = model.config
        models.append(model)
        first = configs.get(model.detector, config).architecture
        if first != config.architecture:
            raise InputError(
                f"{where}: detectors.{model.detector}: its checkpoints are of {first} and of {config.architecture}; "
                "expected models of one detector"
            )
        if configs.setdefault(model.detector, config).frames != config.frames:
            raise InputError(
                f"{where}: detectors.{model.detector}: its checkpoints are of {configs[model.detector].frames} and of "
                f"{config.frames} frames; expected models of one detector"
            )
    plan = replace(plan, models=models)
    sets: dict[str, Any] = dict.fromkeys((*plan.settings.train, *plan.settings.test))
    for name in sets:
        _check_synthetic_frames(plan, name, configs, where)
        with _naming(f"{where}: data.{name}"):
            check_root(plan.sweeps, plan.data[name].root)
    for drawn in (False, True):  # what is on the disk is checked before anything is drawn
        for name in sets:
            of = plan.settings.data[name].synthesize
            if (of is not None) == drawn:
                say(f"reading {name}")
                sets[name] = _open(plan, name, where)
                _check_clips(plan, name, *sets[name], configs, where)
    trained = set()
    for model in models:
        if model.config is None:
            trained.add(model.checkpoint)
            continue
        say(f"checking {model}")
        with _naming(f"{where}: detectors.{model.detector}"):
            data = replace(plan.data[model.trained_on], region=model.region)
            if check_run(data, model.config, model.training, model.checkpoint, device=device):
                trained.add(model.checkpoint)
    return CheckedPlan(plan, configs, {name: found[0].layout for name, found in sets.items()}, trained)


class _naming:
    """A context that begins the sentence of an InputError with a place."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, InputError):
            raise InputError(f"{self.place}: {error}") from error


def _of_checkpoint(plan: Plan, model: PlannedModel, where: str) -> tuple[PlannedModel, DetectorConfig]:
    """Return a model of a checkpoint with the set that it was trained on, and its configuration."""
    place, detector = f"{where}: detectors.{model.detector}", plan.settings.detectors[model.detector]
    with _naming(place):
        _, info = load_model(model.checkpoint)
    if detector.architecture not in (None, info.config.architecture):
        raise InputError(
            f"{place}: checkpoint {model.checkpoint} is of {info.config.architecture}; expected "
            f"{detector.architecture}, the architecture of this detector"
        )
    trained_on = model.trained_on or _trained_on(plan, info)
    return replace(model, trained_on=trained_on, region=info.region), info.config


def _trained_on(plan: Plan, info: CheckpointInfo) -> str:
    known = info.settings.get("data", {})
    for name, data in plan.data.items():
        same_root = "root" in known and Path(known["root"]).resolve() == Path(data.root).resolve()
        same = all(known.get(key) == getattr(data, key) for key in ("compression", "manipulations"))
        if same_root and same:
            return name
    return ELSEWHERE


def _open(plan: Plan, name: str, where: str) -> tuple[Dataset, FaceIndex]:
    settings, data = plan.settings.data[name].synthesize, plan.data[name]
    with _naming(f"{where}: data.{name}"):
        if settings is not None:
            data.root.parent.mkdir(parents=True, exist_ok=True)
            synthesize(data.root, **vars(settings), workers=data.workers, progress=False)
            prepare(read_dataset(data.root), detect=False, workers=data.workers, progress=False)
        return open_dataset(**data.source)


def _splits_of(plan: Plan, name: str) -> list[str]:
    """Return the splits of a data set that are used."""
    settings = plan.settings
    trains = name in settings.train and any(model.trained_on == name and model.config for model in plan.models)
    splits = ["train", "val"] if trains else []
    return list(dict.fromkeys([*splits, *([settings.data[name].split] if name in settings.test else [])]))


def _check_synthetic_frames(plan: Plan, name: str, configs: dict[str, DetectorConfig], where: str) -> None:
    settings = plan.settings.data[name].synthesize
    for detector, config in configs.items():
        if settings is not None and config.frames > settings.frames:
            raise InputError(
                f"{where}: detectors.{detector}: needs clips of {config.frames} frames, and the videos of data.{name} "
                f"have {settings.frames}; expected model.frames of at most that, or longer videos"
            )


def _check_clips(
    plan: Plan, name: str, dataset: Dataset, index: FaceIndex, configs: dict[str, DetectorConfig], where: str
) -> None:
    """Refuse a split of which no video is long enough for a detector, perturbed or not."""
    kinds = {(configs[model.detector].frames, model.region): model.detector for model in reversed(plan.models)}
    for split in _splits_of(plan, name):
        with _naming(f"{where}: data.{name}"):
            dataset.split_videos(split)
        for (frames, region), detector in sorted(kinds.items()):
            with _naming(f"{where}: detectors.{detector}: data.{name}"):
                of_region = index_of_region(index, dataset, region)
            place = f"{where}: detectors.{detector}: needs clips of {frames} frames"
            clips = split_clips(dataset, of_region, plan.data[name], split, frames)
            if not clips:
                reason = clips.skipped[0].reason.rstrip(".") if clips.skipped else "there is none"
                raise InputError(f"{place}, and no video of the {split} split of data.{name} gives one: {reason}")
            if name in plan.settings.test and split == plan.settings.data[name].split:
                _check_perturbed(plan, name, clips, of_region, place)


def _check_perturbed(plan: Plan, name: str, clips: Clips, index: FaceIndex, place: str) -> None:
    for sweep in plan.sweeps:
        for strength in sweep.strengths if sweep.perturbation.stage == "clip" else ():
            if not perturbed_clips(sweep.name, clips, index, strength):
                raise InputError(
                    f"{place}, and with {sweep.name} of {strength:g} {sweep.perturbation.unit} no video of data.{name} "
                    "is long enough; expected a weaker perturbation or longer videos"
                )
