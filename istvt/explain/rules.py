"""The relevance rules of the layers other than attention, each for a batch and separate for each of its clips.

Relevance starts as 1 at the explained logit. Linear layers: alpha = 1, beta = 0, bias ignored. LayerNorm, GELU,
softmax and scaling pass relevance on as it is. Chefer, Gur, Wolf, "Transformer Interpretability Beyond Attention
Visualization", CVPR 2021; the rule of self-subtract is this project's (none is published).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.relevance import Stabilizer, ratio


def linear(x: Tensor, weight: Tensor, relevance: Tensor, stabilizer: Stabilizer) -> Tensor:
    """Relevance of the input of `x @ weight.T`: only contributions of positive sign count (`x+ W+` and `x- W-`).

    Args:
        x: [..., in].
        weight: [out, in].
        relevance: [..., out], of the output.
        stabilizer: all contributions have one sign here, so their sum needs none of the relative kind.

    Returns:
        [..., in].
    """
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)
    x_positive, x_negative = x.clamp(min=0), x.clamp(max=0)
    total = (x_positive @ positive.T).add_(x_negative @ negative.T)
    share = ratio(relevance, total, total, stabilizer if stabilizer == "reference" else 0.0)
    return x_positive.mul_(share @ positive).add_(x_negative.mul_(share @ negative))


class Addition:
    """Relevance of the two summands of `a + b`, so that each clip keeps its sum; some tokens at a time.

    The ratio rule at every element, then each summand is scaled to its share of the two absolute sums. The sums run
    over one clip: over a batch they would make each clip's explanation depend on the others. They are known when all
    its tokens have been seen, so the scales come last.
    """

    def __init__(self, stabilizer: Stabilizer) -> None:
        self.stabilizer = stabilizer
        self._sums: Tensor | None = None

    def shares(self, a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """Relevance of some of the elements of a and of b, [B, ...] each, still to be multiplied by `scales`."""
        share = ratio(relevance, a + b, a.abs() + b.abs(), self.stabilizer)
        r_a, r_b = a * share, share.mul_(b)
        # float64: these sums cancel, and they scale everything below.
        sums = torch.stack([x.flatten(1).sum(1, dtype=torch.float64) for x in (r_a, r_b, relevance)])
        self._sums = sums if self._sums is None else self._sums + sums
        return r_a, r_b

    def scales(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """What `shares` gave for a and for b is multiplied by: [B, 1, ...], with the dimensions and dtype of `like`."""
        sum_a, sum_b, total = self._sums
        absolute = sum_a.abs() + sum_b.abs()
        factor = torch.where(absolute > 0, total / torch.where(absolute > 0, absolute, 1.0), 0.0)
        shape = (-1, *[1] * (like.dim() - 1))
        return tuple((factor * own.sign()).to(like.dtype).view(shape) for own in (sum_a, sum_b))


def self_subtract(x: Tensor, relevance: Tensor) -> Tensor:
    """Relevance of the tokens whose differences along dim 1 have `relevance`.

    A difference `x_t - x_{t-1}` gives its relevance to the two frames in proportion to `|x_t|` and `|x_{t-1}|`
    (halves where both are 0): bounded and conservative even where two frames are equal, where the ratio rule is not.

    Args:
        x: [B, F, S, C], before the difference.
        relevance: [B, F, S, C], of `kernels.self_subtract(x)`.

    Returns:
        [B, F, S, C].
    """
    result = relevance.clone()
    if x.shape[1] < 3:
        return result
    later, earlier = x[:, 2:].abs(), x[:, 1:-1].abs()
    both = later + earlier
    share = torch.where(both > 0, later / torch.where(both > 0, both, 1.0), 0.5)
    result[:, 2:] = relevance[:, 2:] * share
    result[:, 1:-1] += relevance[:, 2:] * (1 - share)
    return result
