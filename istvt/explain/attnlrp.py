"""AttnLRP: relevance from the logit to every pixel, through attention, blocks and the entry flow.

Achtibat et al., "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers", ICML 2024. Relevance R
starts as the explained logit itself. With `g = R / x`, relevance over activation, each rule is the gradient with some
factors held constant, so nothing is divided by a sum that may cancel; at the end `R = x * g`::

    linear, y = W x + b             g_x = W^T g_y                   epsilon rule with epsilon -> 0; b keeps b * g_y
    LayerNorm                       identity: the standard deviation is a constant
    GELU, y = x Phi(x)              g_x = Phi(x) g_y                identity: Phi(x) is a constant
    y = A v                         g_A = g_y v^T / 2, g_v = A^T g_y / 2          uniform rule
    A = softmax(z)                  g_z = A * (g_A - sum(A * g_A))                Taylor expansion at z
    z = q k^T * scale               g_q = g_z k * scale / 2, g_k = g_z^T q * scale / 2       uniform rule
    addition, ReLU, max-pool        the gradient
    convolution, batch norm folded  gamma rule, below

So attention is its ordinary backward pass with half of v's gradient and a quarter of those of q and k, and runs with
every backend and without an attention matrix. The gamma rule favors, at each output `y = sum_j c_j` of contributions
`c_j = w_j x_j` (the bias is one more), those that have the sign of y::

    R_j = R_y (c_j + gamma c_j^s) / (y + gamma sum_i c_i^s),    c^s = the part of c with the sign of y

Biases, class tokens, position embedding and the constant term of the softmax's expansion keep relevance, and it is
added up: `AttnLRPRelevance.kept`.

Memory: one clip at a time, of it the inputs of all blocks, one block in work, and one frame in the entry flow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_input

import kernels
from istvt.explain.lrp import KINDS, attend, in_dtype
from istvt.explain.rollout import Kind
from istvt.model.block import Block
from istvt.model.istvt import ISTVT
from istvt.model.xception import SeparableConv2d, XceptionBlock, XceptionEntryFlow

GAMMA = 0.25


@dataclass
class AttnLRPRelevance:
    """Relevance of a batch of clips, in units of the logit.

    Attributes:
        logits: [B], positive = fake.
        pixels: [B, T, 3, H_i, W_i], of the clips.
        tokens: [B, F, S, C].
        kept: [B], of everything else: biases, class tokens, position embedding, softmax. With the sum of `pixels` it
            is the explained logit.
    """

    logits: Tensor
    pixels: Tensor
    tokens: Tensor
    kept: Tensor


def attnlrp(model: ISTVT, clips: Tensor, sign: Tensor, dtype: torch.dtype) -> AttnLRPRelevance:
    """Compute the relevance of clips, one after the other: a clip's result does not depend on its batch.

    Args:
        model: in evaluation mode.
        clips: [B, T, 3, H_i, W_i].
        sign: [B], +1 explains "fake", -1 "real" (the negated logit).
        dtype: of all arithmetic: float32 or float64.
    """
    config, blocks = model.config, model.blocks
    backbone = _EntryFlow(in_dtype(model.backbone, dtype))
    result = AttnLRPRelevance(
        logits=clips.new_empty(len(clips), dtype=dtype),
        pixels=torch.empty_like(clips, dtype=dtype),
        tokens=clips.new_empty(len(clips), config.frame_rows, config.positions, config.dim, dtype=dtype),
        kept=clips.new_zeros(len(clips), dtype=torch.float64),
    )
    for index, clip in enumerate(clips.to(dtype)):
        features = torch.cat([backbone(frame, Kept()) for frame in clip.split(1)])
        tokens, added = _with_tokens(model, features)
        inputs = []
        for block in blocks:
            inputs.append(tokens)
            tokens = _block(in_dtype(block, dtype), tokens, Kept())
        gradient, result.logits[index] = _classifier(model, tokens, sign[index], dtype, result.kept[index])
        for block in reversed(blocks):
            tokens = inputs.pop()
            with torch.enable_grad():
                kept, x = Kept(), tokens.requires_grad_()
                out = _block(in_dtype(block, dtype), x, kept)
            gradient = kept.gradient(out, x, gradient, result.kept[index])
        result.tokens[index] = (tokens.detach() * gradient).squeeze(0)
        result.kept[index] += (added * gradient).sum(dtype=torch.float64)
        gradient = _cells(model, gradient)
        for t, frame in enumerate(clip.split(1)):
            with torch.enable_grad():
                kept, x = Kept(), frame.clone().requires_grad_()
                out = backbone(x, kept)
            result.pixels[index, t] = (frame * kept.gradient(out, x, gradient[t : t + 1], result.kept[index]))[0]
    return result


@dataclass
class Kept:
    """Terms of a graph that keep relevance: `coefficient * g` of a tensor, summed, is kept there."""

    terms: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add(self, tensor: Tensor, coefficient: Tensor) -> None:
        """Note a term, if there is a graph."""
        if tensor.requires_grad:
            self.terms.append((tensor, coefficient.detach()))

    def gradient(self, out: Tensor, x: Tensor, g: Tensor, total: Tensor) -> Tensor:
        """Return g of x for g of `out`, and add what is kept between the two to `total`, in place."""
        g_x, *rest = torch.autograd.grad(out, [x, *(tensor for tensor, _ in self.terms)], g)
        for (_, coefficient), g_term in zip(self.terms, rest, strict=True):
            total += (coefficient * g_term).sum(dtype=torch.float64)
        return g_x


def _with_tokens(model: ISTVT, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens [1, F, S, C] of features [T, C, H, W], and the part of them that the features have none in."""
    config, dtype = model.config, features.dtype
    added = features.new_zeros(1, config.frame_rows, config.positions, config.dim)
    row, column = int(config.has_temporal_row), int(config.has_spatial_column)
    added[:, config.frame_rows - config.embedded_rows :] += model.position_embedding.to(dtype)
    if column:
        added[:, row:, 0] += model.spatial_class_token.to(dtype)
    if row:
        added[:, 0] += model.temporal_class_token.to(dtype)
    tokens = added.clone()
    tokens[:, row:, column:] += features.flatten(2).transpose(1, 2)
    return tokens, added


