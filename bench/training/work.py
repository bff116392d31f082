"""Floating-point operations of a clip's training step: all that the published tables count, and what a logit needs."""

from __future__ import annotations

from istvt.config import ISTVTConfig
from istvt.model.flops import total_cost


def useful_flops(config: ISTVTConfig) -> int:
    """Of one clip's forward and backward pass, by istvt/model/flops.py: twice the multiply-accumulates, three times."""
    cost = total_cost(config)
    return 3 * 2 * (cost.layer_macs + cost.attention_macs)


def needed_flops(config: ISTVTConfig) -> int:
    """The same without what the last block of `temporal_first` computes for tokens that nobody reads."""
    if config.attention != "temporal_first":
        return useful_flops(config)
    rows, positions = config.frame_rows, config.positions
    inner, tokens = config.heads * config.resolved_head_dim, config.frame_rows * config.positions
    projection = config.dim * inner
    whole = tokens * (8 * projection + 2 * config.dim * config.mlp_dim)
    whole += 2 * inner * (positions * rows**2 + rows * positions**2)
    # Time: keys and values of all tokens, queries and output of row 0. Space: inside row 0, one query. One MLP token.
    needed = 2 * tokens * projection + 2 * positions * projection + 2 * inner * positions * rows
    needed += 2 * positions * projection + 2 * projection + 2 * inner * positions
    needed += 2 * config.dim * config.mlp_dim
    return useful_flops(config) - 3 * 2 * (whole - needed)
