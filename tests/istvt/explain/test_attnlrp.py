"""AttnLRP agrees with the paper's rules written out, keeps the logit's relevance, and explains each clip by itself."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from bench.common.timing import peak_bytes
from dataloading.errors import InputError
from istvt import ISTVT, ISTVTConfig
from istvt.config import ATTENTIONS
from istvt.explain import explain
from istvt.explain.attnlrp import GAMMA, Kept, convolve
from istvt.explain.grid import pool, upscale

TINY = ISTVTConfig(frames=3, image_size=40, dim=24, heads=2, depth=2, mlp_dim=32, backbone_dims=(4, 6, 8, 12))


def random_model(config: ISTVTConfig) -> ISTVT:
    """A model whose biases and running statistics are not what they are initialized to."""
    torch.manual_seed(0)
    model = ISTVT(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.05)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return model


def random_clips(config: ISTVTConfig, batch: int = 2) -> torch.Tensor:
    side = config.image_size
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, config.frames, 3, side, side, generator=generator) * 2 - 1


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("is_positive", [False, True])
def test_the_gamma_rule_of_a_convolution_and_its_batch_norm_is_the_papers_written_out(groups, is_positive):
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=groups, bias=False).double()
    norm = nn.BatchNorm2d(4).double().eval()
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
        tensor.normal_()
    norm.running_var.uniform_(0.5, 2)
    x = torch.randn(1, 2, 5, 5).double()
    x = (x.abs() if is_positive else x).requires_grad_()
    kept = Kept()
    out = convolve(x, conv, norm, kept)
    torch.testing.assert_close(out, norm(conv(x)))
    g, total = torch.randn_like(out), torch.zeros((), dtype=torch.float64)
    got = x * kept.gradient(out, x, g, total)

    # Every contribution of an input pixel or of the bias to an output, one after the other.
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    bias = norm.bias - norm.running_mean * factor
    expected, of_bias = torch.zeros_like(x), 0.0
    for channel, row, column in torch.cartesian_prod(*map(torch.arange, out.shape[1:])).tolist():
        terms = {"bias": bias[channel]}
        for i in range(2 // groups):
            source = i if groups == 1 else channel // 2
            for dy, dx in torch.cartesian_prod(torch.arange(3), torch.arange(3)).tolist():
                y, z = 2 * row + dy - 1, 2 * column + dx - 1
                if 0 <= y < 5 and 0 <= z < 5:
                    terms[source, y, z] = conv.weight[channel, i, dy, dx] * factor[channel] * x[0, source, y, z]
        value = sum(terms.values())
        favored = {at: c * (1 + GAMMA * (c.sign() == value.sign())) for at, c in terms.items()}
        relevance = value * g[0, channel, row, column]
        for at, c in favored.items():
            share = relevance * c / sum(favored.values())
            if at == "bias":
                of_bias += share
            else:
                expected[(0, *at)] += share
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(total, of_bias)
    torch.testing.assert_close(got.sum() + total, (out * g).sum())


def relevance_by_hand(model: ISTVT, tokens: torch.Tensor) -> torch.Tensor:
    """The paper's rules for relevance itself, with its divisions: one block of `spatial_only`, tokens [F, S, C]."""
    block, attention = model.blocks[0], model.blocks[0].spatial
    heads, scale = attention.heads, attention.scale

    def linear(x, weight, relevance, y):
        return x * ((relevance / y) @ weight)

    def layer_norm(norm, x, relevance, y):
        weight = norm.weight / (x.var(-1, keepdim=True, correction=0) + norm.eps).sqrt()
        share = relevance / y * weight
        return x * (share - share.mean(-1, keepdim=True))

    def split(x):
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    def joined(x):
        return x.transpose(1, 2).flatten(-2)

    normalized = block.norm_spatial(tokens)
    q, k, v = map(split, functional.linear(normalized, attention.qkv.weight).chunk(3, -1))
    scores = scale * q @ k.mT
    weights = scores.softmax(-1)
    mixed = weights @ v
    attended = attention.proj(joined(mixed))
    middle = tokens + attended
    normalized_middle = block.norm_mlp(middle)
    before = block.mlp.fc1(normalized_middle)
    hidden = functional.gelu(before)
    added = block.mlp.fc2(hidden)
    out = middle + added
    final = model.norm(out)
    logit = model.head(final[:, 0].mean(0))

    relevance = torch.zeros_like(out)
    # The mean and the head are one linear layer; the rest of the logit is its bias.
    relevance[:, 0] = layer_norm(
        model.norm, out[:, 0], final[:, 0] * model.head.weight / len(final) / logit * logit, final[:, 0]
    )
    of_added = relevance * added / out
    of_hidden = linear(hidden, block.mlp.fc2.weight, of_added, added)  # GELU passes it on as it is
    of_normalized = linear(normalized_middle, block.mlp.fc1.weight, of_hidden, before)
    of_middle = relevance * middle / out + layer_norm(block.norm_mlp, middle, of_normalized, normalized_middle)
    of_attended = of_middle * attended / middle
    of_mixed = split(linear(joined(mixed), attention.proj.weight, of_attended, attended))
    share = of_mixed / (2 * mixed)
    of_weights, of_v = weights * (share @ v.mT), v * (weights.mT @ share)
    of_scores = scores * (of_weights - weights * of_weights.sum(-1, keepdim=True))
    share = scale * of_scores / (2 * scores)
    of_q, of_k = q * (share @ k), k * (share.mT @ q)
    of_qkv = torch.cat([joined(of_q), joined(of_k), joined(of_v)], -1)
    of_normalized = linear(
        normalized, attention.qkv.weight, of_qkv, functional.linear(normalized, attention.qkv.weight)
    )
    return of_middle * tokens / middle + layer_norm(block.norm_spatial, tokens, of_normalized, normalized)


