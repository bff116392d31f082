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

from collections.abc import Callable, Sequence
from functools import partial, reduce

import torch
from torch import Tensor
from torch.nn import functional

from istvt.explain.lrp import self_subtract_relevance
from istvt.model.attention import Attention
from istvt.model.block import Block
from istvt.model.istvt import ISTVT
from kernels import self_subtract
from kernels.relevance.reference import safe_divide

Function = Callable[..., Tensor]
# From a layer, its inputs and the relevance of its output to the relevance of its inputs.
Rule = Callable[[Function, Sequence[Tensor], Tensor], Sequence[Tensor]]


def _vjp(function: Function, inputs: Sequence[Tensor], cotangent: Callable[[Tensor], Tensor]) -> Sequence[Tensor]:
    """Run a layer again on leaves of its own; return `cotangent(out) * d out / d x` of every input."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        out = function(*leaves)
    return torch.autograd.grad(out, leaves, cotangent(out.detach()))


def identity(function: Function, inputs: Sequence[Tensor], relevance: Tensor) -> Sequence[Tensor]:
    """Pass relevance on as it is: LayerNorm, softmax, GELU, scaling."""
    return [relevance]


def rearranged(function: Function, inputs: Sequence[Tensor], relevance: Tensor) -> Sequence[Tensor]:
    """Bring relevance back to where a view or permutation took its elements from."""
    return _vjp(function, inputs, lambda _: relevance)


def shares(function: Function, inputs: Sequence[Tensor], relevance: Tensor) -> list[Tensor]:
    """Return the ratio rule for every input: `x * d out / d x * (relevance / out)`."""
    slopes = _vjp(function, inputs, partial(safe_divide, relevance))
    return [x.detach() * slope for x, slope in zip(inputs, slopes, strict=True)]


def product(function: Function, inputs: Sequence[Tensor], relevance: Tensor) -> Sequence[Tensor]:
    """Give half of the relevance to each operand of a product, by the ratio rule."""
    return [share.div_(2) for share in shares(function, inputs, relevance)]


def addition(function: Function, inputs: Sequence[Tensor], relevance: Tensor) -> Sequence[Tensor]:
    """Scale the ratio rule to each summand's share of the two absolute sums, over everything: one clip at a time."""
    parts = shares(function, inputs, relevance)
    sums = [part.sum() for part in parts]
    factor = safe_divide(relevance.sum(), sum(total.abs() for total in sums))
    return [part * (factor * total.sign()) for part, total in zip(parts, sums, strict=True)]


def linear(function: Function, inputs: Sequence[Tensor], relevance: Tensor) -> Sequence[Tensor]:
    """Count the contributions of positive sign to `x W^T + bias`, and not the bias; for x alone."""
    x, weight, *_ = (given.detach() for given in inputs)
    weights = weight.clamp(min=0), weight.clamp(max=0)
    parts = shares(
        lambda *signed: sum(map(functional.linear, signed, weights)), (x.clamp(min=0), x.clamp(max=0)), relevance
    )
    return [sum(parts)]


def difference(function: Function, inputs: Sequence[Tensor], relevance: Tensor) -> Sequence[Tensor]:
    """Give the differences of neighboring frames to the frames, by this project's rule."""
    return [self_subtract_relevance(inputs[0].detach(), relevance)]


class Layers:
    """Layers in the order in which they ran, each with its rule, its inputs and its output."""

    def __init__(self) -> None:
        self.ran: list[tuple[Rule, Function, tuple[Tensor, ...], Tensor]] = []

    def __call__(self, rule: Rule, function: Function, *inputs: Tensor) -> Tensor:
        """Run a layer and keep it; return its output."""
        output = function(*inputs)
        self.ran.append((rule, function, inputs, output))
        return output

    def relevance(self, output: Tensor, relevance: Tensor, kept: Sequence[Tensor]) -> list[Tensor]:
        """Return the relevance of the tensors `kept` from that of the last output; it adds up where one went two ways.

        That of every other tensor is released once its layer has passed it on.
        """
        found, keys = {id(output): relevance}, {id(x) for x in kept}
        for rule, function, inputs, output in reversed(self.ran):
            given = found[id(output)] if id(output) in keys else found.pop(id(output))
            for x, part in zip(inputs, rule(function, inputs, given), strict=False):
                found[id(x)] = found[id(x)] + part if id(x) in found else part
        return [found[id(x)] for x in kept]


