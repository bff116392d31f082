"""Architectures of detectors by name: configuration, presets and network of ISTVT and of those it is compared with.

    config = model_preset("c3d", "small")
    model = build(config)

A configuration knows its architecture, and a checkpoint its configuration; one without a name is ISTVT's. Imports
PyTorch only to build a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from istvt.config import PRESETS, DetectorConfig, Region
from istvt.model.baselines.configs import (
    C3DConfig,
    CNNLSTMConfig,
    FTCNConfig,
    I3DConfig,
    LipMotionConfig,
    LRCNConfig,
    SMILConfig,
    STILConfig,
    TimeSformerConfig,
    VideoTransformerConfig,
    ViViTConfig,
    VTNConfig,
    XceptionConfig,
    YNetworkConfig,
)

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
        training: the fields of `TrainingSettings` in which `small` needs another value than the default to learn.
        region: the part of the face that it is made for: the default of what its clips are cropped to.
    """

    title: str
    config: type[DetectorConfig]
    presets: Mapping[str, DetectorConfig]
    training: Mapping[str, Any] = field(default_factory=dict)
    region: Region = "face"


_SMALL_XCEPTION = {
    "image_size": 64,
    "backbone_dims": (8, 16, 24, 48),
    "dim": 64,
    "middle_blocks": 1,
    "exit_dims": (64, 96, 128),
}
_SMALL_VIT = {"image_size": 64, "dim": 64, "depth": 2, "heads": 4, "mlp_dim": 128, "patch": 8}
# By architecture: its title and its presets; each has `published`, the defaults, and `small`.
_ROWS: dict[str, tuple[str, dict[str, DetectorConfig]]] = {
    "istvt": ("ISTVT", PRESETS),
    "xception": (
        "Xception by frame",
        {"published": XceptionConfig(), "small": XceptionConfig(**_SMALL_XCEPTION)},
    ),
    "cnn_lstm": (
        "CNN and recurrent network",
        {
            "published": CNNLSTMConfig(),
            "small": CNNLSTMConfig(image_size=64, width=16, growth=8, layers=(2, 4, 4), hidden=32),
        },
    ),
    "c3d": (
        "C3D",
        {"published": C3DConfig(), "small": C3DConfig(image_size=64, width=8, hidden=64, dropout=0.2)},
    ),
    "i3d": (
        "I3D",
        {"published": I3DConfig(), "small": I3DConfig(frames=8, image_size=64, width=16, dropout=0.0)},
    ),
    "s_mil": (
        "S-MIL",
        {"published": SMILConfig(), "small": SMILConfig(**_SMALL_XCEPTION, embedding=64, hidden=32)},
    ),
    "stil": (
        "STIL",
        {
            "published": STILConfig(),
            "small": STILConfig(frames=6, image_size=64, width=16, layers=(1, 1, 1), reduction=4),
        },
    ),
    "ftcn": (
        "FTCN",
        {
            "published": FTCNConfig(),
            "small": FTCNConfig(
                frames=8, image_size=64, width=8, layers=(1, 2, 2), heads=4, head_dim=16, mlp_dim=128, dropout=0.0
            ),
        },
    ),
    "timesformer": (
        "TimeSformer",
        {"published": TimeSformerConfig(), "small": TimeSformerConfig(frames=4, **_SMALL_VIT)},
    ),
    "vivit": (
        "ViViT",
        {"published": ViViTConfig(), "small": ViViTConfig(frames=6, temporal_depth=1, **_SMALL_VIT)},
    ),
    "video_transformer": (
        "Video transformer on Xception",
        {
            "published": VideoTransformerConfig(),
            "small": VideoTransformerConfig(**_SMALL_XCEPTION, embedding=64, depth=2, heads=4, mlp_dim=128),
        },
    ),
    "lrcn": (
        "LRCN of eye blinking",
        {
            "published": LRCNConfig(),
            "small": LRCNConfig(
                frames=16,
                image_size=64,
                width=8,
                layers=(1, 1, 1, 1),
                features=64,
                hidden=32,
                dropout=0.0,
                batch_norm=True,
            ),
        },
    ),
    "lip_motion": (
        "Lip movement",
        {
            "published": LipMotionConfig(),
            "small": LipMotionConfig(frames=8, image_size=64, width=8, blocks=2, dropout=0.0),
        },
    ),
    "vtn": (
        "VTN",
        {
            "published": VTNConfig(),
            "small": VTNConfig(
                image_size=64, dim=64, heads=4, head_dim=16, depth=2, mlp_dim=128, backbone_dims=(8, 16, 24, 48)
            ),
        },
    ),
    "y_network": (
        "Y-shaped network",
        {"published": YNetworkConfig(), "small": YNetworkConfig(image_size=64)},
    ),
}
# A transformer over patches has to learn first what a convolution begins with: neighborhood. In small batches its loss
# stays at chance until the end with some seeds, and that of `i3d`, whose last layers normalize 2 x 2 x 1 cells a clip.
_PATCHES = {"learning_rate": 1e-3, "epochs": 40}
_LARGE_BATCHES = {"learning_rate": 1e-3, "batch_size": 32}
_TRAINING: dict[str, dict[str, Any]] = {
    "i3d": _LARGE_BATCHES,
    "timesformer": _PATCHES | _LARGE_BATCHES,
    "vivit": _PATCHES,
}
_REGIONS: dict[str, Region] = {"lrcn": "eyes", "lip_motion": "mouth"}
ARCHITECTURES: dict[str, Architecture] = {
    name: Architecture(title, type(presets["published"]), presets, _TRAINING.get(name, {}), _REGIONS.get(name, "face"))
    for name, (title, presets) in _ROWS.items()
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


def recommended_training(config: DetectorConfig) -> dict[str, Any]:
    """Return the fields of `TrainingSettings` in which a configuration needs another value than the default to learn.

    They were found for the `small` preset of each architecture, and are given for it alone.
    """
    of = architecture(config.architecture)
    return dict(of.training) if config == of.presets["small"] else {}


def build(config: DetectorConfig, backend: str = "auto") -> Detector:
    """Return a network of a configuration, with random weights.

    Args:
        config: of any architecture.
        backend: the implementation of attention, as of `ISTVT`.
    """
    match config.architecture:
        case "istvt" | "vtn":
            from istvt.model.istvt import ISTVT as Network
        case "xception":
            from istvt.model.baselines.xception import Xception as Network
        case "cnn_lstm":
            from istvt.model.baselines.cnn_lstm import CNNLSTM as Network
        case "lrcn":
            from istvt.model.baselines.lrcn import LRCN as Network
        case "lip_motion":
            from istvt.model.baselines.lip_motion import LipMotion as Network
        case "c3d":
            from istvt.model.baselines.c3d import C3D as Network
        case "i3d":
            from istvt.model.baselines.i3d import I3D as Network
        case "s_mil":
            from istvt.model.baselines.s_mil import SMIL as Network
        case "stil":
            from istvt.model.baselines.stil import STIL as Network
        case "ftcn":
            from istvt.model.baselines.ftcn import FTCN as Network
        case "timesformer":
            from istvt.model.baselines.timesformer import TimeSformer as Network
        case "vivit":
            from istvt.model.baselines.vivit import ViViT as Network
        case "video_transformer":
            from istvt.model.baselines.video_transformer import VideoTransformer as Network
        case "y_network":
            from istvt.model.baselines.y_network import YNetwork as Network
    return Network(config).set_backend(backend)