@torch.no_grad()
def test_a_block_agrees_with_the_papers_rules_written_out_with_their_divisions():
    config = replace(TINY, attention="spatial_only", depth=1)
    model, clips = random_model(config).double(), random_clips(config, 1).double()
    expected = relevance_by_hand(model, model.tokenize(clips)[0])
    got = explain(model, clips, method="attnlrp").token_relevance[0]
    assert (got - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize("self_subtract", [True, False])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_relevance_of_pixels_and_of_what_keeps_some_is_the_logit_and_rounding_does_not_decide_it(
    attention, self_subtract
):
    config = replace(TINY, attention=attention, self_subtract=self_subtract, head_norm=self_subtract)
    model, clips = random_model(config), random_clips(config)
    single = explain(model, clips, method="attnlrp")
    double = explain(model.double(), clips.double(), method="attnlrp")
    with torch.no_grad():
        torch.testing.assert_close(double.logits, model(clips.double()))
    assert (single.conservation - 1).abs().max() < 1e-4
    assert (double.conservation - 1).abs().max() < 1e-10
    assert single.pixels.shape == (2, 3, 40, 40)
    assert (single.pixels - double.pixels).norm() < 1e-4 * double.pixels.norm()
    torch.testing.assert_close(double.arrived, double.pixels.sum((1, 2, 3)) / double.logits)


def test_a_clip_alone_and_in_a_batch_gives_the_same_bits():
    model, clips = random_model(TINY), random_clips(TINY, 3)
    clips[0] *= 100
    together = explain(model, clips, method="attnlrp", target=["fake", "real", "real"])
    alone = explain(model, clips[2:], method="attnlrp", target="real")
    assert together.target == ("fake", "real", "real")
    for name in ("logits", "pixels", "temporal", "spatial", "class_row", "token_relevance", "conservation"):
        assert torch.equal(getattr(together, name)[2:], getattr(alone, name))


def test_what_speaks_for_real_is_what_speaks_against_fake():
    model, clips = random_model(TINY), random_clips(TINY)
    fake, real = (explain(model, clips, method="attnlrp", target=target) for target in ("fake", "real"))
    torch.testing.assert_close(real.pixels, -fake.pixels)
    torch.testing.assert_close(real.logits, fake.logits)
    assert not torch.equal(real.temporal, fake.temporal)


def test_the_maps_are_the_relevance_of_pixels_pooled():
    model, clips = random_model(TINY), random_clips(TINY)
    result = explain(model, clips, method="attnlrp")
    cells = pool(result.pixels, *TINY.feature_grid)
    torch.testing.assert_close(cells.sum((2, 3)), result.pixels.sum((2, 3)), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(result.temporal, cells.clamp(min=0))
    torch.testing.assert_close(result.class_row, cells.sum(1).clamp(min=0))
    frames, whole = result.spatial.sum((2, 3)), result.temporal.sum((1, 2, 3))
    torch.testing.assert_close(frames, (whole / TINY.frames)[:, None].expand_as(frames))
    assert all((share == 1).all() for share in result.shares().values())


def test_a_pixel_is_pooled_into_the_cells_that_are_drawn_over_it():
    for row, column in ((0, 0), (1, 2)):
        drawn = torch.from_numpy(upscale(torch.eye(12).view(12, 3, 4)[row * 4 + column].numpy(), 64, 64))
        y, x = divmod(int(drawn.argmax()), 64)
        pixel = torch.zeros(64, 64)
        pixel[y, x] = 1
        assert pool(pixel, 3, 4)[row, column] == 1
    torch.testing.assert_close(pool(torch.ones(2, 200, 200), 3, 4).sum((1, 2)), torch.full((2,), 4e4))


def test_memory_does_not_grow_with_the_batch_nor_the_entry_flow_with_frames():
    config = replace(TINY, image_size=64, dim=8, mlp_dim=8)
    model, clips = random_model(config), random_clips(config, 4)

    def peak(clips, model=model):
        return peak_bytes(lambda: explain(model, clips, method="attnlrp"), "cpu")

    one, four = peak(clips[:1]), peak(clips)
    assert four < one + 4 * clips.nbytes
    longer = replace(config, frames=12)
    assert peak(random_clips(longer, 1), random_model(longer)) < 2 * one


def test_what_attnlrp_cannot_explain_is_one_sentence():
    model, clips = random_model(TINY), random_clips(TINY)
    sentence = "method attnlrp explains pixels; expected clips, not tokens, and no keep_maps"
    with pytest.raises(InputError, match=sentence):
        explain(model, tokens=torch.zeros(1, 4, 10, 24), method="attnlrp")
    with pytest.raises(InputError, match=sentence):
        explain(model, clips, method="attnlrp", keep_maps=True)
    with pytest.raises(ValueError, match="a 2x2 feature grid; this model takes 3x3"):
        explain(model, clips[..., :32, :32], method="attnlrp")
    with pytest.raises(ValueError, match=r"clips have shape \(3, 3, 40, 40\)"):
        explain(model, clips[0], method="attnlrp")


@pytest.mark.parametrize("method", ["lrp", "attnlrp"])
def test_a_clip_with_a_value_that_is_not_finite_is_one_sentence_that_names_it(method):
    clips = random_clips(TINY, 3)
    clips[1, 2, 0, 5, 5] = float("nan")
    with pytest.raises(InputError, match="clips hold values that are not finite, first in clip 1"):
        explain(random_model(TINY), clips, method=method)
