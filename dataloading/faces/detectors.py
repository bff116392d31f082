"""Face detectors (yuface, dlib, OpenCV) whose wheels contain their weights, behind one interface."""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np

from dataloading.errors import InputError
from dataloading.face_index import NOSE

YUFACE_CONFIDENCE = 0.6
_YUFACE_BUFFER, _YUFACE_FACES = 0x9000, 1024  # bytes of a result, as its header defines them, and faces in it
_YUFACE_LANDMARKS = slice(5, 15)  # x and y of each, in the order of `dataloading.face_index.LANDMARKS`
# dlib's box ends at the brows, yuface's at the forehead. Median of the ratio of the two sizes over the frames of
# carphone_pristine.mp4 in which both find the face: with it, 1.25 times the size is the same crop with either.
DLIB_ENLARGE = 1.17
HAAR_CASCADE = "haarcascade_frontalface_default.xml"


@dataclass(frozen=True, slots=True)
class Detection:
    """One face in one picture.

    Attributes:
        x0, y0, x1, y1: Its box in pixels.
        confidence: On the detector's own scale.
        landmarks: x, y in pixels of each of `dataloading.face_index.LANDMARKS`, where the detector finds them.
        appearance: What `dataloading.faces.tracking.appearance` says of it, where that was asked for.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    confidence: float
    landmarks: tuple[tuple[float, float], ...] | None = None
    appearance: np.ndarray | None = field(default=None, compare=False)

    @property
    def center(self) -> tuple[float, float]:
        """The nose tip, or the center of the box."""
        return self.landmarks[NOSE] if self.landmarks else ((self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2)

    @property
    def size(self) -> float:
        """The larger of height and width."""
        return max(self.x1 - self.x0, self.y1 - self.y0)

    def scaled(self, factor: float) -> "Detection":
        """Return the same face in a picture enlarged by `factor`."""
        landmarks = self.landmarks and tuple((x * factor, y * factor) for x, y in self.landmarks)
        corners = [edge * factor for edge in (self.x0, self.y0, self.x1, self.y1)]
        return replace(self, x0=corners[0], y0=corners[1], x1=corners[2], y1=corners[3], landmarks=landmarks)

    def moved(self, x: float, y: float) -> "Detection":
        """Return the same face in a picture of which this one is a part, whose corner is at x, y."""
        landmarks = self.landmarks and tuple((point_x + x, point_y + y) for point_x, point_y in self.landmarks)
        return replace(self, x0=self.x0 + x, y0=self.y0 + y, x1=self.x1 + x, y1=self.y1 + y, landmarks=landmarks)


def overlap(first: Detection, second: Detection) -> float:
    """Return the intersection over union of two boxes, from 0 to 1."""
    width = min(first.x1, second.x1) - max(first.x0, second.x0)
    height = min(first.y1, second.y1) - max(first.y0, second.y0)
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(face.x1 - face.x0) * (face.y1 - face.y0) for face in (first, second)]
    return width * height / (sum(areas) - width * height)


class FaceDetector(Protocol):
    """Finds the faces of a picture; making one raises ImportError where its package is not installed.

    Attributes:
        name: One of `DETECTORS`.
        second_side: Pixels of the larger side of a picture of 1080p in which it finds faces of 40 pixels.
    """

    name: str
    second_side: int

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """Return the faces in a uint8 RGB picture [H, W, 3], in no particular order."""
        ...


class YuFaceDetector:
    """YuNet, compiled into the wheel `yuface` (libfacedetection): small, five landmarks, few false faces."""

    name = "yuface"
    second_side = 1280

    def __init__(self) -> None:
        import yuface

        library = Path(yuface.__file__).with_name("libfacedetection.so")
        # The package's own function keeps 36 KiB of every call for ever: 1.2 GB in the search of 100,000 frames.
        self._rows = _without_leak(library) if library.is_file() else yuface.c_detect

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """Return the faces in a uint8 RGB picture [H, W, 3]."""
        rows = self._rows(np.ascontiguousarray(picture[:, :, ::-1])).astype(np.int64)
        return [
            _from_corner(
                row[1:5], row[0], tuple(map(tuple, row[_YUFACE_LANDMARKS].reshape(-1, 2).astype(float).tolist()))
            )
            for row in rows[rows[:, 0] > 100 * YUFACE_CONFIDENCE]
        ]


def _without_leak(library: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return libfacedetection's function of a BGR picture: int16 [n, 16], confidence, box and landmarks of n faces."""
    find = ctypes.CDLL(str(library))._Z14facedetect_cnnPhS_iii  # its name in C++
    find.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
    find.restype = ctypes.c_void_p
    row = np.dtype((np.int16, 16))

    def detect(picture: np.ndarray) -> np.ndarray:
        height, width, _ = picture.shape
        buffer = np.zeros(_YUFACE_BUFFER, np.uint8)
        find(buffer.ctypes.data, picture.ctypes.data, width, height, picture.strides[0])
        [count] = buffer[:4].view(np.int32)
        return np.frombuffer(buffer, row, min(count, _YUFACE_FACES), offset=4)

    return detect


