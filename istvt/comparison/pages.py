"""Files of a comparison: tables as Markdown and as an HTML page with the curves, values as CSV and JSON."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataloading.io import replacing, write_json
from istvt.comparison.published import Published
from istvt.comparison.results import Results
from istvt.comparison.settings import ELSEWHERE
from istvt.comparison.tables import TRIVIAL, Table, method_sentences, tables
from istvt.evaluation.results import Estimate
from istvt.evaluation.seeds import MeanMetric
from istvt.report import charts
from istvt.report.html import render, write_page

NAME = "comparison"
_ESTIMATE = ("value", "low", "high", "method")


@dataclass(frozen=True)
class Comparison:
    """A finished comparison.

    Attributes:
        results: all values.
        tables: in the shape of the paper's.
        markdown: the tables as text.
        page: HTML file with tables and curves.
        files: all files, the page among them.
    """

    results: Results
    tables: list[Table]
    markdown: str
    page: Path
    files: list[Path]


def write_comparison(results: Results, output: Path, published: Published | None = None) -> Comparison:
    """Write all files of a comparison.

    Args:
        results: of it.
        output: directory.
        published: to stand beside the measured values.
    """
    found = tables(results, published)
    text = markdown(results, found)
    paths = {kind: output / f"{NAME}.{kind}" for kind in ("html", "md", "csv", "json")}
    with replacing(paths["md"]) as temporary:
        temporary.write_text(text, encoding="utf-8")
    write_page(paths["html"], html(results, found))
    write_json(paths["json"], asdict(results))
    files = [*paths.values()]
    _write_csv(paths["csv"], _cell_rows(results))
    for name, rows in (("tests", _pair_rows(results)), ("robustness", _strength_rows(results))):
        rows = list(rows)
        path = output / f"{NAME}-{name}.csv"
        if rows:
            _write_csv(path, rows)
            files.append(path)
        else:
            path.unlink(missing_ok=True)  # of a comparison with fewer detectors or perturbations than before
    return Comparison(results, found, text, paths["html"], files)


def markdown(results: Results, found: Sequence[Table]) -> str:
    """Return the tables as Markdown."""
    return markdown_page(results.title, results.notes, found, method_sentences(results))


def markdown_page(title: str, notes: Sequence[str], found: Sequence[Table], method: Sequence[str]) -> str:
    """Return a page of tables as Markdown, with the sentences on how they were made at its end."""
    parts = [f"# {title}", *notes]
    for table in found:
        parts += [f"## {table.title}", *([table.caption] if table.caption else [])]
        if table.published:
            parts.append(f"*Published, not measured here: {table.published}*")
        lines = [_row(table.header), "|".join(["", "---", *["---:"] * (len(table.header) - 1), ""])]
        parts.append("\n".join([*lines, *map(_row, table.rows)]))
        parts += table.notes
    return "\n\n".join([*parts, "## How", *method]) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), '<br>') for cell in cells)} |"


def html(results: Results, found: Sequence[Table]) -> str:
    """Return the page with tables and curves."""
    return html_page(results.title, results.notes, found, list(_curves(results)), method_sentences(results))


def html_page(
    title: str,
    notes: Sequence[str],
    found: Sequence[Table],
    curves: Sequence[dict[str, Any]],
    method: Sequence[str],
) -> str:
    """Return a page of tables and curves, with the sentences on how they were made at its end."""
    return render(
        "comparison.html.j2",
        title=title,
        notes=notes,
        tables=found,
        trivial=list(TRIVIAL.values()),
        curves=curves,
        method=method,
    )


def _curves(results: Results) -> Iterator[dict[str, Any]]:
    """Yield a section for each training and test set: ROC curves, and AUC against the strength of each perturbation."""
    for trained_on, test in dict.fromkeys((cell.trained_on, cell.test) for cell in results.cells):
        on = "elsewhere" if trained_on == ELSEWHERE else f"on {trained_on}"
        where, drawn = f"{test}, trained {on}", []
        rocs = [(roc.detector, roc.curve) for roc in results.rocs if (roc.trained_on, roc.test) == (trained_on, test)]
        if rocs:
            svg = charts.inline_svg(charts.roc_lines_chart(rocs), f"ROC curves on {where}")
            drawn.append({"title": "ROC curves by video", "svg": svg})
        own = [cell for cell in results.perturbed if (cell.trained_on, cell.test) == (trained_on, test)]
        for name in dict.fromkeys(cell.perturbation for cell in own):
            cells = [cell for cell in own if cell.perturbation == name]
            lines = [charts.EstimatedLine(c.detector, [point.auc.mean for point in c.points]) for c in cells]
            strengths = [point.strength for point in cells[0].points]
            figure = charts.strengths_chart(lines, strengths, cells[0].unit)
            svg = charts.inline_svg(figure, f"AUC against the strength of {name} on {where}")
            drawn.append({"title": f"AUC under {name}", "svg": svg})
        if drawn:
            several = len(results.seeds) > 1
            caption = "Of several seeds the mean; bars are the intervals." if several else "Bars are the intervals."
            yield {"title": f"Curves on {where}", "caption": caption, "charts": drawn}


def _cell_rows(results: Results) -> Iterator[dict[str, Any]]:
    for cell in results.cells:
        row = {name: getattr(cell, name) for name in ("detector", "trained_on", "test", "manipulation")}
        row |= {"seeds": _joined(cell.seeds), "real": cell.real, "fake": cell.fake}
        yield row | _metric("accuracy", cell.accuracy) | _metric("auc", cell.auc) | {"majority_accuracy": cell.majority}


def _pair_rows(results: Results) -> Iterator[dict[str, Any]]:
    for pair in results.pairs:
        found = pair.result
        row = {name: getattr(pair, name) for name in ("trained_on", "test", "first", "second")}
        row |= {"real": found.real, "fake": found.fake}
        row |= _estimate("auc_difference", found.auc) | _estimate("accuracy_difference", found.accuracy)
        row |= {"p_other_videos": found.p_videos, "p_other_seeds_and_videos": found.p_seeds, "p": found.p}
        yield row | {"p_corrected": pair.p_corrected, "reason": found.reason}


def _strength_rows(results: Results) -> Iterator[dict[str, Any]]:
    for cell in results.perturbed:
        row = {name: getattr(cell, name) for name in ("detector", "trained_on", "test", "perturbation", "unit")}
        for point in cell.points:
            of = {"strength": "none" if point.strength is None else point.strength, "real": point.real}
            of |= {"fake": point.fake} | _metric("accuracy", point.accuracy) | _metric("auc", point.auc)
            yield row | of | _estimate("accuracy_change", Estimate(None)) | _estimate("auc_change", Estimate(None))
        of = {"strength": "mean", "real": "", "fake": ""}
        of |= _metric("accuracy", cell.accuracy) | _metric("auc", cell.auc)
        changes = _estimate("accuracy_change", cell.accuracy.change) | _estimate("auc_change", cell.auc.change)
        yield row | of | changes


def _metric(name: str, metric: MeanMetric) -> dict[str, Any]:
    values = _estimate(name, metric.mean)
    return values | {f"{name}_sd": metric.spread, f"{name}_by_seed": _joined(metric.values)}


def _estimate(name: str, found: Estimate) -> dict[str, Any]:
    return {name if part == "value" else f"{name}_{part}": getattr(found, part) for part in _ESTIMATE}


def _joined(values: Sequence[Any]) -> str:
    return " ".join("undefined" if value is None else str(value) for value in values)


def _write_csv(path: Path, rows: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> None:
    """Write rows with the names of the first as header; None is an empty cell."""
    rows = list(rows)
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
