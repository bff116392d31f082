"""What was promised of a training step on one large GPU in bfloat16, and whether it holds."""

from __future__ import annotations

import operator
from typing import NamedTuple

from bench.report.devices import CASE, Device, entry_name
from bench.report.markdown import number, table
from bench.training.steps import BATCH, PROJECT

_HOLDS = {"at least": operator.ge, "at most": operator.le, "under": operator.lt}


class Bound(NamedTuple):
    """A limit of a number, "at least", "at most" or "under"; a `share` is written in percent."""

    direction: str
    limit: float
    share: bool = False

    def __str__(self) -> str:
        return f"{self.direction} {100 * self.limit:g} %" if self.share else f"{self.direction} {self.limit:g}"

    def judged(self, value: float | str | None) -> str:
        """Return whether it holds; nothing where nothing was measured."""
        if value in (None, ""):
            return ""
        return "yes" if _HOLDS[self.direction](float(value), self.limit) else "no"


def promises(device: Device) -> str:
    """Return what was promised and what was measured, at the batch size of the promise."""
    steps = {entry_name("training", row): row for row in device.rows("training") if row["step_ms"]}

    def fastest(attention: str, *methods: str) -> dict[str, str]:
        names = [("seed", attention, "bfloat16", method, str(BATCH)) for method in methods]
        return min((steps[name] for name in names if name in steps), key=lambda row: float(row["step_ms"]), default={})

    def over(a: dict[str, str], b: dict[str, str]) -> float | None:
        return float(a["step_ms"]) / float(b["step_ms"]) if a and b else None

    full = fastest("full", *PROJECT)
    families = [row for row in device.rows("training_families") if full and all(row[key] == full[key] for key in CASE)]
    attention = [
        float(row["share"]) for row in families if row["family"] in ("temporal attention", "spatial attention")
    ]
    lines = (
        ("model FLOP utilization", Bound("at least", 0.55, share=True), full.get("utilization_data_sheet")),
        ("speed over naive eager", Bound("at least", 3), over(fastest("full", "naive eager"), full)),
        ("speed over compiled SDPA", Bound("at least", 1.3), over(fastest("full", "compiled SDPA"), full)),
        ("step time over spatial-only", Bound("at most", 1.5), over(full, fastest("spatial_only", *PROJECT))),
        ("attention kernels in the step", Bound("under", 0.2, share=True), sum(attention) if families else None),
    )
    body = [
        [name, str(bound), number(value, 1, 100, " %") if bound.share else number(value), bound.judged(value)]
        for name, bound, value in lines
    ]
    return table(("bfloat16, preset seed, full model", "promised", "measured", "holds"), body)
