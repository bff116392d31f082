"""ISTVT: the Interpretable Spatial-Temporal Video Transformer (Zhao et al., IEEE TIFS 18, 2023).

features = entry_flow(frames)                          [B*T, C, H, W]
tokens   = class row and column around the features, plus position embedding   [B, F, S, C]
tokens   = block_M(... block_1(tokens))
logit    = head(LN(tokens[:, 0, 0]))                   positive = fake (`published`: head(LN(LN(...))))
mask     = mask_head(LN(cells of block_M's input))     only with `mask_head`: where the forgery is
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from istvt.config import ISTVTConfig
from istvt.model.block import Block, BlockCaptures
from istvt.model.detector import Detector, dice_losses, mask_losses
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
        if config.makes_masks:
            self.mask_head = MaskHead(config, self.backbone)
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

    def forward(
        self, clips: Tensor, labels: Tensor | None = None, masks: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the logits of clips; in training with masks also what is minimized.

        Args:
            clips: [B, T, 3, H_i, W_i] in [-1, 1].
            labels: [B], 0 real and 1 fake; only of a model with a mask head, together with `masks`.
            masks: int8 [B, T, H_i, W_i], as of `mask_losses`.

        Returns:
            Logits [B], positive = fake; with masks these, and losses [B]: cross-entropy of the verdict,
            cross-entropy and Dice loss of the mask, added.
        """
        logits, entering = self._judge(clips)
        if masks is None:
            return logits
        losses = functional.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
        pixels = self.mask_head(entering)
        return logits, losses + mask_losses(pixels, masks) + dice_losses(pixels, masks)

    def segment(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B] and the probability of each pixel of being forged, [B, T, H_i, W_i]."""
        if not self.config.makes_masks:
            return super().segment(clips)
        logits, entering = self._judge(clips)
        return logits, self.mask_head(entering).float().sigmoid()

    def _judge(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits [B] and the tokens that enter the last block, [B, F, S, C]."""
        tokens = self.tokenize(clips)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        last = self.blocks[-1]
        encoded = last.class_token(tokens) if self.config.attention == "temporal_first" else last(tokens)
        return self.classify(encoded), tokens

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


class MaskHead(nn.Module):
    """Whether each pixel is forged, from the feature cells of the tokens that enter the last block.

    Each cell gives `mask_head` x `mask_head` logits, which are brought to pixels as heatmaps are: a part of a cell to
    its place in the middle of the cell's receptive field, bilinear between parts, and beyond the outermost ones theirs.
    The last block is left out because its output is computed for the class token alone.
    """

    def __init__(self, config: ISTVTConfig, backbone: XceptionEntryFlow) -> None:
        super().__init__()
        self.grid, self.frames, self.parts = config.feature_grid, config.frames, config.mask_head
        self.norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.linear = nn.Linear(config.dim, config.mask_head**2)
        for name, cells in zip(("rows", "columns"), self.grid, strict=True):
            distances = backbone.cell_distances(config.image_size, cells, config.mask_head)
            weights = (1 - distances).clamp(min=0)
            nearest = functional.one_hot(distances.argmin(1), distances.shape[1]).to(weights)
            weights = torch.where(weights.any(1, keepdim=True), weights, nearest)
            # A pixel beyond the middle of the outermost part is in reach of that part alone.
            weights = (weights / weights.sum(1, keepdim=True)).float()
            self.register_buffer(name, weights, persistent=False)  # [pixels, cells * mask_head]

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logit of each pixel of each frame: tokens [B, F, S, C] -> [B, T, image_size, image_size]."""
        height, width = self.grid
        cells = tokens[:, -self.frames :, -height * width :]  # without class row and class column
        logits = self.linear(self.norm(cells)).unflatten(-1, (self.parts, self.parts)).unflatten(2, self.grid)
        logits = logits.transpose(3, 4).flatten(4, 5).flatten(2, 3)  # [B, T, H * parts, W * parts]
        return self.rows @ logits.to(self.rows) @ self.columns.T
