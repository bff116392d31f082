"""What was promised of a training step on one large GPU in bfloat16, and whether it holds."""

from __future__ import annotations

from bench.report.bound import Bound
from bench.report.devices import Device, entry_name
from bench.report.markdown import table as markdown

UTILIZATION = "model FLOP utilization"
OVER_NAIVE = "speed over naive eager"
OVER_COMPILED = "speed over compiled SDPA"
OVER_SPATIAL_ONLY = "step time over spatial-only"
ATTENTION_SHARE = "attention kernels in the step"
PROMISES = {
    UTILIZATION: Bound("at least", 0.55, share=True),
    OVER_NAIVE: Bound("at least", 3),
    OVER_COMPILED: Bound("at least", 1.3),
    OVER_SPATIAL_ONLY: Bound("at most", 1.5),
    ATTENTION_SHARE: Bound("under", 0.2, share=True),
}


def promises(device: Device | None) -> str:
    """What was promised and what was measured."""
    found = measured(device) if device else {}
    body = [
        [name, str(bound), bound.measured(found.get(name)), bound.judged(found.get(name))]
        for name, bound in PROMISES.items()
    ]
    return markdown(("bfloat16, preset seed, full model", "promised", "measured", "holds"), body)


def measured(device: Device) -> dict[str, float | None]:
    """By promise, of the batch that they were made for: the faster of this project's ways to run a step."""
    from bench.training.steps import BATCH, PROJECT

    found = {entry_name("training", row): row for row in device.rows("training")}

    def step(attention: str, method: str) -> float | None:
        text = found.get(("seed", attention, "bfloat16", method, str(BATCH)), {}).get("step_ms")
        return float(text) if text else None

    def over(numerator: float | None, denominator: float | None) -> float | None:
        return None if numerator is None or denominator is None else numerator / denominator

    def fastest(attention: str) -> str:
        """The one that took least; the first where none was measured."""
        return min(PROJECT, key=lambda method: step(attention, method) or float("inf"))

    case = ("seed", "full", "bfloat16", fastest("full"), str(BATCH))
    ours = step("full", fastest("full"))
    use = found.get(case, {}).get("utilization_data_sheet")
    shares = [
        float(row["share"])
        for row in device.rows("training_families")
        if entry_name("training", row) == case and row["family"] in ("temporal attention", "spatial attention")
    ]
    return {
        UTILIZATION: float(use) if use else None,
        OVER_NAIVE: over(step("full", "naive eager"), ours),
        OVER_COMPILED: over(step("full", "compiled SDPA"), ours),
        OVER_SPATIAL_ONLY: over(ours, step("spatial_only", fastest("spatial_only"))),
        ATTENTION_SHARE: sum(shares) if shares else None,
    }
