"""ISTVT in plain PyTorch, stored or fused attention: the baselines of training speed.

Parameters and their names are those of `istvt.ISTVT`, and so is the function; only the computation differs:

- three unpadded projections, with the adjacent frames subtracted after LayerNorm in a pass of its own;
- permutes around every attention;
- attention as two stored products and a softmax (`naive`, as the authors' code), or by PyTorch's
  scaled_dot_product_attention over time as over space (`sdpa`);
- all tokens of the last block, of which the classifier reads one.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from istvt.config import ISTVTConfig
from istvt.model.attention import Attention
from istvt.model.istvt import ISTVT


def naive_attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Return `softmax(scale q k^T) v` with the matrix stored, as the authors' code does; `scale` None is D^-0.5."""
    return torch.softmax(q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale), -1) @ v


Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
ATTENTIONS: dict[str, Attend] = {"naive": naive_attention, "sdpa": functional.scaled_dot_product_attention}


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
                block.temporal = _Attention(*sizes, ATTENTIONS[attention], (0, 2, 3, 1, 4), config.self_subtract)
            block.spatial = _Attention(*sizes, ATTENTIONS[attention], (0, 1, 3, 2, 4), False)
        self.init_weights()

    def forward(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H_i, W_i] -> logits [B]."""
        return self.classify(self.encode(self.tokenize(clips)))


class _Attention(Attention):
    """Attention over what the permutation `order` of [B, F, S, N, D] brings to dimension 3."""

    def __init__(
        self, dim: int, heads: int, head_dim: int, attend: Attend, order: tuple[int, ...], self_subtract: bool
    ) -> None:
        super().__init__(dim, heads, head_dim)
        self.attend, self.order, self.self_subtract = attend, order, self_subtract

    def forward(self, x: Tensor, norm: nn.LayerNorm | None = None, capture: None = None) -> Tensor:
        """[B, F, S, C] -> [B, F, S, C]; over time LayerNorm comes with the call, over space before it."""
        x = norm(x) if norm else x
        if self.self_subtract:
            difference = torch.cat([x[:, :2], x[:, 2:] - x[:, 1:-1]], 1)
            weight_qk, weight_v = self.qkv.weight.split([2 * self.heads * self.head_dim, self.heads * self.head_dim])
            parts = (*functional.linear(difference, weight_qk).chunk(2, -1), functional.linear(x, weight_v))
        else:
            parts = self.qkv(x).chunk(3, -1)
        parts = [part.unflatten(-1, (self.heads, self.head_dim)).permute(self.order) for part in parts]
        out = self.attend(*(part.flatten(0, 1) for part in parts)).unflatten(0, parts[0].shape[:2])
        return self.proj(out.permute([self.order.index(dimension) for dimension in range(5)]).flatten(-2))
