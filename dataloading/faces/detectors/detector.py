"""What a face detector is here: pictures in, boxes and noses out."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Detection:
    """One face in one picture.

    Attributes:
        x0, y0, x1, y1: Its box in pixels.
        confidence: On the detector's own scale.
        nose: x, y of the nose tip in pixels, where the detector finds landmarks.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    confidence: float
    nose: tuple[float, float] | None = None

    @property
    def center(self) -> tuple[float, float]:
        """The nose tip, or the center of the box."""
        return self.nose or ((self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2)

    @property
    def size(self) -> float:
        """The larger of height and width."""
        return max(self.x1 - self.x0, self.y1 - self.y0)

    def scaled(self, factor: float) -> "Detection":
        """The same face in a picture enlarged by `factor`."""
        nose = self.nose and (self.nose[0] * factor, self.nose[1] * factor)
        corners = (edge * factor for edge in (self.x0, self.y0, self.x1, self.y1))
        return Detection(*corners, confidence=self.confidence, nose=nose)


class FaceDetector(Protocol):
    """Finds the faces of a picture."""

    name: str

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """The faces in a uint8 RGB picture [H, W, 3], in no particular order."""
        ...


def overlap(first: Detection, second: Detection) -> float:
    """Intersection over union of two boxes, from 0 to 1."""
    width = min(first.x1, second.x1) - max(first.x0, second.x0)
    height = min(first.y1, second.y1) - max(first.y0, second.y0)
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(face.x1 - face.x0) * (face.y1 - face.y0) for face in (first, second)]
    return width * height / (sum(areas) - width * height)
