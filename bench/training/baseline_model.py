"""ISTVT in plain PyTorch, stored or fused attention: the baselines of training speed.

Parameters and their names are those of `istvt.ISTVT`, and so is the function; only the computation differs:

- three unpadded projections, with the adjacent frames subtracted after LayerNorm in a pass of its own;
- permutes around every attention;
- attention as two stored products and a softmax (`naive`, as the authors' code), or by PyTorch's
  scaled_dot_product_attention over time as over space (`sdpa`);
- all tokens of the last block, of which the classifier reads one.
"""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from bench.common import peers
from istvt.config import ISTVTConfig
from istvt.model.attention import Attention
from istvt.model.istvt import ISTVT
from kernels import self_subtract


class BaselineModel(ISTVT):
    """`ISTVT` in plain PyTorch.

    Args:
        config: of a model with `temporal_first` or `spatial_only` attention.
        attend: of q, k and v `[sequences, heads, length, D]`.
    """

    def __init__(self, config: ISTVTConfig, attend: peers.Attention) -> None:
        super().__init__(config, backend="reference")
        if config.attention not in ("temporal_first", "spatial_only"):
            raise ValueError(f"the baseline has no {config.attention} attention.")
        for block in self.blocks:
            sizes = (config.dim, config.heads, config.resolved_head_dim)
            if config.attention == "temporal_first":
                block.temporal = _Attention(*sizes, partial(peers.over_frames, attend), config.self_subtract)
            block.spatial = _Attention(*sizes, partial(peers.over_positions, attend), False)
        self.init_weights()

    def forward(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H_i, W_i] -> logits [B]."""
        return self.classify(self.encode(self.tokenize(clips)))


class _Attention(Attention):
    """Attention by `attend` of q, k and v `[B, F, S, N, D]`."""

    def __init__(self, dim: int, heads: int, head_dim: int, attend: peers.Attention, self_subtract: bool) -> None:
        super().__init__(dim, heads, head_dim)
        self.attend, self.self_subtract = attend, self_subtract

    def forward(self, x: Tensor, norm: nn.LayerNorm | None = None, capture: None = None) -> Tensor:
        """[B, F, S, C] -> [B, F, S, C]; over time LayerNorm comes with the call, over space before it."""
        x = norm(x) if norm else x
        if self.self_subtract:
            weight_qk, weight_v = self.qkv.weight.split([2 * self.heads * self.head_dim, self.heads * self.head_dim])
            parts = (*functional.linear(self_subtract(x), weight_qk).chunk(2, -1), functional.linear(x, weight_v))
        else:
            parts = self.qkv(x).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, self.head_dim)) for part in parts)
        return self.proj(self.attend(q, k, v).flatten(-2))
