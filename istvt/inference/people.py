"""Scores of the people of one video: a verdict for each, by shot and over all of them.

The score of a person is the mean of the probabilities of its clips, as the score of a video of a data set is. A video
may be edited, and a face forged in one of its shots only: the mean would not show it, and the highest of many shots is
high by chance. So the most suspicious of a person's n shots counts where it says more than the mean although its odds
are divided by n, which is Bayes' rule for a prior that is spread evenly over the shots. One shot has the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataloading.clips.sampling import CLIPS, Clip, clips_over_shots, evaluation_clips
from dataloading.clips.store import as_stored
from dataloading.dataset import FACE, Region, Video
from dataloading.errors import InputError
from dataloading.face_index import MARGIN, Box, Brief, FaceEntry, FaceIndex
from dataloading.faces.search import MOST_FACES
from dataloading.video.processes import Workers
from istvt.device import resolve_precision
from istvt.inference.clip_quality import blur_remark, still_remark
from istvt.inference.score import ScoredClips, score_clips
from istvt.inference.video_score import check_probabilities, check_scored_clips, score_videos, verdict_of
from istvt.model.detector import Detector

UNLABELED = "unlabeled"  # manipulation of a video without a label
MOST_PEOPLE = 8  # that are scored of one video
MOST_NAMED = 3  # faces too brief for a clip that are named one by one
LARGEST_ENLARGEMENT = 2.5  # of a face to the model's input without a remark


@dataclass(frozen=True)
class ShotScore:
    """Score of a person in one shot.

    Attributes:
        number: of the shot in the video, from 1.
        first, last: frames of the video that the shot reaches over.
        probability: that the person is forged in it: the mean of its clips' probabilities.
        clips: how many were scored in it.
    """

    number: int
    first: int
    last: int
    probability: float
    clips: int

    @property
    def verdict(self) -> str:
        """Verdict on this shot by itself: "fake" or "real"."""
        return verdict_of(self.probability)

    def place(self, fps: float) -> str:
        """Return in words which shot it is: "shot 3 (1.2 to 4.0 s)", in frames where the rate `fps` is 0."""
        if not fps:
            return f"shot {self.number} (frames {self.first} to {self.last})"
        return f"shot {self.number} ({self.first / fps:.1f} to {(self.last + 1) / fps:.1f} s)"


@dataclass(frozen=True)
class PersonScore:
    """Score of one person of a video.

    Attributes:
        number: from 1, largest (area times time) first; None for the whole picture, without a face that was looked for.
        probability: that the person is forged, see `person_probability`; of one shot it is the mean of the clips.
        shots: score in each shot that shows the person and holds a clip, in the order of the video.
        clip_probabilities: one for each clip, in the order of the clips' first frames.
        clip_frames: frame numbers of each clip.
        frames: the first and the last frame that show the person.
        seconds: how long the person is seen.
        size: of the face in pixels, the median; None for the whole picture.
        surest_clip: position of the clip that speaks most for the verdict.
        box: x0, y0, x1, y1 of that clip's crop in pixels: where to look for the person.
        remark: reason to doubt the score, or None.
    """

    number: int | None
    probability: float
    shots: tuple[ShotScore, ...]
    clip_probabilities: list[float]
    clip_frames: list[list[int]]
    frames: tuple[int, int]
    seconds: float
    size: float | None
    surest_clip: int
    box: Box
    remark: str | None = None

    def __post_init__(self) -> None:
        check_scored_clips(self.clip_probabilities, self.clip_frames)
        check_probabilities(self.probability, *self.clip_probabilities)
        if not 0 <= self.surest_clip < len(self.clip_frames):
            raise ValueError(f"surest_clip is {self.surest_clip}; expected one of {len(self.clip_frames)} clips")

    @property
    def name(self) -> str:
        """The person in words: "person 2"."""
        return "the whole picture" if self.number is None else f"person {self.number}"

    @property
    def verdict(self) -> str:
        """Verdict at a probability of one half, as a positive logit means fake: "fake" or "real"."""
        return verdict_of(self.probability)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON files say of the person."""
        return {
            "person": self.number,
            "verdict": self.verdict,
            "probability_fake": self.probability,
            "seconds_seen": self.seconds,
            "first_frame": self.frames[0],
            "last_frame": self.frames[1],
            "face_pixels": self.size,
            "clips": len(self.clip_probabilities),
            "shots": [
                {
                    "shot": shot.number,
                    "first_frame": shot.first,
                    "last_frame": shot.last,
                    "probability_fake": shot.probability,
                    "clips": shot.clips,
                }
                for shot in self.shots
            ],
            "where": {"frame": self.clip_frames[self.surest_clip][0], "box": list(self.box)},
            "remark": self.remark,
        }

    @property
    def most_suspicious_shot(self) -> ShotScore | None:
        """The shot with the highest probability; None where there is no choice of shots."""
        return max(self.shots, key=lambda shot: shot.probability) if len(self.shots) > 1 else None


