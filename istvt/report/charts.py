"""Charts of the report: matplotlib figures, and a figure as inline SVG in the colors of the page.

Lines differ in dash and marker as well as in color, so that a grayscale print is readable. The SVG holds no script, no
address and no date: the same values give the same bytes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from istvt.evaluation.results import Estimate, Reliability, RobustnessCurve, RocCurve

# CSS variables of the colors of the light page, which replace them in the SVG: a dark page has other values.
_COLORS = {
    "ink": "#1a2027",
    "soft": "#56616c",
    "rule": "#dde2e6",
    "sheet": "#fffffe",
    "real": "#0a67a8",
    "fake": "#bf4d06",
    "third": "#00765a",
}
# Colors, dashes and markers of the lines of a chart, in turn.
_LINES = (("real", "fake", "third", "ink", "soft"), ("-", "--", ":", "-."), "os^Dv*X")
_PEOPLE = ("real", "third", "fake", "ink", "soft")
_DASHES = (0, (2, 2))
_STEPS = (1, 2, 5, 10)  # between ticks
_MARKERS_UP_TO = 40
_BLOCKS_UP_TO = 9
_BINS = 40
_in_page_style = rc_context(
    {
        **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _COLORS["soft"]),
        **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "axes.labelsize", "legend.fontsize"), 12),
        **dict.fromkeys(("axes.spines.top", "axes.spines.left", "axes.spines.right", "legend.frameon"), False),
        **dict.fromkeys(("axes.linewidth", "grid.linewidth"), 1),
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": _COLORS["rule"],
        "legend.labelcolor": _COLORS["soft"],
        "legend.handlelength": 2.6,
        "lines.linewidth": 2,
        "ytick.major.size": 0,
        "ytick.major.pad": 8,
        "svg.fonttype": "none",
    }
)


@dataclass(frozen=True)
class Series:
    """One line of a chart; a value is None where it is undefined, and the line has a gap there."""

    name: str
    values: Sequence[float | None]


@_in_page_style
def line_chart(
    x: Sequence[float],
    series: Sequence[Series],
    x_title: str,
    *,
    y_range: tuple[float, float] | None = None,
    marked_x: float | None = None,
) -> Figure:
    """Draw lines with a legend above them.

    Args:
        x: of every value, rising.
        series: each with one value for each `x`; one without any value is left out.
        x_title: of the axis.
        y_range: ends of the other axis; None is from 0 to above the largest value.
        marked_x: gets an upright line.
    """
    columns = 3
    figure, axes = _axes(460, 230 + 20 * -(-len(series) // columns))
    for number, line in enumerate(series):
        color, dash, marker = (choices[number % len(choices)] for choices in _LINES)
        if any(value is not None for value in line.values):
            values = np.array(line.values, dtype=np.float64)  # NaN for None
            shape = marker if np.isfinite(values).sum() <= _MARKERS_UP_TO else ""
            axes.plot(x, values, dash, color=_COLORS[color], marker=shape, label=line.name, zorder=3)
    if len(axes.lines) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns)
    first, last = x[0], x[-1]
    axes.set_xlim(*((first - 0.5, first + 0.5) if first == last else (first, last)))
    largest = max((value for line in series for value in line.values if value is not None), default=0)
    axes.set_ylim(*(y_range or (0, 1.05 * (largest or 1))))
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=_STEPS, integer=True) if last > first else FixedLocator([last]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(x_title)
    if marked_x is not None and first <= marked_x <= last:
        axes.axvline(marked_x, color=_COLORS["ink"], linestyle=_DASHES, linewidth=1.5)
    return figure


@_in_page_style
def robustness_chart(curve: RobustnessCurve) -> Figure:
    """Draw AUC and accuracy by video against the strength of a perturbation, with their intervals shaded.

    Strengths are evenly spaced, whatever they are. Dashed lines are at the values of the unperturbed videos.
    """
    figure, axes = _axes(460, 270)
    lowest = 1.0
    for (name, values), color, marker in zip(curve_lines(curve).items(), ("real", "fake"), "os", strict=False):
        places = [place for place, value in enumerate(values) if value.value is not None]
        known, color = [values[place] for place in places], _COLORS[color]
        if not known:
            continue
        limits = [
            (value.value, value.value) if value.low is None else (min(value.low, value.value), value.high)
            for value in known
        ]
        axes.fill_between(places, *zip(*limits, strict=True), color=color, alpha=0.16, linewidth=0)
        axes.plot(places, [value.value for value in known], color=color, marker=marker, label=name, zorder=3)
        for point, value in zip(curve.points, values, strict=True):
            if point.strength is None and value.value is not None:
                axes.axhline(value.value, color=color, linestyle=_DASHES, linewidth=1)
        lowest = min(lowest, *(low for low, _ in limits))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    step = -(-len(curve.points) // 12)
    shown = [place for place, point in enumerate(curve.points) if place % step == 0 or point.strength is None]
    names = ["none" if curve.points[place].strength is None else f"{curve.points[place].strength:g}" for place in shown]
    axes.set_xticks(shown, names)
    axes.set(xlim=(-0.3, len(curve.points) - 0.7), ylim=(math.floor(10 * min(lowest, 0.5)) / 10, 1))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(curve.unit)
    return figure


def curve_lines(curve: RobustnessCurve) -> dict[str, list[Estimate]]:
    """Return the lines of a curve's chart by name, with one value for each of its points."""
    return {"AUC": [point.auc for point in curve.points], "accuracy": [point.accuracy for point in curve.points]}


