"""FTCN: convolutions over time alone, and a transformer over what they leave of time.

    every kernel of a 3-D ResNet-50 is [K_t, 1, 1]; where one had stride 2 in space, a 1x2x2 max-pool follows it
    z = (class token, mean over the cells of moment 1, ..., of moment T/2) + position embedding
    z = z + MSA(LN(z));  z = z + MLP(LN(z));  logit = fc(LN(z_class))

Zheng et al., "Exploring Temporal Coherence for More General Video Face Forgery Detection", ICCV 2021 (FTCN-TT), with
the sizes of the authors' code: the I3D ResNet-50 of SlowFast without its last stage, 32 frames of 224 pixels, one
transformer layer. A pixel's neighbors never meet but in max-pools, so it judges by change over time.
The transformer's attention runs in this project's temporal kernel: T/2 + 1 rows of one position.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from istvt.model.attention import TemporalAttention
from istvt.model.baselines.configs import FTCNConfig
from istvt.model.block import MLP
from istvt.model.detector import Detector, ImageNetNormalization

# By stage: the lengths in time of the first convolution of its blocks, over and over.
_TIME_KERNELS = ((3,), (3, 1), (3, 1), (1, 3))


def temporal(into: int, out: int, length: int = 1, halves: bool = False) -> nn.Sequential:
    """Return a convolution over time, its batch normalization and, where it halves the picture, a max-pool."""
    layers = [nn.Conv3d(into, out, (length, 1, 1), padding=(length // 2, 0, 0), bias=False), nn.BatchNorm3d(out)]
    return nn.Sequential(*layers, *([nn.MaxPool3d((1, 2, 2))] if halves else []))


class TemporalBlock(nn.Module):
    """A bottleneck of convolutions over time."""

    def __init__(self, into: int, width: int, out: int, length: int, halves: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = temporal(into, width, length), temporal(width, width, 1, halves), temporal(width, out)
        self.skip = temporal(into, out, 1, halves) if halves or into != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, into, T, h, w] -> [B, out, T, ...]."""
        return (self.c(self.b(self.a(x).relu_()).relu_()) + self.skip(x)).relu_()


class TransformerLayer(nn.Module):
    """Attention over time and an MLP, each with dropout beside a residual."""

    def __init__(self, config: FTCNConfig, dim: int) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = TemporalAttention(dim, config.heads, config.head_dim, self_subtract=False)
        self.mlp = MLP(dim, config.mlp_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, z: Tensor) -> Tensor:
        """[B, rows, 1, dim] -> the same shape."""
        z = z + self.dropout(self.attention(z, self.norm_attention))
        return z + self.dropout(self.mlp(self.norm_mlp(z)))


class FTCN(Detector):
    """FTCN-TT with one logit."""

    def __init__(self, config: FTCNConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or FTCNConfig()
        self.normalization = ImageNetNormalization()
        self.stem = temporal(3, config.width, 5, halves=True)
        into, stages = config.width, []
        for number, count in enumerate(config.layers):
            width, lengths = config.width * 2**number, _TIME_KERNELS[number]
            blocks = nn.Sequential()
            for index in range(count):
                halves = bool(number) and not index
                blocks.append(TemporalBlock(into, width, 4 * width, lengths[index % len(lengths)], halves))
                into = 4 * width
            stages.append(blocks)
        self.stages = nn.ModuleList(stages)
        self.class_token = nn.Parameter(torch.randn(into) * 0.02)
        self.position_embedding = nn.Parameter(torch.randn(config.rows, into) * 0.02)
        self.dropout = nn.Dropout(config.dropout)
        self.transformer = nn.Sequential(*(TransformerLayer(config, into) for _ in range(config.depth)))
        self.norm, self.head = nn.LayerNorm(into), nn.Linear(into, 1)

    def forward(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H_i, W_i] in [-1, 1] -> [B]."""
        self.check_clips(clips)
        frames = self.normalization(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        x = functional.max_pool3d(self.stem(frames.transpose(1, 2)).relu_(), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number == 0:
                x = functional.max_pool3d(x, (2, 1, 1))
        rows = x.mean((3, 4)).transpose(1, 2)  # [B, T/2, C]
        z = (
            torch.cat([self.class_token.to(rows.dtype).expand(rows.shape[0], 1, -1), rows], dim=1)
            + self.position_embedding
        )
        z = self.transformer(self.dropout(z).unsqueeze(2))
        return self.head(self.norm(z[:, 0, 0])).squeeze(-1)