def _cells(model: ISTVT, tokens: Tensor) -> Tensor:
    """Return tokens [1, F, S, C] of the cells of frames as features [T, C, H, W]."""
    config = model.config
    cells = tokens[0, int(config.has_temporal_row) :, int(config.has_spatial_column) :]
    return cells.transpose(1, 2).unflatten(2, config.feature_grid)


def _classifier(model: ISTVT, tokens: Tensor, sign: Tensor, dtype: torch.dtype, total: Tensor) -> tuple[Tensor, Tensor]:
    """Return g of the encoded tokens [1, F, S, C] and the logit."""
    config = model.config
    norms = [model.norm, model.head_norm] if config.head_norm else [model.norm]
    read = (
        slice(None),
        slice(0, 1 if config.has_temporal_row else None),
        slice(0, 1 if config.has_spatial_column else None),
    )
    with torch.enable_grad():
        kept, x = Kept(), tokens[read].clone().requires_grad_()
        normalized = x
        for norm in norms:
            normalized = _layer_norm(in_dtype(norm, dtype), normalized, kept)
        logit = _linear(in_dtype(model.head, dtype), normalized.flatten(1, 2).mean(1), kept).squeeze()
    gradient = torch.zeros_like(tokens)
    gradient[read] = kept.gradient(logit, x, sign.to(dtype), total)
    return gradient, logit.detach()


# Blocks


def _block(block: Block, x: Tensor, kept: Kept) -> Tensor:
    """Return the output of a block for x [1, F, S, C], in a graph whose gradients are those of the rules."""
    first, *second = KINDS[block.attention]
    attended = _attention(block, first, x, kept)
    if block.attention == "parallel":
        attended = attended + _attention(block, *second, x, kept)
    elif second:
        attended = _attention(block, *second, attended, kept)
    x = x + attended
    hidden = _linear(block.mlp.fc1, _layer_norm(block.norm_mlp, x, kept), kept)
    hidden = hidden * (0.5 * (1 + torch.erf(hidden.detach() / math.sqrt(2))))
    return x + _linear(block.mlp.fc2, hidden, kept)


def _attention(block: Block, kind: Kind, x: Tensor, kept: Kept) -> Tensor:
    attention = getattr(block, kind)
    normalized = _layer_norm(getattr(block, f"norm_{kind}"), x, kept)
    subtracts = kind != "spatial" and attention.self_subtract and x.shape[1] > 1
    compared = kernels.self_subtract(normalized) if subtracts else normalized
    q, k = attention.project_qkv(compared, slice(0, 2)).unbind(3)
    v = attention.project_qkv(normalized, slice(2, 3)).squeeze(3)
    if kind == "joint":
        q, k, v = (t.flatten(1, 2).unsqueeze(1) for t in (q, k, v))
    out = attend(kind, attention, *(_ScaledGradient.apply(t, s) for t, s in ((q, 0.25), (k, 0.25), (v, 0.5))))
    for tensor, coefficient in ((out, out), (q, -q), (k, -k), (v, -v)):
        kept.add(tensor, coefficient)  # what comes in at the output and goes out at none of the three: the softmax's
    out = attention.project_out(out.reshape(*x.shape[:3], *out.shape[-2:]))
    kept.add(out, attention.proj.bias)
    return out


