"""Parameters and multiply-accumulates of a model, by part: of ISTVT by formula, of other detectors as PyTorch counts.

The published tables count linear and convolution layers only; attention products (QK^T and AV) stand on their own.
Every layer is counted over the whole token grid, as the tables do; `ISTVT.forward` computes less in the last block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from istvt.config import DetectorConfig, ISTVTConfig, entry_flow_sizes
from istvt.model.architectures import build


@dataclass(frozen=True)
class PartCost:
    """One part of the model: its parameters, and the multiply-accumulates it spends on one clip.

    Attributes:
        part: its name.
        parameters: trainable parameters.
        layer_macs: multiply-accumulates of its linear and convolution layers.
        attention_macs: multiply-accumulates of QK^T and AV.
    """

    part: str
    parameters: int
    layer_macs: int
    attention_macs: int = 0


def model_cost(config: DetectorConfig) -> list[PartCost]:
    """Return the cost of one clip through the model of `config`, part by part, in the order of the data."""
    if not isinstance(config, ISTVTConfig):
        return list(_counted_cost(config))
    tokens = config.frame_rows * config.positions
    inner = config.heads * config.resolved_head_dim
    blocks = config.depth
    temporal, spatial, joint = attention_counts(config)
    projections = 4 * config.dim * inner
    projection_parameters = projections + config.dim + 2 * config.dim  # output bias, and the LayerNorm before it
    mlp = 2 * config.dim * config.mlp_dim

    def attention(part: str, count: int, pairs: int) -> PartCost:
        return PartCost(part, count * projection_parameters, count * tokens * projections, count * 2 * inner * pairs)

    parts = [_backbone_cost(config), PartCost("class tokens and positions", _embedding_parameters(config), 0)]
    if temporal:
        parts.append(attention("temporal attention", temporal, config.positions * config.frame_rows**2))
    if spatial:
        parts.append(attention("spatial attention", spatial, config.frame_rows * config.positions**2))
    if joint:
        parts.append(attention("joint attention", joint, tokens**2))
    parts.append(PartCost("MLP", blocks * (mlp + config.mlp_dim + config.dim + 2 * config.dim), blocks * tokens * mlp))
    norms = 2 if config.head_norm else 1
    parts.append(PartCost("norm and head", norms * 2 * config.dim + config.dim + 1, config.dim))
    if config.makes_masks:  # its own multiply-accumulates, which a verdict without a mask does not spend
        each = config.mask_head**2
        cells = config.frames * config.feature_grid[0] * config.feature_grid[1]
        parts.append(PartCost("mask head", 2 * config.dim + (config.dim + 1) * each, cells * config.dim * each))
    return parts


def total_cost(config: DetectorConfig) -> PartCost:
    """Return the sum of `model_cost`."""
    parts = model_cost(config)
    return PartCost(
        "total",
        sum(p.parameters for p in parts),
        sum(p.layer_macs for p in parts),
        sum(p.attention_macs for p in parts),
    )


@cache
def _counted_cost(config: DetectorConfig) -> list[PartCost]:
    """Return the cost of each of the network's own modules, in a forward pass that computes and stores nothing."""
    import torch
    from torch import nn
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    with FakeTensorMode(), FlopCounterMode(display=False) as counter, torch.no_grad():
        model = build(config, backend="reference").eval()
        model(torch.empty(1, config.frames, 3, config.image_size, config.image_size))
    counts, parts = counter.get_flop_counts(), []
    own = sum(parameter.numel() for parameter in model.parameters(recurse=False))
    if own:
        parts.append(PartCost("class tokens and positions", own, 0))
    for name, module in model.named_children():
        called = [module] if not isinstance(module, nn.ModuleList) else module  # a list itself is never called
        paths = [f"{type(model).__name__}.{path}" for path, part in model.named_modules() if part in set(called)]
        flops = [item for path in paths for item in counts.get(path, {}).items()]
        # The products of attentions are batched; layers are matrix products of one matrix, and convolutions.
        attention = sum(count for operator, count in flops if operator is torch.ops.aten.bmm)
        parameters = sum(parameter.numel() for parameter in module.parameters())
        if parameters:
            layers = sum(count for _, count in flops) - attention
            parts.append(PartCost(name, parameters, layers // 2, attention // 2))
    return parts


def attention_counts(config: ISTVTConfig) -> tuple[int, int, int]:
    """Return how many temporal, spatial and joint attentions the model holds."""
    blocks = [config.block_attention(index) for index in range(config.depth)]
    joint, temporal_only, spatial_only = (blocks.count(name) for name in ("joint", "temporal_only", "spatial_only"))
    both = config.depth - joint - temporal_only - spatial_only
    return both + temporal_only, both + spatial_only, joint


def _embedding_parameters(config: ISTVTConfig) -> int:
    grid = config.embedded_rows * config.positions
    return config.dim * (grid + config.has_temporal_row + config.has_spatial_column)


def _backbone_cost(config: ISTVTConfig) -> PartCost:
    """Return the cost of the entry flow over T frames of image_size pixels, whatever `grid` is."""
    first, second, third, fourth = config.backbone_dims
    conv1, conv2, *pooled = entry_flow_sizes(config.image_size)
    parameters = 3 * first * 9 + 2 * first + first * second * 9 + 2 * second
    macs = conv1**2 * 3 * first * 9 + conv2**2 * first * second * 9
    channels = (second, third, fourth, config.dim)
    for (into, out), (side, halved) in zip(pairwise(channels), pairwise((conv2, *pooled)), strict=True):
        separable = 9 * into + into * out + 9 * out + out * out
        parameters += separable + into * out + 6 * out
        macs += side**2 * separable + halved**2 * into * out
    return PartCost("Xception entry flow", parameters, config.frames * macs)