@dataclass(frozen=True)
class EstimatedLine:
    """One line of a chart whose values have intervals."""

    name: str
    values: Sequence[Estimate]


@_in_page_style
def strengths_chart(lines: Sequence[EstimatedLine], strengths: Sequence[float | None], unit: str) -> Figure:
    """Draw a metric of several detectors against the strength of a perturbation, intervals as upright bars.

    Args:
        lines: of the detectors, each with one value for each strength.
        strengths: evenly spaced, whatever they are; None is the videos as they are.
        unit: of the strengths.
    """
    columns = 3
    figure, axes = _axes(460, 250 + 20 * -(-len(lines) // columns))
    lowest = 0.5
    for number, line in enumerate(lines):
        color, dash, marker = (choices[number % len(choices)] for choices in _LINES)
        # Beside each other, so that the bars of one strength can be told apart.
        shift = 0.36 * (number / max(len(lines) - 1, 1) - 0.5)
        known = [(place + shift, value) for place, value in enumerate(line.values) if value.value is not None]
        if not known:
            continue
        places, values = zip(*known, strict=True)
        axes.plot(
            places, [v.value for v in values], dash, color=_COLORS[color], marker=marker, label=line.name, zorder=3
        )
        bars = [(place, value) for place, value in known if value.low is not None]
        axes.vlines(
            [place for place, _ in bars],
            [value.low for _, value in bars],
            [value.high for _, value in bars],
            color=_COLORS[color],
            alpha=0.35,
        )
        lowest = min(lowest, *(value.value if value.low is None else value.low for value in values))
    axes.axhline(0.5, color=_COLORS["soft"], linestyle=(0, (2, 4)), linewidth=1)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns)
    axes.set_xticks(range(len(strengths)), ["none" if value is None else f"{value:g}" for value in strengths])
    axes.set(xlim=(-0.4, len(strengths) - 0.6), ylim=(math.floor(10 * lowest) / 10, 1.02))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(unit)
    return figure


@_in_page_style
def roc_lines_chart(curves: Sequence[tuple[str, RocCurve]]) -> Figure:
    """Draw the ROC curves of several detectors, by name, and the diagonal of chance."""
    columns = 3
    figure, axes = _axes(460, 384 + 20 * -(-len(curves) // columns))
    axes.plot([0, 1], [0, 1], linestyle=(0, (2, 4)), color=_COLORS["soft"], linewidth=1)
    for number, (name, roc) in enumerate(curves):
        color, dash = (choices[number % len(choices)] for choices in _LINES[:2])
        axes.plot(roc.false_positive_rate, roc.true_positive_rate, dash, color=_COLORS[color], label=name, zorder=3)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="real videos called fake", ylabel="fakes found")
    return figure


@_in_page_style
def reliability_chart(raw: Reliability, scaled: Reliability | None) -> Figure:
    """Draw the share of fakes in each bin against its mean probability, with intervals, and the diagonal."""
    figure, axes = _axes(400, 384)
    axes.plot([0, 1], [0, 1], linestyle=(0, (2, 4)), color=_COLORS["soft"], linewidth=1)
    lines = {"scores": (raw, "real", "o"), "calibrated": (scaled, "fake", "s")}
    for name, (reliability, color, marker) in lines.items():
        if reliability is not None:
            x, shares = zip(*((item.probability, item.fakes) for item in reliability.bins), strict=True)
            low, high = [share.low for share in shares], [share.high for share in shares]
            axes.vlines(x, low, high, color=_COLORS[color], alpha=0.4)
            values = [share.value for share in shares]
            axes.plot(x, values, color=_COLORS[color], marker=marker, linewidth=1, label=name, zorder=3)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="probability of fake", ylabel="share of fakes")
    return figure


@_in_page_style
def roc_chart(roc: RocCurve, operating_point: tuple[float, float]) -> Figure:
    """Draw a ROC curve with its band, the diagonal of chance, and the point (x, y) of the threshold in use."""
    figure, axes = _axes(400, 384)
    if roc.band_rate:
        around = roc.band_rate + roc.band_rate[::-1], roc.band_high + roc.band_low[::-1]
        axes.fill(*around, color=_COLORS["real"], alpha=0.18, linewidth=0)
    axes.plot([0, 1], [0, 1], linestyle=(0, (2, 4)), color=_COLORS["soft"], linewidth=1)
    axes.plot(roc.false_positive_rate, roc.true_positive_rate, color=_COLORS["real"], zorder=3)
    axes.plot(*operating_point, "o", color=_COLORS["sheet"], markersize=9, mec=_COLORS["ink"], mew=2, zorder=4)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="real videos called fake", ylabel="fakes found")
    return figure


