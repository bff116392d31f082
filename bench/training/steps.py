"""Training steps that are compared: models, precisions and methods, on clips that are on the device already."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from bench.common.peers import naive_attention
from bench.training.baseline_model import BaselineModel
from istvt.config import ISTVTConfig, TrainingSettings, preset
from istvt.device import allow_tf32, autocast
from istvt.model.istvt import ISTVT
from istvt.training.compile import accelerate
from istvt.training.distributed import Processes
from istvt.training.optim import build_optimizer
from istvt.training.step import TrainingStep

GRAPHS = "this project, CUDA graphs"
PROJECT = ("this project", GRAPHS)
METHODS = (*PROJECT, "naive eager", "compiled SDPA", "eager SDPA")
PRECISIONS = ("bfloat16", "tf32", "float32")
ATTENTIONS = {"full": "temporal_first", "spatial_only": "spatial_only"}
BATCH = 8


class Case(NamedTuple):
    """One record: what is trained, in which precision, by which method."""

    preset: str
    attention: str
    precision: str
    method: str

    @property
    def config(self) -> ISTVTConfig:
        """The model's configuration."""
        return replace(preset(self.preset), attention=ATTENTIONS[self.attention])


def ordered_cases(
    presets: Sequence[str], precisions: Sequence[str], methods: Sequence[str], attentions: Sequence[str]
) -> Iterator[Case]:
    """Yield all combinations, those that decide the project's promises first: compiling takes most of a short visit."""
    ranks = {"this project": 0, "naive eager": 1, GRAPHS: 1.5, "compiled SDPA": 3, "eager SDPA": 4}
    ranks |= {"full": 0, "spatial_only": 2}
    pairs = sorted(itertools.product(attentions, methods), key=lambda pair: sum(ranks[name] for name in pair))
    for precision, name in itertools.product(precisions, presets):
        yield from (Case(name, attention, precision, method) for attention, method in pairs)


class Clips(NamedTuple):
    """What a loader gives: clips `[B, T, 3, H_i, W_i]` and labels `[B]`, made once and on the device."""

    clips: torch.Tensor
    labels: torch.Tensor


def random_clips(config: ISTVTConfig, size: int, device: torch.device) -> Clips:
    """Return clips uniform in [-1, 1], every other one labeled fake."""
    generator = torch.Generator().manual_seed(0)
    side = config.image_size
    clips = 2 * torch.rand(size, config.frames, 3, side, side, generator=generator) - 1
    return Clips(clips.to(device), (torch.arange(size) % 2).float().to(device))


def training_step(
    case: Case, batch: Clips, execution: str, memory_format: torch.memory_format = torch.channels_last
) -> Callable[[], torch.Tensor]:
    """Return a function that trains one step on `batch` by the case's method; the others are of this project's."""
    torch.manual_seed(0)
    # One shape a record: every method gets the fastest convolutions, as this project's own set-up asks for them.
    torch.backends.cudnn.benchmark = True
    device = batch.clips.device
    dtype = torch.bfloat16 if case.precision == "bfloat16" else torch.float32
    allow_tf32(case.precision == "tf32")
    if case.method in PROJECT:
        return _project_step(case, batch, dtype, "cuda_graphs" if case.method == GRAPHS else execution, memory_format)

    attend = naive_attention if case.method == "naive eager" else scaled_dot_product_attention
    model = BaselineModel(case.config, attend).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=case.method != "naive eager")
    forward = torch.compile(model) if case.method == "compiled SDPA" else model

    def step() -> torch.Tensor:
        with autocast(device, dtype):
            logits = forward(batch.clips)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), batch.labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def _project_step(
    case: Case, batch: Clips, dtype: torch.dtype, execution: str, memory_format: torch.memory_format
) -> Callable[[], torch.Tensor]:
    settings = TrainingSettings(batch_size=len(batch.labels), execution=execution, tf32=case.precision == "tf32")
    model = ISTVT(case.config).to(batch.clips.device).train()
    accelerate(model, settings)
    model.to(memory_format=memory_format).backbone.memory_format = memory_format
    step = TrainingStep(model, model, build_optimizer(model, settings), dtype, settings, Processes())

    def run() -> torch.Tensor:
        step(iter([batch]), 1, 1e-4)
        return step.counters[0]

    return run
