"""LayerNorm-and-difference kernels: properties for any shape, memory layout and dtype."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import kernels.common.launch
from kernels import layer_norm_difference
from kernels.common.launch import interpreted
from kernels.layer_norm import operator
from kernels.layer_norm.reference import layer_norm_difference as reference

# In the interpreter float16 takes the way of bfloat16; `bench numerics` compares it there too.
DTYPES = [torch.float32, torch.bfloat16] if interpreted() else [torch.float32, torch.float16, torch.bfloat16]
DEVICE = torch.device("cpu" if interpreted() else "cuda")
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def everything(function, x, weight, bias, grad_out, **arguments):
    leaves = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
    out = function(*leaves, **arguments)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad_out.to(out.dtype))]


def parameters(channels, seed=0):
    return torch.randn(2, channels, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@settings(max_examples=10 if interpreted() else 60, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    clips=st.integers(0, 2),
    frames=st.integers(2, 9),
    positions=st.integers(1, 4),
    channels=st.integers(3, 140),
    dtype=st.sampled_from(DTYPES),
    out_dtype=st.sampled_from([None, *DTYPES]),
    sliced=st.booleans(),
)
def test_any_shape_and_layout_agrees_with_the_reference_and_reads_nothing_beyond_its_rows(
    clips, frames, positions, channels, dtype, out_dtype, sliced
):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(clips, frames, positions, channels, generator=generator) + 1).to(DEVICE, dtype)
    if sliced:
        surrounding = torch.full((clips + 1, frames + 2, positions + 1, channels + 3), torch.nan, device=DEVICE)
        inner = surrounding.to(dtype)[:clips, 1 : frames + 1, :positions, 2 : channels + 2]
        inner.copy_(x)
        x = inner
    grad_out = torch.randn(x.shape, generator=generator).to(DEVICE, out_dtype or dtype)
    weight, bias = parameters(channels)
    got = everything(layer_norm_difference, x, weight, bias, grad_out, out_dtype=out_dtype)
    exact = everything(reference, x.double(), weight.double(), bias.double(), grad_out.double())
    assert got[0].dtype == (out_dtype or dtype)
    assert got[1].dtype == dtype
    rounded = max(TOLERANCE[dtype], TOLERANCE[out_dtype or dtype])
    arrived = grad_out.double().norm().item()  # with few channels the gradient of x nearly cancels
    for result, y in zip(got, exact, strict=True):
        assert result.shape == y.shape
        assert (result.double() - y).norm() <= rounded * max(y.norm().item(), arrived)


@pytest.mark.parametrize("dtype", DTYPES)
def test_64_bit_offsets_and_a_second_backward_run_give_the_same_bits(dtype, monkeypatch, poisoned):
    x = torch.randn(2, 4, 3, 24, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
    arguments = (x, *parameters(24), torch.ones_like(x).cumsum(-1))
    first = everything(layer_norm_difference, *arguments)
    again = everything(layer_norm_difference, *arguments)
    monkeypatch.setattr(kernels.common.launch, "LARGEST_32_BIT_OFFSET", 0)
    wide = everything(layer_norm_difference, *arguments)
    for a, b, c in zip(first, again, wide, strict=True):
        assert a.isfinite().all()
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_programs_that_sum_several_rows_each_find_the_same_weight_gradient(monkeypatch, poisoned):
    x = torch.randn(2, 3, 5, 24, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    weight, bias = parameters(24)
    monkeypatch.setattr(operator, "PARTIAL_SUMS", 3)  # 10 rows: two programs have 3 of them, one has 4
    got = everything(layer_norm_difference, x, weight, bias, x)
    exact = everything(reference, x.double(), weight.double(), bias.double(), x)
    for result, y in zip(got, exact, strict=True):
        assert torch.allclose(result.double(), y, atol=1e-5)


def test_nearly_equal_frames_keep_the_digits_in_which_they_differ():
    """A rounding before the subtraction would leave an error of about 30 % here; one after it leaves 0.03 %."""
    still = torch.randn(1, 1, 4, 64, generator=torch.Generator().manual_seed(0))
    moving = still + 0.001 * torch.randn(1, 6, 4, 64, generator=torch.Generator().manual_seed(1))
    x = torch.cat((still, moving), 1).to(DEVICE)
    ones, zeros = torch.ones(64, device=DEVICE), torch.zeros(64, device=DEVICE)
    exact = reference(x.double(), ones.double(), zeros.double())[:, 2:]
    got = layer_norm_difference(x, ones, zeros, out_dtype=torch.float16)[:, 2:].double()
    early = torch.nn.functional.layer_norm(x, (64,), eps=1e-6).half().double()
    early = early[:, 2:] - early[:, 1:-1]
    assert (got - exact).norm() / exact.norm() < 1e-3
    assert (early - exact).norm() / exact.norm() > 0.05


def test_what_a_kernel_cannot_take_is_named_before_any_launch():
    with kernels.common.launch.recorded(90) as launches:
        with pytest.raises(ValueError, match="x has 8193 channels; the kernels take 1 to 8192"):
            layer_norm_difference(torch.zeros(1, 2, 1, 8193, device=DEVICE), *parameters(8193))
        with pytest.raises(ValueError, match="x has stride 2 in its last dimension"):
            layer_norm_difference(torch.zeros(1, 2, 3, 8, device=DEVICE)[..., ::2], *parameters(4))
    assert launches == []
