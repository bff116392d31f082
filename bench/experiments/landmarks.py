"""Landmark judge: head pose and the paths of five landmarks of a video, and a support vector machine.

    features = statistics over time of (rotation, translation, residual),  (rotation, translation) = PnP(landmarks)
    residual = (landmarks - projection of a rigid head in that pose) / distance of the eyes

Yang, Li and Lyu, "Exposing Deep Fakes Using Inconsistent Head Poses", ICASSP 2019: a pasted face has another pose than
the head around it, so that poses from its central landmarks and from all 68 disagree, and an SVM with an RBF kernel
judges by the difference. In what it differs: detectors give five landmarks, from which there is one pose, by OpenCV's
`solvePnP`; what disagrees with it are the residuals, and the paths of all over the video are features too.

The landmarks are those of each video itself: the face index has those of the original for a fake, so that both are
cropped alike, and these know nothing of the forgery. Those of drawn people, whom no detector finds, are given by their
set: where the eyes and the mouth are drawn. It sees what moves landmarks, and no pixel.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.experiments.simple_judges import PLAIN, JudgedVideo, SimpleScores

if TYPE_CHECKING:
    from dataloading import Video
    from istvt.config import DataSettings

LANDMARKS = "landmarks"  # its name in a table
EVERY = 2  # frames between two looks of a detector
LEAST_FRAMES = 4  # with landmarks, for changes of changes and their mean
# A head in units of the distance of its eyes, x to the left of the person and y down, as pictures have them, z away
# from the camera: the usual five points of average faces (eyes, nose tip, corners of the mouth).
HEAD = np.array([(-0.5, 0, 0.2), (0.5, 0, 0.2), (0, 0.55, -0.3), (-0.4, 1.0, 0.15), (0.4, 1.0, 0.15)])


@dataclass(frozen=True)
class LandmarkScore:
    """A test video and its score: the probability of fake is the logistic function of the distance to the margin."""

    video: Video
    probability: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which data set."""
    parser.add_argument("--root", type=Path, required=True, help="data set with its face index")
    parser.add_argument("--manipulations", nargs="+", metavar="NAME", help="only these fakes")
    parser.add_argument("--detector", default="yuface", help="finds the landmarks of videos whose set gives none")


def run(arguments: argparse.Namespace) -> int:
    """Fit the judge to the train split, judge the test split and print its AUC."""
    from istvt.config import DataSettings
    from istvt.evaluation.seeds import mean_metrics
    from istvt.inference.video_score import VideoScore

    data = DataSettings(root=arguments.root, manipulations=arguments.manipulations)
    scores, skipped = judge(data, arguments.detector)
    found = [
        VideoScore(of.video.name, "", of.video.label, of.video.manipulation, of.probability, [of.probability], [[0]])
        for of in scores
    ]
    print(f"{len(scores)} videos of the test split: AUC {mean_metrics([found])['auc'].mean}")
    for reason in skipped:
        print(f"not judged: {reason}")
    return 0


def score_landmarks(data: DataSettings, path: Path) -> None:
    """Judge the test videos and write their scores as those of the other simple judges, unless the file is there."""
    from dataloading.io import write_json

    if path.is_file():
        return
    scores, _ = judge(data)
    rows = [
        JudgedVideo(PLAIN, 0.0, of.video.name, of.video.label, of.video.manipulation, of.probability) for of in scores
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(SimpleScores(rows)))