class DlibDetector:
    """dlib's frontal face detector (HOG, in the wheel `dlib-bin`): the standard of FaceForensics++ work."""

    name = "dlib"
    second_side = 1920

    def __init__(self) -> None:
        import dlib

        self._detector = dlib.get_frontal_face_detector()

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """Return the faces of at least 40 pixels in a uint8 RGB picture [H, W, 3]."""
        double_once = 1  # the picture, which halves the smallest face
        faces, scores, _ = self._detector.run(np.ascontiguousarray(picture), double_once, 0.0)
        return [self._whole_face(face, float(score)) for face, score in zip(faces, scores, strict=True)]

    @staticmethod
    def _whole_face(face: "dlib.rectangle", score: float) -> Detection:  # noqa: F821
        x, y = (face.left() + face.right()) / 2, (face.top() + face.bottom()) / 2
        half = DLIB_ENLARGE * max(face.width(), face.height()) / 2
        return Detection(x - half, y - half, x + half, y + half, score)


class HaarDetector:
    """OpenCV's Haar cascade; ImportError also where OpenCV has no cascades (5 and later)."""

    name = "opencv"
    second_side = 1920

    def __init__(self) -> None:
        import cv2

        folder = Path(getattr(getattr(cv2, "data", None), "haarcascades", ""))
        if not hasattr(cv2, "CascadeClassifier") or not (folder / HAAR_CASCADE).is_file():
            raise ImportError(f"OpenCV {cv2.__version__} comes without Haar cascades")
        cv2.setNumThreads(1)  # videos are prepared in several processes
        self._gray = lambda picture: cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        self._cascade = cv2.CascadeClassifier(str(folder / HAAR_CASCADE))

    def detect(self, picture: np.ndarray) -> list[Detection]:
        """Return the faces in a uint8 RGB picture [H, W, 3]."""
        gray = self._gray(np.ascontiguousarray(picture))
        boxes, _, weights = self._cascade.detectMultiScale3(gray, 1.1, 5, outputRejectLevels=True)
        return [_from_corner(box, weight) for box, weight in zip(boxes, np.ravel(weights), strict=True)]


def _from_corner(
    box: Sequence[float], confidence: float, landmarks: tuple[tuple[float, float], ...] | None = None
) -> Detection:
    """Return the face in a box that is given by its upper left corner, width and height."""
    x, y, width, height = map(float, box)
    return Detection(x, y, x + width, y + height, float(confidence), landmarks)


# Best first: on a real talking face (120 frames) they find it in 120, 118 and 70. Each with the package that it imports
# and what pip calls that.
_DETECTORS = {
    "yuface": (YuFaceDetector, "yuface", "yuface"),
    "dlib": (DlibDetector, "dlib", "dlib-bin"),
    "opencv": (HaarDetector, "cv2", "opencv-python-headless<5"),
}
DETECTORS = tuple(_DETECTORS)
WITH_LANDMARKS = (YuFaceDetector.name,)  # the others find boxes alone


def installed_detectors() -> list[str]:
    """Return the names of the detectors whose package is installed, best first; none of them is imported."""
    return [name for name, (_, package, _) in _DETECTORS.items() if find_spec(package) is not None]


def make_detector(name: str = "auto") -> FaceDetector:
    """Make a face detector.

    Args:
        name: One of `DETECTORS`, or `"auto"` for the best one that works here.

    Raises:
        InputError: There is no detector of this name, or it (for `"auto"`: not one of them) can be used here.
    """
    if name != "auto" and name not in _DETECTORS:
        raise InputError(f"detector is {name!r}; expected auto or one of {', '.join(DETECTORS)}.")
    names = DETECTORS if name == "auto" else (name,)
    problems = []
    for each in names:
        make, _, _ = _DETECTORS[each]
        try:
            return make()
        except Exception as error:  # a package that is there may fail to load in any way
            reason = " ".join(str(error).split()) or type(error).__name__
            problems.append(f"{each}: {reason}")
    install = " or ".join(f"`pip install '{_DETECTORS[each][2]}'`" for each in names)
    what = "No face detector can be used" if name == "auto" else f"The face detector {name} cannot be used"
    raise InputError(f"{what} ({'; '.join(problems)}); {install} makes one, and --no-detect does without.")


def detector_works(name: str) -> bool:
    """Whether the detector of this name can be used: its package may be installed and fail to load."""
    try:
        make_detector(name)
    except InputError:
        return False
    return True
