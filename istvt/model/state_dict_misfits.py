"""What of a state dict does not fit a module, in words."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

SHOWN = 3


def misfits(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """What keeps `state` from being loaded where the tensors are `wanted`: the first few; None where all of it fits."""
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} is not in this model" for name in state if name not in wanted]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return "; ".join(problems[:SHOWN] + more) or None
