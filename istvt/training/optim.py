"""Fused optimizer with its state, warm-up and cosine schedule, loss scale, moving average of weights."""

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


class WeightAverage:
    """Exponential moving average of a model's state, updated after each step that changed the weights.

        average <- average + (1 - d) (weights - average),   d = min(decay, (1 + n) / (10 + n)) after n updates

    so that the random weights of the beginning are soon forgotten. Running statistics of batch normalization are
    averaged alike; counters are copied. Under FSDP each process averages its own share. The host waits for nothing.

    Attributes:
        tensors: the average by the names of the state dict, float32 as the weights.
        updates: float64 scalar, n.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self._model = decay, model
        self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.updates = torch.zeros((), dtype=torch.float64, device=next(model.parameters()).device)

    @torch.no_grad()
    def update(self, skip: Tensor) -> None:
        """Take in the present weights, unless the bool scalar `skip` says that the step changed none."""
        decay = ((1 + self.updates) / (10 + self.updates)).clamp(max=self.decay)
        share = torch.where(skip, 0.0, 1 - decay).float()
        state = self._model.state_dict()
        floats = [name for name, tensor in self.tensors.items() if tensor.is_floating_point()]
        averages, weights = ([_local(tensors[name]) for name in floats] for tensors in (self.tensors, state))
        change = torch._foreach_sub(weights, averages)
        torch._foreach_mul_(change, share)
        torch._foreach_add_(averages, change)
        for name in self.tensors.keys() - set(floats):
            self.tensors[name].copy_(state[name])
        self.updates += ~skip

    def state(self) -> dict[str, Tensor]:
        """Return the tensors themselves, to be saved or read into."""
        return {"updates": self.updates, **self.tensors}

    def whole(self) -> dict[str, Tensor]:
        """Return the average with whole tensors; under FSDP all processes must call it together."""
        return {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in self.tensors.items()}


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
