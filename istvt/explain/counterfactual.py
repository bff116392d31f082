"""Counterfactual enhancement: the smallest change of a clip's pixels that turns its verdict, to be shown enlarged.

What would have to be otherwise for this clip not to be called fake? With s(x) the logit of the explained class, `fake`
or, negated, `real`::

    minimize |d|_2   such that   s(x + d) < 0,   |d| <= bound for every color of every pixel,   x + d in [-1, 1]

by decoupled direction and norm (Rony et al., "Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial
Attacks and Defenses", CVPR 2019): steps along the gradient on a sphere whose radius shrinks where the verdict is turned
and grows where it is not; at the end the change is shortened along its line as far as the verdict stays turned. Here
every step is smoothed by a Gaussian of 1.5 % of the picture's side, so that the change is one of patches and shades,
which can be looked at, and not of single pixels.

The idea, a change that turns the detector's verdict shown enlarged beside the picture, is that of Peng et al.,
"Counterfactual image enhancement for explanation of face swap deepfakes". What is done here differs: no network is
trained to make the change and nothing keeps it on natural faces; it is searched for clip by clip, in the pixels of all
frames, with bounds on its size and its smoothness alone. Neither their architecture nor their losses are reproduced.

A clip that is not called the explained class has no such verdict to turn. Its change makes the logit as much again
surer, s(x + d) < 2 s(x), so that the evidence for either class is found in every clip.

A small change that turns a verdict is also what an adversarial example is. `control_logits` is the same amount of
change made at random: where that turns the verdict too, the place of the change says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from istvt.config import HeatmapSettings

GRAY_LEVEL = 2 / 255  # of pixels in [-1, 1]
_SMOOTHING = 0.015  # deviation of the Gaussian, of the picture's side
_MARGIN = 0.01  # of the logit, beyond what turns the verdict
_LARGEST_GROWTH, _LEAST_GROWTH = 0.2, 0.02  # of the radius in a step, from the first to the last
_HALVINGS = 6  # of the line on which the found change is shortened
_CONTROLS = 4  # random changes of the same size
PASSES_BESIDE_STEPS = 2 + _HALVINGS + _CONTROLS  # forward passes, beside one forward and backward pass a step


@dataclass
class Counterfactual:
    """The change of each clip of a batch.

    Attributes:
        change: [B, T, 3, H_i, W_i], to be added to the clip; where the bound is too small, the one that went furthest.
        logits: [B], of the changed clips, positive = fake.
        called: [B], whether the clip was called the explained class, so that there was a verdict to turn.
        turned: [B], whether it was and no longer is.
        largest, mean: [B], of the absolute change over colors and pixels, in gray levels of 255.
        control_logits: [B], mean logit under random smooth changes of the same L2 norm.
    """

    change: Tensor
    logits: Tensor
    called: Tensor
    turned: Tensor
    largest: Tensor
    mean: Tensor
    control_logits: Tensor

    def of_clip(self, number: int) -> dict[str, Any]:
        """Return what `explanation.json` holds of one clip."""
        return {
            "called_target": bool(self.called[number]),
            "verdict_turned": bool(self.turned[number]),
            "logit_after": self.logits[number].item(),
            "largest_change": self.largest[number].item(),
            "mean_change": self.mean[number].item(),
            "logit_after_random_change": self.control_logits[number].item(),
        }


def explain_by_counterfactual(
    forward: Callable[[Tensor], Tensor],
    clips: Tensor,
    sign: Tensor,
    settings: HeatmapSettings,
    advance: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Counterfactual]:
    """Return the logits [B] of the clips and their changes.

    Args:
        forward: logits [B] of clips [B, T, 3, H_i, W_i], differentiable.
        clips: in [-1, 1].
        sign: [B], 1 where the explained class is fake and -1 where it is real.
        settings: with bound and steps.
        advance: called with (steps done, of how many).
    """
    sign = sign.to(clips)

    def score(change: Tensor) -> Tensor:
        return sign * forward(clips + change).to(clips)

    bound, steps = settings.bound * GRAY_LEVEL, settings.steps
    change = torch.zeros_like(clips)
    before = score(change).detach()
    called = before > 0
    goal = torch.where(called, 0.0, 2 * before) - _MARGIN
    best, best_norm = torch.zeros_like(clips), torch.full_like(before, math.inf)
    furthest, lowest = change, before
    radius: Tensor | None = None
    for step in range(steps):
        at = change.clone().requires_grad_()
        with torch.enable_grad():
            found = score(at)
            gradient = torch.autograd.grad(found.sum(), at)[0]
        found = found.detach()
        best, best_norm, furthest, lowest = _kept(change, found, goal, best, best_norm, furthest, lowest)
        direction = _smoothed(gradient)
        length = _norm(direction).clamp(min=1e-12)
        if radius is None:  # as far as the goal would be if the logit were linear
            slope = (gradient * direction).flatten(1).sum(1) / length
            radius = (found - goal) / slope.clamp(min=1e-12)
            radius = radius.clamp(max=bound * math.sqrt(clips.shape[1:].numel()))
        else:
            progress = step / max(1, steps - 1)
            growth = _LARGEST_GROWTH * (_LEAST_GROWTH / _LARGEST_GROWTH) ** progress
            radius = radius * torch.where(found <= goal, 1 - growth, 1 + growth)
        # A change that is larger than the best one is of no use, but the sphere may lie a little outside of it.
        radius = torch.minimum(radius, 1.05 * best_norm)
        stride = radius * (1 + math.cos(math.pi * step / steps)) / 4
        moved = change - _wide(stride / length) * direction
        change = moved * _wide(radius / _norm(moved).clamp(min=1e-12))
        change = _allowed(clips, change, bound)
        if advance:
            advance(step + 1, steps)
    with torch.no_grad():
        found = score(change)
        best, best_norm, furthest, lowest = _kept(change, found, goal, best, best_norm, furthest, lowest)
        reached = best_norm.isfinite()
        change = torch.where(_wide(reached), best, furthest)
        change = _shortened(score, change, reached, goal)
        after = score(change)
        controls = torch.stack([score(one) for one in _random_changes(clips, change, bound)]).mean(0)
        size = change.abs().flatten(1) / GRAY_LEVEL
    return sign * before, Counterfactual(
        change,
        sign * after,
        called,
        turned=called & (after < 0),
        largest=size.amax(1),
        mean=size.mean(1),
        control_logits=sign * controls,
    )


def _kept(
    change: Tensor, found: Tensor, goal: Tensor, best: Tensor, best_norm: Tensor, furthest: Tensor, lowest: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the smallest change that reached the goal with its norm, and the one that came nearest with its score."""
    norm = _norm(change)
    better, lower = (found <= goal) & (norm < best_norm), found < lowest
    return (
        torch.where(_wide(better), change, best),
        torch.where(better, norm, best_norm),
        torch.where(_wide(lower), change, furthest),
        torch.where(lower, found, lowest),
    )


