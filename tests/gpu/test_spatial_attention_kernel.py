"""Spatial attention kernels: properties for any shape, memory layout and dtype."""

import math

import pytest
import torch
from attention_checks import DEVICE, DTYPES, Allocations, everything, gradient_like, packed, surrounded_by_nan
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import kernels.common.launch
from bench.kernels import spatial as benchmark
from kernels import AttentionCapture, spatial_attention, spatial_attention_packed
from kernels.common.launch import interpreted
from kernels.spatial import operator
from kernels.spatial.reference import spatial_attention as reference

# The error of a result rounded to the dtype, with room for rounded probabilities.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def assert_near(x, exact, dtype, tolerance=None, at_least=0.1):
    """The relative error is within the tolerance; relative to numbers of the size `at_least`."""
    assert x.shape == exact.shape
    exact = exact.double()
    error = (x.double() - exact).norm() / max(exact.norm().item(), at_least * exact.numel() ** 0.5, 1e-3)
    assert error <= (tolerance or TOLERANCE[dtype]), f"relative error {error:.1e}"


def in_double(q, k, v, grad_out, **arguments):
    return everything(reference, q.double(), k.double(), v.double(), grad_out, **arguments)


@settings(max_examples=12 if interpreted() else 40, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    clips=st.integers(0, 2),
    frames=st.integers(1, 2),
    positions=st.integers(1, 45) if interpreted() else st.integers(1, 700),
    heads=st.integers(1, 2),
    # On a GPU each head dimension is a compilation.
    head_dim=st.integers(8, 40) if interpreted() else st.sampled_from([8, 40, 64, 91, 96, 128]),
    queries=st.sampled_from([None, 0, 1, 17]),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(["packed", "contiguous", "surrounded by NaN"]),
    scale=st.sampled_from([None, 0.5, -0.3, 0.0]),
)
def test_any_shape_layout_and_scale_agrees_with_the_reference_and_reads_nothing_beyond_its_rows(
    clips, frames, positions, heads, head_dim, queries, dtype, layout, scale
):
    qkv = packed(clips, frames, positions, heads, head_dim, dtype)
    q, k, v = qkv.unbind(3)
    if layout == "contiguous":
        q, k, v = (x.contiguous() for x in (q, k, v))
    if layout == "surrounded by NaN":
        q, k, v = surrounded_by_nan(qkv).unbind(3)
    q = q[:, :, :queries]
    grad_out = gradient_like(q)
    got = everything(spatial_attention, q, k, v, grad_out, scale=scale)
    exact = in_double(q, k, v, grad_out, scale=scale)
    # What gradients of queries and keys are made of; with a single key these cancel, and only their rounding is left.
    terms = max(0.1, (0.5 if scale is None else abs(scale)) * (head_dim / positions) ** 0.5)
    for x, y, at_least in zip(got, exact, (0.1, terms, terms, 0.1), strict=True):
        assert x.dtype == dtype
        assert_near(x, y, dtype, at_least=at_least)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_packed_product_gets_the_same_output_and_one_packed_gradient(dtype, poisoned):
    qkv = packed(2, 1, 37, 2, 16, dtype).requires_grad_()
    grad_out = gradient_like(qkv[:, :, :, 0])
    out = spatial_attention_packed(qkv)
    (gradient,) = torch.autograd.grad(out, qkv, grad_out)
    apart = everything(spatial_attention, *qkv.detach().unbind(3), grad_out)
    assert torch.equal(out, apart[0])
    assert torch.equal(gradient, torch.stack(apart[1:], 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_output_is_contiguous_and_the_gradient_of_a_sum_arrives_expanded(dtype):
    q, k, v = packed(1, 2, 20, 2, 16, dtype).unbind(3)
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out = spatial_attention(*leaves)
    assert out.is_contiguous()
    out.sum().backward()  # stride 0 in every dimension
    assert_near(leaves[2].grad, in_double(q, k, v, torch.ones_like(q))[3], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("queries", [None, 1])
def test_the_capture_holds_what_autograd_finds_on_the_stored_matrix_and_its_rows_sum_to_one(queries, dtype, poisoned):
    q, k, v = packed(1, 2, 41, 2, 16, dtype).unbind(3)
    q = q[:, :, :queries]
    grad_out = gradient_like(q)
    capture, exact = AttentionCapture(), AttentionCapture()
    plain = everything(spatial_attention, q, k, v, grad_out)
    captured = everything(spatial_attention, q, k, v, grad_out, capture=capture)
    in_double(q, k, v, grad_out, capture=exact)
    assert capture.attention.shape == (1, 2, 2, q.shape[2], 41)
    assert capture.attention.dtype == capture.gradient.dtype == torch.float32
    assert_near(capture.attention, exact.attention, torch.float32)
    assert_near(capture.gradient, exact.gradient, torch.float32)
    assert (capture.attention.sum(-1) - 1).abs().max() < 1e-5
    for x, y in zip(plain, captured, strict=True):
        assert torch.equal(x, y), "capturing changes a result"


def test_without_a_capture_the_largest_buffer_grows_as_the_positions_and_with_one_as_their_square():
    def largest(function, positions, **arguments):
        q, k, v = (x.contiguous() for x in packed(1, 1, positions, 1, 8, torch.float32).unbind(3))
        with Allocations() as allocations:
            everything(function, q, k, v, torch.ones_like(q), **arguments)
        return max(allocations.sizes)

    assert (largest(spatial_attention, 40), largest(spatial_attention, 80)) == (40 * 8, 80 * 8)
    assert largest(spatial_attention, 80, capture=AttentionCapture()) == 80 * 80
    assert largest(reference, 80) == 80 * 80


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_kept_for_backward_is_one_number_a_softmax_row_and_two_in_float32(dtype, poisoned):
    q, k, v = packed(1, 2, 35, 2, 24, dtype).unbind(3)
    out, kept, _ = operator.forward(q, k, v, 0.7, False)
    q_rows, k_rows = (x.double().transpose(2, 3) for x in (q, k))
    scores = (q_rows * (0.7 / math.log(2))) @ k_rows.mT
    if dtype == torch.float32:
        row_max = scores.amax(-1)
        exact = torch.stack([row_max, 1 / torch.exp2(scores - row_max[..., None]).sum(-1)])
    else:
        exact = torch.logsumexp(scores * math.log(2), -1)[None] / math.log(2)
    assert len(kept) == (2 if dtype == torch.float32 else 1)
    assert_near(kept, exact, torch.float32)
    assert_near(out, reference(q.double(), k.double(), v.double(), scale=0.7), dtype)


def test_a_float32_gradient_is_not_off_by_the_rounding_of_a_log_sum_exp(poisoned):
    """Kept as one logarithm the softmax of a row put every entry of it off alike: grad v by 3.2e-7, eager by 1.8e-7.

    A single query shows it, as in the last block: where many add up, their errors average out.
    """
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(8, 1, 362, 3, 1, 16, generator=generator).to(DEVICE)
    q, k, v = qkv.unbind(3)
    grad_out = torch.ones(8, 1, 1, 1, 16, device=DEVICE)
    _, _, _, grad_v = everything(spatial_attention, q[:, :, :1], k, v, grad_out)
    exact = everything(reference, q[:, :, :1].double(), k.double(), v.double(), grad_out.double())[3]
    assert (grad_v - exact).norm() < 2e-7 * exact.norm()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_a_frame_see_nothing_of_other_frames_heads_and_clips(dtype):
    """NaN in every other group must not leak into this one, forward or backward."""
    clean = packed(2, 2, 19, 2, 16, dtype)
    dirty = torch.full_like(clean, torch.nan)
    dirty[1, 0, :, :, 1] = clean[1, 0, :, :, 1]
    grad_out = gradient_like(clean[:, :, :, 0])
    expected = everything(spatial_attention, *clean.unbind(3), grad_out)
    found = everything(spatial_attention, *dirty.unbind(3), grad_out)
    for x, y in zip(found, expected, strict=True):
        assert torch.equal(x[1, 0, :, 1], y[1, 0, :, 1])
        assert x[0].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_far_from_zero_neither_overflow_nor_vanish(dtype):
    """All scores near -800 or +800: exponentials only of differences, and padding keys (score 0) do not count."""
    q, k, v = packed(1, 1, 21, 1, 16, dtype).unbind(3)
    q = q + 20
    for sign in (1, -1):
        exact = in_double(q, k + 20 * sign, v, torch.ones_like(q), scale=0.125)
        found = everything(spatial_attention, q, k + 20 * sign, v, torch.ones_like(q), scale=0.125)
        assert all(x.isfinite().all() for x in found)
        # A float32 score of this size is rounded by as much, and its exponential is off in proportion.
        assert_near(found[0], exact[0], dtype, 800 * torch.finfo(dtype).eps if dtype == torch.float32 else None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_permuting_keys_and_values_together_changes_nothing_but_rounding(dtype):
    q, k, v = packed(1, 1, 23, 1, 16, dtype).unbind(3)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(0))
    assert_near(spatial_attention(q, k[:, :, order], v[:, :, order]), spatial_attention(q, k, v), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_keys_give_uniform_attention(dtype):
    q, k, v = packed(1, 1, 25, 1, 16, dtype).unbind(3)
    capture = AttentionCapture()
    spatial_attention(q, k[:, :, :1].expand_as(k), v, capture=capture)
    assert torch.allclose(capture.attention, torch.full_like(capture.attention, 1 / 25))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [24, 80])
def test_64_bit_offsets_and_a_second_backward_run_give_the_same_bits(head_dim, dtype, monkeypatch):
    q, k, v = packed(1, 2, 40, 1, head_dim, dtype).unbind(3)
    grad_out = gradient_like(q)
    first = everything(spatial_attention, q, k, v, grad_out)
    again = everything(spatial_attention, q, k, v, grad_out)
    monkeypatch.setattr(kernels.common.launch, "LARGEST_32_BIT_OFFSET", 0)
    capture = AttentionCapture()
    wide = everything(spatial_attention, q, k, v, grad_out, capture=capture)
    for x, y, z in zip(first, again, wide, strict=True):
        assert torch.equal(x, y)
        assert torch.equal(x, z)


@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_the_head_with_zeros_changes_nothing_and_pads_get_gradients_of_exactly_zero(dtype, poisoned):
    qkv = packed(1, 1, 20, 2, 27, dtype)
    grad_out = gradient_like(qkv[:, :, :, 0])
    wide, wide_grad = (torch.nn.functional.pad(x, (0, 5)) for x in (qkv, grad_out))
    plain = everything(spatial_attention, *qkv.unbind(3), grad_out)
    padded = everything(spatial_attention, *wide.unbind(3), wide_grad, scale=27**-0.5)
    for x, y in zip(plain, padded, strict=True):
        assert (y[..., 27:] == 0).all()
        assert_near(y[..., :27], x, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_joint_attention_over_all_frames_is_the_same_kernel_by_a_reshape(dtype):
    qkv = packed(1, 3, 11, 2, 16, dtype)
    joint = qkv.flatten(1, 2).unsqueeze(1)
    assert joint.data_ptr() == qkv.data_ptr()
    q, k, v = (x.double().permute(0, 3, 1, 2, 4).flatten(2, 3) for x in qkv.unbind(3))  # [B, N, F * S, D]
    expected = torch.softmax(q @ k.mT * 16**-0.5, -1) @ v
    assert_near(spatial_attention_packed(joint).squeeze(1).transpose(1, 2), expected, dtype)


def test_a_gradient_of_a_gradient_is_refused_and_not_silently_wrong():
    q, k, v = packed(1, 1, 5, 1, 8, torch.float32).unbind(3)
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    weight = torch.ones_like(q, requires_grad=True)
    (gradient,) = torch.autograd.grad((spatial_attention(*leaves) * weight).sum(), leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda q, k, v: (q, k, v.mT.contiguous().mT), r"v has stride \d+ in its last dimension; it takes a contig"),
        (lambda q, k, v: [torch.zeros(1, 1, 2, 1, 129, device=DEVICE)] * 3, "k has head_dim 129; the kernels take"),
    ],
)
def test_what_a_kernel_cannot_take_is_named_before_any_launch(change, sentence):
    with kernels.common.launch.recorded(90) as launches, pytest.raises(ValueError, match=sentence):
        spatial_attention(*change(*packed(1, 1, 3, 2, 8, torch.float32).unbind(3)))
    assert launches == []


def test_4096_positions_take_the_same_kernels(poisoned):
    """One program of each kernel against all of them would do; a few queries keep the interpreter quick."""
    q, k, v = packed(1, 1, 4096, 1, 16, torch.float16).unbind(3)
    q = q[:, :, :20]
    assert_near(spatial_attention(q, k, v), reference(q.double(), k.double(), v.double()), torch.float16)


def test_float32_products_are_exact_in_narrow_heads_and_tf32_only_where_torch_allows_it(request):
    request.addfinalizer(lambda: torch.set_float32_matmul_precision("highest"))
    q, k, v = packed(1, 1, 64, 1, 64, torch.float32).unbind(3)

    def precisions(tensors):
        with kernels.common.launch.recorded(90) as launches:
            everything(spatial_attention, *tensors, torch.ones_like(tensors[0]))
        assert len(launches) == 3
        return {launch.arguments["PRECISION"] for launch in launches}

    assert precisions((q, k, v)) == {"tf32x3"}
    assert precisions([x[..., :63] for x in (q, k, v)]) == {"ieee"}
    assert precisions([x[:, :, :20] for x in (q, k, v)]) == {"ieee"}  # of few keys
    torch.set_float32_matmul_precision("high")
    assert precisions((q, k, v)) == {"tf32"}
    assert precisions((q.half(), k.half(), v.half())) == {"ieee"}


def test_memory_grows_as_the_positions_without_a_capture_and_as_their_square_with_one():
    small = {"positions": (32, 64, 128, 256), "rows": 1, "heads": 1, "head_dim": 8, "dtype": "float16"}
    sizes = small if interpreted() else benchmark.ON_GPU
    rows = [task.row | task.measure() for task in benchmark.memory(sizes, DEVICE.type)]
    fitted = benchmark.exponents(rows)
    assert fitted[benchmark.WITHOUT]["exponent"] == pytest.approx(1, abs=0.02)
    assert fitted[benchmark.WITH]["exponent"] == pytest.approx(2, abs=0.1)
    if interpreted():  # to the byte: output and gradients in float16, and beside them in float32
        for row in rows:
            positions, captured = row["positions"], row["capture"] == benchmark.WITH
            two_passes = 2 * positions + 2 * positions**2  # two numbers a row, attention and its gradient
            one_pass = 3 * positions + 16 * 64 * -(-positions // 64)  # three, and dq of tiles of 64 x 16
            assert row["peak_bytes"] == positions * 4 * 2 * 8 + 4 * (two_passes if captured else one_pass)
