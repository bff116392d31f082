"""ISTVT in plain PyTorch, stored or fused attention: the baselines of training speed.

Parameters and their names are those of `istvt.ISTVT`, and so is the function; only the computation differs:

- three unpadded projections, with the adjacent frames subtracted after LayerNorm in a pass of its own;
- permutes around every attention;
- attention as two stored products and a softmax (`naive`, as the authors' code), or by PyTorch's
  scaled_dot_product_attention over time as over space (`sdpa`);
- all tokens of the last block, of which the classifier reads one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from istvt.config import ISTVTConfig
from istvt.model.attention import Attention
from istvt.model.istvt import ISTVT


def naive_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Return `softmax(scale q k^T) v` with the matrix stored, as the authors' code does; `scale` None is D^-0.5."""
    return torch.softmax(q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale), -1) @ v


ATTENTIONS = {"naive": naive_attention, "sdpa": functional.scaled_dot_product_attention}


class BaselineModel(ISTVT):
    """`ISTVT` in plain PyTorch.

    Args:
        config: of a model with `temporal_first` or `spatial_only` attention.
        attention: a name of `ATTENTIONS`.
    """

    def __init__(self, config: ISTVTConfig, attention: str) -> None:
        super().__init__(config, backend="reference")
        if config.attention not in ("temporal_first", "spatial_only"):
            raise ValueError(f"the baseline has no {config.attention} attention.")
        for block in self.blocks:
            sizes = (config.dim, config.heads, config.resolved_head_dim)
            if config.attention == "temporal_first":
                block.temporal = _Temporal(*sizes, attention, config.self_subtract)
            block.spatial = _Spatial(*sizes, attention)
        self.init_weights()

    def forward(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H_i, W_i] -> logits [B]."""
        return self.classify(self.encode(self.tokenize(clips)))


class _Baseline(Attention):
    def __init__(self, dim: int, heads: int, head_dim: int, attention: str) -> None:
        super().__init__(dim, heads, head_dim)
        self.attend = ATTENTIONS[attention]

    def heads_of(self, x: Tensor) -> Tensor:
        """[B, F, S, N * D] -> [B, F, S, N, D]."""
        return x.unflatten(-1, (self.heads, self.head_dim))


class _Temporal(_Baseline):
    def __init__(self, dim: int, heads: int, head_dim: int, attention: str, self_subtract: bool) -> None:
        super().__init__(dim, heads, head_dim, attention)
        self.self_subtract = self_subtract

    def forward(self, x: Tensor, norm: nn.LayerNorm, query_rows: int | None = None, capture: None = None) -> Tensor:
        x = norm(x)
        difference = torch.cat([x[:, :2], x[:, 2:] - x[:, 1:-1]], 1) if self.self_subtract else x
        weight_qk, weight_v = self.qkv.weight.split([2 * self.heads * self.head_dim, self.heads * self.head_dim])
        q, k = functional.linear(difference, weight_qk).chunk(2, -1)
        v = functional.linear(x, weight_v)
        # [B, F, S, N, D] -> [B * S, N, F, D]
        q, k, v = (self.heads_of(t).permute(0, 2, 3, 1, 4).flatten(0, 1) for t in (q, k, v))
        out = self.attend(q, k, v).unflatten(0, (x.shape[0], x.shape[2])).permute(0, 3, 1, 2, 4)
        return self.proj(out.flatten(-2))


class _Spatial(_Baseline):
    def forward(self, x: Tensor, queries: int | None = None, capture: None = None) -> Tensor:
        # [B, F, S, N, D] -> [B * F, N, S, D]
        q, k, v = (self.heads_of(t).flatten(0, 1).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        out = self.attend(q, k, v).transpose(1, 2).unflatten(0, x.shape[:2])
        return self.proj(out.flatten(-2))
