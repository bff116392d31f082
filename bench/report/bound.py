"""A bound on what is measured, in words and as a judgment."""

from __future__ import annotations

import operator
from dataclasses import dataclass

from bench.report.markdown import number

_HOLDS = {"at least": operator.ge, "at most": operator.le, "under": operator.lt}


@dataclass(frozen=True)
class Bound:
    """`direction` is "at least", "at most" or "under"; a `share` is written in percent."""

    direction: str
    limit: float
    share: bool = False

    def __str__(self) -> str:
        return f"{self.direction} {100 * self.limit:g} %" if self.share else f"{self.direction} {self.limit:g}"

    def measured(self, value: float | None) -> str:
        """The number that is judged."""
        return number(value, 1, 100, " %") if self.share else number(value)

    def judged(self, value: float | None) -> str:
        """Whether it holds; nothing where nothing was measured."""
        if value is None:
            return ""
        return "yes" if _HOLDS[self.direction](value, self.limit) else "no"
