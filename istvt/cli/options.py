"""Options that several commands share, and the settings that they build."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from dataloading.errors import InputError, as_input_error
from dataloading.io import parse_yaml
from istvt.cli.parser import given, read_settings_file
from istvt.config import DataSettings, DetectorConfig, Precision, TrainingSettings
from istvt.model.architectures import ARCHITECTURES, DEFAULT, architecture, model_preset
from istvt.run_dir import model_file

if TYPE_CHECKING:
    from dataloading.engines.cluster import RayEngine
    from dataloading.engines.journal import Shard

Settings = TypeVar("Settings", DetectorConfig, DataSettings, TrainingSettings)
ANY = "any"  # architecture of a checkpoint
LATEST_RUN = Path("runs/latest")


def add_dataset(parser: ArgumentParser) -> None:
    """Add the options that name a data set on the disk."""
    parser.add_argument("dataset", type=Path, help="root of the data set, or a URL of it (s3://, gs://, https://)")
    parser.add_argument("--layout", type=str, default="auto", help="its layout; auto recognizes it")
    parser.add_argument("--compression", type=str, default="c23", help="FaceForensics++ compression: raw, c23, c40")
    parser.add_argument(
        "--originals", type=Path | None, default=None, help="DeeperForensics: root with the real videos"
    )


def add_model(parser: ArgumentParser, base: DetectorConfig) -> None:
    """Add the architecture, its presets, and every field that a preset sets."""
    presets = list(architecture(base.architecture).presets)
    parser.add_argument("--preset", choices=presets, default="small", help="defaults of the model's options")
    parser.add_class_arguments(type(base), "model", skip={"architecture"})
    parser.add_argument(
        "--model.architecture",
        choices=list(ARCHITECTURES),
        default=base.architecture,
        help="the network, which decides which options of this group there are",
    )
    parser.set_defaults({f"model.{name}": value for name, value in asdict(base).items()})


def chosen_model(arguments: Sequence[str]) -> DetectorConfig:
    """Return the preset of the architecture that the command line or a settings file names: the options' defaults.

    Raises:
        InputError: there is no such architecture or preset, or a settings file cannot be read.
    """
    presets, names = [], []
    for path in given(arguments, "--config"):
        settings = read_settings_file(path)
        presets.append(settings.get("preset"))
        names.append(_architecture_in(settings.get("model")))
    for text in given(arguments, "--model"):  # a group may stand in a file of its own, or on the command line
        names.append(_architecture_in(_group(text)))
    presets += given(arguments, "--preset")
    names += given(arguments, "--model.architecture")
    named, preset = ([str(value) for value in values if value not in (None, ANY)][-1:] for values in (names, presets))
    with as_input_error():
        return model_preset(*(named or [DEFAULT]), *preset)


def _architecture_in(group: Any) -> Any:
    return group.get("architecture") if isinstance(group, dict) else None


def _group(text: str) -> Any:
    try:
        inline = parse_yaml(text, "")
    except InputError:
        return None
    return inline if isinstance(inline, dict) else read_settings_file(text, "--model")


def settings_of(kind: type[Settings], options: Namespace) -> Settings:
    """Return the settings object of a group of options.

    Raises:
        InputError: values that are invalid together.
    """
    values = options.as_dict()
    values.pop("__path__", None)  # jsonargparse adds this key where a group is read from its own file
    with as_input_error():
        return kind(**values)


# Largest values of counts: far beyond what is useful, and small enough for memory.
_LARGEST = {"batch_size": 65_536, "bootstrap": 1_000_000, "clips": 100_000}


def check_counts(options: Namespace, *names: str) -> None:
    """Refuse counts below 1, or so large that they would exhaust the memory; one that is None is left alone."""
    for name in names:
        if options[name] is not None and not 1 <= options[name] <= _LARGEST[name]:
            option = f"--{name.replace('_', '-')}"
            expected = "at least 1" if options[name] < 1 else f"at most {_LARGEST[name]:,}"
            raise InputError(f"{option} is {options[name]}; expected {expected}")


def add_device(parser: ArgumentParser) -> None:
    """Add the device."""
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")


def add_engine(parser: ArgumentParser) -> None:
    """Add the options that spread the work over machines."""
    parser.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="local: this machine; ray: the machines of a Ray cluster, which read the videos and the model from the "
        "same paths",
    )
    parser.add_argument(
        "--address",
        type=str | None,
        default=None,
        help="of the Ray cluster, as HOST:PORT; default: the one that this machine belongs to",
    )
    parser.add_argument(
        "--cores",
        type=int | None,
        default=None,
        help="with --engine ray: cores of each worker without a GPU; default 4",
    )
    parser.add_argument(
        "--shard",
        type=str | None,
        default=None,
        help="do one part of the work, such as 3/16, and write it beside the result as RESULT.shard-3-of-16, for "
        "`istvt merge`; started again it goes on",
    )


def shard_of(options: Namespace) -> Shard | None:
    """Return the shard that is asked for, if any; refuse options that exclude each other."""
    from dataloading.engines.journal import Shard

    for name in ("address", "cores"):
        if options[name] is not None and options.engine != "ray":
            raise InputError(f"--{name} is given without --engine ray, which it is of")
    if options.cores is not None and options.cores < 1:
        raise InputError(f"--cores is {options.cores}; expected at least 1")
    if options.shard is not None and options.engine != "local":
        raise InputError("--shard and --engine ray are given together; expected one of them")
    return None if options.shard is None else Shard.parse(options.shard)


@contextmanager
def engine_of(options: Namespace, console: Console) -> Iterator[RayEngine | None]:
    """Give the engine that is asked for as long as the context lasts: a cluster, or None for this machine."""
    if options.engine == "local":
        yield None
        return
    from dataloading.engines.cluster import RayEngine
    from istvt.cli.console import print_lines

    def warn(sentence: str) -> None:
        print_lines(console, sentence, style="yellow")

    cores = {} if options.cores is None else {"cores": options.cores}
    with RayEngine(options.address, warn=warn, **cores) as engine:
        print_lines(console, engine.description, style="dim")
        yield engine


def add_precision(parser: ArgumentParser) -> None:
    """Add the precision of scores."""
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="auto",
        help="of the model: auto is bfloat16 where the GPU or the processor multiplies it, float32 elsewhere",
    )


def check_device_name(device: str) -> None:
    """Refuse an invalid device name without importing PyTorch."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise InputError(f"device is {device!r}; expected auto, cpu, cuda or cuda:N")


