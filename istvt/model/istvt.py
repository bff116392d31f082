"""ISTVT: the Interpretable Spatial-Temporal Video Transformer (Zhao et al., IEEE TIFS 18, 2023).

features = entry_flow(frames)                          [B*T, C, H, W]
tokens   = class row and column around the features, plus position embedding   [B, F, S, C]
tokens   = block_M(... block_1(tokens))
logit    = head(LN(tokens[:, 0, 0]))                   positive = fake
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dataloading.errors import InputError
from istvt.config import ISTVTConfig
from istvt.model.attention import Attention, resolve_backend
from istvt.model.block import LAYER_NORM_EPS, Block, BlockCaptures
from istvt.model.xception import XceptionEntryFlow


class ISTVT(nn.Module):
    """The detector: clips of T face frames in, one logit a clip out (positive = fake).

    Args:
        config: sizes and variant; `istvt.preset("seed")` and `("published")` are the paper's.
        backend: who computes attention: "auto" (triton on CUDA, sdpa elsewhere), "triton", "sdpa", "xformers",
            "reference".
    """

    def __init__(self, config: ISTVTConfig | None = None, backend: str = "auto") -> None:
        super().__init__()
        self.config = config = config or ISTVTConfig()
        self.backbone = XceptionEntryFlow(config.backbone_dims, config.dim)
        if config.has_spatial_column:
            self.spatial_class_token = nn.Parameter(torch.zeros(config.dim))
        if config.has_temporal_row:
            self.temporal_class_token = nn.Parameter(torch.zeros(config.dim))
        self.position_embedding = nn.Parameter(torch.zeros(config.frame_rows, config.positions, config.dim))
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(config.dim, 1)
        self._initialise()
        self.set_backend(backend)

    def _initialise(self) -> None:
        """Linear layers Xavier-uniform, tokens and positions normal of deviation 0.02; convolutions as PyTorch does."""
        for name, parameter in self.named_parameters():
            if name.endswith(("class_token", "position_embedding")):
                nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def set_backend(self, backend: str) -> ISTVT:
        """Choose who computes attention; an impossible choice says why at once."""
        resolve_backend(backend, self.head.weight.device)
        for module in self.modules():
            if isinstance(module, Attention):
                module.backend = backend
        return self

    def forward(self, clips: Tensor) -> Tensor:
        """Logits of clips.

        Args:
            clips: [B, T, 3, H_i, W_i] in [-1, 1].

        Returns:
            [B], positive = fake.
        """
        tokens = self.tokenize(clips)
        if self.config.attention == "temporal_first":
            for block in self.blocks[:-1]:
                tokens = block(tokens)
            return self.classify(self.blocks[-1].class_token(tokens))
        return self.classify(self.encode(tokens))

    def tokenize(self, clips: Tensor, frames_at_once: int | None = None) -> Tensor:
        """[B, T, 3, H_i, W_i] in [-1, 1] -> tokens [B, F, S, C] with class row, class column and positions.

        `frames_at_once` of all B*T frames go through the backbone together (all, if None): in evaluation mode they do
        not depend on each other, and the backbone's first layers are where a clip is largest.
        """
        config = self.config
        if clips.dim() != 5 or clips.shape[1] != config.frames or clips.shape[2] != 3:
            raise InputError(
                f"clips have shape {tuple(clips.shape)}; expected [clips, {config.frames} frames, 3, height, width]"
            )
        frames = clips.flatten(0, 1)
        if frames_at_once is None:
            features = self.backbone(frames)
        else:
            features = torch.cat([self.backbone(part) for part in frames.split(frames_at_once)])
        if tuple(features.shape[-2:]) != config.feature_grid:
            raise InputError(
                f"clips of {clips.shape[-2]}x{clips.shape[-1]} pixels give a {features.shape[-2]}x{features.shape[-1]} "
                f"feature grid; this model takes {config.feature_grid[0]}x{config.feature_grid[1]} "
                f"(image_size {config.image_size})"
            )
        tokens = features.flatten(2).transpose(1, 2).unflatten(0, clips.shape[:2])  # [B, T, H*W, C]
        batch = len(clips)
        if config.has_spatial_column:
            column = self.spatial_class_token.to(tokens.dtype).expand(batch, config.frames, 1, -1)
            tokens = torch.cat([column, tokens], dim=2)
        if config.has_temporal_row:
            row = self.temporal_class_token.to(tokens.dtype).expand(batch, 1, config.positions, -1)
            tokens = torch.cat([row, tokens], dim=1)
        return tokens + self.position_embedding

    def encode(self, tokens: Tensor, captures: list[BlockCaptures] | None = None) -> Tensor:
        """All blocks over the whole grid, before the final LayerNorm: [B, F, S, C] -> [B, F, S, C]."""
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, captures[index] if captures else None)
        return tokens

    def classify(self, tokens: Tensor) -> Tensor:
        """[B, F, S, C] -> logits [B], from token (0, 0).

        Without the temporal row or the spatial column there is no such token: the head reads the mean of the
        remaining class tokens, each normalized by itself, so that `spatial_only` judges every frame alone.
        """
        if not self.config.has_temporal_row:
            tokens = self.norm(tokens[:, :, 0]).mean(1)
        elif not self.config.has_spatial_column:
            tokens = self.norm(tokens[:, 0]).mean(1)
        else:
            tokens = self.norm(tokens[:, 0, 0])
        return self.head(tokens).squeeze(-1)
