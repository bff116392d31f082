"""Prediction for video files: find the faces of people, take clips of each, score them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dataloading import remote
from dataloading.clips.store import checksum, stored_face
from dataloading.dataset import FACE, Dataset, Region, Video
from dataloading.engines import ModelEngine
from dataloading.engines.journal import Shard, keeping
from dataloading.errors import InputError
from dataloading.face_index import BOXES_FILE, FaceEntry
from dataloading.faces import make_detector
from dataloading.faces.boxes_file import read_boxes, with_boxes
from dataloading.faces.prepare import find_in_file
from dataloading.io import parse_json
from dataloading.video.processes import Workers
from dataloading.video.sandbox import Sandbox
from istvt.device import pick_device, versions
from istvt.inference.calibration import Band
from istvt.inference.crop import check_people, choose_crop, crop_difference
from istvt.inference.people import UNLABELED, PersonScore, score_people, unknown_shots_remark
from istvt.model.checkpoint import CheckpointInfo, load_model, load_same_model, read_info
from istvt.model.detector import Detector

ONLY_GIVEN = "the face whose boxes were given is scored; others were not looked for"


@dataclass(frozen=True)
class Prediction:
    """Prediction for one file: a score a person, or one sentence with the reason why there is none.

    Attributes:
        path: the file, or its URL.
        people: scores of its people, largest (area times time) first; empty where there is an error.
        error: why there is no score.
        remark: reason to doubt the scores of all people: shots that are not known.
        not_scored: a sentence for each person and face that was found and not scored, with the reason.
        notes: caveats of every verdict of the model, and how files are cropped.
        frames, fps: length and frame rate of the video.
    """

    path: Path | str
    people: tuple[PersonScore, ...] = ()
    error: str | None = None
    remark: str | None = None
    not_scored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    frames: int = 0
    fps: float = 0.0

    @property
    def score(self) -> PersonScore | None:
        """The most suspicious person's score, which is that of the video; None where there is an error."""
        return max(self.people, key=lambda person: person.probability, default=None)


@dataclass(frozen=True)
class FileScoring:
    """How files are scored: what a process needs beside the model. See `predict`.

    Attributes:
        detector: name of the face detector of files without given boxes; None for the whole picture.
        given: boxes of the one face that is scored, by file.
        notes: of each prediction.
    """

    detector: str | None
    given: dict[Path, np.ndarray]
    notes: tuple[str, ...]
    faces: str
    person: int | None
    clips: int | None
    batch_size: int
    workers: int
    precision: str
    isolate: bool
    region: Region

    def predict(
        self, model: Detector, file: Path | str, progress: Callable[[Path | str, str, int, int], None] | None = None
    ) -> Prediction:
        """Return the prediction for a file or a URL, or the reason why there is none."""
        report = progress and partial(progress, file)
        looking, scoring = (report and partial(report, what) for what in ("looking for faces", "scoring"))
        try:
            with (
                remote.local(file) as path,
                Workers(Sandbox(os.path.realpath(path)) if self.isolate else None) as processes,
            ):
                reading = {"workers": self.workers, "processes": processes}
                rows = self.given.get(Path(file))
                entry = face_entry(path, self.detector, model.config.frames, rows, **reading, advance=looking)
                scored = score_people(
                    model,
                    path,
                    entry,
                    faces=self.faces,
                    person=self.person,
                    clips=self.clips,
                    batch_size=self.batch_size,
                    precision=self.precision,
                    region=self.region,
                    **reading,
                    advance=scoring,
                )
        except InputError as error:
            return self.failure(file, error)
        only = [ONLY_GIVEN] if rows is not None else []
        return Prediction(
            file,
            tuple(scored.people),
            remark=unknown_shots_remark(entry),
            not_scored=(*only, *scored.not_scored),
            notes=self.notes,
            frames=entry.frames,
            fps=entry.fps,
        )

    def failure(self, path: Path | str, error: InputError) -> Prediction:
        """Return the prediction for a file that cannot be scored."""
        return Prediction(path, error=str(error), notes=self.notes)


