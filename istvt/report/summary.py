"""An evaluation as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from istvt.evaluation.results import ConfusionMatrix, Estimate, Evaluation, Metrics

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

# What the columns of the table by manipulation hold; those that rank come first, as no threshold enters them.
_MANIPULATION_COLUMNS = {"AUC": "auc", "Found": "recall", "Accuracy": "accuracy", "EER": "equal_error_rate"}


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
        Text(interval_sentence(evaluation), style="dim"),
        *(Text(note, style="dim") for note in videos.notes),
    ]
    return Group(*parts)


def verdict_sentence(metrics: Metrics) -> str:
    """Return the result in one sentence: how many videos were judged right, and which way the others went."""
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
    """Return the sentence that says how the intervals were made."""
    sentence = (
        f"{evaluation.confidence:.0%} intervals: Wilson's for accuracy, precision and recall by video; for the others "
        f"a bootstrap of {evaluation.resamples:,} resamples of videos within each class (seed {evaluation.seed})."
    )
    if any(m.auc.method == "newcombe" for m in (evaluation.videos, *evaluation.manipulations.values())):
        sentence += " An AUC that no resample changes has Newcombe's interval."
    return f"{sentence} A video is called fake above a probability of {evaluation.threshold:g}."


def _counts(metrics: Metrics) -> str:
    return f"{_number(metrics.count, metrics.unit)}, {metrics.real} real and {metrics.fake} fake"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _metrics_table(title: str, metrics: Metrics) -> Table:
    table = _table(title)
    table.add_column("Metric")
    table.add_column("Value", justify="right", no_wrap=True)
    table.add_column("95% interval", overflow="fold")
    for name, estimate in metrics.estimates().items():
        table.add_row(name, _value(estimate), _interval(estimate))
    return table


def _confusion_table(confusion: ConfusionMatrix) -> Table:
    table = _table("Confusion matrix (by video)")
    for name in ("", "Called real", "Called fake"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("Real", str(confusion.true_negatives), str(confusion.false_positives))
    table.add_row("Fake", str(confusion.false_negatives), str(confusion.true_positives))
    return table


def _manipulations_table(manipulations: dict[str, Metrics]) -> Table:
    from rich.markup import escape

    table = _table("By manipulation: its fakes against all real videos")
    table.add_column("Manipulation", overflow="fold")
    table.add_column("Fakes", justify="right")
    for name in _MANIPULATION_COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for name, metrics in manipulations.items():
        estimates = [getattr(metrics, key) for key in _MANIPULATION_COLUMNS.values()]
        table.add_row(escape(name), str(metrics.fake), *map(_short, estimates))
    return table


def _table(title: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)


def _value(estimate: Estimate) -> str:
    return "undefined" if estimate.value is None else f"{estimate.value:.3f}"


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return estimate.reason
    return f"{estimate.low:.3f} to {estimate.high:.3f}"


def _short(estimate: Estimate) -> str:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return _value(estimate)
    return f"{estimate.value:.3f}\n{estimate.low:.3f}-{estimate.high:.3f}"
