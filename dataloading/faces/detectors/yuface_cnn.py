"""YuNet, compiled into the wheel `yuface` (libfacedetection): small, five landmarks, few false faces."""

import numpy as np

from dataloading.faces.detectors.detector import Detection

NAME = "yuface"
PACKAGE = "yuface"
CONFIDENCE = 0.6
NOSE = slice(4, 6)  # of the landmarks right eye, left eye, nose tip, right and left corner of the mouth


class YuFaceDetector:
    """The detector of the package `yuface`; ImportError where it is not installed."""

    name = NAME

    def __init__(self) -> None:
        from yuface import detect

        self._detect = detect

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """The faces in a uint8 RGB picture [H, W, 3]."""
        confidences, boxes, landmarks = self._detect(np.ascontiguousarray(picture[:, :, ::-1]), CONFIDENCE)
        return [
            Detection(float(x), float(y), float(x + w), float(y + h), float(confidence), tuple(points[NOSE].tolist()))
            for confidence, (x, y, w, h), points in zip(
                confidences, boxes.astype(np.int64), landmarks.astype(np.float64), strict=True
            )
        ]
