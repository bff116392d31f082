"""Tables of records as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """What a table shows of each row, and how.

    Attributes:
        title: its first line.
        key: of the value in a row; the title where it is not given.
        form: of a number that is not whole.
        unit: that the number is given in.
    """

    title: str
    key: str = ""
    form: str = ".2f"
    unit: float = 1.0

    def cell(self, row: Mapping[str, Any]) -> str:
        """Return a number in its form, anything else as it is, nothing where nothing was measured."""
        value = row.get(self.key or self.title)
        if value is None:
            return ""
        if isinstance(value, float) or self.unit != 1:
            return format(value / self.unit, self.form)
        return str(value)


def cells(columns: Iterable[Column], row: Mapping[str, Any]) -> list[str]:
    """Return the cells of one line."""
    return [column.cell(row) for column in columns]


def row_table(columns: Sequence[Column], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return what `columns` show of `rows`."""
    return format_table([column.title for column in columns], [cells(columns, row) for row in rows])


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return columns as wide as their widest cell, numbers to the right."""
    text = [[str(cell) for cell in row] for row in rows]
    columns = list(zip(header, *text, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [bool(text) and all(map(_is_number, column[1:])) for column in columns]
    lines = []
    for row in [header, ["-" * width for width in widths], *text]:
        padded = (cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True))
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _is_number(cell: str) -> bool:
    try:
        float(cell.rstrip("x%"))
    except ValueError:
        return cell in ("", "-")
    return True
