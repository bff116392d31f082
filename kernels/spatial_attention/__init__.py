"""Attention over the positions of each frame row."""

from kernels.spatial_attention.reference import spatial_attention

__all__ = ["spatial_attention"]
