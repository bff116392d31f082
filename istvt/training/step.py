"""Training step: forward, backward and optimizer step without synchronizing host and device.

    gradient = sum over all clips of all processes of d loss / d weights, divided by their number
    loss = cross-entropy of the label, and on rehearsed clips that of an old network's probability (`Distillation`)
    a step with a gradient that is not finite changes neither weights nor optimizer nor running statistics nor average

Loss, clips and skipped steps are added to counters on the device, which the log reads every `log_steps` steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional

from istvt.config import TrainingSettings
from istvt.device import autocast
from istvt.model.detector import UNKNOWN, Detector
from istvt.training.distributed import Processes, no_grad_sync
from istvt.training.optim import LossScale, WeightAverage

if TYPE_CHECKING:  # a bare GPU machine has no video packages, and the benchmark of a step needs none
    from dataloading.clips.loader import Batch, ClipLoader

_COUNTERS = ("loss_sum", "clips", "skipped_steps", "non_finite_row", "longest_row")


@dataclass(frozen=True)
class Counts:
    """Counters of an epoch on the host, over all processes.

    Attributes:
        loss_sum: summed loss of the clips of all finite steps of the epoch.
        clips: their number.
        skipped_steps: steps of the epoch whose gradient was not finite.
        longest_row: the most such steps in a row.
    """

    loss_sum: float
    clips: int
    skipped_steps: int
    longest_row: int


class Distillation:
    """Loss by which a network keeps to what an old one says of clips (knowledge distillation), of logits z and z_old.

        loss = w tau^2 KL( sigmoid(z_old / tau) || sigmoid(z / tau) )

    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015: tau^2 keeps the size of the gradient when tau
    changes. It is 0 where the two agree.

    Args:
        teacher: the old network, in evaluation mode, on the device of the clips.
        weight: w.
        temperature: tau.
    """

    def __init__(self, teacher: Detector, weight: float, temperature: float) -> None:
        self.teacher, self.weight, self.temperature = teacher.requires_grad_(False), weight, temperature

    def __call__(self, clips: Tensor, logits: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the loss of each clip: clips [n, T, 3, H, W], float32 logits [n] -> [n]; autocast in `dtype`."""
        with torch.no_grad(), autocast(clips.device, dtype):
            old = self.teacher(clips).float() / self.temperature
        targets = old.sigmoid()
        cross = functional.binary_cross_entropy_with_logits
        new = logits / self.temperature
        divergence = cross(new, targets, reduction="none") - cross(old, targets, reduction="none")
        return self.weight * self.temperature**2 * divergence


