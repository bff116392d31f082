"""Prediction for video files: find the face, take clips, score them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from dataloading.errors import InputError
from dataloading.face_index import FaceEntry
from dataloading.faces import FaceDetector, find_face, make_detector
from dataloading.faces.detect import frames_looked_at, whole_picture
from istvt.inference.crop import choose_crop
from istvt.inference.score import ScoredClips, score_video
from istvt.inference.video_score import VideoScore
from istvt.model.checkpoint import CheckpointInfo
from istvt.model.istvt import ISTVT


@dataclass(frozen=True)
class Prediction:
    """Prediction for one file: a score, or one sentence with the reason why there is none.

    Attributes:
        path: the file.
        score: None where there is an error.
        error: why there is no score.
        remark: reason to doubt the score: a face found in few frames, clips that could not be decoded.
        notes: caveats of every verdict of the model, and how files are cropped.
    """

    path: Path
    score: VideoScore | None = None
    error: str | None = None
    remark: str | None = None
    notes: tuple[str, ...] = ()


def predict(
    model: ISTVT,
    files: Iterable[str | Path],
    *,
    info: CheckpointInfo | None = None,
    detector: str = "auto",
    detect: bool | None = None,
    person: int = 1,
    clips_per_video: int = 8,
    batch_size: int = 8,
    workers: int = 2,
    advance: Callable[[Prediction], None] | None = None,
) -> list[Prediction]:
    """Score video files; a bad one is reported and does not stop the others.

    Args:
        model: on the device to use.
        files: videos; `dataloading.layouts.files.video_files` lists those of directories.
        info: metadata from `load_model`: videos are then cropped as the training videos were.
        detector: face detector; "auto" takes that of training, or the best installed one.
        detect: False takes whole pictures, True detects faces, however the training videos were cropped.
        person: whose face is scored, the main person's (1) or that of another one, in the order of size times time.
        clips_per_video: clips scored a video, evenly spread over all of it.
        batch_size: clips a forward pass.
        workers: threads that decode.
        advance: called after each file.

    Raises:
        InputError: no detector is installed.
    """
    crop = choose_crop(info.detectors if info else (), detector, detect)
    finder = make_detector(crop.detector) if crop.detector else None
    notes = (*(info.caveats if info else ()), *filter(None, [crop.note]))
    predictions = []
    for path in map(Path, files):
        try:
            entry = face_entry(path, finder, model.config.frames).of_person(person)
            score, scored = score_video(
                model, path, entry, clips=clips_per_video, batch_size=batch_size, workers=workers
            )
            remark = "; ".join(filter(None, [rare_face_remark(entry), lost_clips_remark(scored)])) or None
            predictions.append(Prediction(path, score=score, remark=remark, notes=notes))
        except InputError as error:
            predictions.append(Prediction(path, error=str(error), notes=notes))
        if advance:
            advance(predictions[-1])
    return predictions


def face_entry(path: Path, finder: FaceDetector | None, frames: int) -> FaceEntry:
    """Return the boxes of the people of a file for clips of so many frames; the whole picture without a detector."""
    return whole_picture(path) if finder is None else find_face(path, finder, clip_frames=frames)


def rare_face_remark(entry: FaceEntry) -> str | None:
    """Return the remark on a face that was found in fewer than half of the frames that were searched, or None."""
    looks = len(frames_looked_at(entry.frames))
    if entry.whole_frame or 2 * len(entry.key_frames) >= looks:
        return None
    return f"a face was found in {len(entry.key_frames)} of the {looks} frames that were searched"


def lost_clips_remark(scored: ScoredClips) -> str | None:
    """Return the remark on clips that could not be decoded, with the first reason, or None."""
    if not scored.skipped:
        return None
    clips = len(scored.clips) + len(scored.skipped)
    return f"{len(scored.skipped)} of the {clips} clips could not be decoded: {scored.skipped[0][1]}"
