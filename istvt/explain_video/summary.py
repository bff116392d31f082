"""Numbers of an explanation as plain data, for `explanation.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataloading.dataset import CLASSES, FAKE
from dataloading.face_index import FaceEntry
from istvt.explain import heatmap
from istvt.explain_video import pictures
from istvt.explain_video.clips import ExplainedClip
from istvt.explain_video.people import PersonExplanation
from istvt.inference.people import PersonScore


def summarize(video: Path, face: FaceEntry, people: Sequence[PersonExplanation], image_size: int) -> dict[str, Any]:
    """Return what explanation.json holds, but for settings and notes; the verdict is the most suspicious person's."""
    verdict = max((person.score for person in people), key=lambda score: score.probability)
    return {
        "video": {"path": str(video)} | {name: getattr(face, name) for name in ("frames", "fps", "width", "height")},
        "shots": face.shots,
        "verdict": verdict.verdict,
        "probability_fake": verdict.probability,
        "person": verdict.number,
        "people": [_person_summary(person, image_size) for person in people],
    }


def _person_summary(person: PersonExplanation, image_size: int) -> dict[str, Any]:
    score = person.score
    return score.to_dict() | {
        "target": person.target,
        "scored_clips": [
            {"frames": frames, "probability_fake": probability}
            for frames, probability in zip(score.clip_frames, score.clip_probabilities, strict=True)
        ],
        "frame_scores": _frame_scores(score),
        "explained_clips": [_clip_summary(clip, image_size) for clip in person.clips],
        "skipped": [{"first_frame": first, "reason": reason} for first, reason in person.skipped],
    }


def _frame_scores(score: PersonScore) -> list[dict[str, float | int]]:
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
        pixels = heatmap.at_pixels(heat, image_size)
        total, rows, columns = heat.sum(), *heat.shape[1:]
        frames = []
        for grid, picture in zip(heat, pixels, strict=True):
            row, column = np.unravel_index(int(grid.argmax()), grid.shape)
            # A tile of equal heat is named by its middle.
            y, x = (np.argwhere(picture == picture.max()).mean(0) + 0.5) / image_size
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
        **({} if clip.numbers is None else {clip.method: clip.numbers}),
        **({} if clip.change is None else {"enlarged": clip.enlargement}),
        "mask": None if clip.mask is None else _mask_summary(clip),
    } | heats


def _mask_summary(clip: ExplainedClip) -> dict[str, Any]:
    """Return how much of each frame's crop is called forged, and the box around it in pixels of the video."""
    x0, y0, x1, y1 = clip.clip.box
    height, width = clip.mask.shape[1:]
    frames = []
    for number, forged in zip(clip.clip.frames, clip.mask >= 0.5, strict=True):
        rows, columns = np.flatnonzero(forged.any(1)), np.flatnonzero(forged.any(0))
        box = None
        if len(rows):
            across, down = (x1 - x0) / width, (y1 - y0) / height
            box = [x0 + columns[0] * across, y0 + rows[0] * down]
            box += [x0 + (columns[-1] + 1) * across, y0 + (rows[-1] + 1) * down]
        frames.append({"frame": int(number), "forged_share": float(forged.mean()), "box": box and [*map(float, box)]})
    return {"forged_share": float(np.mean([frame["forged_share"] for frame in frames])), "frames": frames}