@dataclass(frozen=True)
class ScoredPeople:
    """Scores of the people of a video, and their clips.

    Attributes:
        people: largest (area times time) first.
        clips: the scored clips of each of them.
        not_scored: a sentence for each person and face that was found and not scored, with the reason.
    """

    people: list[PersonScore]
    clips: list[ScoredClips]
    not_scored: list[str]

    @property
    def most_suspicious(self) -> PersonScore:
        """The person with the highest probability, whose verdict is that of the video; of several the largest."""
        return max(self.people, key=lambda person: person.probability)


def score_people(
    model: Detector,
    path: Path,
    entry: FaceEntry,
    *,
    faces: str = "all",
    person: int | None = None,
    clips: int | None = None,
    batch_size: int = 8,
    workers: int = 2,
    precision: str = "auto",
    region: Region = FACE,
    processes: Workers | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> ScoredPeople:
    """Score the people of one video that belongs to no data set.

    Args:
        model: on the device to use.
        path: the video.
        entry: boxes of its people, and its shots.
        faces: "all" scores every person, up to `MOST_PEOPLE`; "main" the main one alone, by the clips and the mean of
            the evaluation of a data set, over all of the video.
        person: scores this one alone, where it is given: 1 is the main one.
        clips: how many are scored of each person; None leaves it to `clips_over_shots` (with "main": 8).
        batch_size: clips a forward pass.
        workers: processes that decode.
        precision: "auto" is bfloat16 where the hardware multiplies it; or "float32", "bfloat16", "float16".
        region: what clips are cropped to, as `CheckpointInfo.region` says.
        processes: in which the file is read, such as those with the limits of a sandbox.
        advance: called with (clips done, clips in all) after each batch.

    Raises:
        InputError: there is no such person, or not one person can be scored.
    """
    video = as_stored(Video(path, 0, UNLABELED, None, entry.video, entry.video))  # a batch needs a label, unread
    found = len(entry.people)
    numbers = [person or 1] if person or faces == "main" else range(1, min(max(found, 1), MOST_PEOPLE) + 1)
    found_faces = {number: entry.of_person(number) for number in numbers}
    entries = {number: face.of_region(region) for number, face in found_faces.items()}
    chosen: dict[int, Sequence[Clip]] = {}
    reasons: dict[int, str] = {}
    for number, of_person in entries.items():
        if faces == "main" and not person:
            index = FaceIndex({video.name: of_person})
            sampled = evaluation_clips([video], index, model.config.frames, clips or CLIPS, None)
        else:
            sampled = clips_over_shots(video, of_person, model.config.frames, clips)
        chosen[number] = sampled
        if sampled.skipped:
            reasons[number] = sampled.skipped[0].reason
    dtype = resolve_precision(precision, next(model.parameters()).device)
    scored = _score_together(model, chosen, batch_size, workers, dtype, processes, advance)
    for number, of_person in scored.items():
        if not of_person.clips and of_person.skipped:
            reasons[number] = of_person.skipped[0][1]
    people, of_people = [], []
    for number, of_person in scored.items():
        if of_person.clips:
            plain_mean = faces == "main" and not person
            crops = (entries[number], region, model.config.image_size)
            people.append(_person_score(number, found_faces[number], crops, of_person, plain_mean))
            of_people.append(of_person)
    if not people:
        raise InputError(next(iter(reasons.values())))
    not_scored = [f"person {number} is not scored: {reason}" for number, reason in reasons.items()]
    if person is None and faces == "all":
        not_scored += unscored_faces(entry, model.config.frames)
    return ScoredPeople(people, of_people, not_scored)


def unscored_faces(entry: FaceEntry, frames: int) -> list[str]:
    """Return a sentence for the people beyond `MOST_PEOPLE`, and for the faces that are too brief for a clip."""
    sentences = []
    if len(entry.people) > MOST_PEOPLE:
        sentences.append(
            f"{len(entry.people)} people were found; the {MOST_PEOPLE} largest and longest seen are scored "
            f"(person {MOST_PEOPLE + 1} to {len(entry.people)} can be chosen by number)"
        )
    needs = f"a clip needs the same face in {frames} frames of one shot"
    if entry.crowd:
        sentences.append(f"up to {entry.crowd} faces are in one frame; the {MOST_FACES} largest of each are followed")
    sentences += [f"{_brief_face(face, entry.fps)} is not scored: {needs}" for face in entry.brief[:MOST_NAMED]]
    more = entry.briefs - len(entry.brief[:MOST_NAMED])
    if more > 0:
        verb = "face is" if more == 1 else "faces are"
        sentences.append(f"{more} more {verb} too brief for a clip")
    return sentences


def _brief_face(face: Brief, fps: float) -> str:
    first, last, size = face
    where = f"frame {first}" if first == last else f"frames {first} to {last}"
    times = " to ".join(dict.fromkeys(f"{frame / fps:.1f}" for frame in (first, last))) if fps else ""
    return f"a face of {size:.0f} pixels in {where}{f' ({times} s)' if times else ''}"


def person_probability(clip_probabilities: Sequence[float], shots: Sequence[ShotScore]) -> float:
    """Return the probability that a person is forged in any of n shots: `max(mean, odds^-1(odds(worst shot) / n))`.

    The mean is over all clips, float64, and the only term where there is one shot.
    """
    mean = float(np.mean(clip_probabilities))
    if len(shots) < 2:
        return mean
    worst = max(shot.probability for shot in shots)
    return max(mean, worst / (worst + len(shots) * (1 - worst)))


def unknown_shots_remark(entry: FaceEntry, given: bool = False) -> str | None:
    """Return the remark on a video whose shots are not known, so that a clip may span a cut; None where they are.

    Args:
        entry: of the video.
        given: it was not made here, from the video.
    """
    if entry.shots is not None:
        return None
    why = "the face boxes that were given have none" if given else "not every frame can be decoded"
    return f"its shots are not known, because {why}: a clip may span a cut, which may look like forgery"


def lost_clips_remark(scored: ScoredClips) -> str | None:
    """Return the remark on clips that could not be decoded, with the first reason, or None."""
    if not scored.skipped:
        return None
    clips = len(scored.clips) + len(scored.skipped)
    return f"{len(scored.skipped)} of the {clips} clips could not be decoded: {scored.skipped[0][1]}"


def small_face_remark(size: float | None, image_size: int, region: Region = FACE) -> str | None:
    """Return the remark on a face, or a part of it, that is much smaller than the model's input, or None.

    Args:
        size: of its crop in pixels, divided by `MARGIN`.
        image_size: of the model's input.
        region: that is cropped.
    """
    if size is None or image_size <= LARGEST_ENLARGEMENT * MARGIN * size:
        return None
    times = image_size / (MARGIN * size)
    what = f"its face is {size:.0f}" if region == FACE else f"the crop of its {region} is {MARGIN * size:.0f}"
    return f"{what} pixels large and enlarged {times:.1f} times: fine traces cannot be seen"


def _score_together(
    model: Detector,
    chosen: dict[int, Sequence[Clip]],
    batch_size: int,
    workers: int,
    dtype: torch.dtype,
    processes: Workers | None,
    advance: Callable[[int, int], None] | None,
) -> dict[int, ScoredClips]:
    """Score the clips of all people in one pass through the video; return them by person."""
    pairs = [(number, clip) for number, clips in chosen.items() for clip in clips]
    pairs.sort(key=lambda pair: int(pair[1].frames[0]))  # neighbors in the file are decoded together
    owners = {id(clip): number for number, clip in pairs}
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        if advance:
            advance(done, len(pairs))

    clips = [clip for _, clip in pairs]
    # DALI would decode in this process, out of the sandbox.
    how = {"decoder": "pyav" if processes and processes.sandbox else "auto", "processes": processes, "dtype": dtype}
    scored = score_clips(model, clips, batch_size=batch_size, workers=workers, advance=count, **how)
    by_person = {}
    for number in chosen:
        kept = [i for i, clip in enumerate(scored.clips) if owners[id(clip)] == number]
        skipped = [(clip, reason) for clip, reason in scored.skipped if owners[id(clip)] == number]
        rows = (scored.logits[kept], skipped, scored.decoder, scored.motion[kept], scored.detail[kept])
        by_person[number] = ScoredClips([scored.clips[i] for i in kept], *rows)
    return by_person


def _person_score(
    number: int, face: FaceEntry, crops: tuple[FaceEntry, Region, int], scored: ScoredClips, plain_mean: bool
) -> PersonScore:
    """Return the score of the main person of `face`, which is person `number` of the video.

    `crops` are the entry that clips were cropped by, the region, and the side of the model's input in pixels.
    """
    entry, region, image_size = crops
    [score] = score_videos(scored.clips, scored.logits)
    shots = _shot_scores(entry, score.clip_frames, score.clip_probabilities)
    size = float(np.median(entry.boxes.size)) if entry.boxes else None
    side = MARGIN * size / image_size if size else 1.0
    remarks = [lost_clips_remark(scored), small_face_remark(size, image_size, region), still_remark(scored.motion)]
    remarks.append(blur_remark(scored.detail, side))
    probability = score.probability if plain_mean else person_probability(score.clip_probabilities, shots)
    pick = np.argmax if verdict_of(probability) == "fake" else np.argmin
    surest = int(pick(score.clip_probabilities))
    return PersonScore(
        number=number if face.boxes else None,
        probability=probability,
        shots=shots,
        clip_probabilities=score.clip_probabilities,
        clip_frames=score.clip_frames,
        frames=entry.face_range,
        seconds=entry.frames_seen / (entry.fps or 25.0),
        size=float(np.median(face.boxes.size)) if face.boxes else None,
        surest_clip=surest,
        box=entry.box(score.clip_frames[surest]),
        remark="; ".join(filter(None, remarks)) or None,
    )


def _shot_scores(
    entry: FaceEntry, clip_frames: Sequence[Sequence[int]], probabilities: Sequence[float]
) -> tuple[ShotScore, ...]:
    """Return the mean probability of the clips of each shot that holds any."""
    scores = []
    for number, (first, last) in enumerate(entry.shots or [(0, entry.frames - 1)], start=1):
        inside = [p for frames, p in zip(clip_frames, probabilities, strict=True) if first <= frames[0] <= last]
        if inside:
            scores.append(ShotScore(number, first, last, float(np.mean(inside)), len(inside)))
    return tuple(scores)
