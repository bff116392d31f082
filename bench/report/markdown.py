"""Markdown tables, and generated sections of documents that are written by hand."""

import re
from collections.abc import Sequence

from bench.common.record import NOT_MEASURED

_RULES = {"l": "---", "r": "---:"}


def table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """Return a table; `align` has an "l" or "r" for each column (default: all to the left)."""
    lines = [header, [_RULES[side] for side in align or "l" * len(header)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def number(value: str | float | None, form: str = ".2f", factor: float = 1.0) -> str:
    """Return a measured number, or the words that it was not measured."""
    return NOT_MEASURED if value in (None, "") else format(factor * float(value), form).replace("%", " %")


def replace_section(text: str, section: str, body: str) -> str:
    """Return `text` with `body` between `<!-- begin: section -->` and `<!-- end: section -->`.

    Raises:
        ValueError: the markers are not there, once each and in this order.
    """
    begin, end = f"<!-- begin: {section} -->", f"<!-- end: {section} -->"
    pattern = re.escape(begin) + r".*?" + re.escape(end)
    if text.count(begin) != 1 or text.count(end) != 1 or not re.search(pattern, text, re.DOTALL):
        raise ValueError(f"expected the markers {begin} and {end} once each, in this order.")
    return re.sub(pattern, lambda _: f"{begin}\n{body.strip()}\n{end}", text, flags=re.DOTALL)


def keep_sections(text: str, earlier: str) -> str:
    """Return `text` with what an earlier version of it holds between the same markers."""
    for section in re.findall(r"<!-- begin: (.+?) -->", text):
        begin, end = f"<!-- begin: {section} -->", f"<!-- end: {section} -->"
        if begin in earlier and end in earlier:
            text = replace_section(text, section, earlier.split(begin)[1].split(end)[0])
    return text
