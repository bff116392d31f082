"""Published results of the paper, to stand beside measured ones: `published.json`, with its source."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dataloading.io import read_json


@dataclass(frozen=True)
class PublishedColumn:
    """A column of a published table.

    Attributes:
        title: as printed.
        metric: of its values.
        layout, compression, manipulation: of the videos, as this project names them; "" is not said.
    """

    title: str
    metric: Literal["accuracy", "auc"]
    layout: str = ""
    compression: str = ""
    manipulation: str = ""


@dataclass(frozen=True)
class PublishedRow:
    """A detector of a published table.

    Attributes:
        detector: its name there.
        architecture: its name here; "" where this project does not have it.
        model: fields of the configuration that make the variant.
        percent: one value a column; None where there is none.
    """

    detector: str
    architecture: str
    percent: list[float | None]
    model: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedTable:
    """A table of the paper."""

    name: str
    title: str
    note: str
    columns: list[PublishedColumn]
    rows: list[PublishedRow]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.percent) != len(self.columns):
                raise ValueError(f"{row.detector} has {len(row.percent)} values; expected {len(self.columns)}")


@dataclass(frozen=True)
class Published:
    """All published tables, and where they were published."""

    source: str
    tables: list[PublishedTable]


def published_results() -> Published:
    """Read the published results."""
    return read_json(Path(__file__).with_suffix(".json"), Published)


def published_value(
    published: Published,
    table: str,
    architecture: str,
    metric: str,
    layout: str,
    compression: str,
    manipulation: str,
    model: dict[str, Any] | None = None,
) -> float | None:
    """Return the published share of a detector on videos of a kind, or None where there is none.

    Args:
        published: the results.
        table: name of the table.
        architecture: of the detector.
        metric: accuracy or auc.
        layout, compression, manipulation: of the videos; a compression that a table does not say fits any.
        model: fields of the configuration, where the table has variants.
    """
    [found] = [item for item in published.tables if item.name == table]
    for number, column in enumerate(found.columns):
        where = (column.metric, column.layout, column.manipulation)
        if where != (metric, layout, manipulation) or column.compression not in ("", compression):
            continue
        for row in found.rows:
            fits = all((model or {}).get(name) == value for name, value in row.model.items())
            if row.architecture == architecture and fits and row.percent[number] is not None:
                return round(row.percent[number] / 100, 5)
    return None
