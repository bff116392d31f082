"""Explanation of a video file: overlay videos (MP4), picture strips (PNG), JSON and a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dataloading.clips.sampling import Clip
from dataloading.dataset import CLASSES, FAKE
from dataloading.errors import InputError, as_input_error
from dataloading.face_index import FaceEntry
from dataloading.faces import make_detector
from dataloading.io import write_json
from dataloading.video.decode import iterate_frames
from istvt.config import ExplanationSettings, Normalization
from istvt.explain import heatmap
from istvt.explain_video import page, pictures
from istvt.explain_video.clips import ExplainedClip, explain_clips
from istvt.inference.crop import choose_crop, crop_difference
from istvt.inference.predict import face_entry, rare_face_remark
from istvt.inference.score import ScoredClips, score_video
from istvt.inference.video_score import VideoScore
from istvt.model.checkpoint import CheckpointInfo, load_model
from istvt.model.istvt import ISTVT
from istvt.run_dir import output_directory

PANEL = 288  # pixels a side of a panel in the MP4
STRIP = 150  # and of a picture in a strip
FRAMES_A_SECOND = 4  # of the MP4: slow enough to compare neighboring frames
LONGEST_SIDE = 960  # of the pasted-back frames; larger ones are shrunk before anything is drawn


@dataclass
class VideoExplanation:
    """Score and explanation of one video, and the files that were written.

    Attributes:
        score: of the video, over all scored clips.
        target: "fake" or "real", what is explained.
        clips: the explained ones, in the order of the video.
        skipped: (first frame, reason) of every clip that could not be decoded.
        files: what was written: panels, pasted, strips, data, page.
        notes: sentences that belong beside the verdict, as they are written.
    """

    score: VideoScore
    target: str
    clips: list[ExplainedClip]
    skipped: list[tuple[int, str]]
    files: dict[str, Path | list[Path]]
    notes: list[str]


def explain_video(
    video: str | Path,
    checkpoint: str | Path | ISTVT,
    out: str | Path,
    settings: ExplanationSettings | None = None,
    *,
    face: FaceEntry | None = None,
    detector: str = "auto",
    detect: bool | None = None,
    clips_scored: int = 16,
    clips_explained: int = 3,
    device: str = "cpu",
    batch_size: int = 4,
    workers: int = 2,
    notes: Sequence[str] = (),
    advance: Callable[[str, int, int], None] | None = None,
) -> VideoExplanation:
    """Score a video, explain the clips on which the verdict rests, and write pictures, numbers and a page.

    Written to `out`: `explanation.mp4` (face crop, temporal and spatial relevance and the class frame's map side by
    side, with the score over time), `in_frame.mp4` (each map pasted back into the original frames), `clip_1.png`... (a
    strip a clip), `explanation.json` and `explanation.html` (all of it in one file, without script or network).

    Args:
        video: the file.
        checkpoint: of `istvt train`, which says how its clips were cropped and what its verdicts are worth; or a model.
        out: directory, made where it is not there.
        settings: the defaults, if None. A rule that the method does not read is not among the settings that are
            written, and refused where it is not the default.
        face: where the face is, if that is known; else it is looked for with
        detector: "auto" takes that of training, or the best installed one.
        detect: False takes the whole picture, True looks for a face, whatever training did.
        clips_scored: evenly spread over the video, for the score over time.
        clips_explained: how many of them are explained: those on the side of the verdict, the surest first.
        device: of a model that is loaded here.
        batch_size: clips in work together.
        workers: threads that decode.
        notes: sentences that belong beside the verdict, before those that are found here.
        advance: called with (what is being done, done, of how many).

    Raises:
        InputError: the video or the checkpoint cannot be used, or an argument is wrong.
    """
    video, out = Path(video), Path(out)
    settings = settings or ExplanationSettings()
    with as_input_error():
        rules = settings.rules()
    if clips_explained < 1:
        raise InputError(f"clips_explained is {clips_explained}; expected 1 or more")
    advance = advance or (lambda *_: None)
    if isinstance(checkpoint, ISTVT):
        model, info, name = checkpoint, CheckpointInfo(checkpoint.config), "model"
    else:
        (model, info), name = load_model(checkpoint, device), str(checkpoint)
    if face is None:
        crop = choose_crop(info.detectors, detector, detect)
        face, about_crop = (
            face_entry(video, make_detector(crop.detector) if crop.detector else None, model.config.frames),
            crop.note,
        )
    else:
        about_crop = crop_difference(info.detectors, [face.detector])
    notes = [*notes, *info.caveats, *filter(None, [about_crop, rare_face_remark(face)])]
    output_directory(out)
    score, scored = score_video(
        model,
        video,
        face,
        clips=clips_scored,
        batch_size=batch_size,
        workers=workers,
        advance=lambda done, total: advance("scoring clips", done, total),
    )
    if settings.target == "verdict":
        settings = replace(settings, target=score.verdict)
    chosen = select_clips(scored, settings.target, clips_explained)
    skipped: list[tuple[Clip, str]] = []
    explained: list[ExplainedClip] = []
    for clip in explain_clips(model, chosen, settings, batch_size=batch_size, workers=workers, skipped=skipped):
        explained.append(clip)
        advance("explaining clips", len(explained), len(chosen))
    if not explained:
        raise InputError(skipped[0][1])
    left_out = [(int(clip.frames[0]), reason) for clip, reason in (*scored.skipped, *skipped)]
    said = {"method": settings.method} | rules
    said |= {"target": settings.target, "normalization": settings.normalization, "checkpoint": name}
    said |= {"detector": face.detector, "model": model.config.to_dict()}
    size = model.config.image_size
    data = _summary(video, face, score, explained, left_out, size) | {"settings": said, "notes": notes}
    files = _write(out, _Drawing(video, face, score, explained, settings, size), data, advance)
    return VideoExplanation(score, settings.target, explained, left_out, files, notes)


def select_clips(scored: ScoredClips, target: str, count: int) -> list[Clip]:
    """Return the clips with the largest logits for `target`, in the order of the video; no two share a frame."""
    sign = 1 if target == CLASSES[FAKE] else -1
    chosen: list[Clip] = []
    for i in np.argsort(-sign * scored.logits, kind="stable"):
        clip = scored.clips[i]
        if len(chosen) < count and not any(np.isin(clip.frames, other.frames).any() for other in chosen):
            chosen.append(clip)
    return sorted(chosen, key=lambda clip: int(clip.frames[0]))


class _Drawing:
    """Pictures of the explained clips of one video: normalized heat over crops and over original frames.

    Frames are decoded one at a time, and of each only what is drawn is kept: two crops, and the whole frame shrunk to
    `LONGEST_SIDE`. Memory does not grow with the size of the picture beyond a single frame.
    """

    def __init__(
        self,
        video: Path,
        face: FaceEntry,
        score: VideoScore,
        explained: Sequence[ExplainedClip],
        settings: ExplanationSettings,
        image_size: int,
    ) -> None:
        self.fps = face.fps or 25.0
        self.title = f"{video.name}: {score.verdict}, probability of fake {score.probability:.3f}"
        self.question = f"why {settings.target}?"
        self.scale = f"from the coldest to the hottest cell of the {settings.normalization}, however near they are"
        middles = [float(np.mean(frames) + 0.5) / self.fps for frames in score.clip_frames]
        seconds = face.frames / self.fps
        self.timeline = pictures.Timeline(middles, score.clip_probabilities, seconds, score.probability)
        self.clips = [
            (clip, _small_frames(video, clip.clip), _heat_panels(clip, settings.normalization, image_size))
            for clip in explained
        ]

    def panel_frames(self) -> Iterator[np.ndarray]:
        """Give the frames of explanation.mp4, clip after clip."""
        for clip, frames, panels in self.clips:
            titles = [pictures.CROP_TITLE, *(panel.title for panel in panels)]
            for t, (number, frame) in enumerate(zip(clip.clip.frames, frames, strict=True)):
                row = [frame.panel, *(heatmap.overlay(frame.panel, panel.frame(t)) for panel in panels)]
                caption = f"{self.title}   frame {number}, clip {clip.probability:.3f}   {self.question}"
                seconds = (number + 0.5) / self.fps
                yield pictures.explanation_frame(row, titles, caption, self.timeline, seconds, self.scale)

    def pasted_frames(self) -> Iterator[np.ndarray]:
        """Give the frames of in_frame.mp4: the original once with each map."""
        for _, frames, panels in self.clips:
            for t, frame in enumerate(frames):
                pasted = [heatmap.paste(frame.whole, panel.frame(t), frame.box) for panel in panels]
                yield np.concatenate(pasted, axis=1 if frame.whole.shape[0] >= frame.whole.shape[1] else 0)

    def strips(self) -> Iterator[np.ndarray]:
        """Give one picture a clip: frames x {crop, maps}."""
        for clip, frames, panels in self.clips:
            rows = [[frame.strip for frame in frames]]
            rows += [[heatmap.overlay(f.strip, panel.frame(t)) for t, f in enumerate(frames)] for panel in panels]
            titles = [pictures.CROP_TITLE, *(panel.title for panel in panels)]
            labels = [f"frame {number}" for number in clip.clip.frames]
            title = f"probability of fake {clip.probability:.3f}   {self.question}"
            yield pictures.strip(rows, titles, labels, title, self.scale)


@dataclass(frozen=True)
class _SmallFrame:
    """What is drawn of one frame.

    Attributes:
        panel, strip: the crop, uint8 [s, s, 3] of side `PANEL` and `STRIP`.
        whole: uint8 [h, w, 3], no side longer than `LONGEST_SIDE`.
        box: of the crop, in pixels of `whole`.
    """

    panel: np.ndarray
    strip: np.ndarray
    whole: np.ndarray
    box: heatmap.Box


def _small_frames(video: Path, clip: Clip) -> list[_SmallFrame]:
    """Decode the frames of a clip, one at a time."""
    found = {}
    for number, frame in iterate_frames(video, clip.frames):
        crops = [heatmap.crop(frame, clip.box, size) for size in (PANEL, STRIP)]
        whole = _fitted(frame)
        scale = np.divide(whole.shape[1::-1], frame.shape[1::-1])
        # A copy, where nothing was shrunk: the decoder's memory is not held.
        found[number] = _SmallFrame(*crops, whole.copy(), tuple(np.asarray(clip.box) * np.tile(scale, 2)))
    return [found[int(number)] for number in clip.frames]


def _heat_panels(clip: ExplainedClip, normalization: Normalization, image_size: int) -> list[pictures.HeatPanel]:
    """Return the maps of a clip as they are drawn, over the pixels that the model sees."""
    panels = []
    for name, heat in clip.maps().items():
        heat = heatmap.normalize(heat, normalization)
        heat = heat if name == "pixels" else heatmap.upscale(heat, image_size, image_size)
        panels.append(pictures.HeatPanel(name, heat, clip.shares[name]))
    return panels


def _write(
    out: Path, drawing: _Drawing, data: dict[str, Any], advance: Callable[[str, int, int], None]
) -> dict[str, Path | list[Path]]:
    """Write everything and return the files; strips of an earlier explanation, which may have had more clips, go."""
    names = {"panels": "explanation.mp4", "pasted": "in_frame.mp4", "data": "explanation.json"}
    files: dict[str, Any] = {key: out / name for key, name in (names | {"page": "explanation.html"}).items()}
    earlier = out.glob("clip_*.png") if files["data"].is_file() else ()
    earlier = {path for path in earlier if path.stem.removeprefix("clip_").isdecimal()}
    advance("drawing", 0, 4)
    pictures.write_mp4(files["panels"], drawing.panel_frames(), FRAMES_A_SECOND)
    advance("drawing", 1, 4)
    pictures.write_mp4(files["pasted"], drawing.pasted_frames(), FRAMES_A_SECOND)
    advance("drawing", 2, 4)
    files["strips"] = [out / f"clip_{number}.png" for number in range(1, len(drawing.clips) + 1)]
    for path, picture in zip(files["strips"], drawing.strips(), strict=True):
        pictures.write_png(path, picture)
    for path in earlier - set(files["strips"]):
        path.unlink()
    advance("drawing", 3, 4)
    write_json(files["data"], data)
    page.write_page(files["page"], data, files, drawing.timeline)
    advance("drawing", 4, 4)
    return files


def _summary(
    video: Path,
    face: FaceEntry,
    score: VideoScore,
    explained: Sequence[ExplainedClip],
    skipped: list[tuple[int, str]],
    image_size: int,
) -> dict[str, Any]:
    """Return what explanation.json holds, but for settings and notes."""
    return {
        "video": {"path": str(video)} | {name: getattr(face, name) for name in ("frames", "fps", "width", "height")},
        "verdict": score.verdict,
        "probability_fake": score.probability,
        "scored_clips": [
            {"frames": frames, "probability_fake": probability}
            for frames, probability in zip(score.clip_frames, score.clip_probabilities, strict=True)
        ],
        "frame_scores": _frame_scores(score),
        "explained_clips": [_clip_summary(clip, image_size) for clip in explained],
        "skipped": [{"first_frame": first, "reason": reason} for first, reason in skipped],
    }


def _frame_scores(score: VideoScore) -> list[dict[str, float | int]]:
    """Return the mean probability of the clips that hold each frame."""
    found: dict[int, list[float]] = {}
    for frames, probability in zip(score.clip_frames, score.clip_probabilities, strict=True):
        for frame in frames:
            found.setdefault(int(frame), []).append(probability)
    return [{"frame": frame, "probability_fake": float(np.mean(found[frame]))} for frame in sorted(found)]


def _clip_summary(clip: ExplainedClip, image_size: int) -> dict[str, Any]:
    """Return scores, box and heat of one clip; shares of frames are of all the clip's heat of that kind.

    The map of the class frame is one for all frames, so it has the hottest cell of the clip.
    """
    x0, y0, x1, y1 = (float(value) for value in clip.clip.box)
    heats = {}
    for kind, heat in clip.maps().items():
        heat = np.asarray(heat, np.float64)
        pixels = heat if kind == "pixels" else heatmap.upscale(heat, image_size, image_size)
        total, rows, columns = heat.sum(), *heat.shape[1:]
        frames = []
        for grid, picture in zip(heat, pixels, strict=True):
            row, column = np.unravel_index(int(grid.argmax()), grid.shape)
            y, x = (np.array(np.unravel_index(int(picture.argmax()), picture.shape)) + 0.5) / image_size
            place = {"row": int(row), "column": int(column), "x": x0 + x * (x1 - x0), "y": y0 + y * (y1 - y0)}
            share = float(grid.sum() / total) if total > 0 else 0.0
            frames.append({"share_of_heat": share, "hottest_cell": place if grid.any() else None})
        values = {"total": float(total), "share_of_all_heat": clip.shares[kind], "highest": float(heat.max())}
        values |= {"drawn_dim": clip.shares[kind] < pictures.FAINT_SHARE, "grid": [rows, columns]}
        if len(frames) == len(clip.clip.frames):
            numbers = ({"frame": int(number)} for number in clip.clip.frames)
            values["frames"] = [number | frame for number, frame in zip(numbers, frames, strict=True)]
        else:
            values["hottest_cell"] = frames[0]["hottest_cell"]
        heats[kind] = values
    return {
        "frames": [int(number) for number in clip.clip.frames],
        "box": [x0, y0, x1, y1],
        "logit": clip.logit,
        "probability_fake": clip.probability,
        "target": clip.target,
        "explained_logit": clip.logit if clip.target == CLASSES[FAKE] else -clip.logit,
        "conservation": clip.conservation,
        "relevance_at_pixels": clip.arrived,
    } | heats


def _fitted(frame: np.ndarray) -> np.ndarray:
    """Shrink a frame so that no side is longer than `LONGEST_SIDE` and both are even."""
    height, width = frame.shape[:2]
    factor = min(1.0, LONGEST_SIDE / max(height, width))
    size = (max(2, round(width * factor) // 2 * 2), max(2, round(height * factor) // 2 * 2))
    return frame if size == (width, height) else cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