def judge(data: DataSettings, detector: str = "yuface") -> tuple[list[LandmarkScore], list[str]]:
    """Return the scores of the test videos by a judge fitted to the training videos, and why others have none.

    Raises:
        InputError: a split is empty, or has no landmarks of both classes.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    from dataloading.errors import InputError
    from dataloading.layouts import open_dataset

    dataset, index = open_dataset(**data.source)
    tables, skipped = {}, []
    for split in ("train", "test"):
        tables[split] = []
        for video, rows, reason in _landmarks(dataset.root, dataset.split_videos(split), index, detector):
            if reason is None:
                tables[split].append((video, features(rows)))
            else:
                skipped.append(reason)
    found = {video.label for video, _ in tables["train"]}
    if found != {0, 1} or not tables["test"]:
        why = f"; the first reason: {skipped[0]}" if skipped else ""
        raise InputError(
            f"{data.root}: landmarks of real and of fake training videos are needed, and of test videos{why}"
        )
    fitted = make_pipeline(StandardScaler(), SVC(kernel="rbf", C=1.0, gamma="scale"))
    fitted.fit([row for _, row in tables["train"]], [video.label for video, _ in tables["train"]])
    distances = fitted.decision_function([row for _, row in tables["test"]])
    probabilities = 1 / (1 + np.exp(-distances))
    scores = [LandmarkScore(video, float(p)) for (video, _), p in zip(tables["test"], probabilities, strict=True)]
    return scores, skipped


def _landmarks(
    root: Path, videos: Sequence[Video], index: Any, detector: str
) -> Iterator[tuple[Video, np.ndarray, str | None]]:
    """Yield each video with its landmarks, float64 [K, 5, 2] of K frames, and why it has too few."""
    from dataloading.clips.sampling import why_no_clip
    from dataloading.dataset import Dataset
    from dataloading.errors import InputError
    from dataloading.faces import find_face, make_detector
    from dataloading.faces.boxes_file import FACES, read_boxes, track_of

    given = read_boxes(root / FACES, Dataset(root, "", list(videos))) if (root / FACES).is_file() else {}
    finder = None if all(video.name in given for video in videos) else make_detector(detector)
    for video in videos:
        track, reason = None, why_no_clip(video, index.entry(video.name), 1)
        try:
            if video.name in given:
                track = track_of(given[video.name])
            elif reason is None:
                track = find_face(video.path, finder, EVERY).boxes
        except InputError as error:
            reason = str(error)
        points = np.empty((0, 5, 2)) if track is None or track.landmarks is None else track.landmarks.reshape(-1, 5, 2)
        if reason is None and len(points) < LEAST_FRAMES:
            reason = f"{video.path}: has landmarks in {len(points)} frames; the judge needs {LEAST_FRAMES}"
        yield video, points, reason


def features(points: np.ndarray) -> np.ndarray:
    """Return what the judge knows of a video: float64 [64].

    Of the 16 numbers of a frame (`pose`): their mean and deviation, and the mean size of their changes and of the
    changes of these.

    Args:
        points: float64 [K, 5, 2], landmarks of K frames in pixels.
    """
    of_frames = np.array([pose(of_frame) for of_frame in points])
    changes = np.diff(of_frames, axis=0)
    sizes = [np.abs(changes).mean(axis=0), np.abs(np.diff(changes, axis=0)).mean(axis=0)]
    return np.concatenate([of_frames.mean(axis=0), of_frames.std(axis=0), *sizes])


def pose(points: np.ndarray) -> np.ndarray:
    """Return rotation vector, translation in distances of the eyes, and residuals of the landmarks: float64 [16].

    Pixels are brought to a camera that looks at the middle of the landmarks with a focal length of ten distances of the
    eyes: the picture's own place and size say nothing of a forgery.

    Args:
        points: float64 [5, 2], landmarks of a frame in pixels.
    """
    import cv2

    scale = max(float(np.linalg.norm(points[1] - points[0])), 1e-6)
    seen, camera = (points - points.mean(axis=0)) / scale, np.diag([10.0, 10.0, 1.0])
    _, rotation, translation = cv2.solvePnP(HEAD, seen, camera, None, flags=cv2.SOLVEPNP_SQPNP)
    rotation, translation = cv2.solvePnPRefineLM(HEAD, seen, camera, None, rotation, translation)
    projected, _ = cv2.projectPoints(HEAD, rotation, translation, camera, None)
    return np.concatenate([rotation.ravel(), translation.ravel(), (seen - projected.reshape(5, 2)).ravel()])
