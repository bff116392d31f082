"""The Haar cascade of OpenCV, whose wheels contain it up to version 4."""

from pathlib import Path

import numpy as np

from dataloading.faces.detectors.detector import Detection

NAME = "opencv"
PACKAGE = "cv2"
CASCADE = "haarcascade_frontalface_default.xml"


class HaarDetector:
    """OpenCV's cascade; ImportError where OpenCV is not installed or has no cascades (5 and later)."""

    name = NAME

    def __init__(self) -> None:
        import cv2

        folder = Path(getattr(getattr(cv2, "data", None), "haarcascades", ""))
        if not hasattr(cv2, "CascadeClassifier") or not (folder / CASCADE).is_file():
            raise ImportError(f"OpenCV {cv2.__version__} comes without Haar cascades")
        cv2.setNumThreads(1)  # videos are prepared in several processes
        self._gray = lambda picture: cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        self._cascade = cv2.CascadeClassifier(str(folder / CASCADE))

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """The faces in a uint8 RGB picture [H, W, 3]."""
        gray = self._gray(np.ascontiguousarray(picture))
        boxes, _, weights = self._cascade.detectMultiScale3(gray, 1.1, 5, outputRejectLevels=True)
        return [
            Detection(float(x), float(y), float(x + w), float(y + h), float(weight))
            for (x, y, w, h), weight in zip(boxes, np.ravel(weights), strict=True)
        ]
