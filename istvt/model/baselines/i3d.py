"""I3D: Inception-v1 whose convolutions and pools are inflated over time.

    weight3d[:, :, t] = weight2d / K     for t = 1 .. K: a repeated picture gives what the picture alone gives
    logit = mean over time of fc(avg_pool(Inception3D(clip)))

Carreira and Zisserman, "Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset", CVPR 2017: one stream, of
64 RGB frames of 224 pixels. Time is halved three times, by the stem and the two last pools that halve space.
Parameters have torchvision's names of its `googlenet`, which, as I3D does, has 3x3 where the paper of Inception has
5x5: its ImageNet weights take pictures in [-1, 1] and are inflated by name. Convolutions are padded alike on both
sides, as those of `googlenet` are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from istvt.model.baselines.configs import I3DConfig
from istvt.model.detector import Detector

# In 64ths of the width: out of branch1, branch2 (reduced, out), branch3 (reduced, out) and branch4.
_INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
_BEYOND = re.compile(r"^(fc|aux1|aux2)\.")


class Unit(nn.Module):
    """Convolution without bias, batch normalization, ReLU."""

    def __init__(self, into: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(into, out, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm3d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[B, into, T, H, W] -> [B, out, ...]."""
        return self.bn(self.conv(x)).relu_()


class Inception(nn.Module):
    """Four branches side by side: 1; 1 and 3; 1 and 3; pool and 1."""

    def __init__(self, into: int, one: int, reduced2: int, two: int, reduced3: int, three: int, four: int) -> None:
        super().__init__()
        self.branch1 = Unit(into, one, 1)
        self.branch2 = nn.Sequential(Unit(into, reduced2, 1), Unit(reduced2, two, 3))
        self.branch3 = nn.Sequential(Unit(into, reduced3, 1), Unit(reduced3, three, 3))
        self.branch4 = nn.Sequential(nn.MaxPool3d(3, 1, 1), Unit(into, four, 1))
        self.out = one + two + three + four

    def forward(self, x: Tensor) -> Tensor:
        """[B, into, T, H, W] -> [B, out, T, H, W]."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class Inception3D(nn.Module):
    """Inception-v1 over space and time, without its classifier."""

    def __init__(self, width: int) -> None:
        super().__init__()

        def of(channels: int) -> int:
            return max(1, channels * width // 64)

        self.conv1 = Unit(3, of(64), 7, 2)
        self.maxpool1 = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.conv2 = Unit(of(64), of(64), 1)
        self.conv3 = Unit(of(64), of(192), 3)
        self.maxpool2 = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        into = of(192)
        for name, channels in _INCEPTION.items():
            block = Inception(into, *map(of, channels))
            into = block.out
            self.add_module(f"inception{name}", block)
        self.maxpool3 = nn.MaxPool3d(3, 2, 1)
        self.maxpool4 = nn.MaxPool3d(2, 2, ceil_mode=True)
        self.out = into

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, T, H_i, W_i] -> [B, out, ceil(T / 8), ceil(H_i / 32), ceil(W_i / 32)]."""
        x = self.maxpool1(self.conv1(x))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        for name in ("4a", "4b", "4c", "4d", "4e"):
            x = self.get_submodule(f"inception{name}")(x)
        return self.inception5b(self.inception5a(self.maxpool4(x)))


class I3D(Detector):
    """One RGB stream of I3D with one logit."""

    pretrained_from = "a torchvision GoogLeNet checkpoint"

    def __init__(self, config: I3DConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or I3DConfig()
        self.backbone = Inception3D(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(self.backbone.out, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):  # PyTorch's own initialization is too small for 22 layers without skips
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H_i, W_i] in [-1, 1] -> [B]."""
        self.check_clips(clips)
        x = self.backbone(clips.transpose(1, 2))
        x = functional.avg_pool3d(x, (min(2, x.shape[2]), *x.shape[3:]), stride=1).flatten(2)  # [B, C, time]
        return self.fc(self.dropout(x.transpose(1, 2))).mean((1, 2))

    def adapt_pretrained(self, state: Mapping[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor], list[str]]:
        """Inflate an ImageNet GoogLeNet but for its classifiers."""
        ignored = sorted(name for name in state if _BEYOND.match(name))
        wanted = self.backbone.state_dict()
        return self.backbone, {n: inflated(v, wanted.get(n)) for n, v in state.items() if n not in ignored}, ignored


def inflated(weight: Tensor, wanted: Tensor | None) -> Tensor:
    """Return a weight [out, in, h, w] of a 2-D convolution repeated over time and divided by its length."""
    if wanted is None or weight.dim() != 4 or wanted.dim() != 5:
        return weight
    length = wanted.shape[2]
    return weight.unsqueeze(2).expand(-1, -1, length, -1, -1).contiguous() / length
