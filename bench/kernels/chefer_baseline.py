"""Chefer's explanation of one clip with the storage of its published code: a baseline of memory.

Chefer, Gur, Wolf, "Transformer Interpretability Beyond Attention Visualization", CVPR 2021, as their code does it,
written out for this model:

- every layer keeps what it was given and what it gave, as their forward hooks do;
- the autograd graph of the whole forward pass is kept until the end (`retain_graph`);
- every attention A and its gradient are kept for all blocks, and so is its relevance R (and the values and theirs);
- relevance runs a layer again under autograd where its rule asks for it.

Their rules: stabilizer 1e-9, negative relevance cut in each head before the mean over heads. Arithmetic is in the
model's own dtype. Where they compute something and drop it at once (the inhibiting part of the linear rule, whose
factor is 0), this does not: nothing here is larger than it has to be to store what they store. Self-subtract, which
their model does not have, follows this project's rule.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from istvt.explain.lrp import self_subtract_relevance
from istvt.model.block import Block
from istvt.model.istvt import ISTVT
from kernels import self_subtract
from kernels.relevance.reference import safe_divide


class Layer:
    """A layer that keeps its inputs and its output; relevance passes through as it is (LayerNorm, softmax, GELU)."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the output; keep the inputs as leaves of their own, so that the layer can be run again."""
        self.inputs = [x.detach().requires_grad_() for x in inputs]
        self.output = self.function(*inputs)
        return self.output

    def relevance(self, relevance: Tensor) -> Tensor:
        """Return that of the input from that of the output."""
        return relevance

    def _shares(self, relevance: Tensor) -> list[Tensor]:
        """Return the ratio rule for every input: `x * d out / d x * (relevance / out)`."""
        with torch.enable_grad():
            out = self.function(*self.inputs)
        slopes = torch.autograd.grad(out, self.inputs, safe_divide(relevance, out.detach()))
        return [x.detach() * slope for x, slope in zip(self.inputs, slopes, strict=True)]


