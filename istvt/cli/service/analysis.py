"""The model of the service: reading, scoring and explaining one video, each in processes with limits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dataloading.errors import InputError
from dataloading.face_index import FaceEntry
from dataloading.faces import make_detector
from dataloading.video.probe import describe
from dataloading.video.processes import Workers
from dataloading.video.sandbox import Sandbox, missing
from istvt.cli.service.schemas import Problem
from istvt.config import ExplanationSettings, ServeSettings
from istvt.explain.explanation import methods_of
from istvt.explain_video.video import VideoExplanation, explain_scored
from istvt.inference.calibration import Band, band_of_checkpoint
from istvt.inference.crop import Crop, choose_crop
from istvt.inference.people import ScoredPeople, score_people, unknown_shots_remark
from istvt.inference.predict import Prediction, face_entry
from istvt.model.checkpoint import CheckpointInfo, load_model
from istvt.model.detector import Detector
from istvt.run_dir import model_file

DEFAULT_MAX_ERROR = 0.05
_NO_FACE = " shows no face: "  # in the sentence of `dataloading.faces`, which comes from another process as text
Advance = Callable[[str, int, int], None]


@contextmanager
def sandboxed(path: Path) -> Iterator[Workers]:
    """Give processes that can read this video and nothing else, and end them with the context."""
    with Workers(Sandbox(os.path.realpath(path))) as processes:
        yield processes


def probe_upload(path: Path, name: str, max_seconds: float) -> dict[str, Any]:
    """Return what a file says of itself (`dataloading.video.probe.describe`), before its pictures are decoded.

    Raises:
        Problem: it is no video that can be read, or a longer one.
    """
    with sandboxed(path) as processes:
        try:
            found = processes.call(describe, path, file=path)
        except InputError as error:
            raise Problem("not-a-video", shown(error, path, name)) from error
    if found["seconds"] > max_seconds:
        raise Problem(
            "too-long",
            f"{name} is {found['seconds'] / 60:.1f} minutes long; this server takes at most {max_seconds / 60:g}.",
        )
    return found


def shown(error: InputError, path: Path, name: str) -> str:
    """Return the sentence of an error with the client's name of the file in place of the server's path."""
    return str(error).replace(str(path), name).replace(os.path.realpath(path), name)


@dataclass
class ScoredVideo:
    """A video with its people and their scores.

    Attributes:
        face: where its people and shots are.
        scored: the people, and their clips.
        prediction: what `istvt predict` says of it.
    """

    face: FaceEntry
    scored: ScoredPeople
    prediction: Prediction


class Analyzer:
    """A model and how videos are read for it; one video at a time.

    Attributes:
        model, info: of the checkpoint.
        name: of the model's file, without the directories above that of its run.
        band: scores without a verdict, if any.
        crop: how videos are cropped for the model.
        notes: caveats of every verdict.
    """

    def __init__(self, model: Detector, info: CheckpointInfo, name: str, band: Band | None, crop: Crop) -> None:
        self.model, self.info, self.name, self.band, self.crop = model, info, name, band, crop
        self.detector = make_detector(crop.detector).name if crop.detector else None
        self.notes = [*info.caveats, *filter(None, [crop.note])]
        self.precision = "auto"

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        settings: ServeSettings,
        *,
        device: str = "cpu",
        detector: str = "auto",
        detect: bool | None = None,
        precision: str = "auto",
    ) -> Analyzer:
        """Return the analyzer of a checkpoint.

        Raises:
            InputError: it cannot be loaded, no detector is installed, or it supports no such error rate.
        """
        file = model_file(checkpoint)
        model, info = load_model(file, device)
        band = _band(info, settings.max_error, checkpoint)
        name = "/".join(file.absolute().parts[-2:])
        crop = choose_crop(info.detectors, detector, detect, info.region)
        analyzer = cls(model, info, name, band, crop)
        analyzer.precision = precision
        return analyzer

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that explain this architecture."""
        return methods_of(self.model.config)

    @property
    def explainable(self) -> bool:
        """Whether there are explanations of this architecture."""
        return bool(self.methods)

    def method(self, settings: ServeSettings) -> str:
        """Return the method of explanations where a request names none: the server's, if it can explain this model."""
        return settings.method if settings.method in self.methods else self.methods[0]

    @property
    def unenforced(self) -> list[str]:
        """Which limits this kernel does not enforce on the processes that read videos."""
        return missing()

    def find(self, path: Path, processes: Workers, advance: Callable[[int, int], None]) -> FaceEntry:
        """Return where the people and shots of a video are; InputError where there are none."""
        frames = self.model.config.frames
        return face_entry(path, self.detector, frames, workers=2, processes=processes, advance=advance)

    def score(self, path: Path, name: str, person: int | None, processes: Workers, advance: Advance) -> ScoredVideo:
        """Find and score the people of a video, as `istvt predict --isolate` does.

        Args:
            path: the file.
            name: of the file, for sentences.
            person: the one that is scored; None for all.
            processes: in which it is read.
            advance: called with (stage, done, of how many).

        Raises:
            Problem: the video cannot be scored.
        """
        try:
            face = self.find(path, processes, partial(advance, "looking for faces"))
            found = len(face.people)
            if person is not None and person > max(found, 1):
                people = "1 person" if found < 2 else f"{found} people"
                raise Problem("unknown-person", f"person is {person}, and {people} can be scored in {name}.")
            scored = score_people(
                self.model,
                path,
                face,
                person=person,
                precision=self.precision,
                region=self.info.region,
                processes=processes,
                advance=partial(advance, "scoring clips"),
            )
        except InputError as error:
            sentence = shown(error, path, name)
            raise Problem("no-face" if _NO_FACE in sentence else "not-scored", sentence) from error
        prediction = Prediction(
            name,
            tuple(scored.people),
            remark=unknown_shots_remark(face),
            not_scored=tuple(scored.not_scored),
            notes=tuple(self.notes),
            frames=face.frames,
            fps=face.fps,
        )
        return ScoredVideo(face, scored, prediction)

    def explain(
        self,
        path: Path,
        name: str,
        video: ScoredVideo,
        out: Path,
        settings: ExplanationSettings,
        processes: Workers,
        advance: Advance,
    ) -> VideoExplanation:
        """Write the explanation of a scored video to a directory, as `istvt explain` does.

        Raises:
            Problem: it cannot be explained.
        """
        unsure = [person for person in video.scored.people if self.band and self._is_unsure(person.probability)]
        notes = [*self.notes, *filter(None, [unknown_shots_remark(video.face)])]
        notes += [f"Not sure about {person.name}: its score is in the band without a verdict." for person in unsure]
        if self.band:
            notes.append(f"{str(self.band)[0].upper()}{str(self.band)[1:]}.")
        try:
            return explain_scored(
                self.model,
                path,
                video.face,
                video.scored,
                out,
                settings,
                checkpoint=f"{self.name} ({self.info.checksum[:16]})",
                shown_as=name,
                notes=notes,
                processes=processes,
                advance=advance,
            )
        except InputError as error:
            raise Problem("not-explainable", shown(error, path, name)) from error

    def _is_unsure(self, probability: float) -> bool:
        return max(probability, 1 - probability) < self.band.sure


def _band(info: CheckpointInfo, max_error: float | None, checkpoint: str | Path) -> Band | None:
    """Return the band that is asked for; by default that of `DEFAULT_MAX_ERROR`, where validation supports it."""
    if max_error == 0:
        return None
    if max_error is not None:
        return band_of_checkpoint(info, max_error, checkpoint)
    try:
        return band_of_checkpoint(info, DEFAULT_MAX_ERROR, checkpoint)
    except InputError:
        return None
