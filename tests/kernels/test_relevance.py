"""Relevance through attention: conservation, the ratio rule, errors of wrong arguments."""

import pytest
import torch

from kernels import (
    spatial_relevance,
    spatial_relevance_map,
    spatial_rollout_step,
    temporal_relevance,
    temporal_relevance_map,
    temporal_rollout_step,
)
from kernels.relevance import ratio

QKV = torch.randn(2, 3, 5, 3, 2, 8, generator=torch.Generator().manual_seed(0))
Q, K, V = QKV.unbind(3)
U, GRADIENT = torch.randn(2, 2, 3, 5, 2, 8, generator=torch.Generator().manual_seed(1))
OVER_TIME, OVER_SPACE = torch.rand(2, 5, 3), torch.rand(2, 3, 5)


@pytest.mark.parametrize("relevance", [temporal_relevance, spatial_relevance])
def test_relevance_of_values_and_scores_is_conserved_but_for_the_stabilizer(relevance):
    """Half of the relevance of A v goes to v, half to A, and of that half to q and half to k."""
    q, k, v = (x.double() for x in (Q, K, V))
    attend = {temporal_relevance: (0, 2, 3, 1, 4), spatial_relevance: (0, 1, 3, 2, 4)}[relevance]
    a, b, c = (x.permute(attend) for x in (q, k, v))
    out = torch.softmax(a @ b.transpose(-1, -2) * 8**-0.5, -1) @ c
    arriving = torch.rand_like(out)
    u = (arriving / out).permute([attend.index(i) for i in range(5)])
    r_q, r_k, r_v = relevance(q, k, v, u, stabilizer=1e-9)
    total = arriving.sum()
    torch.testing.assert_close(r_v.sum(), total / 2)
    torch.testing.assert_close(r_q.sum(), total / 4)
    torch.testing.assert_close(r_k.sum(), total / 4)


def test_no_step_of_the_ratio_rule_amplifies_by_more_than_one_over_eps():
    parts = torch.randn(1000, 6, dtype=torch.float64)
    parts[:, 0] -= parts.sum(1) * (1 - 1e-7)  # sums that nearly cancel
    share = ratio(torch.ones(1000).double(), parts.sum(1), parts.abs().sum(1), 0.01)
    received = (parts * share[:, None]).abs().sum(1)
    assert received.max() <= 1 / 0.01
    assert received.max() > 50  # and the bound is nearly reached, so it bounds something


def test_the_reference_rule_is_a_plain_quotient_and_nothing_of_nothing():
    z = torch.tensor([2.0, -2.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(
        ratio(torch.ones(3).double(), z, z.abs(), "reference"), torch.tensor([0.5, -0.5, 0]).double()
    )


def test_wrong_arguments_are_named_before_anything_runs():
    with pytest.raises(TypeError, match=r"q is torch\.float16; relevance takes float32"):
        temporal_relevance(*(x.half() for x in (Q, K, V, U)))
    with pytest.raises(ValueError, match=r"u has shape \[2, 3, 5, 2, 7\] and q \[2, 3, 5, 2, 8\]"):
        spatial_relevance(Q, K, V, U[..., :7])
    with pytest.raises(ValueError, match="v has shape"):
        spatial_relevance(Q, K, V[0], U)
    with pytest.raises(ValueError, match="stabilizer is 0"):
        temporal_relevance(Q, K, V, U, stabilizer=0)
    with pytest.raises(ValueError, match="stabilizer is 'small'"):
        temporal_relevance(Q, K, V, U, stabilizer="small")
    with pytest.raises(ValueError, match="clamp is 'never'; it takes one of after_mean, before_mean"):
        temporal_relevance_map(Q, K, V, U, GRADIENT, clamp="never")
    with pytest.raises(ValueError, match="scale is nan"):
        spatial_relevance_map(Q, K, V, U, GRADIENT, scale=float("nan"))
    with pytest.raises(ValueError, match=r"row has shape \[2, 3, 5\]; it takes \[2, 5, 3\]"):
        temporal_rollout_step(OVER_SPACE, Q, K, V, U, GRADIENT)
    with pytest.raises(TypeError, match=r"row is torch\.float64 and q is torch\.float32"):
        spatial_rollout_step(OVER_SPACE.double(), Q, K, V, U, GRADIENT)