@_in_page_style
def probability_bars(probabilities: Sequence[float], threshold: float, label: str) -> Figure:
    """Draw a histogram of one group's probabilities over [0, 1] without axes, to be stretched to the page's width.

    Where no bin holds more than a few videos, each video is a block of its own.

    Args:
        probabilities: of the group's videos.
        threshold: gets an upright line.
        label: `"real"` or `"fake"`: the color.
    """
    figure, axes = _axes(10 * _BINS, 60)
    figure.set_layout_engine("none")
    axes.set_position((0, 0, 1, 1))
    axes.set_axis_off()
    counts, edges = np.histogram(probabilities, bins=_BINS, range=(0, 1))
    most = max(int(counts.max()), 1)
    as_blocks = most <= _BLOCKS_UP_TO
    for level in range(most if as_blocks else 1):
        reached = counts > level
        heights = 0.9 if as_blocks else np.maximum(counts[reached], 0.04 * most)
        axes.bar(edges[:-1][reached] + 0.0015, heights, 0.022, level, align="edge", color=_COLORS[label])
    axes.axvline(threshold, color=_COLORS["ink"], linestyle=_DASHES, linewidth=1.5)
    axes.set(xlim=(0, 1), ylim=(0, max(most, 5)))
    return figure


@dataclass(frozen=True)
class TimeLine:
    """Probability of "fake" of the clips of one person over a video.

    Attributes:
        name: of the person, in the legend; "" without one.
        seconds: the middle of each clip, rising.
        probabilities: of each clip.
        shots: number of the shot of each clip: between shots the line is interrupted.
        shaded: (start, end) in seconds of the clips that are explained.
    """

    name: str
    seconds: Sequence[float]
    probabilities: Sequence[float]
    shots: Sequence[int]
    shaded: Sequence[tuple[float, float]] = ()


