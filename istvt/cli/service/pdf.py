"""One-page report of a judged video as PDF: what was judged, by which model, the figures, and what they cannot say."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.image import imread

from istvt.device import versions
from istvt.explain_video.page import METHOD_NAMES, method_note, probability_rule
from istvt.explain_video.pictures import printable
from istvt.inference.calibration import calibrated, temperature_interval

if TYPE_CHECKING:
    from istvt.cli.service.analysis import Analyzer
    from istvt.cli.service.uploads import Upload
    from istvt.explain_video.video import VideoExplanation
    from istvt.inference.people import PersonScore

INK, SOFT, RULE = "#1a2027", "#56616c", "#c9d0d6"
_COLORS = {"real": "#0a67a8", "fake": "#bf4d06"}
_LINES = ("-", "--", ":", "-.")
_MARKERS = "os^Dv*X"
_WIDTH, _HEIGHT = 8.27, 11.69  # inches, A4
_LEFT, _RIGHT = 0.08, 0.92  # of the width
_CHARACTERS = 118  # of a line of body text
_BOTTOM = 0.7  # inches, above the last line
_LEAST_PICTURE = 0.9  # inches
_MOST_PEOPLE = 6  # in the table; the others are counted
_Z95 = 1.959964

LIMITS = (
    "The score is an output of a statistical model, not evidence by itself. It does not say who made a video, how, or "
    "with what intent, and “real” does not mean that a video is authentic: only faces were looked at, and neither "
    "sound, context, provenance nor edits beside the face.",
    "The model knows forgeries like those it was trained on. Other methods, strong compression, filters, small or "
    "blurred faces make it miss forgeries and suspect real videos; how often on other data is not known.",
    "Heatmaps show what this model used, not what is forged.",
)


def write_pdf(
    path: Path,
    upload: Upload,
    about: dict[str, Any],
    result: dict[str, Any],
    explanation: VideoExplanation,
    analyzer: Analyzer,
) -> None:
    """Write the report of a video that is scored and explained.

    Args:
        path: of the PDF.
        upload: the file.
        about: what it says of itself, see `dataloading.video.probe.describe`.
        result: its verdicts, see `verdicts_to_dict`.
        explanation: of it.
        analyzer: the model that has judged it.
    """
    figure = Figure((_WIDTH, _HEIGHT))
    page = _Page(figure)
    verdict, score = result["verdict"], explanation.score
    page.text(f"{printable(upload.name)}", size=9, color=SOFT)
    page.text(f"Verdict: {verdict}", size=20, color=_COLORS.get(verdict, INK), weight="bold")
    whose = (
        f", of {score.name}, the most suspicious of {len(explanation.people)}" if len(explanation.people) > 1 else ""
    )
    page.text(f"Probability of fake {score.probability:.3f}{whose}", size=11)
    rule = probability_rule(score, about["fps"])
    page.text(f"{rule[0].upper()}{rule[1:]}.")
    page.gap()
    page.section("What was judged")
    page.text(
        f"File {printable(upload.name)}, {upload.size:,} bytes; {about['width']}×{about['height']} {about['codec']}, "
        f"{about['frames']} frames, {about['seconds']:.2f} s at {about['fps']:.2f} frames a second."
    )
    page.text(f"SHA-256 {upload.sha256}", family="monospace", size=7.5)
    page.section("By which model and version")
    info, found = analyzer.info, versions()
    packages = ", ".join(f"{name} {version}" for name, version in found.items() if name != "istvt")
    page.text(
        f"ISTVT {found['istvt']}; architecture {info.config.architecture}, {info.config.frames} frames a clip; "
        f"checkpoint {printable(analyzer.name)}. Explained by {METHOD_NAMES[explanation.settings.method]}. {packages}."
    )
    page.text(f"Checkpoint's checksum {info.checksum or 'none'}", family="monospace", size=7.5)
    page.section("Figures")
    _table(page, result, explanation.people)
    page.chart(explanation, about["frames"])
    page.section("How uncertain they are")
    for sentence in uncertainty(score, analyzer):
        page.text(sentence)
    for sentence in [*filter(None, [score.remark, result["remark"]]), *result["not_scored"][:3]]:
        page.text(sentence[0].upper() + sentence[1:])
    page.section("What cannot be concluded")
    for sentence in [*analyzer.notes, *LIMITS]:
        page.text(f"– {sentence[0].upper()}{sentence[1:]}")
    if strips := explanation.files.get("strips"):
        place = max(range(len(strips)), key=lambda number: abs(explanation.clips[number].probability - 0.5))
        clip, settings = explanation.clips[place], explanation.settings
        frames = clip.clip.frames
        shown = f"Frames {frames[0]} to {frames[-1]} of {score.name}, and what spoke for “{explanation.target}” in them"
        note = method_note(clip, settings.bound)
        page.picture(
            strips[place], f"{shown}; bright is high. The explanation page says how to read each map. {note}".rstrip()
        )
    now = datetime.now(UTC)
    page.footer(
        f"Made {now:%Y-%m-%d %H:%M} UTC by istvt serve {found['istvt']}. Files of this job are removed by the server."
    )
    metadata = {"Title": f"ISTVT report: {printable(upload.name)}", "Creator": f"ISTVT {found['istvt']}"}
    with matplotlib.rc_context({"pdf.fonttype": 3}), PdfPages(path, metadata=metadata) as file:
        file.savefig(figure)


def uncertainty(score: PersonScore, analyzer: Analyzer) -> list[str]:
    """Return in sentences how far a score can be trusted, by its clips and by the model's validation videos."""
    clips = np.array(score.clip_probabilities)
    count = f"{len(clips)} clip{'s' * (len(clips) > 1)}"
    spread = f", standard deviation {clips.std(ddof=1):.3f}" if len(clips) > 1 else ""
    said = [
        f"{count} of {score.name}: from {clips.min():.3f} to {clips.max():.3f}, mean {clips.mean():.3f}{spread}. Clips "
        "of one video are no independent samples: this is how much the score changes within it, not how often it is "
        "wrong."
    ]
    calibration = analyzer.info.calibration
    if calibration is None:
        said.append("The model has no calibration: how often verdicts at this score are wrong is not known.")
        return said
    value = float(calibrated(score.probability, calibration.temperature))
    ends = sorted(float(calibrated(score.probability, t)) for t in temperature_interval(calibration, _Z95))
    videos = len(calibration.real) + len(calibration.fake)
    said.append(
        f"Calibrated on {videos} validation videos ({len(calibration.fake)} fakes): {value:.3f}, 95 % interval of the "
        f"temperature alone {ends[0]:.3f} to {ends[1]:.3f}; for videos like those, with the same share of fakes."
    )
    if analyzer.band:
        text = str(analyzer.band)
        said.append(f"{text[0].upper()}{text[1:]}.")
    else:
        said.append("No error rate can be promised: its validation videos are too few, or no band was asked for.")
    return said


