"""What was promised of a training step on one large GPU in bfloat16, and whether it holds."""

from __future__ import annotations

import operator
from dataclasses import dataclass

from bench.report.devices import CASE, Device, entry_name
from bench.report.markdown import number, table
from bench.training.steps import BATCH, PROJECT

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
        """Return the number that is judged."""
        return number(value, 1, 100, " %") if self.share else number(value)

    def judged(self, value: float | str | None) -> str:
        """Return whether it holds; nothing where nothing was measured."""
        if value in (None, ""):
            return ""
        return "yes" if _HOLDS[self.direction](float(value), self.limit) else "no"


PROMISES = {
    "model FLOP utilization": Bound("at least", 0.55, share=True),
    "speed over naive eager": Bound("at least", 3),
    "speed over compiled SDPA": Bound("at least", 1.3),
    "step time over spatial-only": Bound("at most", 1.5),
    "attention kernels in the step": Bound("under", 0.2, share=True),
}


def promises(device: Device) -> str:
    """Return the table of what was promised and what was measured."""
    measured = _measured(device)
    body = [
        [name, str(bound), bound.measured(measured.get(name)), bound.judged(measured.get(name))]
        for name, bound in PROMISES.items()
    ]
    return table(("bfloat16, preset seed, full model", "promised", "measured", "holds"), body)


def _measured(device: Device) -> dict[str, float]:
    """Return the promises that were measured, at their batch size and of the faster of this project's methods."""
    rows = {entry_name("training", row): row for row in device.rows("training") if row["step_ms"]}

    def fastest(attention: str, *methods: str) -> dict[str, str]:
        names = [("seed", attention, "bfloat16", method, str(BATCH)) for method in methods]
        return min((rows[name] for name in names if name in rows), key=lambda row: float(row["step_ms"]), default={})

    full = fastest("full", *PROJECT)
    families = [row for row in device.rows("training_families") if full and all(row[key] == full[key] for key in CASE)]
    attention = ("temporal attention", "spatial attention")
    quotients = {
        "speed over naive eager": (fastest("full", "naive eager"), full),
        "speed over compiled SDPA": (fastest("full", "compiled SDPA"), full),
        "step time over spatial-only": (full, fastest("spatial_only", *PROJECT)),
    }
    found = {name: float(a["step_ms"]) / float(b["step_ms"]) for name, (a, b) in quotients.items() if a and b}
    if full.get("utilization_data_sheet"):
        found["model FLOP utilization"] = float(full["utilization_data_sheet"])
    if families:
        found["attention kernels in the step"] = sum(float(r["share"]) for r in families if r["family"] in attention)
    return found
