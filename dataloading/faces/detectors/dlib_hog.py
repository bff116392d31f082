"""The HOG detector of dlib, whose weights are inside the wheel `dlib-bin`: the standard of FaceForensics++ work."""

import numpy as np

from dataloading.faces.detectors.detector import Detection

NAME = "dlib"
PACKAGE = "dlib"
# Its box ends at the brows where yuface's begins at the forehead. Median of the ratio of the two sizes over the frames
# of carphone_pristine.mp4 in which both find the face: with it, 1.25 times the size is the same crop with either.
ENLARGE = 1.17


class DlibDetector:
    """dlib's frontal face detector; ImportError where it is not installed."""

    name = NAME

    def __init__(self) -> None:
        import dlib

        self._detector = dlib.get_frontal_face_detector()

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """The faces in a uint8 RGB picture [H, W, 3] of at least 40 pixels."""
        double_once = 1  # the picture, which halves the smallest face
        faces, scores, _ = self._detector.run(np.ascontiguousarray(picture), double_once, 0.0)
        return [self._whole_face(face, float(score)) for face, score in zip(faces, scores, strict=True)]

    @staticmethod
    def _whole_face(face: "dlib.rectangle", score: float) -> Detection:  # noqa: F821
        x, y = (face.left() + face.right()) / 2, (face.top() + face.bottom()) / 2
        half = ENLARGE * max(face.width(), face.height()) / 2
        return Detection(x - half, y - half, x + half, y + half, score)
