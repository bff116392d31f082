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
    """Relevance of the input of ``x @ weight.T``: only contributions of positive sign count (``x+ W+`` and ``x- W-``).

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
    total = x_positive @ positive.T + x_negative @ negative.T
    share = ratio(relevance, total, total, stabilizer if stabilizer == "reference" else 0.0)
    return x_positive * (share @ positive) + x_negative * (share @ negative)


def add(a: Tensor, b: Tensor, relevance: Tensor, stabilizer: Stabilizer) -> tuple[Tensor, Tensor]:
    """Relevance of the two summands of ``a + b``, so that each clip keeps its sum.

    The ratio rule at every element, then each summand is scaled to its share of the two absolute sums. The sums run
    over one clip: over a batch they would make each clip's explanation depend on the others.

    Args:
        a, b, relevance: [B, ...].
    """
    share = ratio(relevance, a + b, a.abs() + b.abs(), stabilizer)
    r_a, r_b = a * share, b * share
    # float64: these sums cancel, and they scale everything below.
    sum_a, sum_b, total = (x.flatten(1).sum(1, dtype=torch.float64) for x in (r_a, r_b, relevance))
    absolute = sum_a.abs() + sum_b.abs()
    factor = torch.where(absolute > 0, total / torch.where(absolute > 0, absolute, 1.0), 0.0)
    return r_a * _as_scale(factor * sum_a.sign(), r_a), r_b * _as_scale(factor * sum_b.sign(), r_b)


def self_subtract(x: Tensor, relevance: Tensor) -> Tensor:
    """Relevance of the tokens whose differences along dim 1 have ``relevance``.

    A difference ``x_t - x_{t-1}`` gives its relevance to the two frames in proportion to ``|x_t|`` and ``|x_{t-1}|``
    (halves where both are 0): bounded and conservative even where two frames are equal, where the ratio rule is not.

    Args:
        x: [B, F, S, C], before the difference.
        relevance: [B, F, S, C], of ``kernels.self_subtract(x)``.

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


def _as_scale(factor: Tensor, like: Tensor) -> Tensor:
    return factor.to(like.dtype).view(-1, *[1] * (like.dim() - 1))