class TrainingStep:
    """Training step of a model, called once a step.

    Args:
        model: the model.
        forward: the module that is called for it, such as its DDP wrapper (`distribute`).
        optimizer: a fused one, which divides gradients and skips steps by tensors on the device.
        dtype: autocast of the forward pass.
        training: batch size, accumulation, clipping, decay of the average.
        processes: the processes of the run, which make the step together.
        distillation: loss on rehearsed clips besides that of their labels.

    Attributes:
        average: moving average of the weights; None where none is asked for.
    """

    def __init__(
        self,
        model: Detector,
        forward: nn.Module,
        optimizer: torch.optim.Optimizer,
        dtype: torch.dtype,
        training: TrainingSettings,
        processes: Processes,
        distillation: Distillation | None = None,
    ) -> None:
        self.model, self.forward, self.optimizer, self.dtype = model, forward, optimizer, dtype
        self.training, self.processes, self.distillation = training, processes, distillation
        self.device = next(model.parameters()).device
        # A replayed graph writes its gradients to the same memory again: accumulating needs separate buffers.
        self._keeps_gradients = training.execution == "cuda_graphs" and training.accumulation > 1
        if self._keeps_gradients:
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
        self.loss_scale = LossScale(self.device, dtype)
        self.average = WeightAverage(model, training.ema_decay) if training.ema_decay else None
        self.counters = torch.zeros(len(_COUNTERS), dtype=torch.float64, device=self.device)
        self._step_sums = torch.zeros(2, dtype=torch.float64, device=self.device)  # loss sum and clips of this step
        self._parameters = list(model.parameters())
        self._statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        config = model.config
        self._with_masks = config.makes_masks
        self._zero_clip = torch.zeros(1, config.frames, 3, config.image_size, config.image_size, device=self.device)

    def __call__(self, batches: Iterator[Batch | None], count: int, learning_rate: float) -> None:
        """Make one step from the next `count` batches, in all processes together."""
        before = self._flat_statistics()
        self._step_sums.zero_()
        for number in range(count):
            with no_grad_sync(self.forward, accumulate=number < count - 1):
                self._backward(next(batches))
        self._apply(before, learning_rate)

    def _backward(self, batch: Batch | None) -> None:
        """Add the gradients of one batch.

        A process whose batch has no clip takes part with clips of weight zero, as the reduction of gradients waits for
        every process. Running statistics are restored after it.
        """
        clips, labels, weights, masks = self._inputs(batch)
        before = self._flat_statistics() if batch is None else None
        if self.training.execution == "cuda_graphs":
            torch.compiler.cudagraph_mark_step_begin()
        with autocast(self.device, self.dtype):
            logits, minimized = (self.forward(clips), None) if masks is None else self.forward(clips, labels, masks)
        losses = functional.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
        kept = None
        if self.distillation is not None and batch is not None and batch.rehearsed is not None:
            places = batch.rehearsed.to(self.device, non_blocking=True)
            kept = self.distillation(clips[places], logits[places].float(), self.dtype)
            losses = losses.index_add(0, places, kept)
        logged = loss = (losses * weights).sum()
        if minimized is not None:  # what is logged is as in validation, whatever else is minimized
            minimized = minimized if kept is None else minimized.index_add(0, places, kept)
            loss = (minimized * weights).sum()
        # Divided by the nominal number of clips, to keep float16 gradients in range; corrected in _apply.
        (loss * (self.loss_scale.value / self._nominal_clips)).backward()
        self._step_sums += torch.stack([logged.detach(), weights.sum()])
        if before is not None:
            self._set_statistics(before)

    def _inputs(self, batch: Batch | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return clips [B, T, 3, H, W], labels [B], weights [B] and, if the model makes them, masks, on the device.

        A short batch, the last of an epoch or one with clips that could not be decoded, is filled by repeating its
        clips with weight zero: a compiled step has one shape. Repeated clips do enter the statistics of batch
        normalization, so eager steps are filled too and compute the same as compiled ones.
        """
        if batch is None:
            clips, labels, weights = self._zero_clip, self._zero_clip.new_zeros(1), self._zero_clip.new_zeros(1)
            masks = torch.full_like(clips[:, :, 0], UNKNOWN, dtype=torch.int8) if self._with_masks else None
        else:
            clips, labels = batch.clips, batch.labels.to(self.device, non_blocking=True)
            weights = torch.ones_like(labels)
            masks = batch.masks.to(self.device, non_blocking=True) if self._with_masks else None
        missing = self.training.batch_size - len(labels)
        if missing <= 0:
            return clips, labels, weights, masks
        repeated = torch.arange(self.training.batch_size, device=self.device) % len(labels)
        masks = masks if masks is None else masks[repeated]
        return clips[repeated], labels[repeated], functional.pad(weights, (0, missing)), masks

    @property
    def _nominal_clips(self) -> int:
        return self.training.batch_size * self.training.accumulation

    def _apply(self, before: Tensor, learning_rate: float) -> None:
        """Make the optimizer's step, unless the gradient is not finite or the step has no clip."""
        here = self._step_sums[1]
        after = torch.cat([self._step_sums, self._flat_statistics() * here])
        after = self.processes.all_reduce(after)
        loss_sum, clips = after[0], after[1]
        # Gradients were averaged over processes: this divisor leaves the mean over all clips.
        divisor = self.loss_scale.value * clips.clamp(min=1) / (self._nominal_clips * self.processes.world_size)
        norm = _total_norm([p.grad for p in self._parameters if p.grad is not None]) / divisor
        finite = norm.isfinite()
        skip = ~finite | (clips == 0)
        if self.training.gradient_clip:
            divisor = divisor * (norm / self.training.gradient_clip).clamp(min=1)
        self.optimizer.grad_scale, self.optimizer.found_inf = divisor.float(), skip.float()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=not self._keeps_gradients)
        self._set_statistics(torch.where(skip, before, after[2:] / clips.clamp(min=1)))
        if self.average is not None:
            self.average.update(skip)
        self.loss_scale.update(finite)
        self._count(loss_sum, clips, finite)

    def _flat_statistics(self) -> Tensor:
        """Return the running statistics of batch normalization as one float64 vector."""
        none = torch.empty(0, device=self.device)  # of a network without batch normalization
        return torch.cat([none, *(buffer.flatten() for buffer in self._statistics)]).double()

    def _set_statistics(self, flat: Tensor) -> None:
        """Set the running statistics, in every process to the same: their mean weighted by clips."""
        parts = flat.float().split([buffer.numel() for buffer in self._statistics])
        if not self._statistics:
            return
        torch._foreach_copy_(self._statistics, [p.view_as(b) for p, b in zip(parts, self._statistics, strict=True)])

    def _count(self, loss_sum: Tensor, clips: Tensor, finite: Tensor) -> None:
        old_loss, old_clips, skipped, in_a_row, most = self.counters
        in_a_row = torch.where(finite, 0.0, in_a_row + 1)
        self.counters.copy_(
            torch.stack(
                [
                    old_loss + torch.where(finite, loss_sum, 0.0),
                    old_clips + torch.where(finite, clips, 0.0),
                    skipped + (~finite),
                    in_a_row,
                    torch.maximum(most, in_a_row),
                ]
            )
        )

    def counts(self) -> Counts:
        """Return the counters; the host waits for the device."""
        loss_sum, clips, skipped, _, most = self.counters.tolist()
        return Counts(loss_sum, int(clips), int(skipped), int(most))

    def start_epoch(self) -> None:
        """Set all counters but the row of non-finite steps to zero: a row may continue into the next epoch."""
        self.counters[:3] = 0


def _total_norm(gradients: list[Tensor]) -> Tensor:
    """Return the L2 norm of all gradients together, also of sharded ones: a scalar on the device."""
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def batches_by_position(loader: ClipLoader, count: int) -> Iterator[Batch | None]:
    """Yield `count` batches of a loader at their positions, None where one is missing.

    A batch is missing if none of its clips could be decoded, or at the end if other processes have one more clip.
    """
    given = 0
    for batch in loader:
        place = int(batch.indices.numpy()[0]) // loader.batch_size
        yield from [None] * (place - given)
        yield batch
        given = place + 1
    yield from [None] * (count - given)
