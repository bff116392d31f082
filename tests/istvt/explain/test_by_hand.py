"""Explanations agree with a second program that writes every contribution out: `relevance_by_hand`."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from relevance_by_hand import explain_by_hand

from istvt import ISTVT, ISTVTConfig
from istvt.config import ATTENTIONS
from istvt.explain import explain
from istvt.model.attention import Attention

SMALL = ISTVTConfig(frames=4, grid=(2, 3), dim=12, heads=2, depth=3, mlp_dim=20)
FIELDS = ("temporal", "spatial", "class_row", "joint", "token_relevance", "token_gradient")

# self_subtract, head_dim, frames, stabilizer, target: every pair of values of any two of them is in one of these.
CASES = [
    (not a, (None, 5)[b], (4, 1)[c], (0.01, "reference")[a ^ b], ("fake", "real")[a ^ c])
    for a, b, c in product((0, 1), repeat=3)
]


def model_and_tokens(attention: str, **changes) -> tuple[ISTVT, torch.Tensor]:
    """A float64 model of which no parameter is at its neutral value, and tokens of two clips."""
    config = replace(SMALL, attention=attention, **changes)
    if attention == "decomposed_blocks":
        config = replace(config, depth=4)  # two of each kind
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(3)
    model = ISTVT(config).eval().double()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 and not name.startswith("backbone."):
            parameter.data += 0.3 * torch.randn(len(parameter), generator=generator)
    tokens = torch.randn(2, config.frame_rows, config.positions, config.dim, generator=generator)
    return model, tokens.double()


def assert_agrees(model: ISTVT, tokens: torch.Tensor, at_most: float = 1e-10, **options) -> None:
    """Both forms of `explain`, of all clips together, with each clip by hand."""
    by_hand = [explain_by_hand(model, clip, **options) for clip in tokens]
    propagates = options.get("method", "lrp") == "lrp"
    uses_gradient = options.get("method", "lrp") in ("lrp", "gradient", "gradcam")
    for keep_maps in (False, True):
        result = explain(model, tokens=tokens, keep_maps=keep_maps, **options)
        assert result.logits.tolist() == pytest.approx([clip.logit for clip in by_hand], rel=1e-10)
        assert (result.token_relevance is not None) == propagates
        assert (result.token_gradient is not None) == uses_gradient
        for field in FIELDS:
            if getattr(result, field) is None:
                assert field != "joint" or model.config.attention != "joint"
                continue
            for got, clip in zip(getattr(result, field), by_hand, strict=True):
                expected = getattr(clip, field)
                assert got.shape == expected.shape
                error = torch.linalg.vector_norm(got - expected)
                assert error <= at_most * torch.linalg.vector_norm(expected), (field, keep_maps, float(error))


@pytest.mark.parametrize(("self_subtract", "head_dim", "frames", "stabilizer", "target"), CASES)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_relevance_agrees_with_the_one_by_hand_in_every_variant(
    attention, self_subtract, head_dim, frames, stabilizer, target
):
    model, tokens = model_and_tokens(attention, self_subtract=self_subtract, head_dim=head_dim, frames=frames)
    # 1e-9 in the denominator of sums that cancel to nothing multiplies rounding.
    at_most = 1e-10 if stabilizer == 0.01 else 1e-7
    assert_agrees(model, tokens, at_most, stabilizer=stabilizer, target=target)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_relevance_agrees_with_the_one_by_hand_where_the_head_dimension_is_padded_for_the_kernels(
    attention, monkeypatch
):
    """As on a GPU: 5 columns of 16 are the head's own."""
    monkeypatch.setattr(Attention, "_padded_head_dim", lambda *_: 16)
    model, tokens = model_and_tokens(attention, head_dim=5)
    assert_agrees(model, tokens)
    assert_agrees(model, tokens, method="gradcam")


@pytest.mark.parametrize("attention", ["temporal_first", "spatial_only", "temporal_only"])
def test_relevance_passes_the_second_layer_norm_of_the_head_unchanged(attention):
    model, tokens = model_and_tokens(attention, head_norm=True, layer_norm_eps=0.1)
    assert_agrees(model, tokens)
    assert_agrees(model, tokens, method="gradcam", target="real")


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_clamp_and_the_order_of_chefers_code_and_the_paper_agree_with_those_by_hand(attention):
    model, tokens = model_and_tokens(attention)
    assert_agrees(model, tokens, clamp="before_mean", order="literal", target="real")


@pytest.mark.parametrize("method", ["gradient", "rollout", "raw", "gradcam"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_other_methods_agree_with_those_by_hand(attention, method):
    model, tokens = model_and_tokens(attention, head_dim=5)
    for target in ("fake", "real"):
        assert_agrees(model, 2 * tokens, method=method, target=target)
    assert_agrees(model, 2 * tokens, method=method, clamp="before_mean", order="literal")
