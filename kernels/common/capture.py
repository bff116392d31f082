"""Capture of an attention matrix and of the gradient that reached it.

The kernels emit both; the reference, which stores the matrix anyway, hands it over and hooks its gradient.
"""

from __future__ import annotations

import torch


class AttentionCapture:
    """Receive the attention matrix of one call, and the gradient of the loss with respect to it.

    Pass one as `capture` to `kernels.temporal_attention` or `kernels.spatial_attention`. Without one
    neither matrix is ever allocated.

    Attributes:
        attention: post-softmax attention, set by the forward pass. `[B, S, N, F_q, F]` (temporal) or
            `[B, F, N, S_q, S]` (spatial), where `F_q` and `S_q` are the rows that `q` holds. float32, or
            float64 where the inputs are float64.
        gradient: d loss / d attention (post-softmax, as if the matrix were a tensor of its own), same shape and dtype,
            set by the backward pass.
    """

    def __init__(self) -> None:
        self.attention: torch.Tensor | None = None
        self.gradient: torch.Tensor | None = None

    def record(self, attention: torch.Tensor) -> None:
        """Keep `attention` (part of an autograd graph or not), and its gradient once backward reaches it."""
        self.attention = _at_least_float32(attention.detach())
        self.gradient = None
        if attention.requires_grad:
            attention.register_hook(self._record_gradient)

    def _record_gradient(self, gradient: torch.Tensor) -> None:
        self.gradient = _at_least_float32(gradient.detach())


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()