def _attend(layers: Layers, attention: Attention, x: Tensor, subtracts: bool, order: Sequence[int]) -> list[Tensor]:
    """Run one attention on normalized tokens `[B, F, S, C]`; return its output, A and the values by head.

    `order` of `[B, F, S, N, D]` brings what is attended over to dimension 3: `[B, groups, N, L, D]`.
    """
    inner = attention.heads * attention.head_dim
    of_queries_keys, of_values = attention.qkv.weight.split([2 * inner, inner])

    def by_head(x: Tensor, part: int = 0) -> Tensor:
        return x.unflatten(-1, (-1, attention.heads, attention.head_dim)).select(3, part).permute(order)

    def by_token(x: Tensor) -> Tensor:
        return x.permute([order.index(dimension) for dimension in range(5)]).flatten(-2)

    compared = layers(difference, self_subtract, x) if subtracts else x
    queries_keys = layers(linear, functional.linear, compared, of_queries_keys)
    q, k = (layers(rearranged, partial(by_head, part=part), queries_keys) for part in range(2))
    v = layers(rearranged, by_head, layers(linear, functional.linear, x, of_values))
    scores = layers(product, partial(torch.einsum, "...id,...jd->...ij"), q, k)
    scaled = layers(identity, partial(torch.mul, attention.scale), scores)
    matrix = layers(identity, partial(torch.softmax, dim=-1), scaled)
    out = layers(product, partial(torch.einsum, "...ij,...jd->...id"), matrix, v)
    tokens = layers(rearranged, by_token, out)
    return [layers(linear, functional.linear, tokens, attention.proj.weight, attention.proj.bias), matrix, v]


def _run_block(layers: Layers, block: Block, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Run a block of `temporal_first`; return its output, and A and the values in time and in space."""
    temporal, spatial, mlp = block.temporal, block.spatial, block.mlp
    branch = layers(identity, block.norm_temporal, x)
    branch, *of_time = _attend(layers, temporal, branch, temporal.self_subtract, (0, 2, 3, 1, 4))
    branch = layers(identity, block.norm_spatial, branch)
    branch, *of_space = _attend(layers, spatial, branch, False, (0, 1, 3, 2, 4))
    x = layers(addition, torch.add, x, branch)
    branch = layers(identity, block.norm_mlp, x)
    branch = layers(linear, functional.linear, branch, mlp.fc1.weight, mlp.fc1.bias)
    branch = layers(identity, functional.gelu, branch)
    branch = layers(linear, functional.linear, branch, mlp.fc2.weight, mlp.fc2.bias)
    return layers(addition, torch.add, x, branch), of_time + of_space


def explain(
    model: ISTVT, clips: Tensor | None = None, *, tokens: Tensor | None = None, parameter_gradients: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logit [1] of one clip, and heat for "fake" [1, T, H, W] in time and in space.

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
    layers, kept = Layers(), []
    with torch.enable_grad():
        x = model.tokenize(clips) if tokens is None else tokens
        if len(x) != 1:
            raise ValueError(f"there are {len(x)} clips; their rules mix those of a batch, so give one at a time.")
        for block in model.blocks:
            x, found = _run_block(layers, block, x)
            kept += found
        read = layers(rearranged, lambda x: x[:, 0, 0], layers(identity, model.normalize, x))
        logits = layers(linear, functional.linear, read, model.head.weight, model.head.bias)
        wanted = kept[::2] + list(model.parameters() if parameter_gradients else ())
        gradients = torch.autograd.grad(logits.sum(), wanted, retain_graph=True, allow_unused=True)
    relevances = layers.relevance(logits, torch.ones_like(logits), kept)[::2]
    products = [(g * r).clamp(min=0).mean(2) for g, r in zip(gradients, relevances, strict=False)]
    weighted = [p + torch.eye(p.shape[-1], dtype=p.dtype, device=p.device) for p in products]
    temporal, spatial = (reduce(torch.matmul, reversed(weighted[kind::2])) for kind in range(2))
    temporal, spatial = temporal[:, 1:, 0, 1:].transpose(1, 2), spatial[:, 1:, 0, 1:]
    grid = model.config.feature_grid
    return logits.detach().squeeze(-1), temporal.unflatten(2, grid), spatial.unflatten(2, grid)
