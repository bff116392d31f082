"""HTML page of an explanation: one file with its pictures, videos and numbers, without script or network."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from istvt.explain_video.pictures import Timeline
from istvt.report import html as page_template

METHOD_NAMES = {
    "lrp": "relevance propagation (LRP) times gradient, rolled out over all blocks",
    "gradient": "attention times gradient, rolled out over all blocks",
    "rollout": "attention rollout",
    "raw": "attention of the last block",
    "gradcam": "Grad-CAM on attention",
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
    html = page_template.render(
        "explanation.html.j2",
        data=data,
        name=Path(data["video"]["path"]).name,
        method=METHOD_NAMES[settings["method"]],
        panels=_data_address(files["panels"], "video/mp4"),
        pasted=_data_address(files["pasted"], "video/mp4"),
        strips=[_data_address(strip, "image/png") for strip in files["strips"]],
        chart=timeline_chart(timeline, data["explained_clips"], data["video"]["fps"] or 25.0),
        settings=settings,
        model=data["settings"]["model"],
    )
    page_template.write_page(path, html)


def timeline_chart(timeline: Timeline, explained: list[Mapping[str, Any]], fps: float) -> Markup:
    """Draw the probability of "fake" of every clip over the video as inline SVG; explained clips are shaded."""
    left, right, top, bottom = 44, 906, 14, 150

    def x(seconds: float) -> float:
        return left + seconds / max(timeline.seconds, 1e-9) * (right - left)

    def y(probability: float) -> float:
        return bottom - probability * (bottom - top)

    parts = []
    for clip in explained:
        start, stop = x(clip["frames"][0] / fps), x((clip["frames"][-1] + 1) / fps)
        width = max(stop - start, 3)
        parts.append(f'<rect class="shade" x="{start:.1f}" y="{top}" width="{width:.1f}" height="{bottom - top}"/>')
    for probability in (0.0, 0.5, 1.0):
        kind = "mark" if probability == 0.5 else "grid"
        parts.append(f'<path class="{kind}" d="M{left} {y(probability):.1f}H{right}"/>')
        parts.append(f'<text class="end" x="{left - 8}" y="{y(probability):.1f}" dy=".35em">{probability:g}</text>')
    parts.append(f'<text x="{left}" y="{bottom + 20}">0 s</text>')
    parts.append(f'<text class="end" x="{right}" y="{bottom + 20}">{timeline.seconds:.1f} s</text>')
    points = [f"{x(t):.1f} {y(p):.1f}" for t, p in zip(timeline.centers, timeline.probabilities, strict=True)]
    parts.append(f'<path class="line" d="M{"L".join(points)}"/>')
    parts += [
        f'<circle class="dot" cx="{x(t):.1f}" cy="{y(p):.1f}" r="3.5"><title>{t:.2f} s: {p:.3f}</title></circle>'
        for t, p in zip(timeline.centers, timeline.probabilities, strict=True)
    ]
    low, high = min(timeline.probabilities), max(timeline.probabilities)
    sentence = (
        f"Probability of fake of {len(points)} clips over {timeline.seconds:.1f} seconds, from {low:.3f} to "
        f"{high:.3f}; their mean is {timeline.score:.3f}."
    )
    return Markup(  # numbers only, and one escaped sentence
        f'<svg class="chart" viewBox="0 0 920 178" role="img" aria-label="{escape(sentence)}">{"".join(parts)}</svg>'
    )


def _data_address(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