class Product(Layer):
    """A product of two matrices: the ratio rule, half of the relevance to each."""

    def __init__(self, equation: str) -> None:
        super().__init__(lambda a, b: torch.einsum(equation, a, b))

    def relevance(self, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """Return that of the two operands."""
        a, b = self._shares(relevance)
        return a.div_(2), b.div_(2)


class Sum(Layer):
    """A residual addition: the ratio rule, each summand scaled to its share of the two absolute sums."""

    def __init__(self) -> None:
        super().__init__(torch.add)

    def relevance(self, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """Return that of the two summands. Sums are over everything: one clip at a time."""
        a, b = self._shares(relevance)
        sum_a, sum_b = a.sum(), b.sum()
        factor = safe_divide(relevance.sum(), sum_a.abs() + sum_b.abs())
        return a * (factor * sum_a.sign()), b * (factor * sum_b.sign())


class Linear(Layer):
    """`x W^T + bias`: contributions of positive sign count, the bias does not."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(lambda x: functional.linear(x, weight, bias))
        self.weight = weight

    def relevance(self, relevance: Tensor) -> Tensor:
        """Return that of the input."""
        x, weight = self.inputs[0].detach(), self.weight.detach()
        parts = [(x.clamp(**sign).requires_grad_(), weight.clamp(**sign)) for sign in ({"min": 0}, {"max": 0})]
        with torch.enable_grad():
            out = sum(functional.linear(signed, signed_weight) for signed, signed_weight in parts)
        slopes = torch.autograd.grad(out, [signed for signed, _ in parts], safe_divide(relevance, out.detach()))
        return sum(signed.detach() * slope for (signed, _), slope in zip(parts, slopes, strict=True))


class SelfSubtract(Layer):
    """Differences of neighboring frames, by this project's rule."""

    def __init__(self) -> None:
        super().__init__(self_subtract)

    def relevance(self, relevance: Tensor) -> Tensor:
        """Return that of the frames."""
        return self_subtract_relevance(self.inputs[0].detach(), relevance)


class Attention:
    """One attention, from its normalized tokens to what its output projection gives.

    What the method keeps stays here: `attention` and its `gradient`, `attention_relevance`, and `values`
    and `values_relevance`, all of the whole clip.

    Args:
        attention: of the model.
        subtracts: whether queries and keys come from differences of neighboring frames.
        order: of [B, F, S, N, D], that brings what is attended over to dimension 3.
    """

    def __init__(self, attention: torch.nn.Module, subtracts: bool, order: tuple[int, ...]) -> None:
        heads, head_dim = attention.heads, attention.head_dim
        queries_keys, values = attention.qkv.weight.split([2 * heads * head_dim, heads * head_dim])
        self.heads, self.order = heads, order
        self.subtract = SelfSubtract() if subtracts else Layer(lambda x: x)
        self.queries_keys, self.to_values = Linear(queries_keys), Linear(values)
        self.scores = Product("...id,...jd->...ij")
        self.softmax = Layer(lambda scores: scores.softmax(-1))
        self.attend = Product("...ij,...jd->...id")
        self.project = Linear(attention.proj.weight, attention.proj.bias)
        self.scale = attention.scale

    def __call__(self, x: Tensor) -> Tensor:
        """[B, F, S, C] -> [B, F, S, C]."""
        q, k = self.queries_keys(self.subtract(x)).chunk(2, -1)
        q, k, self.values = (self._by_head(t) for t in (q, k, self.to_values(x)))
        self.attention = self.softmax(self.scores(q, k) * self.scale)
        return self.project(self._by_token(self.attend(self.attention, self.values)))

    def relevance(self, relevance: Tensor) -> Tensor:
        """Return that of the normalized tokens."""
        relevance = self._by_head(self.project.relevance(relevance))
        self.attention_relevance, self.values_relevance = self.attend.relevance(relevance)
        parts = self.scores.relevance(self.softmax.relevance(self.attention_relevance))
        queries_keys = torch.cat([self._by_token(part) for part in parts], -1)
        through_queries_keys = self.subtract.relevance(self.queries_keys.relevance(queries_keys))
        return through_queries_keys + self.to_values.relevance(self._by_token(self.values_relevance))

    def weighted(self) -> Tensor:
        """Return `I + mean over heads of max(R * gradient, 0)`: [B, groups, L, L]."""
        product = (self.gradient * self.attention_relevance).clamp(min=0).mean(2)
        return product + torch.eye(product.shape[-1], dtype=product.dtype, device=product.device)

    def _by_head(self, x: Tensor) -> Tensor:
        """[B, F, S, N * D] -> [B, groups, N, L, D]."""
        return x.unflatten(-1, (self.heads, -1)).permute(self.order)

    def _by_token(self, x: Tensor) -> Tensor:
        """[B, groups, N, L, D] -> [B, F, S, N * D]."""
        inverse = [self.order.index(dimension) for dimension in range(5)]
        return x.permute(inverse).flatten(-2)


class ReferenceBlock:
    """One block of `temporal_first`, layer by layer: two residual branches."""

    def __init__(self, block: Block) -> None:
        temporal, spatial, mlp = block.temporal, block.spatial, block.mlp
        self.temporal = Attention(temporal, temporal.self_subtract, (0, 2, 3, 1, 4))
        self.spatial = Attention(spatial, False, (0, 1, 3, 2, 4))
        fc1, fc2 = (Linear(layer.weight, layer.bias) for layer in (mlp.fc1, mlp.fc2))
        self.branches = (
            ((Layer(block.norm_temporal), self.temporal, Layer(block.norm_spatial), self.spatial), Sum()),
            ((Layer(block.norm_mlp), fc1, Layer(functional.gelu), fc2), Sum()),
        )

    def __call__(self, x: Tensor) -> Tensor:
        """[B, F, S, C] -> [B, F, S, C]."""
        for layers, add in self.branches:
            branch = x
            for layer in layers:
                branch = layer(branch)
            x = add(x, branch)
        return x

    def relevance(self, relevance: Tensor) -> Tensor:
        """Return that of the block's input; where a tensor went two ways the relevance of both sums."""
        for layers, add in reversed(self.branches):
            relevance, branch = add.relevance(relevance)
            for layer in reversed(layers):
                branch = layer.relevance(branch)
            relevance = relevance + branch
        return relevance


class Heatmaps(NamedTuple):
    """Logits [1], and heat [1, T, H, W] in time and in space."""

    logits: Tensor
    temporal: Tensor
    spatial: Tensor


def explain(
    model: ISTVT, clips: Tensor | None = None, *, tokens: Tensor | None = None, parameter_gradients: bool = False
) -> Heatmaps:
    """Return heatmaps of one clip for "fake".

    Args:
        model: of `temporal_first` attention, in evaluation mode.
        clips: [1, T, 3, H_i, W_i]; or
        tokens: [1, F, S, C].
        parameter_gradients: keep the gradient of every parameter until the end too, as their `backward()` fills them
            although nothing reads them.

    Raises:
        ValueError: the model has another kind of attention, or there are several clips.
    """
    if model.config.attention != "temporal_first":
        raise ValueError(f"attention is {model.config.attention!r}; this is written for 'temporal_first' only.")
    grid = model.config.feature_grid
    blocks = [ReferenceBlock(block) for block in model.blocks]
    norm, head = Layer(model.normalize), Linear(model.head.weight, model.head.bias)
    with torch.enable_grad():
        first = x = model.tokenize(clips) if tokens is None else tokens
        if len(first) != 1:
            raise ValueError(f"there are {len(first)} clips; their rules mix those of a batch, so give one at a time.")
        for block in blocks:
            x = block(x)
        logits = head(norm(x)[:, 0, 0])
        attentions = [one for block in blocks for one in (block.temporal, block.spatial)]
        wanted = [one.attention for one in attentions] + list(model.parameters() if parameter_gradients else ())
        gradients = torch.autograd.grad(logits.sum(), wanted, retain_graph=True, allow_unused=True)
    for one, gradient in zip(attentions, gradients, strict=False):
        one.gradient = gradient

    relevance = torch.zeros_like(first)
    relevance[:, 0, 0] = head.relevance(torch.ones_like(logits))
    relevance = norm.relevance(relevance)
    for block in reversed(blocks):
        relevance = block.relevance(relevance)

    temporal, spatial = (
        [getattr(block, kind).weighted() for block in reversed(blocks)] for kind in ("temporal", "spatial")
    )
    temporal = reduce(torch.matmul, temporal)[:, 1:, 0, 1:].transpose(1, 2)
    spatial = reduce(torch.matmul, spatial)[:, 1:, 0, 1:]
    return Heatmaps(logits.detach().squeeze(-1), *(heat.unflatten(2, grid) for heat in (temporal, spatial)))
