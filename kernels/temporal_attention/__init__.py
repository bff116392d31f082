"""Attention over the frames of each position, with the self-subtract of queries and keys inside."""

from kernels.temporal_attention.reference import temporal_attention

__all__ = ["temporal_attention"]
