"""HTML page of an explanation: one file with its pictures, videos and numbers, without script or network."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from istvt.explain.shap import BASELINE
from istvt.explain_video.clips import ExplainedClip
from istvt.explain_video.people import PersonExplanation
from istvt.explain_video.pictures import FAINT_SHARE, MASK_TITLE, PANEL_TITLES, Timeline
from istvt.inference.people import PersonScore
from istvt.report import charts
from istvt.report import html as page_template

METHOD_NAMES = {
    "lrp": "relevance propagation (LRP) times gradient, rolled out over all blocks",
    "attnlrp": "AttnLRP, relevance of every pixel",
    "gradient": "attention times gradient, rolled out over all blocks",
    "rollout": "attention rollout",
    "raw": "attention of the last block",
    "gradcam": "Grad-CAM on attention",
    "shap": "SHAP: Shapley values of tiles and frames, sampled",
    "counterfactual": "counterfactual enhancement: the smallest change that turns the verdict",
}
# What each map can say, and what it cannot; by AttnLRP the maps are something else.
PANEL_NOTES = {
    "temporal": "Can say when: at each place of the face, which frames the model took its evidence from as it compared "
    "them. Cannot say where: each place is followed by itself, and how much the verdict read of it is not part of it.",
    "spatial": "Can say which places of a frame went into that frame's own summary. Cannot say that the verdict rests "
    "on them: the last block reads the class frame alone, so in a model of few blocks this map is hardly more than "
    "noise.",
    "class_row": "Can say which places the verdict itself was read from, in the class frame, where all frames are "
    "gathered. Cannot say in which frame: it is one map for the whole clip, drawn over each of its frames.",
}
MASK_NOTE = (
    "Not heat and no explanation: a second answer of the model, from a head of its own that was trained on masks of "
    "forgeries. It says which pixels are forged, in cyan, and the verdict does not read it: the two can disagree. It "
    "can be wrong as the verdict can; `istvt evaluate` measures how often, beside masks that need no network."
)
# Of the temporal map of a model with self-subtraction (docs/faithfulness.md has how often it is so).
DIFFERENCES_NOTE = (
    " Nor which of two neighbors stands out: what is compared is how each frame differs from the one before it, so one "
    "odd frame makes heat in its own place, in that of the frame after it, or in both."
)
PIXEL_NOTES = {
    "pixels": "Can say which pixels speak for the target, from the logit down through all layers; it is blurred a "
    "little, and what speaks against is not drawn. Cannot say that the logit is made of these pixels alone: biases, "
    "class tokens and the softmax keep a part of it.",
    "temporal": "Can say when and where: the same relevance, summed over the pixels around each feature cell. Cannot "
    "tell evidence of a single frame from evidence of how it differs from its neighbors.",
    "whole_clip": "Can say which places count in the clip as a whole: the sum over its frames, drawn over each. "
    "Cannot say in which frame.",
}


_WHOLE_CLIP_NOTE = "the sum over its frames, drawn over each. Cannot say in which frame."
SHAP_NOTES = {
    "tiles": "Can say which tiles in which frames the logit rests on: how much it falls on average when one is "
    "taken away from those that are still there. What speaks against is not drawn. Cannot say what in a tile counts, "
    f"and depends on what stands in the place of what is taken away: {BASELINE}.",
    "whole_clip": f"Can say which tiles count in the clip as a whole: {_WHOLE_CLIP_NOTE}",
}
COUNTERFACTUAL_NOTES = {
    "change": "Can say what would turn the verdict: where the colors were changed, and by how much. The picture beside "
    "it, with a bright border, was made by this program: the same face with the change enlarged. Cannot say that the "
    "changed place was forged: a small change can turn a verdict for no reason that a person would see.",
    "whole_clip": f"Can say which places were changed most in the clip as a whole: {_WHOLE_CLIP_NOTE}",
}
NOTES = {"attnlrp": PIXEL_NOTES, "shap": SHAP_NOTES, "counterfactual": COUNTERFACTUAL_NOTES}


def write_page(
    path: Path, data: Mapping[str, Any], people: Sequence[PersonExplanation], timelines: Sequence[Timeline]
) -> None:
    """Write the page.

    Args:
        path: of the file.
        data: what explanation.json holds.
        people: in the order of `data["people"]`; their videos (MP4) and strips (PNG) are put into the page.
        timelines: the score of each over time.

    Raises:
        InputError: the file cannot be written.
    """
    settings = {key: value for key, value in data["settings"].items() if key != "model" and value is not None}
    model = data["settings"]["model"]
    notes = NOTES.get(settings["method"], PANEL_NOTES)
    if notes is PANEL_NOTES and model["self_subtract"] and model["attention"] != "spatial_only":
        notes = notes | {"temporal": notes["temporal"] + DIFFERENCES_NOTE}
    fps = data["video"]["fps"] or 25.0
    seconds = data["video"]["frames"] / fps
    verdict = max((person.score for person in people), key=lambda score: score.probability)
    html = page_template.render(
        "explanation.html.j2",
        data=data,
        name=Path(data["video"]["path"]).name,
        method=METHOD_NAMES[settings["method"]],
        people=[
            _person(person, values, fps, seconds)
            | {"method_notes": [method_note(clip, settings.get("bound", 0)) for clip in person.clips]}
            for person, values in zip(people, data["people"], strict=True)
        ],
        verdict_sentence=_verdict_sentence(verdict, len(people), fps),
        chart=_timeline_chart(people, timelines, fps),
        settings=settings,
        mask_title=MASK_TITLE if any(clip.mask is not None for person in people for clip in person.clips) else None,
        mask_note=MASK_NOTE,
        panel_notes=[(name, PANEL_TITLES[name], note) for name, note in notes.items()],
        by_frame=[name for name in notes if name not in ("class_row", "whole_clip")],
        faint_share=FAINT_SHARE,
        model=model,
    )
    page_template.write_page(path, html)


def _person(person: PersonExplanation, values: Mapping[str, Any], fps: float, seconds: float) -> dict[str, Any]:
    """Return what the page shows of one person beside its numbers."""
    score, files = person.score, person.files
    shot = score.most_suspicious_shot
    return {
        "values": values,
        "name": score.name,
        "anchor": f"person-{score.number or 0}",
        "seen": "" if score.number is None else f"{score.seconds:.1f} of {seconds:.1f} s",
        "size": "" if score.size is None else f"{score.size:.0f} pixels",
        "worst": "" if shot is None else f"{shot.place(fps)}: {shot.probability:.3f}",
        "rule": probability_rule(score, fps),
        "shots": [] if shot is None else [(shot.place(fps), shot) for shot in score.shots],
        "portrait": None if person.portrait is None else _png(person.portrait),
        "panels": files and page_template.data_address(files["panels"].read_bytes(), "video/mp4"),
        "pasted": files and page_template.data_address(files["pasted"].read_bytes(), "video/mp4"),
        "strips": [page_template.data_address(strip.read_bytes(), "image/png") for strip in files.get("strips", ())],
    }


def method_note(clip: ExplainedClip, bound: float) -> str:
    """Return what the numbers of a clip by shap or counterfactual say in sentences; nothing by another method.

    Args:
        clip: explained.
        bound: of the change, in gray levels.
    """
    found = clip.numbers
    if found is None:
        return ""
    if clip.method == "shap":
        error = found["largest_standard_error"]
        sure = "too few orders for a standard error" if error is None else f"the largest standard error {error:.3f}"
        return (
            f"{found['evaluations']:,} evaluations of the model. With everything taken away its logit is "
            f"{found['baseline_logit']:+.3f}, with the whole clip {clip.logit:+.3f}; the values share out the "
            f"difference, for “{clip.target}” {found['sum']:+.3f}, up to an additivity error of "
            f"{found['additivity_error']:.1e}. They are means over sampled orders: the largest is "
            f"{found['largest_value']:.3f}, {sure}."
        )
    if found["verdict_turned"]:
        outcome = "The verdict of this clip turns"
    elif found["called_target"]:
        outcome = (
            f"No change within the bound of {bound:g} gray levels was found that turns the verdict of this clip; by "
            "the one that went furthest"
        )
    else:
        outcome = (
            f"This clip is not called “{clip.target}”, so there is no such verdict to turn; by a change that makes the "
            "opposite as much again surer"
        )
    return (
        f"{outcome}: the logit goes from {clip.logit:+.3f} to {found['logit_after']:+.3f}. The change is "
        f"{found['largest_change']:.2f} of 255 gray levels at most, {found['mean_change']:.3f} on average, and drawn "
        f"{clip.enlargement} times as large. As much change at random leaves the logit at "
        f"{found['logit_after_random_change']:+.3f}."
    )


def _png(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return page_template.data_address(file.getvalue(), "image/png")


def probability_rule(score: PersonScore, fps: float) -> str:
    """Return how the probability of a person was made of its clips."""
    mean = float(np.mean(score.clip_probabilities))
    clips = f"{len(score.clip_probabilities)} clip{'s' * (len(score.clip_probabilities) > 1)}"
    shot = score.most_suspicious_shot
    if shot is None or score.probability == mean:
        return f"the mean of {clips}"
    return (
        f"from {shot.place(fps)}, where it is {shot.probability:.3f}; its odds are divided by the {len(score.shots)} "
        f"shots of this person, because one of several is high by chance. The mean of all {clips} is {mean:.3f}"
    )


def _verdict_sentence(score: PersonScore, people: int, fps: float) -> str:
    """Return whose probability that of the video is, and how it was made."""
    whose = f"that of {score.name}, the most suspicious of {people} people: " if people > 1 else ""
    return f"Probability of fake {score.probability:.3f}, {whose}{probability_rule(score, fps)}."


def _timeline_chart(people: Sequence[PersonExplanation], timelines: Sequence[Timeline], fps: float) -> Markup:
    """Return the score of each person over time as inline SVG; explained clips are shaded."""
    lines, described = [], []
    for person, timeline in zip(people, timelines, strict=True):
        spans = [(clip.clip.frames[0] / fps, (clip.clip.frames[-1] + 1) / fps) for clip in person.clips]
        shots = np.searchsorted(timeline.cuts, timeline.centers, side="right").tolist()
        lines.append(charts.TimeLine(person.score.name, timeline.centers, timeline.probabilities, shots, spans))
        low, high = min(timeline.probabilities), max(timeline.probabilities)
        whose = f"{person.score.name}: " if len(people) > 1 else ""
        described.append(
            f"{whose}{len(timeline.centers)} clips, from {low:.3f} to {high:.3f}; their mean is "
            f"{np.mean(timeline.probabilities):.3f}"
        )
    seconds, cuts = timelines[0].seconds, timelines[0].cuts
    where = f"{seconds:.1f} seconds" + (f" and {len(cuts) + 1} shots" if cuts else "")
    description = f"Probability of fake over {where}. {'. '.join(described)}."
    return charts.inline_svg(charts.timeline_chart(lines, seconds, cuts), description)
