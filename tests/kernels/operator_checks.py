"""Helpers of the operator tests: blocks of a model, their output with all gradients, comparison of two."""

from functools import partial

import torch

from kernels import (
    layer_norm_difference,
    spatial_attention,
    spatial_attention_packed,
    temporal_attention,
    temporal_attention_packed,
)
from kernels.layer_norm import reference as layer_norm_reference
from kernels.spatial import reference as spatial_reference
from kernels.temporal import reference as temporal_reference


def packed(attend):
    return lambda qkv, **options: attend(*qkv.unbind(3), **options)


class SpatialBlock(torch.nn.Module):
    """Project, attend (all queries, and the first alone), project: by the public functions or their references."""

    FRAMES = 2

    def __init__(self, reference=False):
        super().__init__()
        torch.manual_seed(0)
        self.qkv = torch.nn.Linear(16, 48, bias=False)
        self.proj = torch.nn.Linear(16, 16)
        self.attend = spatial_reference.spatial_attention if reference else spatial_attention
        self.attend_packed = packed(self.attend) if reference else spatial_attention_packed

    def forward(self, x):
        qkv = self.qkv(x).unflatten(-1, (3, 2, 8))
        q, k, v = qkv.unbind(3)
        out = self.attend_packed(qkv, scale=0.3)
        one = self.attend(q[:, :, :1], k, v, scale=0.3)
        return self.proj(out.flatten(-2)) + one.flatten(-2)


class TemporalBlock(torch.nn.Module):
    """Normalize and subtract, project, attend (all queries, and the first alone), project: likewise."""

    FRAMES = 4

    def __init__(self, reference=False):
        super().__init__()
        torch.manual_seed(0)
        self.norm = torch.nn.LayerNorm(16, eps=1e-6)
        self.qkv = torch.nn.Linear(16, 48, bias=False)
        self.proj = torch.nn.Linear(16, 16)
        self.normalize = layer_norm_reference.layer_norm_difference if reference else layer_norm_difference
        attend = temporal_reference.temporal_attention if reference else temporal_attention
        self.attend = partial(attend, self_subtract="telescoped")
        self.attend_packed = packed(self.attend) if reference else temporal_attention_packed

    def forward(self, x):
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        x = self.normalize(x, self.norm.weight, self.norm.bias, 1e-6, dtype)
        qkv = self.qkv(x).unflatten(-1, (3, 2, 8))
        q, k, v = qkv.unbind(3)
        out = self.attend_packed(qkv, scale=0.3, self_subtract="telescoped")
        one = self.attend(q[:, :1], k, v, scale=0.3)
        return self.proj(out.flatten(-2)) + one.flatten(-2)


BLOCKS = [SpatialBlock, TemporalBlock]


def results(block, run=None, dtype=None, device="cpu"):
    """Output and every gradient of a block of 16 channels, on tokens of 2 clips with 5 positions."""
    block = block.to(device)
    x = torch.randn(2, block.FRAMES, 5, 16, generator=torch.Generator().manual_seed(2)).to(device).requires_grad_()
    with torch.autocast(torch.device(device).type, dtype=dtype, enabled=dtype is not None):
        out = (block if run is None else run)(x)
    gradients = torch.autograd.grad(out.float().square().sum(), [x, *block.parameters()])
    return [out.detach().float(), *gradients]


def assert_same(found, expected, tolerance=1e-5):
    for x, y in zip(found, expected, strict=True):
        assert (x - y).norm() <= tolerance * y.norm()
