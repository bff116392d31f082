"""Generated sections of documents written by hand: what stands between two marker comments is replaced."""

from __future__ import annotations

import re


def replace_section(text: str, section: str, body: str) -> str:
    """`text` with `body` between `<!-- begin: section -->` and `<!-- end: section -->`.

    Raises:
        ValueError: the markers are not there, once each and in this order.
    """
    begin, end = f"<!-- begin: {section} -->", f"<!-- end: {section} -->"
    pattern = re.escape(begin) + r".*?" + re.escape(end)
    if text.count(begin) != 1 or text.count(end) != 1 or not re.search(pattern, text, re.DOTALL):
        raise ValueError(f"expected the markers {begin} and {end} once each, in this order.")
    return re.sub(pattern, lambda _: f"{begin}\n{body.strip()}\n{end}", text, flags=re.DOTALL)
