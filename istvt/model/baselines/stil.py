"""STIL: a two-branch residual network that learns inconsistency in space and, from frame differences, in time.

Each block splits its input by two 1x1 convolutions into b (space) and a (time):

    SIM:  s = k3(b) * sigmoid(b + up(f_h(f_w(pool(b)))));   b' = relu(k4(s))
    TIM:  d_t = conv_h(x_{t+1}) - x_t on [height, time] slices, x = reduce(a);  A_h = sigmoid(expand(mean(d, up(conv(
          pool(d))), conv(d)))) - 1/2;  likewise A_w on [width, time];  a' = a + a * (A_h + A_w) / 2
    ISM:  a'' = relu(k1(shift(a' + s * sigmoid(conv1d(mean over cells of s)))))
    out = relu(x + conv3(concat(a'', b')))

Gu et al., "Spatiotemporal Inconsistency Learning for DeepFake Video Detection", ACM Multimedia 2021, with the sizes of
the authors' code: an SCNet-50 with a deep stem (Liu et al., "Improving Convolutional Networks with Self-Calibrated
Convolutions", CVPR 2020), 8 frames of 224 pixels, a mean over the frames' logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from istvt.model.baselines.configs import STILConfig
from istvt.model.detector import Detector, ImageNetNormalization


def convolution(into: int, out: int, kernel: int | tuple[int, int], stride: int = 1) -> nn.Sequential:
    """Return a convolution without bias that keeps the size where the stride is 1, and its batch normalization."""
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = tuple(side // 2 for side in sides)
    return nn.Sequential(nn.Conv2d(into, out, sides, stride, padding, bias=False), nn.BatchNorm2d(out))


class SpatialInconsistency(nn.Module):
    """SIM: a convolution gated by its surroundings, which two crossed convolutions read at a quarter of the size."""

    POOL = 4

    def __init__(self, width: int) -> None:
        super().__init__()
        self.f_w, self.f_h = convolution(width, width, (1, 3)), convolution(width, width, (3, 1))
        self.k3, self.k4 = convolution(width, width, 3), convolution(width, width, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[n, C, h, w] -> the branch's output and the gated features, both of the same shape."""
        around = self.f_h(self.f_w(functional.avg_pool2d(x, self.POOL)).relu_())
        gated = self.k3(x) * torch.sigmoid(x + functional.interpolate(around, x.shape[-2:]))
        return self.k4(gated), gated


