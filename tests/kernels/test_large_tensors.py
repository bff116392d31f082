"""Tensors of more than 2^31 elements, beyond 32-bit offsets: right at the end as at the beginning."""

import pytest
import torch

from kernels import layer_norm_difference, spatial_attention_packed, temporal_attention_packed

FRAMES, POSITIONS, HEADS, HEAD_DIM, CHANNELS = 7, 362, 8, 96, 728


def normal(clips, *shape):
    return torch.empty(clips, FRAMES, POSITIONS, *shape, dtype=torch.bfloat16, device="cuda").normal_()


@pytest.fixture(autouse=True)
def on_a_large_gpu():
    if torch.cuda.get_device_properties(0).total_memory < 24 << 30:
        pytest.skip("needs 24 GiB of GPU memory")
    yield
    torch.cuda.empty_cache()


@pytest.mark.gpu
@pytest.mark.parametrize(
    "attend",
    [spatial_attention_packed, lambda qkv: temporal_attention_packed(qkv, self_subtract="telescoped")],
    ids=["spatial", "temporal"],
)
def test_the_last_clip_of_a_very_large_batch_gets_what_it_gets_alone(attend):
    clips = 2**31 // (FRAMES * POSITIONS * 3 * HEADS * HEAD_DIM) + 2
    qkv, grad_out = normal(clips, 3, HEADS, HEAD_DIM).requires_grad_(), normal(clips, HEADS, HEAD_DIM)
    assert qkv.numel() > 2**31
    out = attend(qkv)
    (gradient,) = torch.autograd.grad(out, qkv, grad_out)
    last = qkv.detach()[-1:].requires_grad_()
    alone = attend(last)
    assert torch.equal(out[-1:], alone)
    assert torch.equal(gradient[-1:], torch.autograd.grad(alone, last, grad_out[-1:])[0])
    assert alone.float().norm() > 0


@pytest.mark.gpu
def test_the_last_clip_of_a_very_large_batch_is_normalized_as_it_is_alone():
    clips = 2**31 // (FRAMES * POSITIONS * CHANNELS) + 2
    x, grad_out = normal(clips, CHANNELS).requires_grad_(), normal(clips, CHANNELS)
    weight, bias = torch.randn(2, CHANNELS, device="cuda")
    out = layer_norm_difference(x, weight, bias)
    (gradient,) = torch.autograd.grad(out, x, grad_out)
    last = x.detach()[-1:].requires_grad_()
    alone = layer_norm_difference(last, weight, bias)
    assert torch.equal(out[-1:], alone)
    assert torch.equal(gradient[-1:], torch.autograd.grad(alone, last, grad_out[-1:])[0])
    assert alone.float().norm() > 0
