"""Architectures of detectors by name: configuration, presets and network of ISTVT and of those it is compared with.

    config = model_preset("c3d", "small")
    model = build(config)

A configuration knows its architecture, and a checkpoint its configuration; one without a name is ISTVT's. Imports
PyTorch only to build a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from istvt.config import PRESETS, DetectorConfig, ISTVTConfig
from istvt.model.baselines.configs import XceptionConfig

if TYPE_CHECKING:  # PyTorch would slow down `istvt --help` by seconds
    from istvt.model.detector import Detector

DEFAULT = "istvt"  # of a checkpoint that names none


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        title: its name in a report.
        config: the type of its configurations.
        presets: configurations by name; each architecture has `small`, which trains in minutes on two cores, and
            `published`.
    """

    title: str
    config: type[DetectorConfig]
    presets: Mapping[str, DetectorConfig]


ARCHITECTURES: dict[str, Architecture] = {
    "istvt": Architecture("ISTVT", ISTVTConfig, PRESETS),
    "xception": Architecture(
        "Xception by frame",
        XceptionConfig,
        {
            "published": XceptionConfig(),
            "small": XceptionConfig(
                image_size=64, backbone_dims=(8, 16, 24, 48), dim=64, middle_blocks=1, exit_dims=(64, 96, 128)
            ),
        },
    ),
}


def architecture(name: str) -> Architecture:
    """Return the architecture of a name.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"model.architecture is {name!r:.60}; expected one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def model_preset(name: str, preset: str = "small") -> DetectorConfig:
    """Return a preset of an architecture.

    Raises:
        ValueError: there is no such architecture, or it has no such preset.
    """
    presets = architecture(name).presets
    if preset not in presets:
        raise ValueError(f"preset is {preset!r:.60}; expected one of {', '.join(presets)} for {name}")
    return presets[preset]


def build(config: DetectorConfig, backend: str = "auto") -> Detector:
    """Return a network of a configuration, with random weights.

    Args:
        config: of any architecture.
        backend: the implementation of attention, as of `ISTVT`.
    """
    match config.architecture:
        case "istvt":
            from istvt.model.istvt import ISTVT as Network
        case "xception":
            from istvt.model.baselines.xception import Xception as Network
    return Network(config).set_backend(backend)
