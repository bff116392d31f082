"""Tables of a comparison as the paper has them: I within a set, II across sets, III variants; tests; robustness."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from istvt.comparison.published import Published, PublishedTable, published_value
from istvt.comparison.results import ALL, Cell, Pair, PerturbedCell, Results
from istvt.comparison.settings import ELSEWHERE
from istvt.evaluation.results import Estimate
from istvt.evaluation.seeds import MeanMetric

NOTHING = "–"
# Rows of what knows nothing of a video, by metric.
TRIVIAL = {"accuracy": "every video called what most are", "auc": "a blind guess"}
TRIVIAL["both"] = f"{TRIVIAL['accuracy']}; {TRIVIAL['auc']}"


@dataclass(frozen=True)
class Table:
    """A table: cells may have several lines. `published` names its source where no value in it was measured here."""

    title: str
    header: list[str]
    rows: list[list[str]]
    caption: str = ""
    published: str = ""
    notes: list[str] = field(default_factory=list)


def tables(results: Results, published: Published | None = None) -> list[Table]:
    """Return all tables of a comparison.

    Args:
        results: of the comparison.
        published: to stand beside the measured values; None leaves them out.
    """
    found = [*_within(results, published), *_across(results, published), *_variants(results, published)]
    found += [*_tests(results), *_robustness(results), _detectors(results)]
    if published is not None:
        found += [_as_published(table, published.source) for table in published.tables]
    return found


def method_sentences(results: Results) -> list[str]:
    """Return what must be known to read the tables."""
    several = any(len(cell.seeds) > 1 for cell in results.cells)
    sentences = [
        f"By video: a score is the mean of the probabilities of {results.clips} clips, and a video is called fake "
        "above 0.5. Below each value its 95% interval: Wilson's of an accuracy of one seed, the percentiles of "
        f"{results.bootstrap:,} resamples of videos within each class of everything else, Newcombe's of an AUC that "
        "no resample changes."
    ]
    if several:
        sentences.append(
            "Of several seeds a value is their mean; its interval is of these models on other videos, and SD is the "
            "standard deviation from seed to seed, with the least and the largest value in brackets."
        )
    if results.pairs:
        seeds = (
            ", and where each detector has several seeds by the variance from seed to seed too (Obuchowski and "
            "Rockette 1995, with the degrees of freedom of Hillis 2007): p is of other seeds and other videos then"
            if several
            else ""
        )
        count = sum(pair.result.p is not None for pair in results.pairs)
        sentences.append(
            "Differences of AUC are tested on the videos that both detectors have scored, by DeLong et al. "
            f"(1988){seeds}. With one seed p is of these models on other videos, and says nothing of other seeds. "
            f"Corrected p: Holm (1979) over all {count} tests of this comparison, so that the chance of even one "
            "false finding at .05 is at most .05. Intervals of differences are not corrected."
        )
    return sentences


def _within(results: Results, published: Published | None) -> Iterator[Table]:
    for test in results.tests:
        cells = [cell for cell in results.cells if cell.within and cell.test == test]
        if not cells:
            continue
        manipulations = _ordered(cell.manipulation for cell in cells)
        for metric, name in (("accuracy", "accuracy"), ("auc", "AUC")):
            rows = []
            for detector in _ordered(cell.detector for cell in cells):
                own = {cell.manipulation: cell for cell in cells if cell.detector == detector}
                cells_of_row = [_value(getattr(own[m], metric)) if m in own else NOTHING for m in manipulations]
                rows.append([detector, *cells_of_row])
                rows += _published_row(
                    results, published, "Table I", detector, [(metric, test, m) for m in manipulations]
                )
            first = {cell.manipulation: cell for cell in reversed(cells)}
            rows.append([TRIVIAL[metric], *(_trivial(first[m], metric) for m in manipulations)])
            header = ["Detector", *(_videos(m, first[m]) for m in manipulations)]
            caption = f"Trained on {test} and tested on its {results.tests[test].split} split."
            yield Table(f"Table I: {name} within {test}", header, rows, caption)


def _across(results: Results, published: Published | None) -> Iterator[Table]:
    for trained_on in _ordered(cell.trained_on for cell in results.cells):
        cells = [
            cell
            for cell in results.cells
            if cell.trained_on == trained_on and not cell.within and cell.manipulation == ALL
        ]
        tests = [test for test in results.tests if any(cell.test == test for cell in cells)]
        if not tests:
            continue
        rows = []
        for detector in _ordered(cell.detector for cell in cells):
            own = {cell.test: cell for cell in cells if cell.detector == detector}
            values = [own[test].auc.mean.value if test in own else None for test in tests]
            mean = NOTHING if None in values else f"{np.mean(values):.3f}"
            rows.append([detector, *(_value(own[test].auc) if test in own else NOTHING for test in tests), mean])
            columns = [("auc", test, ALL) for test in tests]
            rows += [[*row, NOTHING] for row in _published_row(results, published, "Table II", detector, columns)]
        first = {cell.test: cell for cell in reversed(cells)}
        rows.append([TRIVIAL["auc"], *("0.500" for _ in tests), "0.500"])
        header = ["Detector", *(_videos(test, first[test]) for test in tests), "Mean"]
        on = "elsewhere" if trained_on == ELSEWHERE else f"on {trained_on}"
        yield Table(
            f"Table II: AUC across sets, trained {on}", header, rows, "Tested on sets that were not trained on."
        )


def _variants(results: Results, published: Published | None) -> Iterator[Table]:
    for base in _ordered(facts.variant_of for facts in results.detectors.values() if facts.variant_of):
        names = [base, *(name for name, facts in results.detectors.items() if facts.variant_of == base)]
        for trained_on in _ordered(c.trained_on for c in results.cells if c.detector in names):
            cells = {
                (cell.detector, cell.test): cell
                for cell in results.cells
                if cell.trained_on == trained_on and cell.manipulation == ALL and cell.detector in names
            }
            if len({detector for detector, _ in cells}) < 2:
                continue
            tests = [test for test in results.tests if any(key[1] == test for key in cells)]
            header, rows = ["Detector", f"Differs from {base} in"], []
            for test in tests:
                header += [f"{test}: accuracy", "AUC", f"AUC minus that of {base}"]
            for name in names:
                own, of_base = results.detectors[name].config, results.detectors[base].config
                differs = [f"{key} {value}" for key, value in own.items() if of_base.get(key) != value]
                row = [name, "\n".join(differs) or NOTHING]
                for test in tests:
                    cell = cells.get((name, test))
                    row += [NOTHING] * 3 if cell is None else [_value(cell.accuracy), _value(cell.auc)]
                    if cell is not None:
                        row.append(NOTHING if name == base else _difference(results, name, base, trained_on, test))
                rows.append(row)
                columns = [(metric, test, ALL) for test in tests for metric in ("accuracy", "auc", "")]
                found = _published_row(results, published, "Table III", name, columns)
                rows += [[label, "", *values] for label, *values in found]
            first = {test: next(cell for (_, of), cell in cells.items() if of == test) for test in tests}
            trivial = [value for test in tests for value in (_trivial(first[test], "accuracy"), "0.500", NOTHING)]
            rows.append([TRIVIAL["both"], NOTHING, *trivial])
            on = "elsewhere" if trained_on == ELSEWHERE else f"on {trained_on}"
            yield Table(f"Table III: variants of {base}, trained {on}", header, rows)


def _difference(results: Results, name: str, base: str, trained_on: str, test: str) -> str:
    for pair in results.pairs:
        if (pair.trained_on, pair.test) == (trained_on, test) and {pair.first, pair.second} == {name, base}:
            sign = 1 if pair.first == name else -1
            return f"{_signed(pair.result.auc, sign)}\n{_p(pair)}"
    return NOTHING


def _tests(results: Results) -> Iterator[Table]:
    if not results.pairs:
        return
    header = ["Trained on", "Tested on", "Detectors", "Difference of AUC", "p", "corrected", "Difference of accuracy"]
    rows = []
    for pair in results.pairs:
        found = pair.result
        p, corrected = (_number_p(value) for value in (found.p, pair.p_corrected))
        row = [
            pair.trained_on,
            f"{pair.test}\n{found.real} real, {found.fake} fake",
            f"{pair.first} minus {pair.second}",
        ]
        rows.append([*row, _signed(found.auc), p, corrected, _signed(found.accuracy)])
    notes = list(dict.fromkeys(f"Without p: {pair.result.reason}." for pair in results.pairs if pair.result.reason))
    yield Table("Paired tests of detectors on the same videos", header, rows, notes=notes)


def _robustness(results: Results) -> Iterator[Table]:
    for trained_on, test in _ordered((cell.trained_on, cell.test) for cell in results.perturbed):
        cells = {
            (cell.detector, cell.perturbation): cell
            for cell in results.perturbed
            if (cell.trained_on, cell.test) == (trained_on, test)
        }
        names = _ordered(perturbation for _, perturbation in cells)
        any_of = {name: next(cell for key, cell in cells.items() if key[1] == name) for name in names}
        rows = []
        for detector in _ordered(detector for detector, _ in cells):
            row = [detector]
            for name in names:
                cell = cells[detector, name]
                row.append(f"{_value(cell.auc)}\nchange {_signed(cell.auc.change)}")
            rows.append(row)
        rows.append([TRIVIAL["auc"], *("0.500" for _ in names)])
        lost = [
            f"{cell.detector}, {cell.perturbation}: without {cell.lost} videos that are too short at some strength."
            for cell in cells.values()
            if cell.lost
        ]
        on = "elsewhere" if trained_on == ELSEWHERE else f"on {trained_on}"
        caption = "Mean AUC over the strengths, and its change from the same videos as they are."
        header = ["Detector", *(_strengths(any_of[name]) for name in names)]
        yield Table(f"Robustness on {test}, trained {on}", header, rows, caption, notes=lost)


def _detectors(results: Results) -> Table:
    rows = []
    for name, facts in results.detectors.items():
        what = f"{facts.architecture}, {facts.preset}" if facts.preset else facts.architecture
        differs = "\n".join(f"{key} {value}" for key, value in facts.differs.items()) or "nothing"
        size = f"{facts.frames} frames of {facts.image_size} pixels"
        rows.append([name, what, differs, size, f"{facts.parameters:,}", f"{facts.macs / 1e9:.3f} G"])
    header = ["Detector", "Architecture, preset", "Differs in", "Clip", "Parameters", "Multiply-accumulates of a clip"]
    return Table("Detectors", header, rows)


def _as_published(table: PublishedTable, source: str) -> Table:
    header = ["Detector", *(column.title for column in table.columns)]
    rows = [
        [row.detector, *(NOTHING if value is None else f"{value / 100:.3f}" for value in row.percent)]
        for row in table.rows
    ]
    return Table(f"{table.name} of the paper, published: {table.title}", header, rows, table.note, source)


def _published_row(
    results: Results,
    published: Published | None,
    table: str,
    detector: str,
    columns: Sequence[tuple[str, str, str]],
) -> list[list[str]]:
    """Return the row of a detector's published values in columns of (metric, test set, manipulation), if it has any."""
    if published is None:
        return []
    facts, values = results.detectors[detector], []
    for metric, name, manipulation in columns:
        of = results.tests[name]
        layout = of.layout.removesuffix("-kaggle")
        compression = of.compression if layout == "faceforensics" else ""
        if manipulation == ALL:  # a set of one manipulation is what the paper has a column of
            manipulation = of.manipulations[0] if len(of.manipulations) == 1 and layout == "faceforensics" else ""
        where = (layout, compression, manipulation)
        values.append(published_value(published, table, facts.architecture, metric, *where, facts.config))
    if not any(values):
        return []
    return [[f"{detector}, published", *(NOTHING if value is None else f"{value:.3f}" for value in values)]]


