"""ViViT, factorised encoder: a transformer over the tubes of each moment, then one over the moments' class tokens.

    tubes of 2 frames x 16 x 16 pixels are projected to tokens
    h_t = class token of ViT(tokens of moment t)              spatial encoder, the same for every moment
    logit = fc(class token of ViT(h_1, ..., h_{T/2}))         temporal encoder

Arnab et al., "ViViT: A Video Vision Transformer", ICCV 2021, model 2: ViT-Base/16x2 over 32 frames of 224 pixels, and 4
temporal layers. Tubes start as they are drawn, not from a central frame, which is for ImageNet weights. The spatial
encoder runs in this project's spatial kernel, the temporal one in its temporal kernel: rows of one position.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from istvt.model.attention import SpatialAttention, TemporalAttention
from istvt.model.baselines.configs import ViViTConfig
from istvt.model.block import MLP
from istvt.model.detector import Detector, init_vit_weights


class EncoderBlock(nn.Module):
    """Pre-norm attention over positions, or over frame rows if `over_time`, and an MLP."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, over_time: bool) -> None:
        super().__init__()
        sizes = (dim, heads, dim // heads)
        self.over_time = over_time
        self.norm_attention, self.norm_mlp = (nn.LayerNorm(dim, eps=1e-6) for _ in range(2))
        if over_time:
            self.attention = TemporalAttention(*sizes, self_subtract=False, qkv_bias=True)
        else:
            self.attention = SpatialAttention(*sizes, qkv_bias=True)
        self.mlp = MLP(dim, mlp_dim)

    def forward(self, z: Tensor) -> Tensor:
        """[B, F, S, C] -> the same shape."""
        norm = self.norm_attention
        z = z + (self.attention(z, norm) if self.over_time else self.attention(norm(z)))
        return z + self.mlp(self.norm_mlp(z))


class ViViT(Detector):
    """ViViT's factorised encoder with one logit."""

    def __init__(self, config: ViViTConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ViViTConfig()
        tube, dim = (config.tube_frames, config.patch, config.patch), config.dim
        self.tubes = nn.Conv3d(3, dim, tube, tube)
        self.spatial_class_token = nn.Parameter(torch.zeros(dim))
        self.spatial_position_embedding = nn.Parameter(torch.zeros(config.positions, dim))
        sizes = (dim, config.heads, config.mlp_dim)
        self.spatial = nn.ModuleList(EncoderBlock(*sizes, over_time=False) for _ in range(config.depth))
        self.temporal_class_token = nn.Parameter(torch.zeros(dim))
        self.temporal_position_embedding = nn.Parameter(torch.zeros(config.moments + 1, dim))
        self.temporal = nn.ModuleList(EncoderBlock(*sizes, over_time=True) for _ in range(config.temporal_depth))
        self.spatial_norm, self.temporal_norm = (nn.LayerNorm(dim, eps=1e-6) for _ in range(2))
        self.head = nn.Linear(dim, 1)
        init_vit_weights(self)

    def equal_blocks(self) -> list[nn.Module]:
        """Return the blocks of both encoders."""
        return [*self.spatial, *self.temporal]

    def forward(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H_i, W_i] in [-1, 1] -> [B]."""
        self.check_clips(clips)
        tokens = self.tubes(clips.transpose(1, 2)).flatten(3).permute(0, 2, 3, 1)  # [B, moments, S - 1, C]
        token = self.spatial_class_token.to(tokens.dtype).expand(*tokens.shape[:2], 1, -1)
        z = torch.cat([token, tokens], dim=2) + self.spatial_position_embedding
        for block in self.spatial:
            z = block(z)
        moments = self.spatial_norm(z[:, :, :1])
        token = self.temporal_class_token.to(moments.dtype).expand(moments.shape[0], 1, 1, -1)
        z = torch.cat([token, moments], dim=1) + self.temporal_position_embedding.unsqueeze(1)
        for block in self.temporal:
            z = block(z)
        return self.head(self.temporal_norm(z[:, 0, 0])).squeeze(-1)
