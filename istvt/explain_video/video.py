"""Explanation of a video file: overlay videos (MP4), picture strips (PNG), JSON and a self-contained HTML page."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dataloading.errors import InputError, as_input_error
from dataloading.face_index import FaceEntry
from dataloading.faces import make_detector
from dataloading.io import write_json
from dataloading.video.processes import Workers
from istvt.config import ExplanationSettings
from istvt.explain.explanation import require_affordable, require_explainable
from istvt.explain_video import page, pictures
from istvt.explain_video.clips import ExplainedClip
from istvt.explain_video.drawing import Drawing, timeline
from istvt.explain_video.people import PersonExplanation, explain_people
from istvt.explain_video.summary import summarize
from istvt.inference.crop import check_people, choose_crop, crop_difference
from istvt.inference.people import PersonScore, ScoredPeople, score_people, unknown_shots_remark
from istvt.inference.predict import ONLY_GIVEN, boxes_of, face_entry
from istvt.model.checkpoint import CheckpointInfo, load_model
from istvt.model.detector import Detector
from istvt.run_dir import output_directory

FRAMES_A_SECOND = 4  # of the MP4: slow enough to compare neighboring frames
# Of one person; those of an earlier explanation are removed.
_OF_A_PERSON = re.compile(r"(person_\d+_)?(clip_\d+\.png|explanation\.mp4|in_frame\.mp4)")


@dataclass
class VideoExplanation:
    """Scores and explanations of the people of one video, and the files that were written.

    `score`, `target`, `clips` and `skipped` are those of the most suspicious person.

    Attributes:
        people: largest (area times time) first.
        not_scored: a sentence for each person and face that was found and not scored, with the reason.
        files: what was written: data and page, and panels, pasted and strips of the most suspicious person.
        notes: sentences that belong beside the verdict, as they are written.
        settings: how the video was explained.
    """

    people: list[PersonExplanation]
    not_scored: list[str]
    files: dict[str, Path | list[Path]]
    notes: list[str]
    settings: ExplanationSettings

    @property
    def most_suspicious(self) -> PersonExplanation:
        """The person with the highest probability, whose verdict is that of the video."""
        return max(self.people, key=lambda person: person.score.probability)

    @property
    def score(self) -> PersonScore:
        """The score of the most suspicious person."""
        return self.most_suspicious.score

    @property
    def target(self) -> str:
        """The explained class of the most suspicious person: "fake" or "real"."""
        return self.most_suspicious.target

    @property
    def clips(self) -> list[ExplainedClip]:
        """The explained clips of the most suspicious person."""
        return self.most_suspicious.clips

    @property
    def skipped(self) -> list[tuple[int, str]]:
        """The clips of the most suspicious person that could not be decoded."""
        return self.most_suspicious.skipped


def explain_video(
    video: str | Path,
    checkpoint: str | Path | Detector,
    out: str | Path,
    settings: ExplanationSettings | None = None,
    *,
    face: FaceEntry | None = None,
    device: str = "cpu",
    notes: Sequence[str] = (),
    advance: Callable[[str, int, int], None] | None = None,
) -> VideoExplanation:
    """Score a video, explain the clips on which the verdicts rest, and write pictures, numbers and a page.

    Written to `out`: `explanation.mp4` (face crop, temporal and spatial relevance and the class frame's map side by
    side, with the score over time; by `shap` and `counterfactual` their own maps, and beside these the face with its
    change enlarged, marked as made), `in_frame.mp4` (each map pasted back into the original frames), `clip_1.png`... (a
    strip a clip), `explanation.json` and `explanation.html` (all of it in one file, without script or network). Where
    several people are scored, videos and strips of each begin with its number: `person_2_explanation.mp4`.

    Args:
        video: the file.
        checkpoint: of `istvt train`, which says how its clips were cropped and what its verdicts are worth; or a model.
        out: directory, made where it is not there.
        settings: the defaults, if None. A rule that the method does not read is not among the settings that are
            written, and refused where it is not the default.
        face: where the people and shots are, if that is known; else they are looked for, as the settings say.
        device: of a model that is loaded here.
        notes: sentences that belong beside the verdict, before those that are found here.
        advance: called with (what is being done, done, of how many).

    Raises:
        InputError: the video or the checkpoint cannot be used, or an argument is wrong.
    """
    video, out = Path(video), Path(out)
    settings = settings or ExplanationSettings()
    with as_input_error():
        settings.rules()
    boxes, workers = settings.boxes, settings.workers
    check_people(person=settings.person, boxes=boxes, detect=settings.detect)
    if face is not None and boxes is not None:
        raise InputError(f"face is given and boxes is {boxes}; expected one of them")
    advance = advance or (lambda *_: None)
    looking = partial(advance, "looking for faces")
    if isinstance(checkpoint, Detector):
        model, info, name = checkpoint, CheckpointInfo(checkpoint.config), "model"
    else:
        (model, info), name = load_model(checkpoint, device), str(checkpoint)
    require_explainable(model.config, settings.method)
    require_affordable(model, settings, settings.clips)
    notes, given = [*notes, *info.caveats], face is not None
    if given:
        about_crop = crop_difference(info.detectors, [face.detector], info.region)
    elif boxes is not None:
        rows = boxes_of(boxes, [video])
        face = face_entry(video, None, model.config.frames, rows[video], workers=workers, advance=looking)
        about_crop = ONLY_GIVEN
        notes += filter(None, [crop_difference(info.detectors, [face.detector], info.region)])
    else:
        crop = choose_crop(info.detectors, settings.detector, settings.detect, info.region)
        finder = make_detector(crop.detector) if crop.detector else None
        face = face_entry(video, finder and finder.name, model.config.frames, workers=workers, advance=looking)
        about_crop = crop.note
    notes += filter(None, [about_crop, unknown_shots_remark(face, given)])
    output_directory(out)
    scored = score_people(
        model,
        video,
        face,
        person=settings.person,
        clips=settings.clips_scored,
        batch_size=settings.batch_size,
        workers=workers,
        precision=settings.precision,
        region=info.region,
        advance=lambda done, total: advance("scoring clips", done, total),
    )
    return explain_scored(model, video, face, scored, out, settings, checkpoint=name, notes=notes, advance=advance)


def explain_scored(
    model: Detector,
    video: Path,
    face: FaceEntry,
    scored: ScoredPeople,
    out: Path,
    settings: ExplanationSettings,
    *,
    checkpoint: str = "model",
    shown_as: str | None = None,
    notes: Sequence[str] = (),
    processes: Workers | None = None,
    advance: Callable[[str, int, int], None] | None = None,
) -> VideoExplanation:
    """Explain a video whose people are scored already, and write what `explain_video` does.

    Args:
        model: that has scored them.
        video: the file.
        face: where the people and shots are.
        scored: the people, and their clips.
        out: directory, made where it is not there.
        settings: of which those of finding and scoring people are not read again.
        checkpoint: how the model is named in what is written.
        shown_as: how the file is named in what is written; None for its path.
        notes: sentences that belong beside the verdict.
        processes: in which the file is read, such as those with the limits of a sandbox.
        advance: called with (what is being done, done, of how many).

    Raises:
        InputError: the model is none that can be explained, the file cannot be decoded, or a setting is wrong.
    """
    with as_input_error():
        settings.rules()
    require_explainable(model.config, settings.method)
    require_affordable(model, settings, sum(min(settings.clips, len(found.clips)) for found in scored.clips))
    output_directory(out)
    advance = advance or (lambda *_: None)
    people = explain_people(model, scored, settings, advance, processes)
    used = {"checkpoint": checkpoint, "detector": face.detector, "model": model.config.to_dict()}
    data = summarize(Path(shown_as or video), face, people, model.config.image_size)
    data |= {"not_scored": scored.not_scored, "settings": settings.to_dict() | used, "notes": list(notes)}
    files = _write(out, video, face, people, settings, model.config.image_size, data, advance, processes)
    explanation = VideoExplanation(people, scored.not_scored, files, list(notes), settings)
    files |= explanation.most_suspicious.files
    return explanation


def _write(
    out: Path,
    video: Path,
    face: FaceEntry,
    people: Sequence[PersonExplanation],
    settings: ExplanationSettings,
    image_size: int,
    data: dict[str, Any],
    advance: Callable[[str, int, int], None],
    processes: Workers | None,
) -> dict[str, Path | list[Path]]:
    """Write everything; return the files of the video, and set those of each person.

    Pictures and videos of an earlier explanation, which may have had more clips or people, go.
    """
    data_file, page_file = out / "explanation.json", out / "explanation.html"
    earlier = {path for path in out.iterdir() if _OF_A_PERSON.fullmatch(path.name)} if data_file.is_file() else set()
    explained = [person for person in people if person.clips]
    steps, written = 3 * len(explained) + 1, set()
    for number, person in enumerate(explained):
        drawing = Drawing(video, face, person, settings, image_size, len(people) > 1, processes)
        prefix = f"person_{person.score.number}_" if len(people) > 1 else ""
        panels, pasted = out / f"{prefix}explanation.mp4", out / f"{prefix}in_frame.mp4"
        advance("drawing", 3 * number, steps)
        pictures.write_mp4(panels, drawing.panel_frames(), FRAMES_A_SECOND)
        advance("drawing", 3 * number + 1, steps)
        pictures.write_mp4(pasted, drawing.pasted_frames(), FRAMES_A_SECOND)
        advance("drawing", 3 * number + 2, steps)
        strips = [out / f"{prefix}clip_{place}.png" for place in range(1, len(drawing.clips) + 1)]
        for path, picture in zip(strips, drawing.strips(), strict=True):
            pictures.write_png(path, picture)
        person.files = {"panels": panels, "pasted": pasted, "strips": strips}
        person.portrait = drawing.portrait()
        written |= {panels, pasted, *strips}
    for path in earlier - written:
        path.unlink()
    advance("drawing", steps - 1, steps)
    write_json(data_file, data)
    page.write_page(page_file, data, people, [timeline(face, person.score) for person in people])
    advance("drawing", steps, steps)
    return {"data": data_file, "page": page_file}