class DifferenceAttention(nn.Module):
    """Attention of TIM along one axis of the picture: from differences of neighboring frames."""

    def __init__(self, width: int, reduced: int) -> None:
        super().__init__()
        self.before = nn.Conv2d(reduced, reduced, (3, 1), padding=(1, 0), groups=reduced, bias=False)
        self.pooled, self.plain = convolution(reduced, reduced, (3, 1)), convolution(reduced, reduced, (3, 1))
        self.expand = convolution(reduced, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, reduced, side, T], a slice of pictures along one axis, -> [n, width, side, T] in (-1/2, 1/2)."""
        difference = self.before(x)[..., 1:] - x[..., :-1]
        difference = functional.pad(difference, (0, 1))
        pooled = self.pooled(functional.avg_pool2d(difference, (2, 1)))
        pooled = functional.interpolate(pooled, difference.shape[-2:])
        return torch.sigmoid(self.expand((difference + pooled + self.plain(difference)) / 3)) - 0.5


class TemporalInconsistency(nn.Module):
    """TIM: features weighted by attention over [height, time] and [width, time] slices."""

    def __init__(self, width: int, reduction: int, frames: int) -> None:
        super().__init__()
        self.frames, reduced = frames, max(1, width // reduction)
        self.reduce = convolution(width, reduced, 1)
        self.height, self.breadth = DifferenceAttention(width, reduced), DifferenceAttention(width, reduced)

    def forward(self, x: Tensor) -> Tensor:
        """[B*T, C, h, w] -> the same shape."""
        clips = self.reduce(x).unflatten(0, (-1, self.frames))  # [B, T, c, h, w]
        batch, _, _, h, w = clips.shape
        along_h = self.height(clips.permute(0, 4, 2, 3, 1).flatten(0, 1)).unflatten(0, (batch, w))  # [B, w, C, h, T]
        along_w = self.breadth(clips.permute(0, 3, 2, 4, 1).flatten(0, 1)).unflatten(0, (batch, h))  # [B, h, C, w, T]
        attention = along_h.permute(0, 4, 2, 3, 1) + along_w.permute(0, 4, 2, 1, 3)
        return x + x * attention.flatten(0, 1) / 2


class TemporalShift(nn.Module):
    """A convolution of each channel over three frames, which begins as a shift of an eighth of them to either side."""

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv1d(width, width, 3, padding=1, groups=width, bias=False)
        fold = width // 8
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[:fold, 0, 2] = 1
            self.conv.weight[fold : 2 * fold, 0, 0] = 1
            self.conv.weight[2 * fold :, 0, 1] = 1

    def forward(self, x: Tensor) -> Tensor:
        """[B*T, C, h, w] -> the same shape."""
        clips = x.unflatten(0, (-1, self.frames)).permute(0, 3, 4, 2, 1)  # [B, h, w, C, T]
        shifted = self.conv(clips.flatten(0, 2)).view(clips.shape)
        return shifted.permute(0, 4, 3, 1, 2).flatten(0, 1)


class STILBlock(nn.Module):
    """One residual block: SIM and TIM side by side, ISM from the one to the other."""

    def __init__(self, into: int, width: int, out: int, stride: int, reduction: int, frames: int) -> None:
        super().__init__()
        self.a, self.b = convolution(into, width, 1), convolution(into, width, 1)
        self.sim, self.tim = SpatialInconsistency(width), TemporalInconsistency(width, reduction, frames)
        self.ism = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.shift, self.k1 = TemporalShift(width, frames), convolution(width, width, 3)
        self.pool = nn.AvgPool2d(3, stride, 1) if stride > 1 else nn.Identity()
        self.conv3 = convolution(2 * width, out, 1)
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or into != out:
            pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
            self.skip = nn.Sequential(pool, convolution(into, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B*T, into, h, w] -> [B*T, out, ...]."""
        a, (b, gated) = self.tim(self.a(x).relu()), self.sim(self.b(x).relu())
        weights = torch.sigmoid(self.ism(gated.mean((2, 3)).unsqueeze(1))).squeeze(1)  # [B*T, C]
        a = self.k1(self.shift(a + gated * weights[..., None, None])).relu()
        out = self.conv3(torch.cat([self.pool(a), self.pool(b.relu())], dim=1))
        return (out + self.skip(x)).relu()


class STIL(Detector):
    """STIL with one logit."""

    def __init__(self, config: STILConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or STILConfig()
        half = config.width // 2
        self.normalization = ImageNetNormalization()
        self.stem = nn.Sequential(
            *convolution(3, half, 3, 2), nn.ReLU(), *convolution(half, half, 3), nn.ReLU(),
            *convolution(half, config.width, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        )  # fmt: skip
        into, self.stages = config.width, nn.Sequential()
        for number, count in enumerate(config.layers):
            width = config.width * 2**number
            for index in range(count):
                stride = 2 if number and not index else 1
                sizes = (into, width // 2, 4 * width, stride, config.reduction, config.frames)
                self.stages.append(STILBlock(*sizes))
                into = 4 * width
        self.head = nn.Linear(into, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H_i, W_i] in [-1, 1] -> [B]."""
        self.check_clips(clips)
        features = self.stages(self.stem(self.normalization(clips.flatten(0, 1)))).mean((2, 3))
        return self.head(features).unflatten(0, clips.shape[:2]).mean((1, 2))
