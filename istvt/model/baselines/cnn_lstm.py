"""CNN and a recurrent network: DenseNet features of each frame, read forwards and backwards in time.

    h_1, ..., h_T = bidirectional GRU(DenseNet(frame_1), ..., DenseNet(frame_T))
    logit = fc(last forward state, last backward state)

Sabir et al., "Recurrent Convolutional Strategies for Face Manipulation Detection in Videos", CVPR Workshops 2019: a
DenseNet with a bidirectional recurrent network of gated units over five aligned frames was their best; `cell` lstm has
LSTM cells, as Guera and Delp, "Deepfake Video Detection Using Recurrent Neural Networks", AVSS 2018. DenseNet-121:
Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, under torchvision's names, so that its ImageNet
weights load; pictures are brought to their mean and deviation. The width of the recurrent state is this project's
choice: the paper's was not at hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from istvt.model.baselines.configs import CNNLSTMConfig
from istvt.model.detector import Detector, ImageNetNormalization

# torchvision's first file has the names of layers with a dot: `norm.1.weight`.
_DOTTED = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")


class DenseLayer(nn.Module):
    """BN, ReLU, 1x1 convolution, BN, ReLU, 3x3 convolution, beside its input."""

    def __init__(self, into: int, growth: int, bottleneck: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(into), nn.Conv2d(into, bottleneck * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(bottleneck * growth)
        self.conv2 = nn.Conv2d(bottleneck * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, into, h, w] -> [n, into + growth, h, w]."""
        return torch.cat([x, self.conv2(self.norm2(self.conv1(self.norm1(x).relu_())).relu_())], dim=1)


class DenseNet(nn.Sequential):
    """DenseNet without its classifier, under the names of torchvision's `features`.

    Args:
        growth: channels that each dense layer adds.
        layers: dense layers of each dense block.
        first: output channels of the first convolution.
        bottleneck: channels between the convolutions of a dense layer, in multiples of `growth`.
    """

    def __init__(self, growth: int, layers: tuple[int, ...], first: int, bottleneck: int = 4) -> None:
        super().__init__()
        self.conv0, self.norm0 = nn.Conv2d(3, first, 7, 2, 3, bias=False), nn.BatchNorm2d(first)
        self.relu0, self.pool0 = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        width = first
        for number, count in enumerate(layers, start=1):
            block = nn.Sequential()
            for index in range(count):
                block.add_module(f"denselayer{index + 1}", DenseLayer(width + index * growth, growth, bottleneck))
            self.add_module(f"denseblock{number}", block)
            width += count * growth
            if number < len(layers):
                halving = nn.Sequential()
                halving.add_module("norm", nn.BatchNorm2d(width))
                halving.add_module("relu", nn.ReLU(inplace=True))
                halving.add_module("conv", nn.Conv2d(width, width // 2, 1, bias=False))
                halving.add_module("pool", nn.AvgPool2d(2, 2))
                self.add_module(f"transition{number}", halving)
                width //= 2
        self.norm5 = nn.BatchNorm2d(width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, C, ceil(h / 32), ...], not negative."""
        for layer in self:  # and not by nn.Sequential, which torch.compile does not take as a whole
            x = layer(x)
        return functional.relu(x)


class FrameByFrame(Detector):
    """A CNN reads each frame, and a recurrent network the frames in turn.

    A subclass sets `normalization`, `features`, the CNN, and `recurrent`.
    """

    def compiled_parts(self) -> list[nn.Module]:
        """Return the CNN: torch.compile takes no recurrent network."""
        return [self.features]

    def frame_features(self, frames: Tensor) -> Tensor:
        """[n, 3, H_i, W_i], normalized -> [n, C]."""
        return self.features(frames).mean((2, 3))

    def states(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H_i, W_i] in [-1, 1] -> the recurrent network's states [B, T, C]."""
        self.check_clips(clips)
        features = self.frame_features(self.normalization(clips.flatten(0, 1)))
        return self.recurrent(features.unflatten(0, clips.shape[:2]))[0]


class CNNLSTM(FrameByFrame):
    """DenseNet by frame, and a bidirectional recurrent network over frames."""

    pretrained_from = "a torchvision DenseNet checkpoint"

    def __init__(self, config: CNNLSTMConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CNNLSTMConfig()
        self.normalization = ImageNetNormalization()
        self.features = DenseNet(config.growth, config.layers, config.width)
        recurrent = nn.GRU if config.cell == "gru" else nn.LSTM
        width = self.features.norm5.num_features
        self.recurrent = recurrent(width, config.hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * config.hidden, 1)

    def forward(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H_i, W_i] in [-1, 1] -> [B]."""
        states = self.states(clips)  # [B, T, 2 * hidden], forwards first
        hidden = self.config.hidden
        ends = torch.cat([states[:, -1, :hidden], states[:, 0, hidden:]], dim=-1)
        return self.head(ends).squeeze(-1)

    def adapt_pretrained(self, state: Mapping[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor], list[str]]:
        """Take an ImageNet DenseNet but for its classifier."""
        ignored = sorted(name for name in state if name.startswith("classifier."))
        named = {_DOTTED.sub(r"\1\2", n.removeprefix("features.")): v for n, v in state.items() if n not in ignored}
        counts = {n: torch.zeros((), dtype=v.dtype) for n, v in self.features.state_dict().items() if "tracked" in n}
        return self.features, counts | named, ignored
