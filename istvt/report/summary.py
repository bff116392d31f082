"""Tables and sentences of an evaluation for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from istvt.evaluation.results import (
    CalibrationResult,
    ConfusionMatrix,
    Estimate,
    Evaluation,
    MaskResult,
    Metrics,
    Reliability,
    Robustness,
    RobustnessCurve,
)

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

# Metrics of the table by manipulation; those without a threshold come first.
_MANIPULATION_COLUMNS = {"AUC": "auc", "Found": "recall", "Accuracy": "accuracy", "EER": "equal_error_rate"}
_MASK_COLUMNS = (0, 1, 2, 3, 5)


def summary(evaluation: Evaluation) -> Group:
    """Return an evaluation for `rich.print`: by video first, by clip last."""
    from rich.console import Group
    from rich.text import Text

    videos = evaluation.videos
    parts = [
        Text(verdict_sentence(videos)),
        Text(),
        _metrics_table(f"By video: {_counts(videos)}", videos),
        _confusion_table(videos.confusion),
    ]
    if evaluation.manipulations:
        parts.append(_manipulations_table(evaluation.manipulations))
    parts += [
        Text("Classification report (by video)", style="bold"),
        Text(videos.classification_report),
        _metrics_table(f"By clip, not by video: {_counts(evaluation.clips)}", evaluation.clips),
        *(Text(sentence) for sentence in reliability_sentences(evaluation)),
        *_mask_parts(evaluation.masks),
        Text(interval_sentence(evaluation), style="dim"),
        *(Text(note, style="dim") for note in videos.notes),
    ]
    return Group(*parts)


def _mask_parts(masks: MaskResult | None) -> list[Table | Text]:
    from rich.text import Text

    if masks is None:
        return []
    header, rows = mask_rows(masks)
    table = _table("Predicted masks", *(header[place] for place in _MASK_COLUMNS))  # all have no room in 80 columns
    for row in rows:
        table.add_row(*(row[place].replace(" (", "\n").rstrip(")") for place in _MASK_COLUMNS))
    return [table, Text(mask_sentence(masks), style="dim")]


def reliability_sentences(evaluation: Evaluation) -> list[str]:
    """Return what is known of the calibration, one sentence each; [] where a class is missing."""
    raw, result = evaluation.reliability, evaluation.calibration
    if raw is None:
        return []
    sentences = [_error_sentence("Scores", raw)]
    if result is None:
        return [*sentences, "The model's file holds no calibration."]
    videos = f"{result.real} real and {result.fake} fake validation videos"
    return [
        *sentences,
        _error_sentence(f"Calibrated by a temperature of {result.temperature:.2f}", result.scaled),
        f"The temperature is that of {videos} (95% interval {result.low:.2f} to {result.high:.2f}), by which the "
        "epoch was chosen too; it scales the score of a video, so that no verdict changes.",
    ]


def _error_sentence(what: str, reliability: Reliability) -> str:
    sizes = sorted({item.count for item in reliability.bins})
    bins = f"{_number(len(reliability.bins), 'bin')} of {' or '.join(map(str, sizes))} videos"
    beyond = "more than" if reliability.error.value > reliability.if_calibrated_high else "no more than"
    return (
        f"{what}: expected calibration error {reliability.error} over {bins}, {beyond} chance explains "
        f"({reliability.if_calibrated:.3f} on average and {reliability.if_calibrated_high:.3f} in one of 40 sets, were "
        f"they right); without chance {reliability.debiased:.3f} (root mean square)."
    )


def band_rows(result: CalibrationResult) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table of `predict --max-error`."""
    header = ["--max-error", "not sure between", "in validation", "here", "of real", "of fakes", "wrong of the others"]
    rows = []
    for band in result.bands:
        if band.sure is None:
            rows.append([f"{band.max_error:g}", "refused: too few validation videos, or too many errors", *[""] * 5])
            continue
        where = "never" if band.sure <= 0.5 else f"{1 - band.sure:.3f} and {band.sure:.3f}"
        shares = (band.validation_withheld, band.withheld, band.real_withheld, band.fake_withheld, band.wrong)
        rows.append([f"{band.max_error:g}", where, *(_with_interval(share) for share in shares)])
    return header, rows


def mask_rows(masks: MaskResult) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table of predicted masks."""
    header = ["Masks", "IoU", "model above", "IoU of fakes", "model above", "Pixels right", "of fakes"]
    rows = []
    for row in masks.rows:
        pooled, fakes = ("" if x is None else _change(x) for x in (row.model_above_pooled, row.model_above))
        right = map(_with_interval, (row.accuracy, row.accuracy_of_fakes))
        rows.append([row.name, _with_interval(row.pooled_iou), pooled, _with_interval(row.iou), fakes, *right])
    return header, rows


def mask_sentence(masks: MaskResult) -> str:
    """Return what must be known to read the table of predicted masks."""
    unknown = f"; the masks of {_number(masks.unknown, 'video')} are not known" if masks.unknown else ""
    return (
        f"{masks.real} real and {masks.fake} fake videos, with 95% intervals of a bootstrap over videos{unknown}. The "
        "first IoU is that of the pixels of all videos together, so that what is called forged in a real one counts "
        f"against it; that of fakes is the mean over the {masks.forged} fakes with a forged pixel, and pixels right "
        f"are means over videos. Of the pixels of a fake {100 * masks.forged_share:.1f} % are forged, so calling "
        "nothing forged has many pixels right and an IoU of 0; the mean mask of the training fakes, cut where it fits "
        "them best, needs no network and is the same in every frame."
    )


def robustness_table(robustness: Robustness) -> Group:
    """Return the curves for `rich.print`: a row for each perturbation and strength."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Table | Text] = []
    for curve in robustness.curves:
        header, rows = robustness_rows(curve)
        table = _table(
            f"Robustness to {curve.perturbation} ({curve.unit}): {curve.what}", "At", *header[1:4], *header[5:]
        )
        for row in rows:  # the change of accuracy has no room in 80 columns
            table.add_row(*(cell.replace(" (", "\n").rstrip(")") for cell in (*row[:4], *row[5:])))
        parts += [table, *(Text(note, style="dim") for note in curve.notes)]
    return Group(*parts, Text(robustness_sentence(robustness), style="dim"))


