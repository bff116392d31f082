"""The way back from the logit to the tokens: gradient and relevance, block by block, attention by attention.

One forward pass keeps the input of every block and nothing else. Then, from the last block to the first, each part of
a block is computed again for some frames or positions at a time, and gradient and relevance go through it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

import kernels
from istvt.attention import Attention, SpatialAttention, TemporalAttention, attend_positions
from istvt.block import Block
from istvt.model import ISTVT
from kernels.relevance import Stabilizer, ratio

from . import rules
from .recorders import Kind, Recorder, Settings, Slab


@dataclass
class Signal:
    """What arrives at some tokens from the logit: its gradient and its relevance, each [B, F, S, C] or None."""

    gradient: Tensor | None
    relevance: Tensor | None

    def __add__(self, other: Signal) -> Signal:
        """Fan-out: both sum."""
        return Signal(_sum(self.gradient, other.gradient), _sum(self.relevance, other.relevance))

    def __getitem__(self, at: tuple[slice, ...]) -> Signal:
        return Signal(*(None if x is None else x[at] for x in (self.gradient, self.relevance)))


class RelevancePass:
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

    def run(self, tokens: Tensor) -> tuple[Tensor, Signal]:
        """Logits [B] of tokens [B, F, S, C], and the signal at the tokens."""
        inputs = []
        for block in self.model.blocks:
            inputs.append(tokens)
            tokens = in_dtype(block, self.dtype)(tokens)
        logits, signal = self._classifier(tokens)
        del tokens
        for index in reversed(range(len(inputs))):
            signal = self._block(index, inputs.pop(), signal)
        return logits, signal

    def _classifier(self, tokens: Tensor) -> tuple[Tensor, Signal]:
        """Final norm, mean over the class tokens where there are several, head: one linear map of all of them."""
        config = self.model.config
        rows = slice(0, 1) if config.has_temporal_row else slice(None)
        columns = slice(0, 1) if config.has_spatial_column else slice(None)
        norm, head = in_dtype(self.model.norm, self.dtype), in_dtype(self.model.head, self.dtype)
        with torch.enable_grad():
            read = tokens[:, rows, columns].detach().requires_grad_()
            normalised = norm(read)
            logits = head(normalised.flatten(1, 2).mean(1)).squeeze(-1)
            gradient, relevance = None, None
            if self.settings.uses_gradient:
                (gradient,) = torch.autograd.grad(self.sign * logits.sum(), read)
        if self.settings.propagates:
            # The mean of K tokens and the head are one linear layer of K * C inputs; shares do not depend on 1 / K.
            flat = normalised.detach().flatten(1)
            weight = self.sign * head.weight.repeat(1, flat.shape[1] // head.weight.shape[1])
            start = flat.new_ones(len(flat), 1)
            relevance = rules.linear(flat, weight, start, self.settings.stabilizer).view_as(read)
        signal = Signal(gradient, relevance)
        return logits.detach(), Signal(
            *(None if x is None else _placed(x, tokens, rows, columns) for x in (signal.gradient, signal.relevance))
        )

    def _block(self, index: int, x: Tensor, signal: Signal) -> Signal:
        """The signal at the input `x` of block `index` from the one at its output."""
        block = in_dtype(self.model.blocks[index], self.dtype)
        attended, inner = self._attended(block, x)
        middle = x + attended
        signal = self._residual(
            middle,
            lambda part: block.mlp(block.norm_mlp(part)),
            lambda branch: self._mlp(block, middle, branch),
            signal,
        )
        return self._residual(
            x, lambda _: attended, lambda branch: self._attention(index, block, x, inner, branch), signal
        )

    def _attended(self, block: Block, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the block's attentions add to `x`, and the tensor between the two of them (or the first summand)."""
        match block.attention:
            case "temporal_first":
                inner = block.temporal(x, block.norm_temporal)
                return block.spatial(block.norm_spatial(inner)), inner
            case "spatial_first":
                inner = block.spatial(block.norm_spatial(x))
                return block.temporal(inner, block.norm_temporal), inner
            case "parallel":
                inner = block.temporal(x, block.norm_temporal)
                return inner + block.spatial(block.norm_spatial(x)), inner
            case "temporal_only":
                return block.temporal(x, block.norm_temporal), None
            case "spatial_only":
                return block.spatial(block.norm_spatial(x)), None
            case _:
                return block.joint(block.norm_joint(x)), None

    def _residual(
        self,
        x: Tensor,
        branch: Callable[[Tensor], Tensor],
        back: Callable[[Signal], Signal],
        signal: Signal,
    ) -> Signal:
        """Through `x + branch(x)`; `back` takes the branch's signal to `x`."""
        relevance, branch_relevance = None, None
        if signal.relevance is not None:
            relevance, branch_relevance = rules.add(x, branch(x), signal.relevance, self.settings.stabilizer)
        return Signal(signal.gradient, relevance) + back(Signal(signal.gradient, branch_relevance))

    def _attention(self, index: int, block: Block, x: Tensor, inner: Tensor | None, signal: Signal) -> Signal:
        """Through all attentions of a block, from their sum or composition to `x`."""
        match block.attention:
            case "temporal_first":
                return self._temporal(index, block, x, self._spatial(index, block, inner, signal))
            case "spatial_first":
                return self._spatial(index, block, x, self._temporal(index, block, inner, signal))
            case "parallel":
                return self._parallel(index, block, x, inner, signal)
            case "temporal_only":
                return self._temporal(index, block, x, signal)
            case "spatial_only":
                return self._spatial(index, block, x, signal)
            case _:
                return self._joint(index, block, x, signal)

    def _parallel(self, index: int, block: Block, x: Tensor, temporal: Tensor, signal: Signal) -> Signal:
        relevance = (None, None)
        if signal.relevance is not None:
            spatial = block.spatial(block.norm_spatial(x))
            relevance = rules.add(temporal, spatial, signal.relevance, self.settings.stabilizer)
        over_time = self._temporal(index, block, x, Signal(signal.gradient, relevance[0]))
        return over_time + self._spatial(index, block, x, Signal(signal.gradient, relevance[1]))

    def _mlp(self, block: Block, x: Tensor, signal: Signal) -> Signal:
        """Through LayerNorm, Linear, GELU, Linear; GELU and LayerNorm pass relevance on."""
        fc1, fc2 = block.mlp.fc1, block.mlp.fc2

        def part(x: Tensor, signal: Signal) -> Signal:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                normalised = block.norm_mlp(x)
                hidden = functional.gelu(fc1(normalised))
                gradient = _pull_back(fc2(hidden), x, signal.gradient)
            relevance = signal.relevance
            if relevance is not None:
                relevance = rules.linear(hidden.detach(), fc2.weight, relevance, self.settings.stabilizer)
                relevance = rules.linear(normalised.detach(), fc1.weight, relevance, self.settings.stabilizer)
            return Signal(gradient, relevance)

        return self._by_chunks(x, signal, 1, lambda _, x, signal: part(x, signal))

    def _temporal(self, index: int, block: Block, x: Tensor, signal: Signal) -> Signal:
        def part(positions: slice, x: Tensor, signal: Signal) -> Signal:
            return self._through(index, "temporal", positions, block.temporal, block.norm_temporal, x, signal)

        return self._by_chunks(x, signal, 2, part)

    def _spatial(self, index: int, block: Block, x: Tensor, signal: Signal) -> Signal:
        def part(rows: slice, x: Tensor, signal: Signal) -> Signal:
            return self._through(index, "spatial", rows, block.spatial, block.norm_spatial, x, signal)

        return self._by_chunks(x, signal, 1, part)

    def _joint(self, index: int, block: Block, x: Tensor, signal: Signal) -> Signal:
        return self._through(index, "joint", slice(0, 1), block.joint, block.norm_joint, x, signal)

    def _through(
        self, index: int, kind: Kind, groups: slice, attention: Attention, norm: nn.LayerNorm, x: Tensor, signal: Signal
    ) -> Signal:
        """Through LayerNorm, self-subtract, projections, attention and output projection, for some groups."""
        subtracts = not isinstance(attention, SpatialAttention) and attention.self_subtract and x.shape[1] > 1
        weight = attention.proj.weight
        with torch.enable_grad():
            x = x.detach().requires_grad_(signal.gradient is not None)
            normalised = norm(x)
            compared = kernels.self_subtract(normalised) if subtracts else normalised
            q, k = attention.project_qkv(compared, slice(0, 2)).unbind(3)
            v = attention.project_qkv(normalised, slice(2, 3)).squeeze(3)
            out = _attend(attention, q, k, v)
            gradient, out_gradient = None, None
            if signal.gradient is not None:
                out_gradient = _padded((signal.gradient @ weight).unflatten(-1, (attention.heads, -1)), out)
                (gradient,) = torch.autograd.grad(out, x, out_gradient)
        q, k, v, out, normalised, compared = (t.detach() for t in (q, k, v, out, normalised, compared))
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
        slab = Slab(index, kind, groups, q, k, v, scale, u, out_gradient)
        if u is None:
            self.recorder.record(slab)
            return Signal(gradient, None)
        parts = [
            part.reshape(out.shape)[..., : attention.head_dim].flatten(-2) for part in self.recorder.propagate(slab)
        ]
        return Signal(gradient, self._projections(attention, normalised, compared, subtracts, parts))

    def _projections(
        self, attention: Attention, normalised: Tensor, compared: Tensor, subtracts: bool, parts: list[Tensor]
    ) -> Tensor:
        """Relevance of the normalised tokens from that of q, k and v [B, F, S, N*D]: the fan-out sums."""
        stabilizer, inner = self.settings.stabilizer, parts[0].shape[-1]
        weight = attention.qkv.weight
        relevance = rules.linear(compared, weight[: 2 * inner], torch.cat(parts[:2], -1), stabilizer)
        if subtracts:
            relevance = rules.self_subtract(normalised, relevance)
        return relevance + rules.linear(normalised, weight[2 * inner :], parts[2], stabilizer)

    def _by_chunks(
        self, x: Tensor, signal: Signal, dim: int, part: Callable[[slice, Tensor, Signal], Signal]
    ) -> Signal:
        """`part` over slices of dim 1 (frame rows) or 2 (positions); its results side by side."""
        length = x.shape[dim]
        size = max(1, self.chunk_tokens * length // max(1, x.shape[:3].numel()))
        gradient = None if signal.gradient is None else torch.empty_like(x)
        relevance = None if signal.relevance is None else torch.empty_like(x)
        for start in range(0, length, size):
            chunk = slice(start, min(start + size, length))
            at = (slice(None),) * dim + (chunk,)
            result = part(chunk, x[at], signal[at])
            if gradient is not None:
                gradient[at] = result.gradient
            if relevance is not None:
                relevance[at] = result.relevance
        return Signal(gradient, relevance)


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


def _pull_back(output: Tensor, x: Tensor, gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else torch.autograd.grad(output, x, gradient)[0]


def _placed(part: Tensor, tokens: Tensor, rows: slice, columns: slice) -> Tensor:
    whole = torch.zeros_like(tokens)
    whole[:, rows, columns] = part
    return whole


def _padded(x: Tensor, like: Tensor) -> Tensor:
    """`x` with zeros up to the head dimension of `like`."""
    return functional.pad(x, (0, like.shape[-1] - x.shape[-1]))


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


__all__ = ["RelevancePass", "Signal", "Stabilizer", "in_dtype"]