@_in_page_style
def timeline_chart(lines: Sequence[TimeLine], length: float, cuts: Sequence[float] = ()) -> Figure:
    """Draw the probability of "fake" of every clip over a video, a line for each person, and where shots begin.

    Args:
        lines: of the people.
        length: of the video in seconds.
        cuts: seconds at which shots begin, but for the first one; as upright lines, with the shots' numbers where
            there is room for them.
    """
    several, columns = len(lines) > 1, 6
    figure, axes = _axes(920, 178 + (20 * -(-len(lines) // columns) if several else 0))
    for cut in cuts:
        axes.axvline(cut, color=_COLORS["rule"], linewidth=1.5, zorder=1)
    borders = [0.0, *cuts, length]
    if cuts and min(np.diff(borders)) > length / 60:
        for number, (start, end) in enumerate(pairwise(borders), start=1):
            axes.text(
                (start + end) / 2, 1.02, str(number), ha="center", va="bottom", fontsize=11, color=_COLORS["soft"]
            )
    axes.axhline(0.5, color=_COLORS["soft"], linestyle=_DASHES, linewidth=1)
    for place, line in enumerate(lines):
        color, dash, marker = (choices[place % len(choices)] for choices in (_PEOPLE, *_LINES[1:]))
        color = _COLORS[color]
        for start, end in line.shaded:
            axes.axvspan(start, end, color=color if several else _COLORS["fake"], alpha=0.16, linewidth=0)
        shots = np.array(line.shots)
        for shot in dict.fromkeys(line.shots):
            inside = np.flatnonzero(shots == shot)
            axes.plot(np.array(line.seconds)[inside], np.array(line.probabilities)[inside], dash, color=color)
        for time, probability in zip(line.seconds, line.probabilities, strict=True):
            name = f"{f'{line.name}, ' if several else ''}{time:.2f} s: {probability:.3f}"
            axes.plot(time, probability, marker, color=color, gid=name)
        axes.plot([], [], dash, marker=marker, color=color, label=line.name)
    if several:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.1 if cuts else 1), ncols=columns)
    axes.set(xlim=(0, max(length, 1e-9)), ylim=(0, 1), yticks=(0, 0.5, 1), yticklabels=("0", "0.5", "1"))
    ticks = [tick for tick in MaxNLocator(8, steps=_STEPS).tick_values(0, length) if 0 <= tick < 0.96 * length]
    axes.set_xticks([*ticks, length], [*(f"{tick:g} s" for tick in ticks), f"{length:.{1 if length >= 2 else 2}f} s"])
    return figure


@_in_page_style
def inline_svg(figure: Figure, description: str, kind: str = "chart") -> Markup:
    """Return a figure as one `<svg>` element for a page whose style sheet holds the colors as CSS variables.

    Args:
        figure: in the colors of this module.
        description: alternative text of the figure.
        kind: CSS class; `"bars"` is stretched to the place that the page gives it.
    """
    file = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    # The salt makes the ids of markers reproducible, and different in each figure of a page.
    with rc_context({"svg.hashsalt": description}):
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    # Remove what only a stand-alone file needs: namespaces, style, ids, clip paths and the font.
    body = file.getvalue().partition("<svg")[2].partition(">")[2].replace("xlink:href", "href")
    body = re.sub(r"<defs>\s*<(style|clipPath).*?</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="([^"]* [^"]*)">', r"<g><title>\1</title>", body)  # a name with a space is shown by a browser
    body = re.sub(r' id="[\w.]+_\d+"| clip-path="[^"]*"| font-family: [^;]*;', "", body)
    for name, color in _COLORS.items():
        body = body.replace(color, f"var(--{name})")
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    stretch = ' preserveAspectRatio="none"' if kind == "bars" else ""
    attributes = f'class="{kind}" viewBox="0 0 {width} {height}"{stretch} role="img"'
    return Markup(f'<svg {attributes} aria-label="{escape(description)}">{body}')


def _axes(width: int, height: int) -> tuple[Figure, Axes]:
    """Return a figure of `width` x `height` units of SVG, and its axes."""
    figure = Figure((width / 72, height / 72), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)  # inches: the ring of the ROC curve ends beyond the axes
    return figure, figure.subplots()