def predict(
    model: Detector | str | Path,
    files: Iterable[str | Path],
    *,
    info: CheckpointInfo | None = None,
    detector: str = "auto",
    detect: bool | None = None,
    faces: str = "all",
    person: int | None = None,
    boxes: str | Path | None = None,
    clips: int | None = None,
    batch_size: int = 8,
    workers: int = 2,
    precision: str = "auto",
    isolate: bool = False,
    engine: ModelEngine | None = None,
    device: str = "auto",
    shard: Shard | None = None,
    keep: str | Path | None = None,
    advance: Callable[[Prediction], None] | None = None,
    progress: Callable[[Path | str, str, int, int], None] | None = None,
) -> list[Prediction]:
    """Score the people of video files; a bad file is reported and does not stop the others.

    Args:
        model: on the device to use; or its file, which is loaded on `device`, by each worker of an engine.
        files: videos; `dataloading.layouts.files.video_files` lists those of directories. Of a URL that fsspec reads a
            copy is kept for as long as it is read.
        info: metadata from `load_model`: videos are then cropped as the training videos were; a model of
            `istvt.from_pretrained` has it with it.
        detector: face detector; "auto" takes that of training, or the best installed one.
        detect: False takes whole pictures, True detects faces, however the training videos were cropped.
        faces: "all" scores every person; "main" the main one alone, as the evaluation of a data set does, but over all
            of the video.
        person: scores one person alone: 1 is the main one, the others follow by size times time.
        boxes: JSON file `{video: [[frame, x0, y0, x1, y1], ...]}` with a face's boxes, made elsewhere, in some of the
            videos, by file name or path; in these no other face is looked for.
        clips: clips scored a person; None for 8, and more where there are more shots, or long ones.
        batch_size: clips a forward pass.
        workers: processes that decode.
        precision: "auto" is bfloat16 where the hardware multiplies it; or "float32", "bfloat16", "float16".
        isolate: reads each file in processes of its own with the limits of `dataloading.video.sandbox`.
        engine: scores the files on other machines; None on this one.
        device: of a model that is given as a file.
        shard: the part of the files that is scored; None for all.
        keep: journal of what is done, from which another call goes on; see `dataloading.engines.journal`.
        advance: called after each file.
        progress: called within a file with (file, what is being done, done, of how many): "looking for faces" counts
            frames, "scoring" clips.

    Returns:
        The predictions of the shard's files, in the order of the files.

    Raises:
        InputError: no detector is installed, the boxes file is wrong, or arguments exclude each other.
    """
    files = [remote.url_of(file) or Path(file) for file in files]
    check_people(faces, person, boxes, detect)
    in_memory = isinstance(model, Detector)
    if engine is not None and in_memory:
        raise InputError("model is in the memory of this process; expected its file, which each worker loads")
    if not in_memory:
        model, info = (Path(model), read_info(model)) if engine else load_model(model, pick_device(device))
    elif info is None:
        info = model.info
    given = boxes_of(boxes, list(map(Path, files))) if boxes is not None else {}
    region = info.region if info else FACE
    crop = choose_crop(info.detectors if info else (), detector, detect, region)
    finder = make_detector(crop.detector) if crop.detector and len(given) < len(files) else None
    notes = [*(info.caveats if info else ()), *filter(None, [crop.note if len(given) < len(files) else None])]
    if given and info:
        notes += filter(None, [crop_difference(info.detectors, [BOXES_FILE], region)])
    found_by = finder.name if finder else None
    how = FileScoring(
        found_by, given, tuple(notes), faces, person, clips, batch_size, workers, precision, isolate, region
    )
    kind = engine.device_type(device) if engine else next(model.parameters()).device.type
    depends_on = {name: getattr(how, name) for name in ("faces", "person", "clips", "batch_size", "isolate")}
    depends_on |= {"precision": precision, "device": kind, "detector": found_by}
    depends_on |= {"boxes": checksum(Path(boxes)) if boxes is not None else None}
    depends_on |= {"model": info.checksum if info else None, "versions": versions()}
    with keeping(
        Path(keep) if keep is not None else None,
        "predict",
        depends_on,
        [(str(path), path) for path in files],
        shard or Shard(),
        to_dict=prediction_to_dict,
        parse=_parse_prediction,
        failed=lambda prediction: prediction.error is not None,
    ) as journal:
        if advance:
            for prediction in journal.results.values():
                advance(prediction)
        todo = [files[position] for position in journal.todo]
        if engine is None:
            found = ((path, how.predict(model, path, progress)) for path in todo)
        else:
            load = partial(_load, model, info.checksum, how, kind)
            found = engine.map(load, todo, lambda path: path, gpu=kind == "cuda")
        places: dict[Path | str, list[int]] = {}
        for position in journal.todo:
            places.setdefault(files[position], []).append(position)
        for path, result in found:
            prediction = how.failure(path, result) if isinstance(result, InputError) else result
            journal.add(places[path].pop(0), prediction)
            if advance:
                advance(prediction)
        if keep is not None:
            journal.rewrite()
        return journal.in_order()


