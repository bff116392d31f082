"""Configurations of the comparison detectors, with their published sizes as defaults. Imports no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from istvt.config import DetectorConfig, check_limits

_LARGEST_WIDTH = 65_536
_LIMITS = {
    "frames": (1, 4096),
    "image_size": (16, 8192),
    "width": (1, _LARGEST_WIDTH),
    "dim": (1, _LARGEST_WIDTH),
    "heads": (1, 4096),
    "depth": (1, 1024),
    "mlp_dim": (1, 1_048_576),
    "hidden": (1, _LARGEST_WIDTH),
    "dropout": (0, 0.99),
}


@dataclass(frozen=True)
class BaselineConfig(DetectorConfig):
    """What the configurations of the comparison detectors share: bounds that are checked before memory is taken."""

    LIMITS: ClassVar[dict[str, tuple[float, float]]] = {}

    def __post_init__(self) -> None:
        limits = _LIMITS | self.LIMITS
        single = [field.name for field in fields(self) if not field.type.startswith("tuple")]
        check_limits(self, "model", {name: limits[name] for name in single if name in limits})
        for field in fields(self):
            if field.type.startswith("tuple"):
                counts = None if "..." in field.type else len(field.default)
                self._check_counts(field.name, getattr(self, field.name), counts, field.default)

    def _check_counts(self, name: str, values: Any, count: int | None, published: tuple[int, ...]) -> None:
        smallest, largest = self.LIMITS.get(name, (1, _LARGEST_WIDTH))
        inside = all(type(value) is int and smallest <= value <= largest for value in values)
        if not inside or not values or len(values) != (count or len(values)):
            kind = f"{count or 'some'} whole numbers from {smallest} to {largest:,}, such as {list(published)}"
            raise ValueError(f"model.{name} is {list(values)!r:.80}; expected {kind}")
        object.__setattr__(self, name, tuple(values))

    def _require_at_least(self, name: str, least: int, reason: str) -> None:
        if (value := getattr(self, name)) < least:
            raise ValueError(f"model.{name} is {value}; expected {least} or more, because {self.architecture} {reason}")


@dataclass(frozen=True)
class XceptionConfig(BaselineConfig):
    """Configuration of `istvt.model.baselines.xception.Xception`; the defaults are Xception's own sizes.

    Attributes:
        frames: T, frames of a clip, each of which is judged alone.
        image_size: side of the square face crop in pixels.
        backbone_dims: output channels of conv1, conv2, block1 and block2 of the entry flow.
        dim: output channels of block3 and of the middle flow.
        middle_blocks: blocks of the middle flow.
        exit_dims: output channels of block12, conv3 and conv4.
        architecture: always xception.
    """

    LIMITS: ClassVar = {"middle_blocks": (0, 256)}

    backbone_dims: tuple[int, int, int, int] = (32, 64, 128, 256)
    dim: int = 728
    middle_blocks: int = 8
    exit_dims: tuple[int, int, int] = (1024, 1536, 2048)
    architecture: Literal["xception"] = "xception"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least("image_size", 27, "halves the picture five times")