def _table(page: _Page, result: dict[str, Any], people: Sequence[Any]) -> None:
    rows = [("person", "verdict", "probability", "calibrated", "clips", "lowest", "highest", "seen", "face")]
    for person, values in list(zip(people, result["people"], strict=True))[:_MOST_PEOPLE]:
        score = person.score
        scaled = values.get("calibrated_probability_fake")
        clips = score.clip_probabilities
        rows.append(
            (
                "whole picture" if score.number is None else str(score.number),
                values["verdict"],
                f"{score.probability:.3f}",
                "–" if scaled is None else f"{scaled:.3f}",
                str(len(clips)),
                f"{min(clips):.3f}",
                f"{max(clips):.3f}",
                f"{score.seconds:.1f} s",
                "–" if score.size is None else f"{score.size:.0f} px",
            )
        )
    page.table(rows)
    if len(people) > _MOST_PEOPLE:
        page.text(f"{len(people) - _MOST_PEOPLE} more people are in the HTML and JSON reports.", size=7.5, color=SOFT)


class _Page:
    """A page that is filled from the top; heights are in inches."""

    def __init__(self, figure: Figure) -> None:
        self.figure, self.y = figure, _HEIGHT - 0.6

    def gap(self, inches: float = 0.06) -> None:
        self.y -= inches

    def text(self, text: str, size: float = 8.0, color: str = INK, **style: str) -> None:
        width = int(_CHARACTERS * 8.0 / size * (0.93 if style.get("family") == "monospace" else 1))
        for line in textwrap.wrap(text, width, break_long_words=True) or [""]:
            self.y -= size * 1.34 / 72
            self.figure.text(_LEFT, self.y / _HEIGHT, line, size=size, color=color, parse_math=False, **style)

    def section(self, title: str) -> None:
        self.gap(0.1)
        self.text(title, size=10, weight="bold")
        self.gap(0.02)

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        places = np.array([0, 0.13, 0.24, 0.36, 0.47, 0.56, 0.66, 0.78, 0.9])
        for number, row in enumerate(rows):
            self.y -= 8 * 1.5 / 72
            for place, cell in zip(_LEFT + places * (_RIGHT - _LEFT), row, strict=True):
                color = SOFT if number == 0 else _COLORS.get(cell, INK)
                self.figure.text(place, self.y / _HEIGHT, cell, size=8, color=color)
        self.gap()

    def chart(self, explanation: VideoExplanation, frames_in_all: int) -> None:
        height = 1.1
        self.gap(0.14 * (len(explanation.people) > 1))  # for the legend
        self.y -= height + 0.12
        box = (_LEFT + 0.03, self.y / _HEIGHT, _RIGHT - _LEFT - 0.03, height / _HEIGHT)
        axes: Axes = self.figure.add_axes(box)
        data = explanation.people
        for number, person in enumerate(data[:_MOST_PEOPLE]):
            frames = [float(np.mean(frames)) for frames in person.score.clip_frames]
            style = f"{_LINES[number % len(_LINES)]}{_MARKERS[number % len(_MARKERS)]}"
            axes.plot(frames, person.score.clip_probabilities, style, ms=3.5, lw=1, color=INK, label=person.score.name)
        axes.axhline(0.5, color=SOFT, lw=0.7, ls=(0, (2, 2)))
        axes.set(xlim=(0, max(frames_in_all, 1)), ylim=(-0.03, 1.03), yticks=(0, 0.5, 1))
        axes.set_xlabel("frame; every point is the probability of fake of one clip", fontsize=7, color=SOFT)
        axes.tick_params(labelsize=7, colors=SOFT)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if len(data) > 1:
            axes.legend(fontsize=7, frameon=False, ncols=6, loc="lower left", bbox_to_anchor=(0, 0.98))
        self.y -= 0.36

    def picture(self, path: Path, title: str) -> None:
        """Put a picture into what is left of the page; none where that is too little to see anything in it."""
        picture = imread(path)
        height, width = picture.shape[:2]
        left = self.y - _BOTTOM - 0.3
        if left < _LEAST_PICTURE:
            return
        self.gap(0.08)
        self.text(title, size=7.5, color=SOFT)
        tall = min((_RIGHT - _LEFT) * _WIDTH * height / width, left)
        self.y -= tall + 0.04
        wide = tall * width / height / _WIDTH
        axes = self.figure.add_axes((_LEFT, self.y / _HEIGHT, wide, tall / _HEIGHT))
        axes.imshow(picture, aspect="auto", interpolation="lanczos")
        axes.set_axis_off()

    def footer(self, text: str) -> None:
        self.figure.text(_LEFT, 0.028, text, size=7, color=SOFT, parse_math=False)
