"""Figures of the report as inline SVG: drawn from numbers alone, colored by the page's style sheet, no script.

Lines differ in dash and marker as well as in color. Every figure carries a sentence that says what it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10

import numpy as np
from markupsafe import Markup, escape

from istvt.evaluation.results import RocCurve

_MARKERS_UP_TO = 40
_UNITS_UP_TO = 9


@dataclass(frozen=True)
class Series:
    """One line of a chart; a value is None where there is none, and the line has a gap there.

    `style` 1, 2 or 3 picks color, dash and marker.
    """

    name: str
    values: Sequence[float | None]
    style: int


@dataclass(frozen=True)
class _Axes:
    """Maps data to the drawing's units, and draws grid lines, tick labels and axis titles."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    width: int = 460
    height: int = 250
    left: int = 58
    right: int = 14
    top: int = 12
    bottom: int = 46

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom)

    def frame(self, x_ticks: Sequence[float], y_ticks: Sequence[float], x_title: str, y_title: str) -> str:
        end = self.width - self.right
        floor_y = self.height - self.bottom
        parts = [
            f'<path class="grid" d="M{self.left} {self.y(tick):.1f}H{end}"/>'
            f'<text class="tick end" x="{self.left - 8}" y="{self.y(tick):.1f}" dy=".35em">{tick:g}</text>'
            for tick in y_ticks
        ]
        parts += [
            f'<path class="grid" d="M{self.x(tick):.1f} {floor_y}v5"/>'
            f'<text class="tick" x="{self.x(tick):.1f}" y="{floor_y + 9}" dy=".8em">{tick:g}</text>'
            for tick in x_ticks
        ]
        middle = (self.left + end) / 2
        center = (self.top + floor_y) / 2
        parts.append(f'<path class="axis" d="M{self.left} {floor_y}H{end}"/>')
        parts.append(f'<text class="title" x="{middle}" y="{self.height - 5}">{escape(x_title)}</text>')
        if y_title:
            turn = f"translate(13 {center}) rotate(-90)"
            parts.append(f'<text class="title" transform="{turn}">{escape(y_title)}</text>')
        return "".join(parts)

    def points(self, x: Sequence[float], y: Sequence[float]) -> list[str]:
        """Points in drawing units to a tenth, without repeats: a curve of 100,000 points stays as small as it looks."""
        drawn: list[str] = []
        for x_value, y_value in zip(x, y, strict=True):
            point = f"{self.x(x_value):.1f} {self.y(y_value):.1f}"
            if not drawn or drawn[-1] != point:
                drawn.append(point)
        return drawn

    def svg(self, description: str, body: str) -> Markup:
        return Markup(
            f'<svg class="chart" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(description)}">{body}</svg>'
        )


def epoch_chart(
    epochs: Sequence[int], series: Sequence[Series], *, share: bool = False, marked_epoch: int | None = None
) -> Markup:
    """Lines over epochs.

    Args:
        epochs: of every value, rising.
        series: at least one, each with one value an epoch.
        share: the values are shares, so the axis ends at 1; otherwise it starts at 0 and ends above the largest value.
        marked_epoch: gets an upright line.
    """
    values = [value for line in series for value in line.values if value is not None]
    low, high = _share_range(values) if share else (0.0, (max(values, default=0.0) or 1.0) * 1.05)
    first, last = epochs[0], epochs[-1]
    axes = _Axes((first - 0.5, first + 0.5) if first == last else (first, last), (low, high))
    body = axes.frame(_whole_ticks(first, last), _ticks(low, high, 5), "epoch", "")
    if marked_epoch is not None and first <= marked_epoch <= last:
        body += f'<path class="mark" d="M{axes.x(marked_epoch):.1f} {axes.top}V{axes.height - axes.bottom}"/>'
    body += "".join(_line(axes, epochs, line) for line in series)
    return axes.svg(_describe(epochs, series), body)


def roc_chart(roc: RocCurve, operating_point: tuple[float, float], description: str) -> Markup:
    """ROC curve with its band, the diagonal of chance, and the point at the threshold in use."""
    axes = _Axes((0, 1), (0, 1), width=400, height=384)
    ticks = (0, 0.2, 0.4, 0.6, 0.8, 1)
    body = axes.frame(ticks, ticks, "real videos called fake", "fakes found")
    if roc.band_rate:
        there = axes.points(roc.band_rate, roc.band_high)
        back = axes.points(roc.band_rate[::-1], roc.band_low[::-1])
        body += f'<path class="band" d="M{"L".join(there + back)}Z"/>'
    body += f'<path class="chance" d="M{axes.x(0)} {axes.y(0)}L{axes.x(1)} {axes.y(1)}"/>'
    curve = axes.points(roc.false_positive_rate, roc.true_positive_rate)
    body += f'<path class="line s1" d="M{"L".join(curve)}"/>'
    body += f'<circle class="point" cx="{axes.x(operating_point[0]):.1f}" cy="{axes.y(operating_point[1]):.1f}" r="5"/>'
    return axes.svg(description, body)


