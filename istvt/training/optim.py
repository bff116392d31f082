"""Fused optimizer with its state, warm-up and cosine schedule, loss scale without synchronization."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dataloading.errors import InputError
from istvt.config import TrainingSettings

# Gradients of the entry flow's freshly initialized convolutions overflow at a scale of 2**12 to 2**14: starting at the
# customary 2**16 would only cost the first steps.
FIRST_LOSS_SCALE = 2.0**10
# After this many finite steps in a row the loss is scaled up by 2.
STEPS_TO_GROW = 2000


def build_optimizer(model: nn.Module, training: TrainingSettings) -> torch.optim.Optimizer:
    """Return the fused optimizer of `training`, its state already made, so that a checkpoint can be read into it.

    Raises:
        InputError: PyTorch has no such optimizer for sharded parameters.
    """
    if training.optimizer == "sgd" and any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        raise InputError(
            "training.optimizer is 'sgd' and training.parallel 'fsdp', but PyTorch's fused SGD takes no sharded "
            "parameters; use ddp, or adamw"
        )
    # Biases, norms and tokens are not decayed: decay is for the matrices that multiply features.
    decayed = [p for n, p in model.named_parameters() if p.dim() > 1 and "embedding" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() <= 1 or "embedding" in n]
    groups = [{"params": decayed, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if training.optimizer == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)
    else:
        optimizer = torch.optim.SGD(groups, lr=training.learning_rate, momentum=training.momentum, fused=True)
    for parameter in (p for group in groups for p in group["params"]):
        state = optimizer.state[parameter]
        if training.optimizer == "adamw":
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        elif training.momentum:
            # Created by the optimizer, the state would be uninitialized memory if the first step is skipped.
            state["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def warmup_cosine(step: float, warmup: float, total: float) -> float:
    """Return the share of the peak learning rate at `step`: linear over `warmup`, then a cosine to zero at `total`."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1.0, total - warmup))))


class LossScale:
    """Factor of the loss, so that float16 gradients neither vanish nor overflow; 1 in other precisions.

    Halved after a step that is not finite, doubled after many that are. It lives on the device: adjusting it does
    not synchronize with the host (torch.amp.GradScaler does, and each process would decide for itself).

    Attributes:
        value: float32 scalar.
        finite_steps: float32 scalar, finite steps since it last changed.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.adjusts = dtype == torch.float16
        self.value = torch.full((), FIRST_LOSS_SCALE if self.adjusts else 1.0, device=device)
        self.finite_steps = torch.zeros((), device=device)

    def update(self, finite: Tensor) -> None:
        """Adjust to a step: bool scalar, whether its gradient was finite."""
        if not self.adjusts:
            return
        grows = self.finite_steps + 1 >= STEPS_TO_GROW
        change = torch.where(finite, torch.where(grows, 2.0, 1.0), 0.5)
        self.finite_steps.copy_(torch.where(finite & ~grows, self.finite_steps + 1, 0.0))
        self.value.mul_(change)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors themselves, to be saved or read into."""
        return {"value": self.value, "finite_steps": self.finite_steps}
