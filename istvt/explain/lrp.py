"""Layer-wise relevance propagation (LRP) from the logit to the tokens, and the gradient beside it, block by block.

Relevance starts as 1 at the explained logit. Linear layers: alpha = 1, beta = 0, bias ignored. Both products of an
attention: the ratio rule, half to each operand (`kernels.relevance`). LayerNorm, GELU, softmax and scaling pass
relevance on as it is. Residual additions: the ratio rule, rescaled for each clip. Where a tensor went two ways the
relevance of both sums. Chefer, Gur, Wolf, "Transformer Interpretability Beyond Attention Visualization", CVPR 2021; the
rule of self-subtract is this project's (none is published).

Memory: one forward pass keeps the input of a few blocks and nothing else. Then, from the last block to the first, the
inputs between are computed again, each part of a block is computed again for some frames or positions at a time, and
gradient and relevance go through it. They are changed in place: two tensors of the size of the tokens, and two more
inside a block, are all that the backward pass needs besides the chunk in work.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

import kernels
from istvt.config import HeatmapSettings
from istvt.explain.rollout import AttentionSlice, Kind, Recorder
from istvt.model.attention import Attention, attend_positions, resolve_backend
from istvt.model.block import Block
from istvt.model.istvt import ISTVT
from kernels.relevance import Stabilizer, ratio
from kernels.temporal.reference import temporal_attention as plain_temporal_attention

# The attentions of a block, in the order of the forward pass; those of `parallel` read the same input.
KINDS: dict[str, tuple[Kind, ...]] = {
    "temporal_first": ("temporal", "spatial"),
    "spatial_first": ("spatial", "temporal"),
    "parallel": ("temporal", "spatial"),
    "temporal_only": ("temporal",),
    "spatial_only": ("spatial",),
    "joint": ("joint",),
}


@dataclass
class BackwardSignal:
    """Gradient and relevance of some tokens, each [B, F, S, C]; None where the method does not use it."""

    gradient: Tensor | None
    relevance: Tensor | None

    def add_(self, other: BackwardSignal) -> None:
        """Add gradient to gradient and relevance to relevance, in place (fan-out)."""
        for mine, its in ((self.gradient, other.gradient), (self.relevance, other.relevance)):
            if mine is not None:
                mine += its

    def __bool__(self) -> bool:
        """Whether anything is propagated: raw attention and its rollout need nothing."""
        return self.gradient is not None or self.relevance is not None

    def __getitem__(self, at: tuple[slice, ...]) -> BackwardSignal:
        return BackwardSignal(*(None if x is None else x[at] for x in (self.gradient, self.relevance)))

    def __setitem__(self, at: tuple[slice, ...], part: BackwardSignal) -> None:
        for mine, its in ((self.gradient, part.gradient), (self.relevance, part.relevance)):
            if mine is not None:
                mine[at] = its


@dataclass
class LRPBackward:
    """Gradient and relevance of one explained logit a clip, through all blocks of a model.

    Attributes:
        model: the model.
        settings: method and rules.
        sign: [B], +1 explains "fake", -1 "real" (the negated logit).
        dtype: of all arithmetic: float32 or float64.
        recorder: receives every attention.
        chunk_tokens: about how many tokens are in work at a time.
    """

    model: ISTVT
    settings: HeatmapSettings
    sign: Tensor
    dtype: torch.dtype
    recorder: Recorder
    chunk_tokens: int

    def run(self, tokens: Tensor) -> tuple[Tensor, BackwardSignal]:
        """Return the logits [B] of tokens [B, F, S, C], and the signal at the tokens."""
        blocks = self.model.blocks
        # Every so many inputs are kept, and of the stretch in work all: twice the square root of the depth.
        stretch = max(1, math.isqrt(len(blocks)))
        last = (len(blocks) - 1) // stretch * stretch
        kept = {}
        for index in range(len(blocks)):
            if index % stretch == 0 or index > last:
                kept[index] = tokens
            tokens = self._forward(index, tokens)
        logits, signal = self._classifier(tokens)
        del tokens
        for index in reversed(range(len(blocks))):
            for before in range(index // stretch * stretch, index):
                if before + 1 not in kept:
                    kept[before + 1] = self._forward(before, kept[before])
            self._block(index, kept.pop(index), signal)
        return logits, signal

    # Forward

    def _forward(self, index: int, x: Tensor) -> Tensor:
        """Return the output of block `index` for `x`."""
        block = in_dtype(self.model.blocks[index], self.dtype)
        out, _ = self._attended(block, x)
        out += x
        for at in self._chunks(out, "spatial"):
            out[at] += block.mlp(block.norm_mlp(out[at]))
        return out

    def _attended(self, block: Block, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the sum of a block's attentions, and the tensor between the two of them (or the first summand)."""
        first, *second = KINDS[block.attention]
        inner = self._output(block, first, x)
        if not second:
            return inner, None
        if block.attention == "parallel":
            return self._output(block, *second, x).add_(inner), inner
        return self._output(block, *second, inner), inner

    def _output(self, block: Block, kind: Kind, x: Tensor) -> Tensor:
        """Return the output [B, F, S, C] of one attention of a block, its LayerNorm included."""
        attention, norm = getattr(block, kind), getattr(block, f"norm_{kind}")
        out = torch.empty_like(x)
        for at in self._chunks(x, kind):
            out[at] = attention(x[at], norm) if kind == "temporal" else attention(norm(x[at]))
        return out

    # Backward

    def _classifier(self, tokens: Tensor) -> tuple[Tensor, BackwardSignal]:
        """Start at the logits: final LayerNorms, mean of the class tokens where there are several, head."""
        config = self.model.config
        rows = slice(0, 1) if config.has_temporal_row else slice(None)
        columns = slice(0, 1) if config.has_spatial_column else slice(None)
        norms = [self.model.norm, self.model.head_norm] if config.head_norm else [self.model.norm]
        norm, head = in_dtype(nn.Sequential(*norms), self.dtype), in_dtype(self.model.head, self.dtype)
        signal = BackwardSignal(None, None)
        with torch.enable_grad():
            read = tokens[:, rows, columns].detach().requires_grad_()
            normalized = norm(read)
            logits = head(normalized.flatten(1, 2).mean(1)).squeeze(-1)
            if self.settings.uses_gradient:
                (gradient,) = torch.autograd.grad((self.sign * logits).sum(), read)
                signal.gradient = torch.zeros_like(tokens)
                signal.gradient[:, rows, columns] = gradient
        if self.settings.propagates:
            # The mean of K tokens and the head are one linear layer of K * C inputs; shares do not depend on 1 / K.
            flat = self.sign[:, None] * normalized.detach().flatten(1)
            weight = head.weight.repeat(1, flat.shape[1] // head.weight.shape[1])
            relevance = linear_relevance(flat, weight, flat.new_ones(len(flat), 1), self.settings.stabilizer)
            signal.relevance = torch.zeros_like(tokens)
            signal.relevance[:, rows, columns] = relevance.view_as(read)
        return logits.detach(), signal

    def _block(self, index: int, x: Tensor, signal: BackwardSignal) -> None:
        """Take `signal` from the output of block `index` to its input `x`."""
        block = in_dtype(self.model.blocks[index], self.dtype)
        attended, inner = self._attended(block, x)
        self._mlp(block, x, attended, signal)
        branch = self._fan_in(x, attended, signal)
        del attended
        self._attentions(index, block, x, inner, branch)
        signal.add_(branch)

    def _mlp(self, block: Block, x: Tensor, attended: Tensor, signal: BackwardSignal) -> None:
        """Take `signal` through the block's MLP and the residual around it, to `x + attended`.

        The linear rule is linear in relevance, so what the residual's rule scales the branch by, which is known only
        after the last token, may come behind the MLP: the branch is computed once.
        """
        if not signal:
            return
        fc1, fc2 = block.mlp.fc1, block.mlp.fc2
        stabilizer = self.settings.stabilizer
        addition = AdditionRule(stabilizer)
        branch = None if signal.relevance is None else torch.empty_like(x)
        for at in self._chunks(x, "spatial"):
            with torch.enable_grad():
                middle = (x[at] + attended[at]).requires_grad_()
                normalized = block.norm_mlp(middle)
                hidden = functional.gelu(fc1(normalized))
                out = fc2(hidden)
            if signal.gradient is not None:
                signal.gradient[at] += torch.autograd.grad(out, middle, signal.gradient[at])[0]
            if branch is not None:
                middle, normalized, hidden, out = (t.detach() for t in (middle, normalized, hidden, out))
                straight, relevance = addition.shares(middle, out, signal.relevance[at])
                signal.relevance[at] = straight
                relevance = linear_relevance(hidden, fc2.weight, relevance, stabilizer)
                branch[at] = linear_relevance(normalized, fc1.weight, relevance, stabilizer)
        if branch is not None:
            scale, branch_scale = addition.scales(x)
            signal.relevance *= scale
            signal.relevance += branch.mul_(branch_scale)

    def _fan_in(self, a: Tensor, b: Tensor, signal: BackwardSignal) -> BackwardSignal:
        """Take `signal` through `a + b`: it becomes that of `a`; that of `b`, in the memory of `b`, is returned."""
        gradient = None if signal.gradient is None else signal.gradient.clone()
        if signal.relevance is None:
            return BackwardSignal(gradient, None)
        addition = AdditionRule(self.settings.stabilizer)
        for at in self._chunks(a, "spatial"):
            signal.relevance[at], b[at] = addition.shares(a[at], b[at], signal.relevance[at])
        scale_a, scale_b = addition.scales(a)
        signal.relevance *= scale_a
        return BackwardSignal(gradient, b.mul_(scale_b))

    def _attentions(self, index: int, block: Block, x: Tensor, inner: Tensor | None, signal: BackwardSignal) -> None:
        """Take `signal` through all attentions of a block, from their sum or composition to `x`."""
        first, *second = KINDS[block.attention]
        if block.attention == "parallel":
            other = self._fan_in(inner, self._output(block, *second, x), signal)
            self._attention(index, block, *second, x, other)
        elif second:
            self._attention(index, block, *second, inner, signal)
        self._attention(index, block, first, x, signal)
        if block.attention == "parallel":
            signal.add_(other)

    def _attention(self, index: int, block: Block, kind: Kind, x: Tensor, signal: BackwardSignal) -> None:
        """Take `signal` through one attention of a block, to the tokens `x` before its LayerNorm."""
        attention, norm = getattr(block, kind), getattr(block, f"norm_{kind}")
        for at in self._chunks(x, kind):
            signal[at] = self._attention_slice(index, kind, at[-1], attention, norm, x[at], signal[at])

    def _attention_slice(
        self,
        index: int,
        kind: Kind,
        groups: slice,
        attention: Attention,
        norm: nn.LayerNorm,
        x: Tensor,
        signal: BackwardSignal,
    ) -> BackwardSignal:
        """Return the signal before LayerNorm, self-subtract, projections, attention and output projection."""
        subtracts = kind != "spatial" and attention.self_subtract and x.shape[1] > 1
        weight, stabilizer = attention.proj.weight, self.settings.stabilizer
        tokens_shape = (*x.shape[:3], weight.shape[1])  # [B, F, S, N*D]
        capture = kernels.AttentionCapture() if self.recorder.captures else None
        gradient, out_gradient, u = None, None, None
        with torch.enable_grad():
            x = x.detach().requires_grad_(signal.gradient is not None)
            normalized = norm(x)
            compared = kernels.self_subtract(normalized) if subtracts else normalized
            q, k = attention.project_qkv(compared, slice(0, 2)).unbind(3)
            v = attention.project_qkv(normalized, slice(2, 3)).squeeze(3)
            if kind == "joint":
                q, k, v = (t.flatten(1, 2).unsqueeze(1) for t in (q, k, v))
            out = attend(kind, attention, q, k, v, capture)
            if signal.gradient is not None:
                out_gradient = _heads_of(signal.gradient @ weight, out, attention)
                (gradient,) = torch.autograd.grad(out, x, out_gradient)
        q, k, v, out, normalized, compared = (t.detach() for t in (q, k, v, out, normalized, compared))
        if signal.relevance is not None:
            flat = out[..., : attention.head_dim].reshape(tokens_shape)  # without the columns that pad D
            out_relevance = linear_relevance(flat, weight, signal.relevance, stabilizer)
            magnitude = out if stabilizer == "reference" else attend(kind, attention, q, k, v.abs())
            u = ratio(_heads_of(out_relevance, out, attention), out, magnitude, stabilizer)
        self.recorder.record(AttentionSlice(index, kind, groups, q, k, v, attention.scale, u, out_gradient, capture))
        if u is None:
            return BackwardSignal(gradient, None)
        propagate = kernels.temporal_relevance if kind == "temporal" else kernels.spatial_relevance
        of_q, of_k, of_v = (
            part[..., : attention.head_dim].reshape(tokens_shape)
            for part in propagate(q, k, v, u, scale=attention.scale, stabilizer=stabilizer)
        )
        of_compared, of_values = attention.qkv.weight.split([2 * weight.shape[1], weight.shape[1]])
        relevance = linear_relevance(compared, of_compared, torch.cat([of_q, of_k], -1), stabilizer)
        if subtracts:
            relevance = self_subtract_relevance(normalized, relevance)
        return BackwardSignal(gradient, relevance + linear_relevance(normalized, of_values, of_v, stabilizer))

    def _chunks(self, x: Tensor, kind: Kind) -> Iterator[tuple[slice, ...]]:
        """Give indices of `x` [B, F, S, C], of some positions (temporal), some frame rows, or all (joint)."""
        if kind == "joint":
            yield (slice(None),)
            return
        dim = 2 if kind == "temporal" else 1
        length = x.shape[dim]
        size = max(1, self.chunk_tokens * length // max(1, x.shape[:3].numel()))
        for start in range(0, length, size):
            yield (slice(None),) * dim + (slice(start, min(start + size, length)),)


def linear_relevance(x: Tensor, weight: Tensor, relevance: Tensor, stabilizer: Stabilizer) -> Tensor:
    """Return the relevance of the input of `x @ weight.T`: only contributions of positive sign count.

    `R_x = x+ (W+ share) + x- (W- share)` with `share = R / (x+ W+ + x- W-)` (alpha = 1, beta = 0).

    Args:
        x: [..., in].
        weight: [out, in].
        relevance: [..., out], of the output.
        stabilizer: all contributions have one sign here, so their sum needs none of the relative kind.

    Returns:
        [..., in].
    """
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)
    x_positive, x_negative = x.clamp(min=0), x.clamp(max=0)
    total = (x_positive @ positive.T).add_(x_negative @ negative.T)
    share = ratio(relevance, total, total, stabilizer if stabilizer == "reference" else 0.0)
    return x_positive.mul_(share @ positive).add_(x_negative.mul_(share @ negative))


class AdditionRule:
    """Relevance of the two summands of `a + b`, so that each clip keeps its sum; some tokens at a time.

    The ratio rule at every element, then each summand is scaled to its share of the two absolute sums. The sums run
    over one clip: over a batch they would make each clip's explanation depend on the others. They are known when all
    its tokens have been seen, so the scales come last.
    """

    def __init__(self, stabilizer: Stabilizer) -> None:
        self.stabilizer = stabilizer
        self._sums: Tensor | None = None

    def shares(self, a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """Return the relevance of some elements of a and of b, [B, ...] each, still to be multiplied by `scales`."""
        share = ratio(relevance, a + b, a.abs() + b.abs(), self.stabilizer)
        r_a, r_b = a * share, share.mul_(b)
        # float64: these sums cancel, and they scale everything below.
        sums = torch.stack([x.flatten(1).sum(1, dtype=torch.float64) for x in (r_a, r_b, relevance)])
        self._sums = sums if self._sums is None else self._sums + sums
        return r_a, r_b

    def scales(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of the shares of a and of b: [B, 1, ...], with the dimensions and dtype of `like`."""
        sum_a, sum_b, total = self._sums
        absolute = sum_a.abs() + sum_b.abs()
        factor = torch.where(absolute > 0, total / torch.where(absolute > 0, absolute, 1.0), 0.0)
        shape = (-1, *[1] * (like.dim() - 1))
        return tuple((factor * own.sign()).to(like.dtype).view(shape) for own in (sum_a, sum_b))


def self_subtract_relevance(x: Tensor, relevance: Tensor) -> Tensor:
    """Return the relevance of the tokens whose differences along dim 1 have `relevance`.

    A difference `x_t - x_{t-1}` gives its relevance to the two frames in proportion to `|x_t|` and `|x_{t-1}|`
    (halves where both are 0): bounded and conservative even where two frames are equal, where the ratio rule is not.

    Args:
        x: [B, F, S, C], before the difference.
        relevance: [B, F, S, C], of `kernels.self_subtract(x)`.

    Returns:
        [B, F, S, C].
    """
    result = relevance.clone()
    if x.shape[1] < 3:
        return result
    later, earlier = x[:, 2:].abs(), x[:, 1:-1].abs()
    both = later + earlier
    share = torch.where(both > 0, later / torch.where(both > 0, both, 1.0), 0.5)
    result[:, 2:] = relevance[:, 2:] * share
    result[:, 1:-1] += relevance[:, 2:] * (1 - share)
    return result


def in_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return the module itself, or a copy of it in `dtype`; of one block, never of the whole model."""
    if all(parameter.dtype == dtype for parameter in module.parameters()):
        return module
    return copy.deepcopy(module).to(dtype)


def attend(
    kind: Kind,
    attention: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    capture: kernels.AttentionCapture | None = None,
) -> Tensor:
    """Return attention [B, F, S, N, D] over frame rows or, spatial and joint (F = 1), over positions."""
    if kind != "temporal":
        return attend_positions(q, k, v, attention.scale, attention.backend, capture)
    runs_kernels = resolve_backend(attention.backend, q.device) == "triton"
    over_frames = kernels.temporal_attention if runs_kernels else plain_temporal_attention
    return over_frames(q, k, v, scale=attention.scale, capture=capture)


def _heads_of(x: Tensor, like: Tensor, attention: Attention) -> Tensor:
    """Split [B, F, S, N*D] by heads into the shape of `like`, with zeros in the columns that pad D."""
    heads = x.unflatten(-1, (attention.heads, -1))
    return functional.pad(heads, (0, like.shape[-1] - heads.shape[-1])).reshape(like.shape)
