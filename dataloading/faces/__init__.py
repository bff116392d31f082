"""Face detection, tracking of a video's main face, and the preparation of a data set's face index."""

from dataloading.faces.detect import find_face
from dataloading.faces.detectors import (
    DETECTORS,
    Detection,
    FaceDetector,
    detector_works,
    installed_detectors,
    make_detector,
)

__all__ = [
    "DETECTORS",
    "Detection",
    "FaceDetector",
    "detector_works",
    "find_face",
    "installed_detectors",
    "make_detector",
]