def add_checkpoint(parser: ArgumentParser, option: str = "--checkpoint") -> None:
    """Add the model file or run."""
    parser.add_argument(
        option,
        type=Path,
        default=LATEST_RUN,
        help="a .safetensors file of istvt train, or the run's directory",
    )
    parser.add_argument_group("model", name="model").add_argument(
        "--model.architecture",
        choices=[ANY, *ARCHITECTURES],
        default=ANY,
        help="what the checkpoint has to be of; it knows by itself what it is",
    )


def check_checkpoint(options: Namespace, option: str = "checkpoint") -> None:
    """Refuse a checkpoint that is not there; most users to whom its default is missing gave none.

    Raises:
        InputError: there is no model file; the sentence names the option where the path is its default.
    """
    if options[option] == LATEST_RUN and not LATEST_RUN.exists():
        raise InputError(
            f"--{option} is {LATEST_RUN}, its default, which does not exist; expected the directory of a training run, "
            "or its .safetensors file"
        )
    model_file(options[option])


def check_default_data(data: DataSettings) -> None:
    """Refuse the default data set where it is not there, by the option that gives another.

    Raises:
        InputError: the default is used and does not exist.
    """
    if data.root == DataSettings().root and not data.root.exists():
        raise InputError(
            f"--data is {data.root}, its default, which does not exist; expected the directory of a data set"
        )


def check_architecture(options: Namespace, option: str = "checkpoint") -> None:
    """Refuse a checkpoint of another architecture than the one that is asked for; imports PyTorch where one is."""
    asked = options.model.architecture
    if asked == ANY:
        return
    from istvt.model.checkpoint import read_info

    found = read_info(options[option]).config.architecture
    if found != asked:
        raise InputError(f"checkpoint {options[option]}: is of {found}; expected {asked}, as --model.architecture says")


def add_face_detection(parser: ArgumentParser) -> None:
    """Add the options of face detection in videos without a face index."""
    parser.add_argument(
        "--detector",
        type=str,
        default="auto",
        help="face detector (yuface, dlib or opencv); auto crops videos as the training videos were",
    )
    parser.add_argument(
        "--no-detect",
        dest="no_detect",
        action="store_true",
        help="use whole pictures, as the videos are face crops, however the training videos were cropped",
    )
    parser.add_argument("--detect", action="store_true", help="detect faces, however the training videos were cropped")


def add_boxes(parser: ArgumentParser) -> None:
    """Add the file of face boxes."""
    parser.add_argument(
        "--boxes",
        type=Path | None,
        default=None,
        help="JSON {video: [[frame, x0, y0, x1, y1], ...]} with the boxes of a face; no other is looked for then",
    )


def detect_option(options: Namespace) -> bool | None:
    """Return whether faces are detected; None means as for the training videos."""
    other = "--detect" if options.detect else f"--detector {options.detector}" if options.detector != "auto" else None
    if options.no_detect and other:
        raise InputError(f"{other} and --no-detect are given together; expected one of them")
    return True if options.detect else False if options.no_detect else None
