"""Temporal attention kernels: properties for any shape, memory layout and dtype."""

import pytest
import torch
from attention_checks import DEVICE, DTYPES, Allocations, everything, gradient_like, packed, surrounded_by_nan
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import kernels.common.launch
from kernels import AttentionCapture, temporal_attention, temporal_attention_packed
from kernels.common.launch import interpreted
from kernels.temporal import SELF_SUBTRACT
from kernels.temporal.reference import temporal_attention as reference

# The error of a result rounded to the dtype, with room for rounded probabilities and differenced queries.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def assert_near(x, exact, dtype):
    assert x.shape == exact.shape
    exact = exact.double()
    error = (x.double() - exact).norm() / max(exact.norm().item(), 1e-3)
    assert error <= TOLERANCE[dtype], f"relative error {error:.1e}"


@settings(max_examples=12 if interpreted() else 60, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    clips=st.integers(0, 2),
    frames=st.integers(2, 12) if interpreted() else st.integers(2, 128),
    positions=st.integers(1, 9),
    heads=st.integers(1, 3),
    head_dim=st.integers(8, 40) if interpreted() else st.integers(8, 128),
    queries=st.sampled_from([None, 1, 2]),
    mode=st.sampled_from(SELF_SUBTRACT),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(["packed", "contiguous", "surrounded by NaN"]),
    scale=st.sampled_from([None, 0.5, -0.3, 0.0]),
)
def test_any_shape_layout_and_scale_agrees_with_the_reference_and_reads_nothing_beyond_its_rows(
    clips, frames, positions, heads, head_dim, queries, mode, dtype, layout, scale
):
    qkv = packed(clips, frames, positions, heads, head_dim, dtype)
    q, k, v = qkv.unbind(3)
    if layout == "contiguous":
        q, k, v = (x.contiguous() for x in (q, k, v))
    if layout == "surrounded by NaN":
        q, k, v = surrounded_by_nan(qkv).unbind(3)
    q = q[:, :queries]
    grad_out = gradient_like(q)
    options = {"scale": scale, "self_subtract": mode}
    got = everything(temporal_attention, q, k, v, grad_out, **options)
    exact = everything(reference, *(x.double() for x in (q, k, v)), grad_out, **options)
    for x, y in zip(got, exact, strict=True):
        assert x.dtype == dtype
        assert_near(x, y, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", SELF_SUBTRACT)
def test_a_packed_product_gets_the_same_output_and_one_packed_gradient(mode, dtype, poisoned):
    qkv = packed(2, 4, 3, 2, 16, dtype).requires_grad_()
    grad_out = gradient_like(qkv[:, :, :, 0])
    out = temporal_attention_packed(qkv, self_subtract=mode)
    (gradient,) = torch.autograd.grad(out, qkv, grad_out)
    apart = everything(temporal_attention, *qkv.detach().unbind(3), grad_out, self_subtract=mode)
    assert torch.equal(out, apart[0])
    assert torch.equal(gradient, torch.stack(apart[1:], 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_output_is_contiguous_and_the_gradient_of_a_sum_arrives_expanded(dtype):
    q, k, v = packed(1, 3, 4, 2, 16, dtype).unbind(3)
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out = temporal_attention(*leaves)
    assert out.is_contiguous()
    out.sum().backward()  # stride 0 in every dimension
    exact = everything(reference, q.double(), k.double(), v.double(), torch.ones_like(q))
    for leaf, gradient in zip(leaves[2:], exact[3:], strict=True):
        assert_near(leaf.grad, gradient, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", SELF_SUBTRACT)
def test_the_capture_holds_what_autograd_finds_on_the_stored_matrix_and_its_rows_sum_to_one(mode, dtype, poisoned):
    q, k, v = packed(2, 5, 3, 2, 16, dtype).unbind(3)
    grad_out = gradient_like(q)
    capture, exact = AttentionCapture(), AttentionCapture()
    plain = everything(temporal_attention, q, k, v, grad_out, self_subtract=mode)
    captured = everything(temporal_attention, q, k, v, grad_out, self_subtract=mode, capture=capture)
    everything(reference, q.double(), k.double(), v.double(), grad_out, self_subtract=mode, capture=exact)
    assert capture.attention.dtype == capture.gradient.dtype == torch.float32
    assert_near(capture.attention, exact.attention, dtype)
    assert_near(capture.gradient, exact.gradient, dtype)
    assert (capture.attention.sum(-1) - 1).abs().max() < 1e-5
    for x, y in zip(plain, captured, strict=True):
        assert torch.equal(x, y), "capturing changes a result"


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_a_capture_no_matrix_of_attention_is_ever_allocated(dtype):
    q, k, v = packed(1, 7, 3, 2, 16, dtype).unbind(3)
    matrix = 1 * 3 * 2 * 7 * 7
    with Allocations() as plain:
        everything(temporal_attention, q, k, v, torch.ones_like(q))
    with Allocations() as captured:
        everything(temporal_attention, q, k, v, torch.ones_like(q), capture=AttentionCapture())
    with Allocations() as stored:
        everything(reference, q, k, v, torch.ones_like(q))
    assert matrix not in plain.sizes
    assert matrix in captured.sizes
    assert matrix in stored.sizes


@pytest.mark.parametrize("dtype", DTYPES)
def test_permuting_positions_permutes_the_output(dtype):
    q, k, v = packed(1, 4, 11, 1, 16, dtype).unbind(3)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    out = temporal_attention(q, k, v, self_subtract="fused")
    permuted = temporal_attention(*(x[:, :, order] for x in (q, k, v)), self_subtract="fused")
    assert torch.equal(permuted, out[:, :, order])


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_frames_attend_to_all_differences_alike(dtype):
    """No motion: rows 2.. of the subtracted keys are zero, so every query gives those frames the same weight."""
    q, k, v = packed(1, 6, 3, 2, 16, dtype).unbind(3)
    still = [torch.cat((x[:, :1], x[:, 1:2].expand(-1, 5, -1, -1, -1)), 1) for x in (q, k, v)]
    capture = AttentionCapture()
    temporal_attention(*still, self_subtract="fused", capture=capture)
    differences = capture.attention[..., 2:]
    assert torch.equal(differences, differences[..., :1].expand_as(differences))
    queries = capture.attention[..., 2:, :]  # zero queries: every key alike
    assert torch.allclose(queries, torch.full_like(queries, 1 / 6))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", SELF_SUBTRACT)
def test_64_bit_offsets_and_a_second_backward_run_give_the_same_bits(mode, dtype, monkeypatch):
    q, k, v = packed(2, 5, 5, 1, 24, dtype).unbind(3)
    grad_out = gradient_like(q)
    first = everything(temporal_attention, q, k, v, grad_out, self_subtract=mode)
    again = everything(temporal_attention, q, k, v, grad_out, self_subtract=mode)
    monkeypatch.setattr(kernels.common.launch, "LARGEST_32_BIT_OFFSET", 0)
    wide = everything(temporal_attention, q, k, v, grad_out, self_subtract=mode)
    for x, y, z in zip(first, again, wide, strict=True):
        assert torch.equal(x, y)
        assert torch.equal(x, z)


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != torch.float32])
@pytest.mark.parametrize("mode", SELF_SUBTRACT)
def test_padding_the_head_with_zeros_changes_nothing_and_pads_get_gradients_of_exactly_zero(mode, dtype, poisoned):
    qkv = packed(1, 4, 3, 2, 27, dtype)
    grad_out = torch.randn(1, 4, 3, 2, 27, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)
    wide, wide_grad = (torch.nn.functional.pad(x, (0, 5)) for x in (qkv, grad_out))
    plain = everything(temporal_attention, *qkv.unbind(3), grad_out, self_subtract=mode)
    padded = everything(temporal_attention, *wide.unbind(3), wide_grad, self_subtract=mode, scale=27**-0.5)
    for x, y in zip(plain, padded, strict=True):
        assert (y[..., 27:] == 0).all()
        assert_near(y[..., :27], x, dtype)


def test_a_gradient_of_a_gradient_is_refused_and_not_silently_wrong():
    q, k, v = packed(1, 3, 2, 1, 8, torch.float32).unbind(3)
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    weight = torch.ones_like(q, requires_grad=True)
    (gradient,) = torch.autograd.grad((temporal_attention(*leaves) * weight).sum(), leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda q, k, v: (q, k, v.mT.contiguous().mT), r"v has stride \d+ in its last dimension; it takes a contig"),
        (lambda q, k, v: [torch.zeros(1, 3, 2, 1, 129, device=DEVICE)] * 3, "k has head_dim 129; the kernels take"),
        (lambda q, k, v: [torch.zeros(1, 129, 2, 1, 8, device=DEVICE)] * 3, "k has 129 frame rows; the kernels take"),
    ],
)
def test_what_a_kernel_cannot_take_is_named_before_any_launch(change, sentence):
    with kernels.common.launch.recorded(90) as launches, pytest.raises(ValueError, match=sentence):
        temporal_attention(*change(*packed(1, 3, 2, 2, 8, torch.float32).unbind(3)))
    assert launches == []