def probability_bars(probabilities: Sequence[float], threshold: float, kind: str, description: str) -> Markup:
    """Histogram of one group's probabilities over [0, 1], meant to be stretched to the width it is given.

    Where no bin holds more than a few videos, each video is a block of its own.

    Args:
        probabilities: of the group's videos.
        threshold: gets an upright line.
        kind: `"real"` or `"fake"`: the color.
        description: what a reader who does not see the figure is told.
    """
    bins, height = 40, 60
    counts, _ = np.histogram(probabilities, bins=bins, range=(0, 1))
    most = max(int(counts.max()), 1)
    body = ""
    for position, count in enumerate(counts.tolist()):
        left = position * 10 + 0.6
        if most <= _UNITS_UP_TO:
            unit = min(height / most, 12)
            body += "".join(
                f'<rect x="{left}" y="{height - (block + 1) * unit:.1f}" width="8.8" height="{unit - 1.2:.1f}"/>'
                for block in range(count)
            )
        elif count:
            bar = max(2.5, count / most * height)
            body += f'<rect x="{left}" y="{height - bar:.1f}" width="8.8" height="{bar:.1f}"/>'
    line = f'<path class="mark" d="M{threshold * 10 * bins:.1f} 0V{height}"/>'
    return Markup(
        f'<svg class="bars {escape(kind)}" viewBox="0 0 {bins * 10} {height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(description)}">{body}{line}</svg>'
    )


def _line(axes: _Axes, epochs: Sequence[int], line: Series) -> str:
    runs: list[list[tuple[int, float]]] = [[]]
    for epoch, value in zip(epochs, line.values, strict=True):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((epoch, value))
    body = ""
    for run in filter(None, runs):
        points = axes.points(*zip(*run, strict=True))
        body += f'<path class="line s{line.style}" d="M{"L".join(points)}"/>'
    known = [point for run in runs for point in run]
    if len(known) <= _MARKERS_UP_TO:
        body += "".join(_marker(axes.x(epoch), axes.y(value), line.style) for epoch, value in known)
    return body


def _marker(x: float, y: float, style: int) -> str:
    shapes = {
        1: f'<circle class="dot s1" cx="{x:.1f}" cy="{y:.1f}" r="3"/>',
        2: f'<rect class="dot s2" x="{x - 2.8:.1f}" y="{y - 2.8:.1f}" width="5.6" height="5.6"/>',
        3: f'<path class="dot s3" d="M{x:.1f} {y - 3.8:.1f}l3.6 6.4h-7.2z"/>',
    }
    return shapes[style]


def legend_key(style: int) -> Markup:
    """The sample of line and marker that a legend shows beside a name."""
    return Markup(
        '<svg class="key" viewBox="0 0 30 12" aria-hidden="true">'
        f'<path class="line s{style}" d="M1 6H29"/>{_marker(15, 6, style)}</svg>'
    )


def _describe(epochs: Sequence[int], series: Sequence[Series]) -> str:
    sentences = []
    for line in series:
        known = [(epoch, value) for epoch, value in zip(epochs, line.values, strict=True) if value is not None]
        if known:
            (first, start), (last, end) = known[0], known[-1]
            sentences.append(f"{line.name}: {start:.4g} at epoch {first}, {end:.4g} at epoch {last}.")
    return " ".join(sentences)


def _share_range(values: Sequence[float]) -> tuple[float, float]:
    return min(0.5, floor(min(values, default=0.5) * 10) / 10), 1.0


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from low to high, at most about as many as asked for."""
    rough = (high - low) / about
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = int(np.ceil(low / step - 1e-9))
    last = int(np.floor(high / step + 1e-9))
    return [round(position * step, 12) for position in range(first, last + 1)]


def _whole_ticks(first: int, last: int) -> list[int]:
    """At most about eight whole numbers from first to last."""
    return (
        sorted({round(tick) for tick in _ticks(first, last, 8)} & set(range(first, last + 1)))
        if last > first
        else [first]
    )
