"""Face detectors that bring their weights in their package, behind one interface, and the main face of a video."""

from importlib.util import find_spec

from dataloading.errors import InputError
from dataloading.faces.detect import find_face
from dataloading.faces.detectors import dlib_hog as dlib_detector
from dataloading.faces.detectors import haar as haar_detector
from dataloading.faces.detectors import yuface_cnn as yuface_detector
from dataloading.faces.detectors.detector import Detection, FaceDetector

__all__ = [
    "DETECTORS",
    "Detection",
    "FaceDetector",
    "detector_works",
    "find_face",
    "installed_detectors",
    "make_detector",
]

# Best first: on a real talking face (120 frames) they find it in 120, 118 and 70.
_DETECTORS = {
    yuface_detector.NAME: (yuface_detector.YuFaceDetector, yuface_detector.PACKAGE, "yuface"),
    dlib_detector.NAME: (dlib_detector.DlibDetector, dlib_detector.PACKAGE, "dlib-bin"),
    haar_detector.NAME: (haar_detector.HaarDetector, haar_detector.PACKAGE, "opencv-python-headless<5"),
}
DETECTORS = tuple(_DETECTORS)


def installed_detectors() -> list[str]:
    """The names of the detectors whose package is installed, best first; none of them is imported."""
    return [name for name, (_, package, _) in _DETECTORS.items() if find_spec(package) is not None]


def make_detector(name: str = "auto") -> FaceDetector:
    """A face detector.

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