def _value(metric: MeanMetric) -> str:
    found = metric.mean
    if found.value is None:
        return "undefined"
    text = f"{found.value:.3f}"
    if found.low is not None:
        text += f"\n{found.low:.3f} to {found.high:.3f}"
    if metric.spread is not None:
        text += f"\nSD {metric.spread:.3f} ({min(metric.values):.3f}, {max(metric.values):.3f})"
    return text


def _signed(found: Estimate, sign: int = 1) -> str:
    if found.value is None:
        return "undefined"
    text = _plus(sign * found.value)
    if found.low is None:
        return text
    low, high = sorted((sign * found.low, sign * found.high))
    return f"{text} ({_plus(low)} to {_plus(high)})"


def _plus(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # + 0.0: no minus before zero


def _p(pair: Pair) -> str:
    return f"p {_number_p(pair.result.p)}, corrected {_number_p(pair.p_corrected)}"


def _number_p(value: float | None) -> str:
    if value is None:
        return "undefined"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _trivial(cell: Cell, metric: str) -> str:
    return f"{cell.majority:.3f}" if metric == "accuracy" else "0.500"


def _videos(name: str, cell: Cell) -> str:
    return f"{name}\n{cell.real} real, {cell.fake} fake"


def _strengths(cell: PerturbedCell) -> str:
    strengths = [point.strength for point in cell.points if point.strength is not None]
    ends = f"{strengths[0]:g}" if len(strengths) == 1 else f"{strengths[0]:g} to {strengths[-1]:g}"
    return f"{cell.perturbation}\n{cell.unit} {ends}"


def _ordered(values: Iterable[Any]) -> list[Any]:
    """Return distinct values in the order of their first places."""
    return list(dict.fromkeys(values))
