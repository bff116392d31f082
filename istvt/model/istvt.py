"""ISTVT: the Interpretable Spatial-Temporal Video Transformer (Zhao et al., IEEE TIFS 18, 2023).

features = entry_flow(frames)                          [B*T, C, H, W]
tokens   = class row and column around the features, plus position embedding   [B, F, S, C]
tokens   = block_M(... block_1(tokens))
logit    = head(LN(tokens[:, 0, 0]))                   positive = fake (`published`: head(LN(LN(...))))
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from istvt.config import ISTVTConfig
from istvt.model.block import Block, BlockCaptures
from istvt.model.detector import Detector
from istvt.model.xception import XceptionEntryFlow


class ISTVT(Detector):
    """The detector: clips of T face frames in, one logit a clip out (positive = fake).

    Args:
        config: sizes and variant; `istvt.preset("seed")` and `("published")` have the paper's cost.
        backend: the implementation of attention: "auto" (triton on CUDA, sdpa elsewhere), "triton", "sdpa", "xformers",
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
        self.position_embedding = nn.Parameter(torch.zeros(config.embedded_rows, config.positions, config.dim))
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        if config.head_norm:
            self.head_norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.head = nn.Linear(config.dim, 1)
        self.init_weights()
        self.set_backend(backend)

    def init_weights(self) -> None:
        """Initialize linear layers Xavier-uniform, tokens and position embedding normal with deviation 0.02."""
        for name, parameter in self.named_parameters():
            if name.endswith(("class_token", "position_embedding")):
                nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def equal_blocks(self) -> nn.ModuleList:
        """Return the transformer's blocks."""
        return self.blocks

    def compiled_parts(self) -> list[nn.Module]:
        """Return the backbone and the blocks."""
        return [self.backbone, *self.blocks]

    def forward(self, clips: Tensor) -> Tensor:
        """Return the logits of clips.

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
        """Return the tokens [B, F, S, C] of clips, with class row, class column and position embedding.

        Args:
            clips: [B, T, 3, H_i, W_i] in [-1, 1].
            frames_at_once: how many of the B*T frames go through the backbone together; None is all. In evaluation
                mode they do not depend on each other, and the backbone's first layers are where a clip is largest.

        Raises:
            ValueError: the clips have another number of frames, or give another feature grid than the model's.
        """
        config = self.config
        if clips.dim() != 5 or clips.shape[1] != config.frames or clips.shape[2] != 3:
            raise ValueError(
                f"clips have shape {tuple(clips.shape)}; expected [clips, {config.frames} frames, 3, height, width]"
            )
        frames = clips.flatten(0, 1)
        if frames_at_once is None:
            features = self.backbone(frames)
        else:
            features = torch.cat([self.backbone(part) for part in frames.split(frames_at_once)])
        if tuple(features.shape[-2:]) != config.feature_grid:
            raise ValueError(
                f"clips of {clips.shape[-2]}x{clips.shape[-1]} pixels give a {features.shape[-2]}x{features.shape[-1]} "
                f"feature grid; this model takes {config.feature_grid[0]}x{config.feature_grid[1]} "
                f"(image_size {config.image_size})"
            )
        tokens = features.flatten(2).transpose(1, 2).unflatten(0, clips.shape[:2])  # [B, T, H*W, C]
        batch = clips.shape[0]  # len() would fix it in an exported program
        if config.has_spatial_column:
            column = self.spatial_class_token.to(tokens.dtype).expand(batch, config.frames, 1, -1)
            tokens = torch.cat([column, tokens], dim=2)
        if config.position_embedding == "frames":
            tokens = tokens + self.position_embedding
        if config.has_temporal_row:
            row = self.temporal_class_token.to(tokens.dtype).expand(batch, 1, config.positions, -1)
            tokens = torch.cat([row, tokens], dim=1)
        return tokens if config.position_embedding == "frames" else tokens + self.position_embedding

    def encode(self, tokens: Tensor, captures: list[BlockCaptures] | None = None) -> Tensor:
        """Run all blocks over the whole grid, before the final LayerNorm: [B, F, S, C] -> [B, F, S, C]."""
        for index, block in enumerate(self.blocks):
            tokens = block(tokens, captures[index] if captures else None)
        return tokens

    def classify(self, tokens: Tensor) -> Tensor:
        """Return the logits [B] of encoded tokens [B, F, S, C]: the final LayerNorm and the head of token (0, 0).

        Without the temporal row or the spatial column there is no such token: the head reads the mean of the
        remaining class tokens, each normalized by itself, so that `spatial_only` scores every frame alone.
        """
        if not self.config.has_temporal_row:
            return self.head(self.normalize(tokens[:, :, 0]).mean(1)).squeeze(-1)
        if not self.config.has_spatial_column:
            return self.head(self.normalize(tokens[:, 0]).mean(1)).squeeze(-1)
        return self.head(self.normalize(tokens[:, 0, 0])).squeeze(-1)

    def normalize(self, tokens: Tensor) -> Tensor:
        """Apply the final LayerNorm, and `head_norm` if the model has it, to class tokens [..., C]."""
        tokens = self.norm(tokens)
        return self.head_norm(tokens) if self.config.head_norm else tokens
