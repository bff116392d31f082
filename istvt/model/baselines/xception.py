"""Xception by frame: the whole network judges each frame alone, and a clip has the mean of its frames' logits.

    logit = mean over frames of fc(mean over cells of Xception(frame))

Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", CVPR 2017, as a detector of forged faces:
Roessler et al., "FaceForensics++: Learning to Detect Manipulated Facial Images", ICCV 2019. It cannot see what only a
comparison of frames shows: its logit does not depend on their order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from istvt.model.baselines.configs import XceptionConfig
from istvt.model.detector import Detector
from istvt.model.xception import SeparableConv2d, XceptionBlock, XceptionEntryFlow

IMAGENET_FILES = "a timm or Cadene Xception checkpoint"
_CLASSIFIER = re.compile(r"^(fc|last_linear|classifier|head)\.")


class MiddleBlock(nn.Module):
    """Three separable convolutions of one width beside the identity."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        layers = [(nn.ReLU(), SeparableConv2d(dim, dim), nn.BatchNorm2d(dim)) for _ in range(3)]
        self.rep = nn.Sequential(*(layer for triple in layers for layer in triple))

    def forward(self, x: Tensor) -> Tensor:
        """[n, dim, h, w] -> [n, dim, h, w]."""
        return x + self.rep(x)


class ExitBlock(XceptionBlock):
    """block12: the width grows in its second convolution instead of its first."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.rep[1], self.rep[2] = SeparableConv2d(in_channels, in_channels), nn.BatchNorm2d(in_channels)
        self.rep[4] = SeparableConv2d(in_channels, out_channels)


class XceptionFeatures(XceptionEntryFlow):
    """Xception without its classifier, under the names of timm's `legacy_xception`.

    Args:
        config: with the widths of Xception's parts; any configuration that has them will do.
    """

    def __init__(self, config: XceptionConfig) -> None:
        super().__init__(config.backbone_dims, config.dim)
        for index in range(config.middle_blocks):
            self.add_module(f"block{4 + index}", MiddleBlock(config.dim))
        first, second, third = config.exit_dims
        # Xception's own number; fewer middle blocks leave a gap in the names.
        self.block12 = ExitBlock(config.dim, first)
        self.conv3, self.bn3 = SeparableConv2d(first, second), nn.BatchNorm2d(second)
        self.conv4, self.bn4 = SeparableConv2d(second, third), nn.BatchNorm2d(third)
        self.middle = [f"block{4 + index}" for index in range(config.middle_blocks)]

    def forward(self, frames: Tensor) -> Tensor:
        """Compute the features: [n, 3, h, w] in [-1, 1] -> [n, exit_dims[2], ceil(h / 32), ...], not negative."""
        x = super().forward(frames)
        for name in self.middle:
            x = self.get_submodule(name)(x)
        x = self.bn3(self.conv3(self.block12(x))).relu_()
        return self.bn4(self.conv4(x)).relu_()


class Xception(Detector):
    """Xception with one logit a frame."""

    pretrained_from = IMAGENET_FILES

    def __init__(self, config: XceptionConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or XceptionConfig()
        self.backbone = XceptionFeatures(config)
        self.head = nn.Linear(config.exit_dims[-1], 1)

    def forward(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H_i, W_i] in [-1, 1] -> [B]."""
        self.check_clips(clips)
        features = self.backbone(clips.flatten(0, 1)).mean((2, 3))
        return self.head(features).unflatten(0, clips.shape[:2]).mean((1, 2))

    def adapt_pretrained(self, state: Mapping[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor], list[str]]:
        """Take a whole ImageNet Xception but for its classifier."""
        return self.backbone, *adapt_xception(state, self.backbone)


def adapt_xception(state: Mapping[str, Tensor], backbone: XceptionFeatures) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of an ImageNet Xception under the names of `backbone`, and the names that were ignored."""
    state = {re.sub(r"^(module\.|model\.|backbone\.)+", "", name): value for name, value in state.items()}
    ignored = sorted(name for name in state if _CLASSIFIER.match(name))
    state = {name: value for name, value in state.items() if name not in ignored}
    # Cadene's first file stores 1x1 convolutions as matrices, and has no batch counts.
    state = {n: v[:, :, None, None] if n.endswith("pointwise.weight") and v.dim() == 2 else v for n, v in state.items()}
    counts = {n: torch.zeros((), dtype=v.dtype) for n, v in backbone.state_dict().items() if n.endswith("_tracked")}
    return counts | state, ignored