def _shortened(score: Callable[[Tensor], Tensor], change: Tensor, reached: Tensor, goal: Tensor) -> Tensor:
    """Return the changes as short as still reach the goal, by bisection of the line from none; others as they are."""
    low, high = torch.zeros_like(goal), torch.ones_like(goal)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        enough = score(_wide(middle) * change) <= goal
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return change * _wide(torch.where(reached, high, 1.0))


def _random_changes(clips: Tensor, change: Tensor, bound: float) -> list[Tensor]:
    """Return smooth noise of the same norm, within the same bounds."""
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(_CONTROLS):
        noise = _smoothed(torch.randn(clips.shape, generator=generator).to(clips))
        found.append(_allowed(clips, noise * _wide(_norm(change) / _norm(noise).clamp(min=1e-12)), bound))
    return found


def _allowed(clips: Tensor, change: Tensor, bound: float) -> Tensor:
    """Return changes within the bound that leave colors in [-1, 1]."""
    darker, brighter = (-1 - clips).clamp(-bound, 0), (1 - clips).clamp(0, bound)
    return torch.maximum(torch.minimum(change, brighter), darker)


def _norm(x: Tensor) -> Tensor:
    """Return the L2 norm of each clip, [B]."""
    return x.flatten(1).norm(dim=1)


def _wide(x: Tensor) -> Tensor:
    """Return [B] as [B, 1, 1, 1, 1]."""
    return x.view(-1, 1, 1, 1, 1)


def _smoothed(x: Tensor) -> Tensor:
    """Return pictures [B, T, 3, H_i, W_i] blurred by a Gaussian of `_SMOOTHING` of their longer side, zero beyond."""
    deviation = _SMOOTHING * max(x.shape[-2:])
    reach = max(1, math.ceil(3 * deviation))
    weights = torch.exp(-(torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device) ** 2) / (2 * deviation**2))
    weights = weights / weights.sum()
    flat = x.reshape(-1, 1, *x.shape[-2:])
    flat = functional.conv2d(flat, weights.view(1, 1, -1, 1), padding=(reach, 0))
    return functional.conv2d(flat, weights.view(1, 1, 1, -1), padding=(0, reach)).view_as(x)
