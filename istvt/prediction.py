"""A verdict on any video: find the face, take clips, score them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from dataloading.errors import InputError
from dataloading.face_index import FaceEntry, FaceIndex
from dataloading.faces import FaceDetector, find_face, make_detector
from dataloading.probe import probe
from dataloading.sampling import evaluation_clips
from dataloading.video import Video

from .metrics import VideoScore
from .model import ISTVT
from .scoring import score_clips

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp"})
_UNLABELLED = "unlabelled"


@dataclass(frozen=True)
class Prediction:
    """What was found out about one file: a score, or the sentence that says why there is none."""

    path: Path
    score: VideoScore | None = None
    error: str | None = None


def predict(
    model: ISTVT,
    paths: Iterable[str | Path],
    *,
    detector: str = "auto",
    detect: bool = True,
    clips_per_video: int = 8,
    batch_size: int = 8,
    workers: int = 2,
    advance: Callable[[Prediction], None] | None = None,
) -> list[Prediction]:
    """Score video files; a bad one is reported and does not stop the others.

    Args:
        model: on the device to use.
        paths: video files, and directories whose video files are meant (their subdirectories too).
        detector: face detector; "auto" takes the best installed one.
        detect: False where the videos are face crops already.
        clips_per_video: clips scored a video, evenly spread over all of it.
        batch_size: clips a forward pass.
        workers: threads that decode.
        advance: called after each file.

    Raises:
        InputError: no detector is installed, or a directory holds no video.
    """
    files = video_files(paths)
    finder = make_detector(detector) if detect else None
    predictions = []
    for path in files:
        try:
            score = score_video(model, path, face_entry(path, finder), clips_per_video, batch_size, workers)
            predictions.append(Prediction(path, score=score))
        except InputError as error:
            predictions.append(Prediction(path, error=str(error)))
        if advance:
            advance(predictions[-1])
    return predictions


def score_video(
    model: ISTVT, path: Path, entry: FaceEntry, clips_per_video: int = 8, batch_size: int = 8, workers: int = 2
) -> VideoScore:
    """The score of one video whose face is known.

    Raises:
        InputError: it is too short for a clip, or damaged.
    """
    # The label is unknown; it goes nowhere but into the batch that the loader makes.
    video = Video(path, 0, _UNLABELLED, None, entry.video, entry.video)
    clips = evaluation_clips([video], FaceIndex({entry.video: entry}), model.config.frames, clips_per_video, None)
    if clips.skipped:
        raise InputError(clips.skipped[0].reason)
    scored = score_clips(model, clips, batch_size=batch_size, workers=workers)
    if not scored.clips:
        raise InputError(scored.skipped[0][1])
    score = scored.videos()[0]
    return VideoScore(
        score.name, str(path), None, _UNLABELLED, score.probability, score.clip_probabilities, score.clip_frames
    )


def face_entry(path: Path, finder: FaceDetector | None) -> FaceEntry:
    """Where the main face of a file is; the whole picture where there is no detector."""
    if finder is not None:
        return find_face(path, finder)
    info = probe(path)
    return FaceEntry(str(path), info.frames, info.fps, info.width, info.height)


def video_files(paths: Iterable[str | Path]) -> list[Path]:
    """Files as given, and the video files of directories, in order."""
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            files.append(path)  # a missing file is reported with the others, when its turn comes
            continue
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file())
        if not inside:
            raise InputError(f"{path} holds no video file (looked for {', '.join(sorted(VIDEO_SUFFIXES))})")
        files += inside
    return files
