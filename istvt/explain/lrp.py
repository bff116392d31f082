"""The way back from the logit to the tokens: gradient and relevance, block by block, attention by attention.

One forward pass keeps the input of a few blocks and nothing else. Then, from the last block to the first, the inputs
between are computed again, each part of a block is computed again for some frames or positions at a time, and gradient
and relevance go through it. They are changed in place: two tensors of the size of the tokens, and two more inside a
block, are all that the way back needs besides what is in work.
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
from istvt.explain import rules
from istvt.explain.rollout import AttentionSlice, Kind, Recorder, Settings
from istvt.model.attention import Attention, SpatialAttention, TemporalAttention, attend_positions
from istvt.model.block import Block
from istvt.model.istvt import ISTVT
from kernels.relevance import ratio


@dataclass
class BackwardSignal:
    """What arrives at some tokens from the logit: its gradient and its relevance, each [B, F, S, C] or None."""

    gradient: Tensor | None
    relevance: Tensor | None

    def add_(self, other: BackwardSignal) -> None:
        """Fan-out: both sum."""
        for mine, its in ((self.gradient, other.gradient), (self.relevance, other.relevance)):
            if mine is not None:
                mine += its

    def __bool__(self) -> bool:
        """Whether there is anything to take along (raw attention and its rollout need nothing)."""
        return self.gradient is not None or self.relevance is not None

    def __getitem__(self, at: tuple[slice, ...]) -> BackwardSignal:
        return BackwardSignal(*(None if x is None else x[at] for x in (self.gradient, self.relevance)))

    def __setitem__(self, at: tuple[slice, ...], part: BackwardSignal) -> None:
        for mine, its in ((self.gradient, part.gradient), (self.relevance, part.relevance)):
            if mine is not None:
                mine[at] = its


class LRPBackward:
    """Gradient and relevance of one explained logit a clip, through all blocks of a model.

    Args:
        model: the model.
        settings: method and rules.
        sign: +1 explains "fake", -1 "real" (the negated logit).
        dtype: of all arithmetic: float32 or float64.
        recorder: sees every attention.
        chunk_tokens: about how many tokens are in work at a time.
    """

    def __init__(
        self,
        model: ISTVT,
        settings: Settings,
        sign: int,
        dtype: torch.dtype,
        recorder: Recorder,
        chunk_tokens: int,
    ) -> None:
        self.model, self.settings, self.sign, self.dtype = model, settings, sign, dtype
        self.recorder, self.chunk_tokens = recorder, chunk_tokens

    def run(self, tokens: Tensor) -> tuple[Tensor, BackwardSignal]:
        """Logits [B] of tokens [B, F, S, C], and the signal at the tokens."""
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

    def _forward(self, index: int, x: Tensor) -> Tensor:
        """What block `index` gives for `x`."""
        block = in_dtype(self.model.blocks[index], self.dtype)
        out, _ = self._attended(block, x)
        out += x
        for at in self._chunks(out, 1):
            out[at] += block.mlp(block.norm_mlp(out[at]))
        return out

    def _classifier(self, tokens: Tensor) -> tuple[Tensor, BackwardSignal]:
        """Final LayerNorms, mean over the class tokens where there are several, head: one linear map of all of them."""
        config = self.model.config
        rows = slice(0, 1) if config.has_temporal_row else slice(None)
        columns = slice(0, 1) if config.has_spatial_column else slice(None)
        norms = [self.model.norm, self.model.head_norm] if config.head_norm else [self.model.norm]
        norm, head = in_dtype(nn.Sequential(*norms), self.dtype), in_dtype(self.model.head, self.dtype)
        with torch.enable_grad():
            read = tokens[:, rows, columns].detach().requires_grad_()
            normalized = norm(read)
            logits = head(normalized.flatten(1, 2).mean(1)).squeeze(-1)
            gradient, relevance = None, None
            if self.settings.uses_gradient:
                (gradient,) = torch.autograd.grad(self.sign * logits.sum(), read)
        if self.settings.propagates:
            # The mean of K tokens and the head are one linear layer of K * C inputs; shares do not depend on 1 / K.
            flat = normalized.detach().flatten(1)
            weight = self.sign * head.weight.repeat(1, flat.shape[1] // head.weight.shape[1])
            start = flat.new_ones(len(flat), 1)
            relevance = rules.linear(flat, weight, start, self.settings.stabilizer).view_as(read)
        signal = BackwardSignal(gradient, relevance)
        return logits.detach(), BackwardSignal(
            *(None if x is None else _placed(x, tokens, rows, columns) for x in (signal.gradient, signal.relevance))
        )

    def _block(self, index: int, x: Tensor, signal: BackwardSignal) -> None:
        """Take `signal` from the output of block `index` to its input `x`."""
        block = in_dtype(self.model.blocks[index], self.dtype)
        attended, inner = self._attended(block, x)
        self._mlp(block, x, attended, signal)
        branch = self._fan_in(x, attended, signal)
        del attended
        self._attention(index, block, x, inner, branch)
        signal.add_(branch)

    def _attended(self, block: Block, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the block's attentions add to `x`, and the tensor between the two of them (or the first summand)."""
        match block.attention:
            case "temporal_first":
                inner = self._temporal_output(block, x)
                return self._spatial_output(block, inner), inner
            case "spatial_first":
                inner = self._spatial_output(block, x)
                return self._temporal_output(block, inner), inner
            case "parallel":
                inner = self._temporal_output(block, x)
                return self._spatial_output(block, x).add_(inner), inner
            case "temporal_only":
                return self._temporal_output(block, x), None
            case "spatial_only":
                return self._spatial_output(block, x), None
            case _:
                return block.joint(block.norm_joint(x)), None

    def _temporal_output(self, block: Block, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        for at in self._chunks(x, 2):
            out[at] = block.temporal(x[at], block.norm_temporal)
        return out

    def _spatial_output(self, block: Block, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        for at in self._chunks(x, 1):
            out[at] = block.spatial(block.norm_spatial(x[at]))
        return out

    def _mlp(self, block: Block, x: Tensor, attended: Tensor, signal: BackwardSignal) -> None:
        """Take `signal` through the block's MLP and the residual around it, to `x + attended`.

        The linear rule is linear in relevance, so what the residual's rule scales the branch by, which is known only
        after the last token, may come behind the MLP: the branch is computed once.
        """
        if not signal:
            return
        fc1, fc2 = block.mlp.fc1, block.mlp.fc2
        stabilizer = self.settings.stabilizer
        addition = rules.Addition(stabilizer)
        branch = None if signal.relevance is None else torch.empty_like(x)
        for at in self._chunks(x, 1):
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
                relevance = rules.linear(hidden, fc2.weight, relevance, stabilizer)
                branch[at] = rules.linear(normalized, fc1.weight, relevance, stabilizer)
        if branch is not None:
            scale, branch_scale = addition.scales(x)
            signal.relevance *= scale
            signal.relevance += branch.mul_(branch_scale)

    def _fan_in(self, a: Tensor, b: Tensor, signal: BackwardSignal) -> BackwardSignal:
        """Through `a + b`: leaves the signal of `a` in `signal`, and gives that of `b`, whose memory is used for it."""
        gradient = None if signal.gradient is None else signal.gradient.clone()
        if signal.relevance is None:
            return BackwardSignal(gradient, None)
        addition = rules.Addition(self.settings.stabilizer)
        for at in self._chunks(a, 1):
            signal.relevance[at], b[at] = addition.shares(a[at], b[at], signal.relevance[at])
        scale_a, scale_b = addition.scales(a)
        signal.relevance *= scale_a
        return BackwardSignal(gradient, b.mul_(scale_b))

    def _attention(self, index: int, block: Block, x: Tensor, inner: Tensor | None, signal: BackwardSignal) -> None:
        """Take `signal` through all attentions of a block, from their sum or composition to `x`."""
        match block.attention:
            case "temporal_first":
                self._spatial(index, block, inner, signal)
                self._temporal(index, block, x, signal)
            case "spatial_first":
                self._temporal(index, block, inner, signal)
                self._spatial(index, block, x, signal)
            case "parallel":
                over_space = self._fan_in(inner, self._spatial_output(block, x), signal)
                self._temporal(index, block, x, signal)
                self._spatial(index, block, x, over_space)
                signal.add_(over_space)
            case "temporal_only":
                self._temporal(index, block, x, signal)
            case "spatial_only":
                self._spatial(index, block, x, signal)
            case _:
                signal[...] = self._through(index, "joint", slice(0, 1), block.joint, block.norm_joint, x, signal)

    def _temporal(self, index: int, block: Block, x: Tensor, signal: BackwardSignal) -> None:
        for at in self._chunks(x, 2):
            part = self._through(index, "temporal", at[2], block.temporal, block.norm_temporal, x[at], signal[at])
            signal[at] = part

    def _spatial(self, index: int, block: Block, x: Tensor, signal: BackwardSignal) -> None:
        for at in self._chunks(x, 1):
            part = self._through(index, "spatial", at[1], block.spatial, block.norm_spatial, x[at], signal[at])
            signal[at] = part

    def _through(
        self,
        index: int,
        kind: Kind,
        groups: slice,
        attention: Attention,
        norm: nn.LayerNorm,
        x: Tensor,
        signal: BackwardSignal,
    ) -> BackwardSignal:
        """Through LayerNorm, self-subtract, projections, attention and output projection, for some groups."""
        subtracts = not isinstance(attention, SpatialAttention) and attention.self_subtract and x.shape[1] > 1
        weight = attention.proj.weight
        with torch.enable_grad():
            x = x.detach().requires_grad_(signal.gradient is not None)
            normalized = norm(x)
            compared = kernels.self_subtract(normalized) if subtracts else normalized
            q, k = attention.project_qkv(compared, slice(0, 2)).unbind(3)
            v = attention.project_qkv(normalized, slice(2, 3)).squeeze(3)
            out = _attend(attention, q, k, v)
            gradient, out_gradient = None, None
            if signal.gradient is not None:
                out_gradient = _padded((signal.gradient @ weight).unflatten(-1, (attention.heads, -1)), out)
                (gradient,) = torch.autograd.grad(out, x, out_gradient)
        q, k, v, out, normalized, compared = (t.detach() for t in (q, k, v, out, normalized, compared))
        u = None
        if signal.relevance is not None:
            kept = out[..., : attention.head_dim]  # without the columns that pad D for the kernels
            out_relevance = rules.linear(kept.flatten(-2), weight, signal.relevance, self.settings.stabilizer)
            out_relevance = _padded(out_relevance.view_as(kept), out)
            magnitude = out if self.settings.stabilizer == "reference" else _attend(attention, q, k, v.abs())
            u = ratio(out_relevance, out, magnitude, self.settings.stabilizer)
        scale = attention.scale
        if kind == "joint":
            q, k, v, u, out_gradient = (
                None if t is None else t.flatten(1, 2).unsqueeze(1) for t in (q, k, v, u, out_gradient)
            )
        slab = AttentionSlice(index, kind, groups, q, k, v, scale, u, out_gradient)
        if u is None:
            self.recorder.record(slab)
            return BackwardSignal(gradient, None)
        parts = [
            part.reshape(out.shape)[..., : attention.head_dim].flatten(-2) for part in self.recorder.propagate(slab)
        ]
        return BackwardSignal(gradient, self._projections(attention, normalized, compared, subtracts, parts))

    def _projections(
        self, attention: Attention, normalized: Tensor, compared: Tensor, subtracts: bool, parts: list[Tensor]
    ) -> Tensor:
        """Relevance of the normalized tokens from that of q, k and v [B, F, S, N*D]: the fan-out sums."""
        stabilizer, inner = self.settings.stabilizer, parts[0].shape[-1]
        weight = attention.qkv.weight
        relevance = rules.linear(compared, weight[: 2 * inner], torch.cat(parts[:2], -1), stabilizer)
        if subtracts:
            relevance = rules.self_subtract(normalized, relevance)
        return relevance + rules.linear(normalized, weight[2 * inner :], parts[2], stabilizer)

    def _chunks(self, x: Tensor, dim: int) -> Iterator[tuple[slice, ...]]:
        """Slices of dim 1 (frame rows) or 2 (positions), as an index of `x`."""
        length = x.shape[dim]
        size = max(1, self.chunk_tokens * length // max(1, x.shape[:3].numel()))
        for start in range(0, length, size):
            yield (slice(None),) * dim + (slice(start, min(start + size, length)),)


def in_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module itself, or a copy of it in `dtype`; of one block, never of the whole model."""
    if all(parameter.dtype == dtype for parameter in module.parameters()):
        return module
    return copy.deepcopy(module).to(dtype)


def _attend(attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of [B, F, S, N, D] over what this attention is over."""
    if isinstance(attention, TemporalAttention):
        return kernels.temporal_attention(q, k, v, scale=attention.scale)
    if isinstance(attention, SpatialAttention):
        return attend_positions(q, k, v, attention.scale, attention.backend)
    flat = (t.flatten(1, 2).unsqueeze(1) for t in (q, k, v))
    return attend_positions(*flat, attention.scale, attention.backend).view_as(q)


def _placed(part: Tensor, tokens: Tensor, rows: slice, columns: slice) -> Tensor:
    whole = torch.zeros_like(tokens)
    whole[:, rows, columns] = part
    return whole


def _padded(x: Tensor, like: Tensor) -> Tensor:
    """`x` with zeros up to the head dimension of `like`."""
    return functional.pad(x, (0, like.shape[-1] - x.shape[-1]))