def _parse_prediction(data: bytes, where: str) -> Prediction:
    prediction = parse_json(data, Prediction, where)
    return replace(prediction, path=remote.url_of(prediction.path) or Path(prediction.path))


def prediction_to_dict(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction in JSON's types, from which `parse_json` makes it again."""
    return asdict(prediction) | {"path": str(prediction.path)}


def verdicts_to_dict(prediction: Prediction, band: Band | None = None) -> dict[str, Any]:
    """Return what JSON files and the service say of a video; the verdict is that of its most suspicious person.

    With a band, verdicts within it are withheld, and it is part of what is said.
    """
    if prediction.score is None:
        return {"path": str(prediction.path), "error": prediction.error}
    score = prediction.score
    remark = "; ".join(filter(None, [score.remark, prediction.remark])) or None

    def verdict(person: PersonScore) -> str:
        return band.verdict(person.probability) if band else person.verdict

    return {
        "path": str(prediction.path),
        "verdict": verdict(score),
        "probability_fake": score.probability,
        "person": score.number,
        "clip_probabilities": score.clip_probabilities,
        "clip_frames": score.clip_frames,
        "people": [
            person.to_dict()
            | {"verdict": verdict(person)}
            | ({"calibrated_probability_fake": band.calibrated(person.probability)} if band else {})
            | {"clip_probabilities": person.clip_probabilities, "clip_frames": person.clip_frames}
            for person in prediction.people
        ],
        "not_scored": prediction.not_scored,
        "frames": prediction.frames,
        "fps": prediction.fps,
        "remark": remark,
        "notes": prediction.notes,
        **({"not_sure": {"max_error": band.max_error, "between": [1 - band.sure, band.sure]}} if band else {}),
    }


def _load(model: Path, checksum: str, how: FileScoring, device: str) -> Callable[[Path], Prediction]:
    """Load a model in a worker of an engine and return what scores a file."""
    return partial(how.predict, load_same_model(model, checksum, device))


def boxes_of(boxes: str | Path, files: Sequence[Path]) -> dict[Path, np.ndarray]:
    """Return the rows (frame, x0, y0, x1, y1) of the files that a boxes file names, by their name or their path.

    Raises:
        InputError: the file is none, or names none of them.
    """
    same_name = Counter(path.name for path in files)
    names = {path: path.name if same_name[path.name] == 1 else str(path) for path in files}
    videos = [Video(path, 0, UNLABELED, None, name, name) for path, name in names.items()]
    rows = read_boxes(boxes, Dataset(Path(), "", videos), among="the videos given")
    return {path: rows[name] for path, name in names.items() if name in rows}


def face_entry(
    path: Path,
    detector: str | None,
    frames: int,
    rows: np.ndarray | None = None,
    *,
    workers: int = 1,
    processes: Workers | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> FaceEntry:
    """Return the people, with their boxes, and the shots of a file.

    Args:
        path: the file.
        detector: name of the one that looks for faces; None for the whole picture.
        frames: T, the frames of a clip.
        rows: frame, x0, y0, x1, y1 of the one face that is scored, where that is given.
        workers: threads that decode.
        processes: in which the file is read.
        advance: called with (frames searched, frames in all) now and then.

    Raises:
        InputError: the file cannot be used. It is read in a worker process, in which it may crash a decoder.
    """
    stored = stored_face(path)
    if stored is not None and rows is None:
        return stored  # of a crop store: the boxes for which it was cut
    detector = detector if rows is None else None
    line = ""
    for step in (processes or Workers()).iterate(find_in_file, path, detector, frames, workers, file=path):
        if isinstance(step, str):
            line = step
        elif advance:
            advance(*step)
    entry = replace(FaceEntry.from_json(line), video=str(path))
    return entry if rows is None else with_boxes(entry, rows)
