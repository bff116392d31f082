"""HTML page of an explanation: one file with its pictures, videos and numbers, without script or network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from istvt.explain_video.pictures import FAINT_SHARE, PANEL_TITLES, Timeline
from istvt.report import charts
from istvt.report import html as page_template

METHOD_NAMES = {
    "lrp": "relevance propagation (LRP) times gradient, rolled out over all blocks",
    "attnlrp": "AttnLRP, relevance of every pixel",
    "gradient": "attention times gradient, rolled out over all blocks",
    "rollout": "attention rollout",
    "raw": "attention of the last block",
    "gradcam": "Grad-CAM on attention",
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
PIXEL_NOTES = {
    "pixels": "Can say which pixels speak for the target, from the logit down through all layers; it is blurred a "
    "little, and what speaks against is not drawn. Cannot say that the logit is made of these pixels alone: biases, "
    "class tokens and the softmax keep a part of it.",
    "temporal": "Can say when and where: the same relevance, summed over the pixels around each feature cell. Cannot "
    "tell evidence of a single frame from evidence of how it differs from its neighbors.",
    "whole_clip": "Can say which places count in the clip as a whole: the sum over its frames, drawn over each. "
    "Cannot say in which frame.",
}


def write_page(path: Path, data: Mapping[str, Any], files: Mapping[str, Any], timeline: Timeline) -> None:
    """Write the page.

    Args:
        path: of the file.
        data: what explanation.json holds.
        files: `panels`, `pasted` (MP4) and `strips` (PNG), which are put into the page.
        timeline: the score over time.

    Raises:
        InputError: the file cannot be written.
    """
    settings = {key: value for key, value in data["settings"].items() if key != "model"}
    notes = PIXEL_NOTES if settings["method"] == "attnlrp" else PANEL_NOTES
    html = page_template.render(
        "explanation.html.j2",
        data=data,
        name=Path(data["video"]["path"]).name,
        method=METHOD_NAMES[settings["method"]],
        panels=page_template.data_address(files["panels"].read_bytes(), "video/mp4"),
        pasted=page_template.data_address(files["pasted"].read_bytes(), "video/mp4"),
        strips=[page_template.data_address(strip.read_bytes(), "image/png") for strip in files["strips"]],
        chart=_timeline_chart(timeline, data["explained_clips"], data["video"]["fps"] or 25.0),
        settings=settings,
        panel_notes=[(name, PANEL_TITLES[name], note) for name, note in notes.items()],
        by_frame=[name for name in notes if name not in ("class_row", "whole_clip")],
        faint_share=FAINT_SHARE,
        model=data["settings"]["model"],
    )
    page_template.write_page(path, html)


def _timeline_chart(timeline: Timeline, explained: list[Mapping[str, Any]], fps: float) -> Markup:
    """Return the score over time as inline SVG; explained clips are shaded."""
    shaded = [(clip["frames"][0] / fps, (clip["frames"][-1] + 1) / fps) for clip in explained]
    low, high = min(timeline.probabilities), max(timeline.probabilities)
    description = (
        f"Probability of fake of {len(timeline.centers)} clips over {timeline.seconds:.1f} seconds, from {low:.3f} to "
        f"{high:.3f}; their mean is {timeline.score:.3f}."
    )
    figure = charts.timeline_chart(timeline.centers, timeline.probabilities, timeline.seconds, shaded)
    return charts.inline_svg(figure, description)
