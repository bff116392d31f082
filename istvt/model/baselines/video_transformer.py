"""Video transformer of Khan and Dai: Xception features of faces in sequence, and a general transformer encoder.

    x_t = W Xception(face_t) + b                       [T, h w, C]: every cell of every frame is a token
    z = [class, x_1, ..., x_T] + segment + position    one embedding of the segment, one of each place in the sequence
    z = z + attention(LN(z));  z = z + MLP(LN(z))      pre-norm, over all tokens of all frames together
    logit = fc(LN(z_class))

Khan and Dai, "Video Transformer for Deepfake Detection with Incremental Learning", ACM Multimedia 2021: Xception as
backbone and 12 transformer blocks. Left out: their second input, the UV texture map of each face, which a 3-D face
reconstruction makes. It would be a second segment of tokens; with the faces alone one segment is left, whose embedding
is that of every token. Widths of the encoder are ViT-Base's, and T and the picture ISTVT's: the paper's own were not at
hand. Attention runs in this project's spatial kernel, with the whole clip as one row of positions. How the paper's
detector learns further forgeries from few videos is what `istvt adapt` does, of any architecture.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from istvt.model.baselines.configs import VideoTransformerConfig
from istvt.model.baselines.vivit import EncoderBlock
from istvt.model.baselines.xception import IMAGENET_FILES, XceptionFeatures, adapt_xception
from istvt.model.detector import Detector, init_vit_weights


class VideoTransformer(Detector):
    """Xception by frame, and a transformer over the cells of all frames."""

    pretrained_from = IMAGENET_FILES

    def __init__(self, config: VideoTransformerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or VideoTransformerConfig()
        width = config.embedding
        self.projection = nn.Linear(config.exit_dims[-1], width)
        self.class_token, self.segment_embedding = (nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.position_embedding = nn.Parameter(torch.zeros(config.positions, width))  # the class token's is first
        sizes = (width, config.heads, config.mlp_dim)
        self.blocks = nn.ModuleList(EncoderBlock(*sizes, over_time=False) for _ in range(config.depth))
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 1)
        init_vit_weights(self)
        self.backbone = XceptionFeatures(config)

    def equal_blocks(self) -> nn.ModuleList:
        """Return the transformer's blocks."""
        return self.blocks

    def forward(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H_i, W_i] in [-1, 1] -> [B]."""
        self.check_clips(clips)
        features = self.backbone(clips.flatten(0, 1))  # [B T, exit_dims[2], h, w]
        tokens = self.projection(features.flatten(2).transpose(1, 2)).view(clips.shape[0], -1, self.norm.weight.numel())
        class_token = self.class_token.to(tokens.dtype).expand(clips.shape[0], 1, -1)
        z = torch.cat([class_token, tokens], dim=1) + self.segment_embedding + self.position_embedding
        z = z.unsqueeze(1)  # [B, 1, 1 + T h w, C]
        for block in self.blocks:
            z = block(z)
        return self.head(self.norm(z[:, 0, 0])).squeeze(-1)

    def adapt_pretrained(self, state: Mapping[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor], list[str]]:
        """Take a whole ImageNet Xception but for its classifier."""
        return self.backbone, *adapt_xception(state, self.backbone)
