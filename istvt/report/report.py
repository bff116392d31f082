"""HTML report of an evaluation: one file that opens from disk, with its pictures, without network and script."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from dataloading.dataset import CLASSES
from istvt.evaluation.results import METRIC_NAMES, Evaluation, Robustness
from istvt.inference.video_score import VideoScore
from istvt.report import charts
from istvt.report.evaluation_files import HistoryRow, StoredEvaluation
from istvt.report.examples import Example, encoded_frames
from istvt.report.html import render, write_page
from istvt.report.summary import (
    band_rows,
    interval_sentence,
    mask_rows,
    mask_sentence,
    reliability_sentences,
    robustness_rows,
    robustness_sentence,
    verdict_sentence,
)

if TYPE_CHECKING:
    from istvt.explain.faithfulness.results import Faithfulness

_LISTED_VIDEOS = 1000
_HEADLINE = {
    "accuracy": "share of videos judged right",
    "auc": "chance that a fake scores above a real video",
    "average_precision": "precision averaged over recall",
    "equal_error_rate": "error rate where both errors are equally frequent",
}
_CURVES = (
    ("Loss", {"train_loss": "training", "val_loss": "validation"}, False),
    ("Validation AUC and accuracy", {"val_auc": "AUC", "val_accuracy": "accuracy"}, True),
    (
        "Validation precision, recall and F1",
        {"val_precision": "precision", "val_recall": "recall", "val_f1": "F1"},
        True,
    ),
    ("Learning rate", {"learning_rate": "learning rate"}, False),
)
# Why a metric of an epoch is undefined, where that has one reason only.
_WHY_UNDEFINED = {
    "precision": "no video was called fake",
    "AUC": "the validation split holds videos of one class only",
}


def write_report(
    path: str | os.PathLike[str],
    evaluation: StoredEvaluation,
    scores: Sequence[VideoScore],
    *,
    history: Sequence[HistoryRow] = (),
    best_epoch: int | None = None,
    examples: Sequence[Example] = (),
    explanations: Faithfulness | str | None = None,
    robustness: Robustness | str | None = None,
) -> Path:
    """Write an evaluation as one self-contained HTML file.

    Args:
        path: of the file to write; its directory is made where it does not exist.
        evaluation: of `scores`.
        scores: every video's score.
        history: of the run; empty where nothing was trained.
        best_epoch: whose weights were evaluated; None marks the first with the highest validation AUC instead.
        examples: videos to show with their frames; `choose_examples` picks them.
        explanations: their measured faithfulness, or one sentence with the reason why it is not shown.
        robustness: curves on perturbed videos, or one sentence with the reason why they are not shown.

    Returns:
        The path of the file.

    Raises:
        InputError: an example's frames are not uint8 `[n, height, width, 3]`, or the file cannot be written.
    """
    measured = explanations is not None and not isinstance(explanations, str)
    marked_epoch = _best_epoch(history) if best_epoch is None else best_epoch
    page = render(
        "report.html.j2",
        created=datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z"),
        evaluation=evaluation,
        verdict=verdict_sentence(evaluation.videos),
        intervals=interval_sentence(evaluation),
        headline=[(METRIC_NAMES[key], getattr(evaluation.videos, key), what) for key, what in _HEADLINE.items()],
        roc=_roc_chart(evaluation),
        calibration=_calibration_section(evaluation),
        masks=evaluation.masks and mask_rows(evaluation.masks),
        mask_sentence=evaluation.masks and mask_sentence(evaluation.masks),
        distribution=_distribution(scores, evaluation.threshold),
        scale=_scale(evaluation),
        no_interval=any(
            estimate.value is not None and estimate.low is None
            for metrics in evaluation.manipulations.values()
            for estimate in metrics.estimates().values()
        ),
        examples=_example_groups(examples, evaluation.threshold),
        curves=_curves(history, marked_epoch),
        history=_history_table(history),
        best_epoch=marked_epoch,
        weights_known=best_epoch is not None,
        classes=CLASSES,
        listed=_listed(scores, evaluation.threshold),
        video_count=len(scores),
        settings=_grouped(evaluation.settings | ({"versions": evaluation.versions} if evaluation.versions else {})),
        robustness=_robustness_section(robustness) if isinstance(robustness, Robustness) else robustness,
        explanations=explanations,
        measured=_explanation_section(explanations) if measured else None,
    )
    write_page(path, page)
    return Path(path)


def _roc_chart(evaluation: Evaluation) -> Markup | None:
    videos = evaluation.videos
    if videos.roc is None:
        return None
    counts = videos.confusion
    point = (counts.false_positives / videos.real, counts.true_positives / videos.fake)
    description = (
        f"ROC curve by video. AUC {videos.auc}. At the threshold {evaluation.threshold:g}, {point[1]:.1%} of the fakes "
        f"are found and {point[0]:.1%} of the real videos are called fake."
    )
    return charts.inline_svg(charts.roc_chart(videos.roc, point), description)


def _calibration_section(evaluation: Evaluation) -> dict[str, Any] | None:
    """Return the reliability diagram, the sentences and the table of error rates; None where a class is missing."""
    raw, result = evaluation.reliability, evaluation.calibration
    if raw is None:
        return None
    chart = charts.reliability_chart(raw, result and result.scaled)
    sentences = reliability_sentences(evaluation)
    return {
        "chart": charts.inline_svg(chart, f"Reliability diagram by video. {' '.join(sentences)}"),
        "sentences": sentences,
        "bands": result and band_rows(result),
    }


def _distribution(scores: Sequence[VideoScore], threshold: float) -> list[dict[str, Any]]:
    """Return one row a group: real videos first, then each manipulation."""
    groups: dict[tuple[int, str], list[float]] = {}
    for score in scores:
        groups.setdefault((int(score.label), score.manipulation), []).append(score.probability)
    rows = []
    for (label, manipulation), probabilities in sorted(groups.items()):
        kind = CLASSES[label]
        above = sum(probability > threshold for probability in probabilities)
        wrong = above if kind == "real" else len(probabilities) - above
        description = (
            f"{manipulation}: {len(probabilities)} {kind} videos, median probability {np.median(probabilities):.3f}, "
            f"{above} above the threshold {threshold:g}."
        )
        chart = charts.inline_svg(charts.probability_bars(probabilities, threshold, kind), description, "bars")
        rows.append({"name": manipulation, "kind": kind, "count": len(probabilities), "wrong": wrong, "chart": chart})
    return rows


def _scale(evaluation: Evaluation) -> float:
    """Return the start of the axis of AUC marks by manipulation: chance, or lower where an interval reaches lower."""
    limits = [metrics.auc.low for metrics in evaluation.manipulations.values() if metrics.auc.low is not None]
    return math.floor(min([0.5, *limits]) * 10) / 10


def _example_groups(examples: Sequence[Example], threshold: float) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {"Wrong verdicts": [], "Right verdicts": []}
    for example in examples:
        title = "Right verdicts" if example.score.is_correct(threshold) else "Wrong verdicts"
        groups[title].append({"score": example.score, "frames": encoded_frames(example)})
    return {title: group for title, group in groups.items() if group}


def _best_epoch(history: Sequence[HistoryRow]) -> int | None:
    known = [row for row in history if row.val_auc is not None]
    return max(known, key=lambda row: row.val_auc).epoch if known else None


def _curves(history: Sequence[HistoryRow], marked_epoch: int | None) -> list[dict[str, Any]]:
    curves = []
    epochs = [row.epoch for row in history]
    for title, keys, share in _CURVES:
        lines = [charts.Series(name, [getattr(row, key) for row in history]) for key, name in keys.items()]
        known = [value for line in lines for value in line.values if value is not None]
        if known:
            y_range = (min(0.5, math.floor(10 * min(known)) / 10), 1.0) if share else None
            figure = charts.line_chart(epochs, lines, "epoch", y_range=y_range, marked_x=marked_epoch)
            notes = [note for line in lines if (note := _undefined_in(line, epochs))]
            chart = charts.inline_svg(figure, _ends_in_words(lines, epochs))
            curves.append({"title": title, "chart": chart, "notes": notes})
    return curves


def _ends_in_words(lines: Sequence[charts.Series], epochs: Sequence[int]) -> str:
    sentences = []
    for line in lines:
        known = [(epoch, value) for epoch, value in zip(epochs, line.values, strict=True) if value is not None]
        if known:
            (first, start), (last, end) = known[0], known[-1]
            sentences.append(f"{line.name}: {start:.4g} at epoch {first}, {end:.4g} at epoch {last}.")
    return " ".join(sentences)


def _explanation_section(measured: Faithfulness) -> dict[str, Any]:
    """Return the curves, the tables and the numbers of the section on explanations."""
    # Imported here: a report without explanations needs none of it.
    from istvt.explain.faithfulness import report as tables
    from istvt.explain.faithfulness.results import CURVES

    curves, results = [], [measured]
    for name in CURVES:
        lines, removed = [], []
        for method in tables.by_counterfactual(results):
            if line := tables.mean_curve(results, method, name):
                removed, values = line
                lines.append(charts.Series(method, values))
        if lines:
            figure = charts.line_chart(removed, lines, "hottest pixels (%)", y_range=(0, 1))
            title = f"P(fake) by {tables.TITLES[name]}"
            what = f"{title} against the share of pixels, a line for each method. The table has the mean heights."
            curves.append({"title": title, "chart": charts.inline_svg(figure, what), "notes": []})
    counts = tables.counts(results)
    named = {"P(fake) of detected fakes": tables.curve_rows, "Share called right after deletion": tables.accuracy_rows}
    if counts["mask"]:
        named["Where and when"] = tables.place_rows
    shown = {caption: rows(results) for caption, rows in named.items()}
    if measured.sanity is not None:
        shown["Sanity checks"] = tables.sanity_rows(measured.sanity)
    plain = {
        caption: (header, [[cell.replace("`", "").replace("**", "") for cell in row] for row in rows])
        for caption, (header, rows) in shown.items()
    }
    return {"curves": curves, "tables": plain, "counts": counts}


def _robustness_section(robustness: Robustness) -> dict[str, Any]:
    """Return the curves, the tables and the sentence of the section on perturbed videos."""
    curves, tables = [], {}
    for curve in robustness.curves:
        title = f"{curve.perturbation}: {curve.what}"
        ends = [
            f"{name} {value} at {'no' if point.strength is None else f'{point.strength:g}'} {curve.unit}."
            for name, values in charts.curve_lines(curve).items()
            for point, value in ((curve.points[0], values[0]), (curve.points[-1], values[-1]))
        ]
        chart = charts.inline_svg(charts.robustness_chart(curve), f"{title}. {' '.join(ends)}")
        curves.append({"title": title, "chart": chart, "notes": curve.notes})
        header, rows = robustness_rows(curve)
        tables[title] = header, [[cell.partition(" (") for cell in row] for row in rows]
    return {"curves": curves, "tables": tables, "sentence": robustness_sentence(robustness)}


def _undefined_in(line: charts.Series, epochs: Sequence[int]) -> str:
    """Return the sentence on the gaps of a line, or on a line without any value; "" where there are no gaps."""
    missing = [epoch for epoch, value in zip(epochs, line.values, strict=True) if value is None]
    if not missing:
        return ""
    some = f"epoch{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
    where = "every epoch" if len(missing) == len(epochs) else some
    why = f": {_WHY_UNDEFINED[line.name]}" if line.name in _WHY_UNDEFINED else ""
    return f"{line.name[0].upper()}{line.name[1:]} is undefined in {where}{why}."


def _history_table(history: Sequence[HistoryRow]) -> dict[str, Any]:
    """Return the table of every metric of every epoch, as in the curves."""
    names = [column.name.replace("_", " ").replace("val ", "validation ") for column in fields(HistoryRow)]
    rows = [["undefined" if value is None else f"{value:.4g}" for value in astuple(row)] for row in history]
    return {"names": names, "rows": rows}


def _listed(scores: Sequence[VideoScore], threshold: float) -> list[VideoScore]:
    """Return the videos with wrong verdicts, the most confident first, at most `_LISTED_VIDEOS`."""

    def distance_on_wrong_side(score: VideoScore) -> float:
        return (threshold - score.probability) * (1 if score.label else -1)

    return sorted(scores, key=lambda score: (-distance_on_wrong_side(score), score.name))[:_LISTED_VIDEOS]


def _grouped(settings: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return settings by their outermost name; those that are not nested come first, under "general"."""
    groups = {"general": {key: value for key, value in settings.items() if not isinstance(value, Mapping)}}
    groups |= {key: value for key, value in settings.items() if isinstance(value, Mapping)}
    return {name: _flat(group) for name, group in groups.items() if group}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}.")
        elif isinstance(value, (list, tuple)):
            flat[name] = ", ".join(str(item) for item in value) or "none"
        else:
            flat[name] = "none" if value is None else str(value)
    return flat
