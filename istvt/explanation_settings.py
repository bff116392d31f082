"""What a person may set about explanations; it imports no PyTorch, which takes seconds."""

from __future__ import annotations

from typing import Literal, get_args

Target = Literal["fake", "real"]
Method = Literal["lrp", "gradient", "rollout", "raw", "gradcam"]
Clamp = Literal["after_mean", "before_mean"]
Order = Literal["last_block_first", "literal"]
Normalization = Literal["clip", "frame"]
Fill = Literal["surroundings", "gray"]
TARGETS: tuple[str, ...] = get_args(Target)
METHODS: tuple[str, ...] = get_args(Method)
CLAMPS: tuple[str, ...] = get_args(Clamp)
ORDERS: tuple[str, ...] = get_args(Order)
NORMALIZATIONS: tuple[str, ...] = get_args(Normalization)
FILLS: tuple[str, ...] = get_args(Fill)

DEFAULT_STABILIZER = 0.01
DEFAULT_RULES = {"stabilizer": DEFAULT_STABILIZER, "clamp": CLAMPS[0], "order": ORDERS[0]}
# Which of them each method reads; the others change nothing.
RULES: dict[str, tuple[str, ...]] = {
    "lrp": ("stabilizer", "clamp", "order"),
    "gradient": ("clamp", "order"),
    "rollout": ("order",),
    "raw": (),
    "gradcam": (),
}
