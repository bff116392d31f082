"""The Xception entry flow: video frames to feature cells.

Parameter names are those of timm's `legacy_xception` (and Cadene's checkpoint), so ImageNet weights load by name.
Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", CVPR 2017.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from dataloading.errors import InputError
from istvt.model.state_dict_misfits import misfits


class SeparableConv2d(nn.Module):
    """3x3 convolution of each channel, then a 1x1 convolution across channels; no biases."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, in, h, w] -> [n, out, h, w]."""
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
        """[n, in, h, w] -> [n, out, ceil(h/2), ceil(w/2)]."""
        return self.rep(x) + self.skipbn(self.skip(x))


class XceptionEntryFlow(nn.Module):
    """conv1, conv2 and the first three blocks of Xception; [n, 3, h, w] in [-1, 1] to [n, dim, H, W].

    Args:
        dims: output channels of conv1, conv2, block1, block2 (Xception: 32, 64, 128, 256).
        dim: output channels of block3 (Xception: 728). No ReLU follows block3.
    """

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

    def forward(self, frames: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, dim, H, W]."""
        x = self.bn1(self.conv1(frames)).relu_()
        x = self.bn2(self.conv2(x)).relu_()
        return self.block3(self.block2(self.block1(x)))


# What a full Xception checkpoint holds beyond the entry flow, by name: middle flow, exit flow, classifier.
_BEYOND_ENTRY_FLOW = re.compile(r"^(block([4-9]|1[0-2])|conv[34]|bn[34]|fc|last_linear|classifier|head)\.")


def load_backbone_weights(backbone: XceptionEntryFlow, path: str | Path) -> list[str]:
    """Load ImageNet weights from a timm or Cadene Xception checkpoint file.

    Args:
        backbone: the entry flow to fill, at Xception's own widths.
        path: a `.pth`/`.pt` (a state dict, or a dict holding one under `state_dict` or `model`) or `.safetensors` file.

    Returns:
        The keys of the middle flow, exit flow and classifier, which were ignored by name.

    Raises:
        InputError: the file cannot be read, or keys are missing, unknown or misshapen (the first few are named).
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"backbone weights {path}: no such file; expected a timm or Cadene Xception checkpoint")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"backbone weights {path}: not a readable checkpoint; expected a .pth, .pt or .safetensors file of a "
            "timm or Cadene Xception"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"backbone weights {path}: expected a state dict of tensors")
    state = {re.sub(r"^(module\.|model\.|backbone\.)+", "", name): value for name, value in state.items()}
    ignored = sorted(name for name in state if _BEYOND_ENTRY_FLOW.match(name))
    state = {name: value for name, value in state.items() if name not in set(ignored)}
    # Cadene's first file stores 1x1 convolutions as matrices.
    state = {n: v[:, :, None, None] if n.endswith("pointwise.weight") and v.dim() == 2 else v for n, v in state.items()}
    wanted = backbone.state_dict()
    # Checkpoints as old as Cadene's do not count batches.
    state = {name: value for name, value in wanted.items() if name.endswith("num_batches_tracked")} | state
    if problems := misfits(state, wanted):
        raise InputError(f"backbone weights {path}: {problems}")
    backbone.load_state_dict(state)
    return ignored
