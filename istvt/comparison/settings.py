"""Settings file of a comparison: detectors, data sets, seeds and perturbations, as YAML.

    data:
      ffpp: {root: data/FaceForensics++, compression: c23}
      celeb: {root: data/Celeb-DF-v2}
      drawn: {synthesize: {identities: 48, frames: 16}}
    detectors:
      istvt: {architecture: istvt, model: {depth: 4}}
      no-subtract: {model: {self_subtract: false}, variant_of: istvt}
      stil: {architecture: stil, training: {learning_rate: 1e-3}}
      mine: {checkpoints: [runs/mine], trained_on: ffpp}
    train: [ffpp]
    test: [ffpp, celeb]
    seeds: [0, 1, 2]
    perturb: ["jpeg:10..50"]

`comparison_plan` turns it into the models that there are to be, each with complete settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from dataloading.dataset import FACE, Region
from dataloading.errors import InputError, as_input_error
from dataloading.io import parse_json, read_yaml
from dataloading.perturbations import Sweep, parse_sweeps
from istvt.config import DataSettings, DetectorConfig, Precision, TrainingSettings, check_limits
from istvt.model.architectures import DEFAULT, architecture, model_preset, recommended_training

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")
_LIMITS = {"clips": (1, 100_000), "bootstrap": (10, 1_000_000), "batch_size": (1, 65_536), "workers": (1, 1024)}
ELSEWHERE = "elsewhere"  # training set of a checkpoint that was trained on none of the data sets


@dataclass(frozen=True)
class SyntheticSet:
    """A set that is drawn in the directory of the comparison; see `dataloading.synthetic.synthesize`."""

    identities: int = 48
    videos_per_identity: int = 1
    frames: int = 24
    size: int = 128
    seed: int = 0
    splits: tuple[float, float, float] = (0.5, 0.25, 0.25)
    varied: bool = False


@dataclass(frozen=True)
class DataSet:
    """A data set: fields of `DataSettings` that select its videos, or what is drawn.

    Attributes:
        root: its directory, in any layout that `istvt dataset` reads, or a crop store.
        synthesize: drawn in place of a root.
        split: that is evaluated where it is a test set.
    """

    root: str | None = None
    synthesize: SyntheticSet | None = None
    layout: str = "auto"
    compression: str = "c23"
    originals: str | None = None
    manipulations: list[str] | None = None
    split: Literal["train", "val", "test"] = "test"

    def __post_init__(self) -> None:
        if (self.root is None) == (self.synthesize is None):
            which = "has neither root nor synthesize" if self.root is None else "has both root and synthesize"
            raise ValueError(f"{which}; expected one of them")


@dataclass(frozen=True)
class DetectorSettings:
    """A detector: what is trained, or the models of it that there are.

    Attributes:
        architecture: its name; istvt unless given, and of checkpoints what they are.
        preset: of the architecture, small unless given.
        region: what its clips are cropped to, face, eyes or mouth; that of the architecture unless given.
        model: fields of its configuration that differ from the preset.
        training: fields of `TrainingSettings` that differ from those of all detectors.
        checkpoints: model files or directories of runs that are evaluated in place of training, one a seed.
        trained_on: name of the data set that the checkpoints were trained on; by default that with the root that they
            know.
        variant_of: name of the detector that Table III sets this one beside.
    """

    architecture: str | None = None
    preset: str | None = None
    region: Region | None = None
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    checkpoints: list[str] = field(default_factory=list)
    trained_on: str | None = None
    variant_of: str | None = None

    @property
    def trained_architecture(self) -> str:
        """Name of the architecture that is trained."""
        return self.architecture or DEFAULT

    def __post_init__(self) -> None:
        if self.checkpoints and (self.preset or self.region or self.model or self.training):
            raise ValueError("has checkpoints and what to train; expected either")
        if self.trained_on and not self.checkpoints:
            raise ValueError("has trained_on without checkpoints; expected train, the list of training sets, alone")


@dataclass(frozen=True)
class ComparisonSettings:
    """The settings file.

    Attributes:
        detectors, data: by name.
        train: names of the data sets that each detector without checkpoints is trained on, each by itself.
        test: names of the data sets that each model is evaluated on.
        seeds: of training.
        training: fields of `TrainingSettings` for all detectors; without it each has what its preset recommends.
        perturb: as `istvt evaluate --perturb` takes them.
        against: the detector that all others are tested against; by default every pair is tested.
        title: of the tables.
        clips: of each video in validation and evaluation.
        train_clips: random clips a video and epoch.
        bootstrap: resamples behind the intervals.
        precision, batch_size: of evaluation.
        decoder, workers: of the clips.
    """

    detectors: dict[str, DetectorSettings]
    data: dict[str, DataSet]
    test: list[str]
    train: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    training: dict[str, Any] = field(default_factory=dict)
    perturb: list[str] = field(default_factory=list)
    against: str | None = None
    title: str = "Comparison of detectors"
    clips: int = 4
    train_clips: int = 1
    bootstrap: int = 2000
    precision: Precision = "auto"
    batch_size: int = 16
    decoder: Literal["auto", "pyav", "dali"] = "auto"
    workers: int = 2

    def __post_init__(self) -> None:
        check_limits(self, "", _LIMITS)
        for group in ("detectors", "data"):
            if not getattr(self, group):
                raise ValueError(f"{group} is empty; expected one or more, each by its name")
            for name in getattr(self, group):
                if not _NAME.fullmatch(name):
                    raise ValueError(
                        f"{group} holds the name {name!r:.80}; expected up to 64 letters, digits, and any of _ . + - "
                        "after the first, as directories have these names"
                    )
        for name in ("train", "test", "seeds"):
            values = getattr(self, name)
            if twice := [value for place, value in enumerate(values) if value in values[:place]]:
                raise ValueError(f"{name} holds {twice[0]!r} twice; expected each once")
        if not self.test:
            raise ValueError("test is empty; expected names of data sets")
        if not self.seeds or min(self.seeds) < 0 or max(self.seeds) > 2**31:
            raise ValueError(f"seeds is {self.seeds!r:.80}; expected whole numbers from 0, one or more")
        trained = [name for name, detector in self.detectors.items() if not detector.checkpoints]
        if trained and not self.train:
            raise ValueError(
                f"train is empty, and {trained[0]} has no checkpoints; expected the names of training sets"
            )
        if ELSEWHERE in self.data:
            raise ValueError(f"data holds the name {ELSEWHERE}, which stands for any other set; expected another name")
        for where, name, among, kind in self._references():
            if name not in among:
                raise ValueError(f"{where} names {name!r:.80}, which {kind} does not hold; it holds {', '.join(among)}")
        for name, detector in self.detectors.items():
            if detector.variant_of == name:
                raise ValueError(f"detectors.{name}.variant_of is itself; expected another detector")

    def _references(self) -> Iterator[tuple[str, str, dict[str, Any], str]]:
        """Yield where a name stands, the name, and what it has to be one of."""
        for name in self.train:
            yield "train", name, self.data, "data"
        for name in self.test:
            yield "test", name, self.data, "data"
        if self.against is not None:
            yield "against", self.against, self.detectors, "detectors"
        for name, detector in self.detectors.items():
            if detector.trained_on is not None:
                yield f"detectors.{name}.trained_on", detector.trained_on, self.data, "data"
            if detector.variant_of is not None:
                yield f"detectors.{name}.variant_of", detector.variant_of, self.detectors, "detectors"


@dataclass(frozen=True)
class PlannedModel:
    """A model of a comparison: one detector, trained on one set with one seed, or a checkpoint.

    Attributes:
        detector: its name.
        trained_on: name of the training set; `ELSEWHERE` where the comparison does not have it, None until a
            checkpoint is read.
        seed: of training; of checkpoints their place, from 0.
        config, training: None for a checkpoint.
        checkpoint: that is evaluated; the run's directory where it is to be trained.
        output: directory of its evaluations.
        region: what its clips are cropped to; of a checkpoint the face, until it is read.
    """

    detector: str
    trained_on: str | None
    seed: int
    config: DetectorConfig | None
    training: TrainingSettings | None
    checkpoint: Path
    output: Path
    region: Region = FACE

    def __str__(self) -> str:
        """Name the model for a line of progress."""
        on = "" if self.trained_on in (None, ELSEWHERE) else f" on {self.trained_on}"
        return f"{self.detector}{on}, {'seed' if self.config else 'checkpoint'} {self.seed}"


@dataclass(frozen=True)
class Plan:
    """What a comparison consists of.

    Attributes:
        settings: that it was made of.
        output: its directory.
        data: settings of each data set by name.
        models: in the order of the file: by detector, training set and seed.
        sweeps: the perturbations.
    """

    settings: ComparisonSettings
    output: Path
    data: dict[str, DataSettings]
    models: list[PlannedModel]
    sweeps: list[Sweep]


def read_comparison(path: str | Path) -> ComparisonSettings:
    """Read the settings file.

    Raises:
        InputError: it is none, or a name in it is not there.
    """
    return read_yaml(path, ComparisonSettings)


def comparison_plan(settings: ComparisonSettings, output: str | Path, where: str = "settings") -> Plan:
    """Return the models of a comparison with complete settings. No file is read.

    Args:
        settings: of the comparison.
        output: its directory.
        where: begins the sentences of errors: the settings file.

    Raises:
        InputError: an architecture, a preset, a field of a model or of training, or a perturbation is none.
    """
    output = Path(output).resolve()  # a run knows the path of its data set: it is the same however it is spelled
    common = _merged(TrainingSettings, {}, settings.training, f"{where}: training")
    try:
        sweeps = parse_sweeps(settings.perturb)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    data = {name: _data_settings(settings, name, output) for name in settings.data}
    models = []
    for name, detector in settings.detectors.items():
        place = f"{where}: detectors.{name}"
        config = model_config(detector, place)
        if detector.checkpoints:
            models += [
                PlannedModel(
                    name, detector.trained_on, number, None, None, Path(path),
                    output / "evaluations" / name / f"checkpoint-{number}",
                )
                for number, path in enumerate(detector.checkpoints)
            ]  # fmt: skip
            continue
        recommended = recommended_training(model_preset(detector.trained_architecture, detector.preset or "small"))
        chosen = {key: getattr(common, key) for key in settings.training}
        region = detector.region or architecture(detector.trained_architecture).region
        training = _merged(TrainingSettings, recommended | chosen, detector.training, f"{place}.training")
        for trained_on in settings.train:
            for seed in settings.seeds:
                run = output / "runs" / name / trained_on / f"seed-{seed}"
                own = _merged(TrainingSettings, asdict(training), {"seed": seed}, place)
                evaluations = output / "evaluations" / name / trained_on / f"seed-{seed}"
                models.append(PlannedModel(name, trained_on, seed, config, own, run, evaluations, region))
    return Plan(settings, output, data, models, sweeps)


def model_config(detector: DetectorSettings, where: str) -> DetectorConfig:
    """Return the configuration of a detector.

    Raises:
        InputError: there is no such architecture or preset, or a field is not of it.
    """
    try:
        base = model_preset(detector.trained_architecture, detector.preset or "small")
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    given = dict(detector.model)
    name = detector.trained_architecture
    if given.pop("architecture", name) != name:
        raise InputError(f"{where}.model holds 'architecture'; expected it beside model, not in it")
    return _merged(type(base), base.to_dict(), given, f"{where}.model")


def _data_settings(settings: ComparisonSettings, name: str, output: Path) -> DataSettings:
    data = settings.data[name]
    root = output / "data" / name if data.root is None else Path(data.root)
    with as_input_error():
        return DataSettings(
            root, data.layout, data.compression, None if data.originals is None else Path(data.originals),
            data.manipulations, settings.train_clips, settings.clips, settings.decoder, settings.workers,
        )  # fmt: skip


def _merged(kind: type[Any], base: dict[str, Any], given: dict[str, Any], where: str) -> Any:
    """Return settings with some fields replaced, which are checked as those of a file."""
    known = [item.name for item in fields(kind)]
    for name in given:
        if name not in known:
            raise InputError(f"{where} holds {name!r:.80}; expected some of {', '.join(known)}")
    if "seed" in given and where.endswith("training"):
        raise InputError(f"{where} holds 'seed'; expected seeds, the list of all of them")
    # YAML reads 1e-3, which has no point, as text.
    kinds = {item.name: str(item.type) for item in fields(kind)}
    numbers = {name: value for name, value in given.items() if isinstance(value, str) and "float" in kinds[name]}
    for name, text in numbers.items():
        with suppress(ValueError):
            given = given | {name: float(text)}
    return parse_json(json.dumps(base | given, default=str).encode(), kind, where)


def listed(names: Iterable[str]) -> str:
    """Return names as words: `a`, `a and b`, `a, b and c`."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