def robustness_rows(curve: RobustnessCurve) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a curve's table."""
    header = [curve.unit, "AUC", "Change", "Accuracy", "Change", "Found", "False alarms"]
    rows = []
    for point in curve.points:
        changes = (point.auc_change, point.accuracy_change)
        auc, accuracy = (_change(change) if point.strength is not None else "" for change in changes)
        values = (point.auc, auc, point.accuracy, accuracy, point.fakes_found, point.reals_suspected)
        cells = [value if isinstance(value, str) else _with_interval(value) for value in values]
        name = "none" if point.strength is None else f"{point.strength:g}"
        rows.append([name, *cells])
    return header, rows


def robustness_sentence(robustness: Robustness) -> str:
    """Return what must be known to read the curves."""
    counts = max((point.real, point.fake) for curve in robustness.curves for point in curve.points)
    return (
        f"By video, {counts[0]} real and {counts[1]} fake, {_number(robustness.clips_per_video, 'clip')} of each, with "
        f"95% intervals. Changes are to the same videos without the perturbation, with {robustness.resamples:,} "
        f"resamples of videos with both of their scores. {trivial_sentence(*counts)}"
    )


def verdict_sentence(metrics: Metrics) -> str:
    """Return the result in one sentence: how many verdicts are right, and the errors of each kind."""
    counts = metrics.confusion
    right = counts.true_negatives + counts.true_positives
    sentence = f"{right} of {_number(metrics.count, metrics.unit)} judged right"
    parts = []
    if metrics.fake:
        parts.append(f"{counts.false_negatives} of {_number(metrics.fake, 'fake')} taken for real")
    if metrics.real:
        parts.append(f"{counts.false_positives} of {_number(metrics.real, f'real {metrics.unit}')} taken for fake")
    return f"{sentence}: {' and '.join(parts)}."


def interval_sentence(evaluation: Evaluation) -> str:
    """Return how the intervals are made, the threshold, and what a verdict without a model is worth."""
    sentence = (
        f"{evaluation.confidence:.0%} intervals: Wilson's for accuracy, precision and recall by video; for the others "
        f"a bootstrap of {evaluation.resamples:,} resamples of videos within each class (seed {evaluation.seed})."
    )
    if any(m.auc.method == "newcombe" for m in (evaluation.videos, *evaluation.manipulations.values())):
        sentence += " An AUC that no resample changes has Newcombe's interval."
    counts = (evaluation.videos.real, evaluation.videos.fake)
    trivial = f" {trivial_sentence(*counts)}" if all(counts) else ""
    return f"{sentence} A video is called fake above a probability of {evaluation.threshold:g}.{trivial}"


def trivial_sentence(real: int, fake: int) -> str:
    """Return what a verdict without a model is worth on that many videos of each class."""
    share = max(real, fake) / (real + fake)
    return f"Calling every video what most are gives an accuracy of {share:.3f}, and a blind guess an AUC of 0.5."


def _counts(metrics: Metrics) -> str:
    return f"{_number(metrics.count, metrics.unit)}, {metrics.real} real and {metrics.fake} fake"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _metrics_table(title: str, metrics: Metrics) -> Table:
    table = _table(title, "Metric", "Value")
    table.add_column("95% interval", overflow="fold")
    for name, estimate in metrics.estimates().items():
        interval = estimate.reason if estimate.low is None else f"{estimate.low:.3f} to {estimate.high:.3f}"
        table.add_row(name, _value(estimate), interval)
    return table


def _confusion_table(confusion: ConfusionMatrix) -> Table:
    table = _table("Confusion matrix (by video)", "", "Called real", "Called fake")
    table.add_row("Real", str(confusion.true_negatives), str(confusion.false_positives))
    table.add_row("Fake", str(confusion.false_negatives), str(confusion.true_positives))
    return table


def _manipulations_table(manipulations: dict[str, Metrics]) -> Table:
    from rich.markup import escape

    title = "By manipulation: its fakes against all real videos"
    table = _table(title, "Manipulation", "Fakes", *_MANIPULATION_COLUMNS)
    for name, metrics in manipulations.items():
        cells = []
        for key in _MANIPULATION_COLUMNS.values():
            estimate = getattr(metrics, key)
            interval = "" if estimate.low is None else f"\n{estimate.low:.3f}-{estimate.high:.3f}"
            cells.append(_value(estimate) + interval)
        table.add_row(escape(name), str(metrics.fake), *cells)
    return table


def _table(title: str, first: str, *numbers: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    columns = [Column(first, overflow="fold"), *(Column(name, justify="right", no_wrap=True) for name in numbers)]
    return Table(*columns, title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)


def _with_interval(estimate: Estimate) -> str:
    return _value(estimate) + ("" if estimate.low is None else f" ({estimate.low:.3f}-{estimate.high:.3f})")


def _change(estimate: Estimate) -> str:
    if estimate.value is None:
        return "undefined"
    return f"{estimate.value:+.3f} ({estimate.low:+.3f}, {estimate.high:+.3f})"


def _value(estimate: Estimate) -> str:
    return "undefined" if estimate.value is None else f"{estimate.value:.3f}"
