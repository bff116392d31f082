"""Relevance (Chefer's layer-wise relevance propagation) through attention, without ever storing an attention map."""

from kernels.relevance.interface import (
    spatial_relevance,
    spatial_relevance_map,
    spatial_rollout_step,
    temporal_relevance,
    temporal_relevance_map,
    temporal_rollout_step,
)
from kernels.relevance.stabilizer import Stabilizer, ratio

__all__ = [
    "Stabilizer",
    "ratio",
    "spatial_relevance",
    "spatial_relevance_map",
    "spatial_rollout_step",
    "temporal_relevance",
    "temporal_relevance_map",
    "temporal_rollout_step",
]