def _layer_norm(norm: nn.LayerNorm, x: Tensor, kept: Kept) -> Tensor:
    deviation = (x.detach().var(-1, keepdim=True, correction=0) + norm.eps).sqrt()
    out = (x - x.mean(-1, keepdim=True)) / deviation * norm.weight + norm.bias
    kept.add(out, norm.bias)
    return out


def _linear(linear: nn.Linear, x: Tensor, kept: Kept) -> Tensor:
    out = linear(x)
    kept.add(out, linear.bias)
    return out


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


# Entry flow


class _EntryFlow:
    """The entry flow in evaluation mode, batch norm folded, in a graph whose gradients are those of the rules."""

    def __init__(self, backbone: XceptionEntryFlow) -> None:
        self.backbone = backbone

    def __call__(self, x: Tensor, kept: Kept) -> Tensor:
        """[n, 3, h, w] -> [n, C, H, W]."""
        backbone = self.backbone
        x = convolve(x, backbone.conv1, backbone.bn1, kept).relu()
        x = convolve(x, backbone.conv2, backbone.bn2, kept).relu()
        for block in (backbone.block1, backbone.block2, backbone.block3):
            x = self._block(block, x, kept)
        return x

    def _block(self, block: XceptionBlock, x: Tensor, kept: Kept) -> Tensor:
        skip = convolve(x, block.skip, block.skipbn, kept)
        layers = list(block.rep)
        for layer, following in zip(layers, [*layers[1:], None], strict=True):
            if isinstance(layer, SeparableConv2d):
                x = convolve(convolve(x, layer.conv1, None, kept), layer.pointwise, following, kept)
            elif isinstance(layer, nn.ReLU):
                x = x.relu()  # not in place, as the layer: the skip convolution reads the same tensor
            elif isinstance(layer, nn.MaxPool2d):
                x = layer(x)
        return x + skip


def convolve(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, kept: Kept) -> Tensor:
    """Convolve, with the running statistics of the batch norm folded in; the gradient is that of the gamma rule."""
    weight, bias = conv.weight.detach(), conv.weight.new_zeros(conv.out_channels)
    if norm is not None:
        factor = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
        weight = weight * factor[:, None, None, None]
        bias = norm.bias.detach() - norm.running_mean * factor
    bias.requires_grad_(x.requires_grad)
    out = _GammaConvolution.apply(x, weight, bias, (conv.stride, conv.padding, conv.dilation, conv.groups))
    kept.add(bias, bias)
    return out


class _GammaConvolution(torch.autograd.Function):
    """A convolution whose gradient is g of the gamma rule: g of x, and of the bias as one more contribution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, shape: tuple) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.shape = shape
        return functional.conv2d(x, weight, bias, *shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        signs = (
            (x.clamp(min=0), weight.clamp(min=0), bias.clamp(min=0)),
            (
                x.clamp(max=0),
                weight.clamp(max=0),
                bias.clamp(max=0),
            ),
        )
        (x_positive, w_positive, b_positive), (x_negative, w_negative, b_negative) = signs
        positive = functional.conv2d(x_positive, w_positive, b_positive, *ctx.shape)
        negative = functional.conv2d(x_positive, w_negative, b_negative, *ctx.shape)
        has_negative = bool((x < 0).any())  # behind a ReLU there is nothing negative, and half of the work
        if has_negative:
            positive += functional.conv2d(x_negative, w_negative, None, *ctx.shape)
            negative += functional.conv2d(x_negative, w_positive, None, *ctx.shape)
        out = positive + negative
        total = out + GAMMA * torch.where(out > 0, positive, negative)
        g = g * torch.where(total == 0, 1.0, out / total)
        # g of a positive contribution and of a negative one: that with the sign of the output is favored.
        of_positive, of_negative = g * (1 + GAMMA * (out > 0)), g * (1 + GAMMA * (out <= 0))

        def back(w: Tensor, g: Tensor) -> Tensor:
            return conv2d_input(x.shape, w, g, *ctx.shape)

        g_x = back(w_positive, of_positive) + back(w_negative, of_negative)
        if has_negative:
            g_x = torch.where(x < 0, back(w_negative, of_positive) + back(w_positive, of_negative), g_x)
        of_bias = torch.where((bias > 0)[:, None, None], of_positive, of_negative)
        return g_x, None, of_bias.sum((0, 2, 3)), None
