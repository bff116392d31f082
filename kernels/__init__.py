"""GPU kernels of ISTVT, and the plain-PyTorch reference of each.

Imports torch and triton and nothing else of this project. Shapes: `B` clips, `F = T + 1` frame rows (row 0 is the
temporal class row), `S = H * W + 1` positions (column 0 is the spatial class column), `N` heads, `D` head
dimension, `C` channels.
"""

from kernels.common.capture import AttentionCapture
from kernels.common.launch import interpreted
from kernels.frame_difference import self_subtract
from kernels.layer_norm import layer_norm_difference
from kernels.relevance import (
    spatial_relevance,
    spatial_relevance_map,
    spatial_rollout_step,
    temporal_relevance,
    temporal_relevance_map,
    temporal_rollout_step,
)
from kernels.spatial import spatial_attention, spatial_attention_packed
from kernels.temporal import temporal_attention, temporal_attention_packed

if interpreted():
    from kernels.common.interpreter import correct

    correct()

__all__ = [
    "AttentionCapture",
    "layer_norm_difference",
    "self_subtract",
    "spatial_attention",
    "spatial_attention_packed",
    "spatial_relevance",
    "spatial_relevance_map",
    "spatial_rollout_step",
    "temporal_attention",
    "temporal_attention_packed",
    "temporal_relevance",
    "temporal_relevance_map",
    "temporal_rollout_step",
]
