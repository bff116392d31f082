"""One transformer block, for each of the paper's attention variants (Table III)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

import kernels
from istvt.config import ISTVTConfig
from istvt.model.attention import JointAttention, SpatialAttention, TemporalAttention


@dataclass
class BlockCaptures:
    """Captures of one block's attentions and of their gradients; None where it has no such attention."""

    temporal: kernels.AttentionCapture | None = None
    spatial: kernels.AttentionCapture | None = None
    joint: kernels.AttentionCapture | None = None


class MLP(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """x = x + attention(x); x = x + MLP(LN(x)), pre-norm, one residual around all of the block's attention.

    Args:
        config: the model's configuration.
        index: of the block; `decomposed_blocks` are temporal first and spatial later.
    """

    def __init__(self, config: ISTVTConfig, index: int) -> None:
        super().__init__()
        self.attention = config.block_attention(index)
        sizes = (config.dim, config.heads, config.resolved_head_dim)
        eps = config.layer_norm_eps
        if self.attention == "joint":
            self.norm_joint = nn.LayerNorm(config.dim, eps=eps)
            self.joint = JointAttention(*sizes, config.self_subtract)
        if self.attention not in ("joint", "spatial_only"):
            self.norm_temporal = nn.LayerNorm(config.dim, eps=eps)
            self.temporal = TemporalAttention(*sizes, config.self_subtract)
        if self.attention not in ("joint", "temporal_only"):
            self.norm_spatial = nn.LayerNorm(config.dim, eps=eps)
            self.spatial = SpatialAttention(*sizes)
        self.norm_mlp = nn.LayerNorm(config.dim, eps=eps)
        self.mlp = MLP(config.dim, config.mlp_dim)

    def forward(self, x: Tensor, captures: BlockCaptures | None = None) -> Tensor:
        """[B, F, S, C] -> [B, F, S, C]."""
        x = x + self.attend(x, captures or BlockCaptures())
        return x + self.mlp(self.norm_mlp(x))

    def attend(self, x: Tensor, captures: BlockCaptures) -> Tensor:
        """Return the residual of all attention of the block: [B, F, S, C] -> [B, F, S, C]."""
        match self.attention:
            case "temporal_first":
                t = self.temporal(x, self.norm_temporal, capture=captures.temporal)
                return self.spatial(self.norm_spatial(t), capture=captures.spatial)
            case "spatial_first":
                s = self.spatial(self.norm_spatial(x), capture=captures.spatial)
                return self.temporal(s, self.norm_temporal, capture=captures.temporal)
            case "parallel":
                t = self.temporal(x, self.norm_temporal, capture=captures.temporal)
                return t + self.spatial(self.norm_spatial(x), capture=captures.spatial)
            case "temporal_only":
                return self.temporal(x, self.norm_temporal, capture=captures.temporal)
            case "spatial_only":
                return self.spatial(self.norm_spatial(x), capture=captures.spatial)
            case _:
                return self.joint(self.norm_joint(x), capture=captures.joint)

    def class_token(self, x: Tensor) -> Tensor:
        """Return `forward` at token (0, 0), computed for that token alone: [B, F, S, C] -> [B, 1, 1, C].

        Only for `temporal_first`: temporal query row 0 against all frames, spatial attention inside row 0 with one
        query, one MLP token. The classifier reads nothing else of the last block.
        """
        t = self.temporal(x, self.norm_temporal, query_rows=1)
        x = x[:, :1, :1] + self.spatial(self.norm_spatial(t), queries=1)
        return x + self.mlp(self.norm_mlp(x))
