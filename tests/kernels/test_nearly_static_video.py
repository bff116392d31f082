"""Nearly static video: accuracy of the self-subtract modes where neighboring frames are nearly equal."""

import pytest
import torch

from kernels import AttentionCapture, layer_norm_difference, temporal_attention, temporal_attention_packed

CHANNELS, HEADS, HEAD_DIM, POSITIONS, FRAMES = 128, 2, 64, 32, 6
DIFFERENCES = (1.0, 0.3, 0.1, 0.03, 0.01)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def tokens_and_weight(difference, device):
    """A class row and frames that differ from a common one by `difference`; scores of order one at any of them."""
    generator = torch.Generator().manual_seed(0)
    still = torch.randn(1, 1, POSITIONS, CHANNELS, generator=generator)
    frames = still + difference * torch.randn(1, FRAMES, POSITIONS, CHANNELS, generator=generator)
    tokens = torch.cat((torch.randn(1, 1, POSITIONS, CHANNELS, generator=generator), frames), 1)
    weight = torch.randn(3, HEADS * HEAD_DIM, CHANNELS, generator=generator) / CHANNELS**0.5
    weight[:2] /= difference
    return tokens.to(device), weight.flatten(0, 1).bfloat16().to(device)


def attention(path, tokens, weight, dtype):
    """Attention matrix and output, in float64, of one of the three paths with its tensors in `dtype`."""

    def project(x):
        return torch.nn.functional.linear(x.to(dtype), weight.to(dtype)).unflatten(-1, (3, HEADS, HEAD_DIM))

    ones, zeros = torch.ones(2, CHANNELS, device=tokens.device).to(tokens.dtype) * torch.tensor(
        [[1.0], [0.0]], device=tokens.device, dtype=tokens.dtype
    )
    plain = torch.nn.functional.layer_norm(tokens, (CHANNELS,), eps=1e-6)
    differenced = layer_norm_difference(tokens, ones, zeros)
    capture = AttentionCapture()
    if path == "subtract, then round":
        q, k, _ = project(differenced).unbind(3)
        out = temporal_attention(q, k, project(plain)[..., 2, :, :], capture=capture)
    elif path == "telescoped":
        out = temporal_attention_packed(project(differenced), self_subtract="telescoped", capture=capture)
    else:
        out = temporal_attention_packed(project(plain), self_subtract="fused", capture=capture)
    return capture.attention.double(), out.double()


def errors(difference, device):
    tokens, weight = tokens_and_weight(difference, device)
    exact = attention("subtract, then round", tokens.double(), weight.double(), torch.float64)
    found = {}
    for path in ("subtract, then round", "telescoped", "project, then subtract"):
        got = attention(path, tokens, weight, torch.bfloat16)
        found[path] = [((x - y).norm() / y.norm()).item() for x, y in zip(got, exact, strict=True)]
    return found


@pytest.mark.parametrize("device", DEVICES)
def test_telescoped_bfloat16_is_as_good_as_subtracting_in_float32_and_projecting_first_is_not(device, record_property):
    table = {difference: errors(difference, device) for difference in DIFFERENCES}
    for difference, found in table.items():
        record_property(f"attention and output error at {difference}", str(found))
        first, telescoped, projected = found.values()
        assert telescoped[0] <= 1.5 * first[0], (difference, found)
        # v is a sum of up to six rounded differences: where frames have nothing in common that costs up to a factor 2
        assert telescoped[1] <= (1.5 if difference < 1 else 2.1) * first[1], (difference, found)
        if difference <= 0.03:
            assert projected[0] > 10 * telescoped[0], (difference, found)
    assert table[0.01]["project, then subtract"][0] > 0.2  # what is avoided: the matrix is mostly rounding
