"""Explanation of the people of one video: the clips on which the verdict on each rests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dataloading.clips.sampling import Clip
from dataloading.dataset import CLASSES, FAKE
from dataloading.errors import InputError
from dataloading.video.processes import Workers
from istvt.config import ExplanationSettings
from istvt.explain_video.clips import ExplainedClip, explain_clips
from istvt.inference.people import PersonScore, ScoredPeople
from istvt.inference.score import ScoredClips
from istvt.model.detector import Detector


@dataclass
class PersonExplanation:
    """Score and explanation of one person of a video, and the files that were written.

    Attributes:
        score: of the person, over all scored clips.
        target: "fake" or "real", what is explained.
        clips: the explained ones, in the order of the video; none where not one could be decoded again.
        skipped: (first frame, reason) of every clip that could not be decoded.
        files: panels, pasted, strips; empty without an explained clip.
        portrait: the crop of one frame, uint8 [s, s, 3]; None without an explained clip.
    """

    score: PersonScore
    target: str
    clips: list[ExplainedClip]
    skipped: list[tuple[int, str]]
    files: dict[str, Path | list[Path]] = field(default_factory=dict)
    portrait: np.ndarray | None = None


def explain_people(
    model: Detector,
    scored: ScoredPeople,
    settings: ExplanationSettings,
    advance: Callable[[str, float, int], None],
    processes: Workers | None = None,
) -> list[PersonExplanation]:
    """Explain clips of each person, those on which the verdict rests.

    Args:
        model: on the device to use.
        scored: the people, and their clips.
        settings: of which `target` may be "verdict": each person's own; fewer than `clips` are explained where there
            are no more without a common frame.
        advance: called with (what is being done, done, of how many); a clip may be done in part.
        processes: in which the file is read.

    Raises:
        InputError: not one clip of any person could be decoded again.
    """
    plans = []
    for score, of_person in zip(scored.people, scored.clips, strict=True):
        target = score.verdict if settings.target == "verdict" else settings.target
        plans.append((score, of_person, target, select_clips(of_person, target, settings.clips)))
    done, in_all = 0, sum(len(chosen) for *_, chosen in plans)
    people = []
    for score, of_person, target, chosen in plans:
        skipped: list[tuple[Clip, str]] = []
        explained = []
        of_person_settings, before = replace(settings, target=target), done
        for clip in explain_clips(
            model,
            chosen,
            of_person_settings,
            skipped=skipped,
            processes=processes,
            advance=lambda part, before=before: advance("explaining clips", before + part, in_all),
        ):
            explained.append(clip)
            done += 1
            advance("explaining clips", done, in_all)
        left_out = [(int(clip.frames[0]), reason) for clip, reason in (*of_person.skipped, *skipped)]
        people.append(PersonExplanation(score, target, explained, left_out))
    if not any(person.clips for person in people):
        raise InputError(people[0].skipped[0][1])
    return people


def select_clips(scored: ScoredClips, target: str, count: int) -> list[Clip]:
    """Return the clips with the largest logits for `target`, in the order of the video; no two share a frame."""
    sign = 1 if target == CLASSES[FAKE] else -1
    chosen: list[Clip] = []
    for i in np.argsort(-sign * scored.logits, kind="stable"):
        clip = scored.clips[i]
        if len(chosen) < count and not any(np.isin(clip.frames, other.frames).any() for other in chosen):
            chosen.append(clip)
    return sorted(chosen, key=lambda clip: int(clip.frames[0]))
