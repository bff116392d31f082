"""S-MIL: a clip as bags of instances in time, from whose embeddings its probability follows directly.

    h_k = relu(Conv1d_k(frame features))                  instances of bag k: k neighboring frames each
    p_k = 1 / (1 + prod_j exp(-a_kj (w h_kj + b)))        sharp multiple-instance learning, a_k = attention, sums to 1
    logit = mean over bags of log(p_k / (1 - p_k)) = mean over bags of sum_j a_kj (w h_kj + b)

Li et al., "Sharp Multiple Instance Learning for DeepFake Video Detection", ACM Multimedia 2020. The product maps
embeddings to the bag's probability, where multiple-instance learning goes by the probability of each instance and its
gradient vanishes; instances of several lengths in time hold what lies between frames. Features are a whole Xception's.
The lengths of the instances, the width of their embeddings and the attention, `softmax(v tanh(U h))`, are this
project's choice: the paper's own numbers were not at hand.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from istvt.model.baselines.configs import SMILConfig
from istvt.model.baselines.xception import IMAGENET_FILES, XceptionFeatures, adapt_xception
from istvt.model.detector import Detector


class SMIL(Detector):
    """Sharp multiple-instance learning over the frames of a clip."""

    pretrained_from = IMAGENET_FILES

    def __init__(self, config: SMILConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SMILConfig()
        self.backbone = XceptionFeatures(config)
        self.instances = nn.ModuleList(
            nn.Conv1d(config.exit_dims[-1], config.embedding, length) for length in config.lengths
        )
        self.attention = nn.Sequential(
            nn.Linear(config.embedding, config.hidden), nn.Tanh(), nn.Linear(config.hidden, 1, bias=False)
        )
        self.head = nn.Linear(config.embedding, 1)

    def forward(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H_i, W_i] in [-1, 1] -> [B]."""
        self.check_clips(clips)
        features = self.backbone(clips.flatten(0, 1)).mean((2, 3)).unflatten(0, clips.shape[:2])  # [B, T, C]
        logits = []
        for convolution in self.instances:
            h = convolution(features.transpose(1, 2)).relu().transpose(1, 2)  # [B, T - length + 1, embedding]
            weights = self.attention(h).softmax(1)
            logits.append((weights * self.head(h)).sum((1, 2)))
        return torch.stack(logits).mean(0)

    def adapt_pretrained(self, state: Mapping[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor], list[str]]:
        """Take a whole ImageNet Xception but for its classifier."""
        return self.backbone, *adapt_xception(state, self.backbone)
