"""Long-term recurrent network of eye blinking: VGG features of the eyes in each frame, read in turn by an LSTM.

    h_t = LSTM(relu(fc6(VGG(frame_t))), h_(t-1)),    s_t = fc(h_t)
    logit = -log(mean over t of exp(-s_t))

Li, Chang and Lyu, "In Ictu Oculi: Exposing AI Created Fake Videos by Detecting Eye Blinking", WIFS 2018: VGG-16 up to
fc6, an LSTM of 256 units and a fully connected layer over up to 20 frames (sizes as in the authors' code). VGG:
Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, under
torchvision's names, so that its ImageNet weights load.

In what it differs: the paper trains s_t on frames labeled open or closed and judges a video by how often its eyes are
closed. Here are no such labels: s_t is learned from whether the video is real, and the soft minimum says that one frame
with closed eyes speaks for a clip as a blink does for a video. The paper crops one eye by six landmarks, this project
both by a square (`--data.region eyes`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from istvt.model.baselines.cnn_lstm import FrameByFrame
from istvt.model.baselines.configs import LRCNConfig
from istvt.model.detector import ImageNetNormalization


class VGG(nn.Module):
    """VGG up to its first fully connected layer, under torchvision's names but for `fc6`, there `classifier.0`."""

    def __init__(self, config: LRCNConfig) -> None:
        super().__init__()
        widths = (3, *(config.width * min(2**block, 8) for block in range(len(config.layers))))
        layers: list[nn.Module] = []
        for (into, out), count in zip(pairwise(widths), config.layers, strict=True):
            for number in range(count):
                layers.append(nn.Conv2d(into if number == 0 else out, out, 3, padding=1))
                layers += [nn.BatchNorm2d(out)] if config.batch_norm else []
                layers.append(nn.ReLU())
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        side = config.image_size // 2 ** len(config.layers)
        self.fc6 = nn.Linear(widths[-1] * side**2, config.features)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, features], not negative."""
        return self.fc6(self.features(frames).flatten(1)).relu()


class LRCN(FrameByFrame):
    """VGG by frame, an LSTM over frames, and a soft minimum over its outputs."""

    pretrained_from = "a torchvision VGG checkpoint"

    def __init__(self, config: LRCNConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LRCNConfig()
        self.normalization = ImageNetNormalization()
        self.features = VGG(config)
        self.dropout = nn.Dropout(config.dropout)
        self.recurrent = nn.LSTM(config.features, config.hidden, batch_first=True)
        self.head = nn.Linear(config.hidden, 1)

    def frame_features(self, frames: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, features]."""
        return self.dropout(self.features(frames))

    def forward(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H_i, W_i] in [-1, 1] -> [B]."""
        of_frames = self.head(self.states(clips)).squeeze(-1).float()
        return math.log(self.config.frames) - torch.logsumexp(-of_frames, dim=1)

    def adapt_pretrained(self, state: Mapping[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor], list[str]]:
        """Take an ImageNet VGG but for the layers after fc6."""
        named = {name.replace("classifier.0.", "fc6."): value for name, value in state.items()}
        ignored = sorted(name for name in named if name.startswith("classifier."))
        counts = {n: torch.zeros((), dtype=v.dtype) for n, v in self.features.state_dict().items() if "tracked" in n}
        return self.features, counts | {n: v for n, v in named.items() if n not in ignored}, ignored
