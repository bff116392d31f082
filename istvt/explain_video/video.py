"""An explanation of one video file that a person can look at: MP4, PNG strips, JSON and a page that opens from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dataloading.clips.sampling import Clip
from dataloading.dataset import CLASSES, FAKE
from dataloading.errors import InputError, as_input_error
from dataloading.face_index import FaceEntry
from dataloading.faces import make_detector
from dataloading.io import write_json
from dataloading.video.decode import decode_frames
from istvt.config import ExplanationSettings
from istvt.explain import heatmap
from istvt.explain_video import page, pictures
from istvt.explain_video.clips import ExplainedClip, explain_clips
from istvt.inference.crop import choose_crop, crop_difference
from istvt.inference.predict import face_entry, rarely_seen
from istvt.inference.score import ScoredClips, score_video
from istvt.inference.video_score import VideoScore, probability_of
from istvt.model.checkpoint import CheckpointInfo, load_model
from istvt.model.istvt import ISTVT
from istvt.run_dir import output_directory

PANEL = 288  # pixels a side of a panel in the MP4
STRIP = 150  # and of a picture in a strip
FRAMES_A_SECOND = 4  # of the MP4: slow enough to compare neighboring frames
LONGEST_SIDE = 960  # of the pasted-back frames


@dataclass
class VideoExplanation:
    """What was found out about one video and where it is written.

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
    """Score a video, explain the clips that carry the verdict, and write what a person looks at.

    Written to `out`: `explanation.mp4` (face crop, temporal and spatial relevance side by side, with the score over
    time), `in_frame.mp4` (both overlays pasted back into the original frames), `clip_1.png`... (a strip a clip),
    `explanation.json` and `explanation.html` (all of it in one file, without script or network).

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
    model, info, name = _loaded(checkpoint, device)
    if face is None:
        crop = choose_crop(info.detectors, detector, detect)
        face, about_crop = face_entry(video, make_detector(crop.detector) if crop.detector else None), crop.note
    else:
        about_crop = crop_difference(info.detectors, [face.detector])
    notes = [*notes, *info.caveats, *filter(None, [about_crop, rarely_seen(face)])]
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
    drawing = _Drawing(video, face, scored, score, explained, settings)
    left_out = [(int(clip.frames[0]), reason) for clip, reason in (*scored.skipped, *skipped)]
    said = {"method": settings.method} | rules
    said |= {"target": settings.target, "normalization": settings.normalization, "checkpoint": name}
    said |= {"detector": face.detector, "model": model.config.to_dict()}
    files = _write(out, drawing, said, left_out, notes, advance)
    return VideoExplanation(score, settings.target, explained, left_out, files, notes)


def select_clips(scored: ScoredClips, target: str, count: int) -> list[Clip]:
    """The clips that speak most for `target`, by their logits, in the order of the video; none shares a frame."""
    sign = 1 if target == CLASSES[FAKE] else -1
    chosen: list[Clip] = []
    for i in np.argsort(-sign * scored.logits, kind="stable"):
        clip = scored.clips[i]
        if len(chosen) < count and not any(np.isin(clip.frames, other.frames).any() for other in chosen):
            chosen.append(clip)
    return sorted(chosen, key=lambda clip: int(clip.frames[0]))


def _loaded(checkpoint: str | Path | ISTVT, device: str) -> tuple[ISTVT, CheckpointInfo, str]:
    """The model, what is known about it, and what it is called."""
    if isinstance(checkpoint, ISTVT):
        return checkpoint, CheckpointInfo(checkpoint.config), "model"
    return *load_model(checkpoint, device), str(checkpoint)


class _Drawing:
    """Everything that is drawn of one video: normalized heat, original frames, captions."""

    def __init__(
        self,
        video: Path,
        face: FaceEntry,
        scored: ScoredClips,
        score: VideoScore,
        explained: Sequence[ExplainedClip],
        settings: ExplanationSettings,
    ) -> None:
        self.video, self.face, self.score, self.explained = video, face, score, explained
        self.target, normalization = settings.target, settings.normalization
        self.heat = [
            tuple(heatmap.normalize(maps, normalization) for maps in (clip.temporal, clip.spatial))
            for clip in explained
        ]
        self.frames = [decode_frames(video, clip.clip.frames) for clip in explained]
        self.scale_note = f"from the coldest to the hottest cell of the {normalization}, however near they are"
        self.fps = face.fps or 25.0
        middles = [float(np.mean(clip.frames) + 0.5) / self.fps for clip in scored.clips]
        probabilities = probability_of(scored.logits).tolist()
        by_time = sorted(zip(middles, probabilities, strict=True))
        self.timeline = pictures.Timeline(
            [middle for middle, _ in by_time],
            [probability for _, probability in by_time],
            face.frames / self.fps,
            score.probability,
        )

    def panel_frames(self) -> Iterator[np.ndarray]:
        """The frames of explanation.mp4, clip after clip."""
        for clip, (temporal, spatial), frames in self._clips():
            for t, number in enumerate(clip.clip.frames):
                face = heatmap.crop(frames[t], clip.clip.box, PANEL)
                yield pictures.explanation_frame(
                    pictures.panels(face, temporal[t], spatial[t]),
                    f"{self._headline()}   frame {number}, clip {clip.probability:.3f}   why {self.target}?",
                    self.timeline,
                    (number + 0.5) / self.fps,
                    self.scale_note,
                )

    def pasted_frames(self) -> Iterator[np.ndarray]:
        """The frames of in_frame.mp4: the original with the temporal overlay, and with the spatial one."""
        for clip, (temporal, spatial), frames in self._clips():
            for t, frame in enumerate(frames):
                pair = [_fitted(heatmap.paste(frame, heat[t], clip.clip.box)) for heat in (temporal, spatial)]
                yield np.concatenate(pair, axis=1 if frame.shape[0] >= frame.shape[1] else 0)

    def strips(self) -> Iterator[np.ndarray]:
        """One picture a clip: frames x {crop, temporal, spatial}."""
        for clip, (temporal, spatial), frames in self._clips():
            faces = [heatmap.crop(frame, clip.clip.box, STRIP) for frame in frames]
            columns = [pictures.panels(*parts) for parts in zip(faces, temporal, spatial, strict=True)]
            labels = [f"frame {number}" for number in clip.clip.frames]
            title = f"probability of fake {clip.probability:.3f}   why {self.target}?"
            yield pictures.strip(list(zip(*columns, strict=True)), labels, title, self.scale_note)

    def _clips(self) -> Iterator[tuple[ExplainedClip, tuple[np.ndarray, np.ndarray], np.ndarray]]:
        return zip(self.explained, self.heat, self.frames, strict=True)

    def _headline(self) -> str:
        return f"{self.video.name}: {self.score.verdict}, probability of fake {self.score.probability:.3f}"


def _write(
    out: Path,
    drawing: _Drawing,
    settings: dict[str, Any],
    skipped: list[tuple[int, str]],
    notes: Sequence[str],
    advance: Callable[[str, int, int], None],
) -> dict[str, Path | list[Path]]:
    earlier = _earlier_strips(out)
    advance("drawing", 0, 4)
    files: dict[str, Any] = {"panels": out / "explanation.mp4", "pasted": out / "in_frame.mp4", "strips": []}
    pictures.write_mp4(files["panels"], drawing.panel_frames(), FRAMES_A_SECOND)
    advance("drawing", 1, 4)
    pictures.write_mp4(files["pasted"], drawing.pasted_frames(), FRAMES_A_SECOND)
    advance("drawing", 2, 4)
    for number, picture in enumerate(drawing.strips(), start=1):
        files["strips"].append(out / f"clip_{number}.png")
        pictures.write_png(files["strips"][-1], picture)
    for strip in earlier - set(files["strips"]):
        strip.unlink()
    advance("drawing", 3, 4)
    data = summary(drawing, settings, skipped) | {"notes": list(notes)}
    files["data"] = out / "explanation.json"
    write_json(files["data"], data)
    files["page"] = out / "explanation.html"
    page.write_page(files["page"], data, files, drawing.timeline)
    advance("drawing", 4, 4)
    return files


def _earlier_strips(out: Path) -> set[Path]:
    """The strips of the explanation that is in `out` already: it may have had more clips."""
    if not (out / "explanation.json").is_file():
        return set()
    return {path for path in out.glob("clip_*.png") if path.stem.removeprefix("clip_").isdecimal()}


def summary(drawing: _Drawing, settings: dict[str, Any], skipped: list[tuple[int, str]]) -> dict[str, Any]:
    """What explanation.json holds."""
    face, score = drawing.face, drawing.score
    return {
        "video": {"path": str(drawing.video), "frames": face.frames, "fps": face.fps}
        | {"width": face.width, "height": face.height},
        "verdict": score.verdict,
        "probability_fake": score.probability,
        "scored_clips": [
            {"frames": frames, "probability_fake": probability}
            for frames, probability in zip(score.clip_frames, score.clip_probabilities, strict=True)
        ],
        "frame_scores": _frame_scores(score),
        "explained_clips": [_clip_summary(clip) for clip in drawing.explained],
        "skipped": [{"first_frame": first, "reason": reason} for first, reason in skipped],
        "settings": settings,
    }


def _frame_scores(score: VideoScore) -> list[dict[str, float | int]]:
    """The mean probability of the clips that hold each frame."""
    found: dict[int, list[float]] = {}
    for frames, probability in zip(score.clip_frames, score.clip_probabilities, strict=True):
        for frame in frames:
            found.setdefault(int(frame), []).append(probability)
    return [{"frame": frame, "probability_fake": float(np.mean(found[frame]))} for frame in sorted(found)]


def _clip_summary(clip: ExplainedClip) -> dict[str, Any]:
    """Scores, box and heat of one clip; shares are of all the clip's heat of that kind."""
    x0, y0, x1, y1 = (float(value) for value in clip.clip.box)
    heats = {}
    for kind in ("temporal", "spatial"):
        heat = np.asarray(getattr(clip, kind), np.float64)
        total, rows, columns = heat.sum(), *heat.shape[1:]
        frames = []
        for number, grid in zip(clip.clip.frames, heat, strict=True):
            row, column = np.unravel_index(int(grid.argmax()), grid.shape)
            center = [x0 + (column + 0.5) / columns * (x1 - x0), y0 + (row + 0.5) / rows * (y1 - y0)]
            share = float(grid.sum() / total) if total > 0 else 0.0
            hottest = {"row": int(row), "column": int(column), "x": center[0], "y": center[1]} if grid.any() else None
            frames.append({"frame": int(number), "share_of_heat": share, "hottest_cell": hottest})
        heats[kind] = {"total": float(total), "highest": float(heat.max()), "grid": [rows, columns], "frames": frames}
    return {
        "frames": [int(number) for number in clip.clip.frames],
        "box": [x0, y0, x1, y1],
        "logit": clip.logit,
        "probability_fake": clip.probability,
        "target": clip.target,
    } | heats


def _fitted(frame: np.ndarray) -> np.ndarray:
    """No side longer than `LONGEST_SIDE`, and both even."""
    import cv2

    height, width = frame.shape[:2]
    factor = min(1.0, LONGEST_SIDE / max(height, width))
    size = (max(2, round(width * factor) // 2 * 2), max(2, round(height * factor) // 2 * 2))
    return frame if size == (width, height) else cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
