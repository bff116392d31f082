"""The plain-PyTorch references: the specification of the kernels, and the path of CPU tensors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import (
    AttentionCapture,
    layer_norm_difference,
    self_subtract,
    spatial_attention,
    temporal_attention,
    temporal_attention_packed,
)
from kernels.frame_difference import difference_rows, integrate_rows
from kernels.temporal import SELF_SUBTRACT


def attention_inputs(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 2, 5, 4, 2, 6, generator=generator, dtype=dtype)  # three of [B, F, S, N, D]


def one_attention_at_a_time(q, k, v):
    """Softmax attention of `[rows, D]` matrices, by loops over everything else: too plain to be wrong."""
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for s in range(q.shape[2]):
            for n in range(q.shape[3]):
                scores = q[b, :, s, n] @ k[b, :, s, n].T / q.shape[-1] ** 0.5
                out[b, :, s, n] = torch.exp(scores) / torch.exp(scores).sum(1, keepdim=True) @ v[b, :, s, n]
    return out


def test_self_subtract_leaves_the_class_row_and_the_first_frame_and_subtracts_the_rest():
    x = torch.arange(10.0).reshape(1, 5, 2) ** 2
    expected = torch.stack([x[0, 0], x[0, 1], x[0, 2] - x[0, 1], x[0, 3] - x[0, 2], x[0, 4] - x[0, 3]])[None]
    assert torch.equal(self_subtract(x), expected)
    assert torch.equal(self_subtract(x.transpose(0, 1), dim=0), expected.transpose(0, 1))


def test_two_frame_rows_have_no_difference_and_one_is_refused():
    x = torch.randn(2, 2, 3)
    assert torch.equal(self_subtract(x), x)
    with pytest.raises(ValueError, match="x has 1 frame rows along dim 1; it takes 2 or more"):
        self_subtract(x[:, :1])
    with pytest.raises(ValueError, match="dim is 4, but x has 3 dimensions"):
        self_subtract(x, dim=4)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(rows=st.integers(1, 9))
def test_integrating_undoes_the_difference(rows):
    x = torch.randn(3, rows, 4, dtype=torch.float64)
    assert torch.allclose(integrate_rows(difference_rows(x, 1), 1), x)


def test_temporal_attention_is_softmax_attention_over_the_frames_of_each_position():
    q, k, v = attention_inputs()
    assert torch.allclose(temporal_attention(q, k, v), one_attention_at_a_time(q, k, v))
    fused = temporal_attention(q, k, v, self_subtract="fused")
    assert torch.allclose(fused, one_attention_at_a_time(self_subtract(q), self_subtract(k), v))


def test_spatial_attention_is_temporal_attention_with_frames_and_positions_exchanged():
    q, k, v = attention_inputs()
    exchanged = temporal_attention(*(x.transpose(1, 2) for x in (q, k, v)), scale=0.3)
    assert torch.allclose(spatial_attention(q, k, v, scale=0.3), exchanged.transpose(1, 2))


def test_the_three_ways_to_subtract_are_one_function_of_the_tokens():
    """Reference model (subtract, three projections), fused and telescoped: the same attention and output."""
    tokens = torch.randn(2, 5, 4, 16, dtype=torch.float64)
    weight = torch.randn(3 * 12, 16, dtype=torch.float64)

    def project(x):
        return torch.nn.functional.linear(x, weight).unflatten(-1, (3, 2, 6))

    differenced, plain = project(self_subtract(tokens)), project(tokens)
    expected = temporal_attention(differenced[..., 0, :, :], differenced[..., 1, :, :], plain[..., 2, :, :])
    assert torch.allclose(temporal_attention_packed(plain, self_subtract="fused"), expected)
    assert torch.allclose(temporal_attention_packed(differenced, self_subtract="telescoped"), expected)


@pytest.mark.parametrize("mode", SELF_SUBTRACT)
def test_fewer_queries_give_the_leading_rows(mode):
    q, k, v = attention_inputs()
    for rows in (1, 2, 3):
        fewer = temporal_attention(q[:, :rows], k, v, self_subtract=mode)
        assert torch.allclose(fewer, temporal_attention(q, k, v, self_subtract=mode)[:, :rows])
    assert torch.allclose(spatial_attention(q[:, :, :1], k, v), spatial_attention(q, k, v)[:, :, :1])


def test_layer_norm_difference_is_layer_norm_then_self_subtract():
    x = torch.randn(2, 5, 3, 8, dtype=torch.float64)
    weight, bias = torch.randn(2, 8, dtype=torch.float64)
    expected = self_subtract(torch.nn.functional.layer_norm(x, (8,), weight, bias, 1e-6))
    assert torch.allclose(layer_norm_difference(x, weight, bias), expected)
    assert layer_norm_difference(x, weight, bias, out_dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("operation", [temporal_attention, spatial_attention])
def test_the_capture_holds_attention_and_its_gradient(operation):
    q, k, v = attention_inputs(dtype=torch.float32)
    capture = AttentionCapture()
    out = operation(q.requires_grad_(), k, v, capture=capture)
    rows = q.shape[1] if operation is temporal_attention else q.shape[2]
    assert capture.attention.shape[-2:] == (rows, rows)
    assert torch.allclose(capture.attention.sum(-1), torch.ones(()))
    assert capture.gradient is None
    (out**2).sum().backward()
    # d loss / d A[i, j] = 2 out_i . v_j
    order = (0, 2, 3, 1, 4) if operation is temporal_attention else (0, 1, 3, 2, 4)
    expected = 2 * out.detach().permute(order) @ v.permute(order).mT
    assert torch.allclose(capture.gradient, expected, atol=1e-5)


def test_references_differentiate_twice():
    q, k, v = (x[:1, :3, :2, :1, :2].requires_grad_() for x in attention_inputs().unbind(0))
    assert torch.autograd.gradgradcheck(temporal_attention, (q, k, v))
