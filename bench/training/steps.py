"""A training step by each of the methods, on clips that are on the device already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.training.cases import GRAPHS, PROJECT, Case
from istvt.config import ISTVTConfig
from istvt.device import allow_tf32, autocast


@dataclass(frozen=True)
class Clips:
    """What a loader would give, made once and on the device."""

    clips: torch.Tensor
    labels: torch.Tensor


def random_clips(config: ISTVTConfig, batch: int, device: torch.device) -> Clips:
    """Clips [B, T, 3, H_i, W_i] uniform in [-1, 1] and labels [B]."""
    generator = torch.Generator().manual_seed(0)
    side = config.image_size
    clips = 2 * torch.rand(batch, config.frames, 3, side, side, generator=generator) - 1
    return Clips(clips.to(device), (torch.arange(batch) % 2).float().to(device))


def training_step(case: Case, batch: Clips, execution: str) -> Callable[[], object]:
    """A function that trains one step by the case's method.

    Args:
        case: which.
        batch: the clips of every step.
        execution: of this project: "eager", "compile" or "cuda_graphs".
    """
    torch.manual_seed(0)
    # One shape a row: every method gets the fastest convolutions, as this project's own set-up asks for them.
    torch.backends.cudnn.benchmark = True
    device = batch.clips.device
    dtype = torch.bfloat16 if case.precision == "bfloat16" else torch.float32
    allow_tf32(case.precision == "tf32")
    if case.method in PROJECT:
        return _project_step(case, batch, dtype, "cuda_graphs" if case.method == GRAPHS else execution)

    from bench.training.baseline_model import BaselineModel

    model = BaselineModel(case.config, "naive" if case.method == "naive eager" else "sdpa").to(device).train()
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


def _project_step(case: Case, batch: Clips, dtype: torch.dtype, execution: str) -> Callable[[], object]:
    from istvt.config import TrainingSettings
    from istvt.model.istvt import ISTVT
    from istvt.training.compile import accelerate
    from istvt.training.distributed import Processes
    from istvt.training.optim import build_optimizer
    from istvt.training.step import TrainingStep

    settings = TrainingSettings(batch_size=len(batch.labels), execution=execution, tf32=case.precision == "tf32")
    model = ISTVT(case.config).to(batch.clips.device).train()
    accelerate(model, settings)
    step = TrainingStep(model, model, build_optimizer(model, settings), dtype, settings, Processes())

    def run() -> torch.Tensor:
        step(iter([batch]), 1, 1e-4)
        return step.counters[0]

    return run
