"""TimeSformer with divided attention: over time at each patch, then over the patches of each frame.

    z = z + W temporal_attention(LN(z))               patches alone; W is zero at first
    z = z + spatial_attention(LN(class, z_t))         frame by frame; the class token gets the mean over frames
    z = z + MLP(LN(z));  logit = fc(LN(z_class))

Bertasius et al., "Is Space-Time Attention All You Need for Video Understanding?", ICML 2021: ViT-Base over 8 frames of
224 pixels, patches of 16. Each attention has a residual of its own, where ISTVT has one around both. Without the
stochastic depth (0.1) of the paper's training. Attention runs in this project's temporal and spatial kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from istvt.model.attention import SpatialAttention, TemporalAttention
from istvt.model.baselines.configs import TimeSformerConfig
from istvt.model.block import MLP
from istvt.model.detector import Detector, init_vit_weights


class DividedBlock(nn.Module):
    """Temporal attention, spatial attention and MLP, each with its own residual."""

    def __init__(self, config: TimeSformerConfig) -> None:
        super().__init__()
        dim, sizes = config.dim, (config.dim, config.heads, config.dim // config.heads)
        self.norm_temporal, self.norm_spatial, self.norm_mlp = (nn.LayerNorm(dim, eps=1e-6) for _ in range(3))
        self.temporal = TemporalAttention(*sizes, self_subtract=False, qkv_bias=True)
        self.temporal_fc = nn.Linear(dim, dim)
        self.spatial = SpatialAttention(*sizes, qkv_bias=True)
        self.mlp = MLP(dim, config.mlp_dim)

    def forward(self, class_token: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Class token [B, C] and patches [B, T, S, C] -> the same shapes."""
        patches = patches + self.temporal_fc(self.temporal(patches, self.norm_temporal))
        column = class_token[:, None, None].expand(-1, patches.shape[1], -1, -1)
        update = self.spatial(self.norm_spatial(torch.cat([column, patches], dim=2)))
        class_token, patches = class_token + update[:, :, 0].mean(1), patches + update[:, :, 1:]
        return class_token + self.mlp(self.norm_mlp(class_token)), patches + self.mlp(self.norm_mlp(patches))


class TimeSformer(Detector):
    """TimeSformer with divided attention and one logit."""

    def __init__(self, config: TimeSformerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TimeSformerConfig()
        self.patches = nn.Conv2d(3, config.dim, config.patch, config.patch)
        self.class_token = nn.Parameter(torch.zeros(config.dim))
        self.position_embedding = nn.Parameter(torch.zeros(config.positions, config.dim))  # the class token's is first
        self.time_embedding = nn.Parameter(torch.zeros(config.frames, 1, config.dim))
        self.blocks = nn.ModuleList(DividedBlock(config) for _ in range(config.depth))
        self.norm, self.head = nn.LayerNorm(config.dim, eps=1e-6), nn.Linear(config.dim, 1)
        init_vit_weights(self)
        nn.init.zeros_(self.time_embedding)
        for block in list(self.blocks)[1:]:  # the first block's is drawn, as in the authors' code
            nn.init.zeros_(block.temporal_fc.weight)

    def equal_blocks(self) -> nn.ModuleList:
        """Return the transformer's blocks."""
        return self.blocks

    def forward(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H_i, W_i] in [-1, 1] -> [B]."""
        self.check_clips(clips)
        patches = self.patches(clips.flatten(0, 1)).flatten(2).transpose(1, 2).unflatten(0, clips.shape[:2])
        patches = patches + self.position_embedding[1:] + self.time_embedding
        class_token = (self.class_token + self.position_embedding[0]).to(patches.dtype).expand(clips.shape[0], -1)
        for block in self.blocks:
            class_token, patches = block(class_token, patches)
        return self.head(self.norm(class_token)).squeeze(-1)
