"""Xception entry flow: video frames to feature cells.

Parameter names are those of timm's `legacy_xception` (and Cadene's checkpoint), so ImageNet weights load by name.
Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", CVPR 2017.
"""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class SeparableConv2d(nn.Module):
    """3x3 convolution of each channel, then a 1x1 convolution across channels; no biases."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve: [n, in, h, w] -> [n, out, h, w]."""
        return self.pointwise(self.conv1(x))


class XceptionBlock(nn.Module):
    """Two separable convolutions and a stride-2 max-pool, beside a strided 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, starts_with_relu: bool = True) -> None:
        super().__init__()
        self.skip = nn.Conv2d(in_channels, out_channels, 1, stride=2, bias=False)
        self.skipbn = nn.BatchNorm2d(out_channels)
        rep: list[nn.Module] = [nn.ReLU()] if starts_with_relu else []
        rep += [SeparableConv2d(in_channels, out_channels), nn.BatchNorm2d(out_channels), nn.ReLU()]
        rep += [SeparableConv2d(out_channels, out_channels), nn.BatchNorm2d(out_channels)]
        rep += [nn.MaxPool2d(3, stride=2, padding=1)]
        self.rep = nn.Sequential(*rep)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and pool: [n, in, h, w] -> [n, out, ceil(h/2), ceil(w/2)]."""
        return self.rep(x) + self.skipbn(self.skip(x))


class XceptionEntryFlow(nn.Module):
    """conv1, conv2 and the first three blocks of Xception; [n, 3, h, w] in [-1, 1] to [n, dim, H, W].

    Args:
        dims: output channels of conv1, conv2, block1, block2 (Xception: 32, 64, 128, 256).
        dim: output channels of block3 (Xception: 728). No ReLU follows block3.

    Attributes:
        memory_format: of all activations. Channels last takes half the time of `torch.contiguous_format` on a CPU and
            is what tensor cores read on a GPU.
    """

    memory_format = torch.channels_last

    def __init__(self, dims: tuple[int, int, int, int] = (32, 64, 128, 256), dim: int = 728) -> None:
        super().__init__()
        first, second, third, fourth = dims
        self.conv1 = nn.Conv2d(3, first, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(second)
        self.block1 = XceptionBlock(second, third, starts_with_relu=False)
        self.block2 = XceptionBlock(third, fourth)
        self.block3 = XceptionBlock(fourth, dim)

    def cell_centers(self) -> tuple[float, int]:
        """Return (first, step): the receptive field of feature cell j has its middle at pixel `first + step * j`.

        Computed from kernel sizes, strides and paddings; the skip convolutions lie beside layers of the same stride.
        """
        first, step = 0.0, 1
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Conv2d | nn.MaxPool2d) and not name.endswith(".skip"):
                sizes = (layer.kernel_size, layer.stride, layer.padding)
                kernel, stride, padding = (size if isinstance(size, int) else size[0] for size in sizes)
                first += ((kernel - 1) / 2 - padding) * step
                step *= stride
        return first, step

    def cell_distances(self, pixels: int, cells: int, parts: int = 1) -> Tensor:
        """Return the distance of each pixel to the middle of each part of a feature cell along one axis, in parts.

        Args:
            pixels: of the axis.
            cells: feature cells along it.
            parts: into which each cell is divided.

        Returns:
            float64 [pixels, cells * parts].
        """
        first, step = self.cell_centers()
        size = step / parts
        middles = first - step / 2 + size * (torch.arange(cells * parts, dtype=torch.float64) + 0.5)
        return (torch.arange(pixels, dtype=torch.float64)[:, None] - middles).abs() / size

    def folded(self) -> XceptionEntryFlow:
        """Return a copy for evaluation whose batch normalizations are folded into the convolutions before them.

        The same function up to rounding, in three quarters of the time on a CPU. It has no parameters of a batch norm,
        so it is not for saving.
        """
        flow = copy.deepcopy(self).eval()
        _fold(flow, "conv1", "bn1")
        _fold(flow, "conv2", "bn2")
        for block in (flow.block1, flow.block2, flow.block3):
            _fold(block, "skip", "skipbn")
            names = list(block.rep._modules)
            for before, name in itertools.pairwise(names):
                if isinstance(block.rep.get_submodule(name), nn.BatchNorm2d):
                    _fold(block.rep, f"{before}.pointwise", name)
        return flow

    def forward(self, frames: Tensor) -> Tensor:
        """Compute the features: [n, 3, h, w] -> [n, dim, H, W]."""
        x = self.bn1(self.conv1(frames.contiguous(memory_format=self.memory_format))).relu_()
        x = self.bn2(self.conv2(x)).relu_()
        return self.block3(self.block2(self.block1(x)))


def _fold(module: nn.Module, convolution: str, norm: str) -> None:
    """Fold a batch norm into the convolution before it, both named below `module`."""
    fused = fuse_conv_bn_eval(module.get_submodule(convolution), module.get_submodule(norm))
    module.set_submodule(convolution, fused)
    module.set_submodule(norm, nn.Identity())
