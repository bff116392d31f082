"""Which training steps are compared: models, precisions and methods, what decides the promises first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from istvt.config import ISTVTConfig, preset

GRAPHS = "this project, CUDA graphs"
PROJECT = ("this project", GRAPHS)
METHODS = (*PROJECT, "naive eager", "compiled SDPA", "eager SDPA")
PRECISIONS = ("bfloat16", "tf32", "float32")
ATTENTIONS = {"full": "temporal_first", "spatial_only": "spatial_only"}
BATCH = 8


@dataclass(frozen=True)
class Case:
    """One row: what is trained, how, in which precision."""

    preset: str
    attention: str
    precision: str
    method: str

    @property
    def config(self) -> ISTVTConfig:
        """The model's configuration."""
        return replace(preset(self.preset), attention=ATTENTIONS[self.attention])


def ordered_cases(
    presets: tuple[str, ...], precisions: tuple[str, ...], methods: tuple[str, ...], attentions: tuple[str, ...]
) -> Iterator[Case]:
    """All combinations, those that decide the project's promises first: compiling takes most of a short visit."""
    ranks = {"this project": 0, "naive eager": 1, GRAPHS: 1.5, "compiled SDPA": 3, "eager SDPA": 4}
    ranks |= {"full": 0, "spatial_only": 2}
    pairs = sorted(itertools.product(attentions, methods), key=lambda pair: sum(ranks[name] for name in pair))
    for precision, name in itertools.product(precisions, presets):
        yield from (Case(name, attention, precision, method) for attention, method in pairs)
