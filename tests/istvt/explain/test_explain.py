"""Explanations agree with an independent program, with themselves, and with what the model can and cannot read."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from oracle_files import oracle_model
from relevance_by_hand import explain_by_hand
from torch.nn import functional

import kernels
from dataloading.errors import InputError
from istvt import ISTVT, ISTVTConfig
from istvt.config import ATTENTIONS, CLAMPS, PIXEL_METHODS
from istvt.explain import METHODS, explain, explanation
from istvt.explain.explanation import logits_of
from istvt.inference.video_score import probability_of, verdict_of
from istvt.model.block import BlockCaptures

TINY = ISTVTConfig(frames=3, grid=(2, 3), dim=24, heads=3, depth=3, mlp_dim=32)
FIELDS = ("temporal", "spatial", "class_row")
TOKEN_METHODS = [method for method in METHODS if method not in PIXEL_METHODS]


def random_model(config: ISTVTConfig, seed: int = 0) -> ISTVT:
    torch.manual_seed(seed)
    return ISTVT(config).eval()


def random_tokens(config: ISTVTConfig, batch: int = 2, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, config.frame_rows, config.positions, config.dim, generator=generator)


def difference(a: torch.Tensor, b: torch.Tensor | np.ndarray) -> float:
    """Relative Frobenius error of a against b."""
    a, b = a.double(), torch.as_tensor(b).double()
    return (torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b)).item()


@pytest.mark.parametrize("name", ["lrp_small", "lrp_medium"])
def test_every_stored_map_of_every_block_agrees_with_the_oracle(name):
    model, oracle = oracle_model(name)
    tokens = torch.from_numpy(oracle["tokens"])[None]
    result = explain(model, tokens=tokens, stabilizer="reference", keep_maps=True)
    assert result.logits.item() == pytest.approx(float(oracle["logit"]), rel=1e-9)
    assert difference(result.token_gradient[0], oracle["token_gradient"]) < 1e-9
    assert difference(result.token_relevance[0], oracle["token_relevance"]) < 2e-5
    assert result.token_relevance.sum().item() == pytest.approx(1, abs=2e-5)
    for index, block in enumerate(result.blocks):
        for kind, maps in (("temporal", block.temporal), ("spatial", block.spatial)):
            assert difference(maps.attention[0], oracle[f"{kind}_attention.{index}"]) < 1e-9
            assert difference(maps.gradient[0], oracle[f"{kind}_gradient.{index}"]) < 1e-9
            assert difference(maps.relevance[0], oracle[f"{kind}_relevance.{index}"]) < 2e-5
            assert difference(maps.weighted[0], oracle[f"{kind}_weighted.{index}"]) < 2e-5


@pytest.mark.parametrize("name", ["lrp_small", "lrp_medium"])
def test_rollouts_agree_with_the_oracle(name):
    model, oracle = oracle_model(name)
    tokens = torch.from_numpy(oracle["tokens"])[None]
    blocks = explain(model, tokens=tokens, stabilizer="reference", keep_maps=True).blocks
    for kind in ("temporal", "spatial"):
        rollout = torch.eye(blocks[0].temporal.weighted.shape[-1] if kind == "temporal" else tokens.shape[2]).double()
        for block in blocks:
            rollout = getattr(block, kind).weighted[0] @ rollout
        assert difference(rollout, oracle[f"{kind}_rollout"]) < 2e-5


@pytest.mark.parametrize("keep_maps", [True, False])
@pytest.mark.parametrize(("order", "suffix"), [("last_block_first", ""), ("literal", "_first_block_leftmost")])
@pytest.mark.parametrize("name", ["lrp_small", "lrp_medium"])
def test_heatmaps_agree_with_the_oracle_in_both_orders(name, order, suffix, keep_maps):
    model, oracle = oracle_model(name)
    tokens = torch.from_numpy(oracle["tokens"])[None]
    result = explain(model, tokens=tokens, stabilizer="reference", order=order, keep_maps=keep_maps)
    for kind in ("temporal", "spatial"):
        expected = oracle[f"{kind}_heatmap{suffix}"]
        assert getattr(result, kind)[0].shape == expected.shape
        assert difference(getattr(result, kind)[0], expected) < 2e-5


@pytest.mark.parametrize("name", ["lrp_small", "lrp_medium"])
def test_the_program_by_hand_which_knows_every_variant_agrees_with_the_oracle_too(name):
    model, oracle = oracle_model(name)
    result = explain_by_hand(model, torch.from_numpy(oracle["tokens"]), stabilizer="reference")
    assert result.logit == pytest.approx(float(oracle["logit"]), rel=1e-9)
    assert difference(result.token_gradient, oracle["token_gradient"]) < 1e-9
    for field, key in (("token_relevance",) * 2, ("temporal", "temporal_heatmap"), ("spatial", "spatial_heatmap")):
        assert difference(getattr(result, field), oracle[key]) < 2e-5


def test_the_order_of_the_rollout_is_last_block_first_unless_asked():
    """The oracle's maps hardly tell the orders apart (its Abar is near I); the attention rollout does."""
    model, tokens = random_model(TINY).double(), 4 * random_tokens(TINY).double()
    blocks = explain(model, tokens=tokens, method="rollout", keep_maps=True).blocks
    first, second, third = (block.spatial.weighted for block in blocks)
    results = {}
    for order, product in (("last_block_first", third @ second @ first), ("literal", first @ second @ third)):
        for keep_maps in (True, False):
            results[order] = explain(model, tokens=tokens, method="rollout", order=order, keep_maps=keep_maps).spatial
            torch.testing.assert_close(results[order].flatten(2), product[:, 1:, 0, 1:])
    assert difference(results["literal"], results["last_block_first"]) > 0.01


def test_a_float32_model_is_explained_by_the_reference_rule_in_float64():
    model, oracle = oracle_model("lrp_small")
    tokens = torch.from_numpy(oracle["tokens"])[None]
    result = explain(model.float(), tokens=tokens.float(), stabilizer="reference")
    assert result.temporal.dtype == torch.float64
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert result.token_relevance.sum().item() == pytest.approx(1, abs=2e-5)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_stored_attention_and_gradient_are_what_autograd_records_on_captures(attention):
    config = replace(TINY, attention=attention)
    model, tokens = random_model(config).double().set_backend("reference"), random_tokens(config).double()
    captures = [BlockCaptures(*(kernels.AttentionCapture() for _ in range(3))) for _ in range(config.depth)]
    model.classify(model.encode(tokens, captures)).sum().backward()
    seen = 0
    for block, capture in zip(explain(model, tokens=tokens, keep_maps=True).blocks, captures, strict=True):
        for kind in ("temporal", "spatial", "joint"):
            maps, recorded = getattr(block, kind), getattr(capture, kind)
            assert (maps is None) == (recorded.attention is None)
            if maps is not None:
                seen += 1
                torch.testing.assert_close(maps.attention, recorded.attention)
                torch.testing.assert_close(maps.gradient, recorded.gradient, atol=1e-12, rtol=1e-7)
    assert seen >= config.depth


@pytest.mark.parametrize("method", TOKEN_METHODS)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_without_stored_maps_the_result_is_the_same(attention, method, monkeypatch):
    # One head, one query row, one frame or a few positions at a time: every seam between chunks is there.
    monkeypatch.setitem(explanation.CHUNK_TOKENS, "cpu", 9)
    monkeypatch.setattr(kernels.relevance.reference, "TILE_ELEMENTS", 50)
    config = replace(TINY, attention=attention)
    model, tokens = random_model(config), random_tokens(config)
    for order in ("last_block_first", "literal"):
        light = explain(model, tokens=tokens, method=method, order=order)
        stored = explain(model, tokens=tokens, method=method, order=order, keep_maps=True)
        assert light.temporal.shape == light.spatial.shape == (2, 3, 2, 3)
        for field in (*FIELDS, "joint", "token_relevance", "token_gradient"):
            a, b = getattr(light, field), getattr(stored, field)
            assert (a is None) == (b is None)
            if a is not None and b.any():
                assert difference(a, b) < 1e-4
            elif a is not None:
                assert not a.any()


@pytest.mark.parametrize("target", ["fake", "real"])
@pytest.mark.parametrize("method", TOKEN_METHODS)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_clip_alone_and_in_a_batch_of_five_gives_the_same_maps(attention, method, target):
    config = replace(TINY, attention=attention)
    model, tokens = random_model(config), random_tokens(config, batch=5)
    tokens[0] *= 100  # a loud neighbor: any sum over the batch would be decided by it
    together = explain(model, tokens=tokens, method=method, target=target)
    for index in (0, 3):
        alone = explain(model, tokens=tokens[index : index + 1], method=method, target=target)
        for field in FIELDS:
            expected, got = getattr(alone, field)[0], getattr(together, field)[index]
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()) + 1e-12)
        if method == "lrp":
            assert difference(together.token_relevance[index], alone.token_relevance[0]) < 1e-4


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_relevance_is_conserved_by_the_reference_rule_in_every_variant(attention):
    config = replace(TINY, attention=attention)
    for target in ("fake", "real"):
        result = explain(
            random_model(config), tokens=random_tokens(config), stabilizer="reference", target=target, keep_maps=True
        )
        sums = result.token_relevance.flatten(1).sum(1)
        torch.testing.assert_close(sums, torch.ones_like(sums), atol=2e-5, rtol=0)


def test_the_default_stabilizer_keeps_most_of_the_relevance_and_adds_hardly_any():
    """No division enlarges what it shares out. Where that is negative its loss raises the sum, now and then above 1."""
    sums = []
    for seed in range(12):
        result = explain(random_model(TINY, seed), tokens=random_tokens(TINY, batch=4, seed=seed))
        sums += result.token_relevance.flatten(1).sum(1).tolist()
    assert min(sums) > 0.8
    assert 0.9 < np.mean(sums) < 1
    assert max(sums) < 1.01


def test_real_and_fake_are_explained_by_opposite_gradients_and_different_maps():
    model, tokens = random_model(TINY), random_tokens(TINY)
    fake, real = (explain(model, tokens=tokens, target=target) for target in ("fake", "real"))
    torch.testing.assert_close(fake.logits, real.logits)
    torch.testing.assert_close(fake.token_gradient, -real.token_gradient)
    assert difference(real.temporal, fake.temporal) > 0.1


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_clips_are_explained_as_their_tokens_are_and_the_model_is_left_as_it_was(attention):
    config = ISTVTConfig(
        frames=3, image_size=40, dim=16, heads=2, depth=2, mlp_dim=24, backbone_dims=(4, 4, 8, 8), attention=attention
    )
    model = random_model(config).train()
    model.backbone.block2.eval()  # a frozen part must stay as it is
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    clips = torch.rand(2, 3, 3, 40, 40) * 2 - 1
    result = explain(model, clips)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(result.logits, model(clips))
        tokens = model.tokenize(clips)
    torch.testing.assert_close(result.temporal, explain(model, tokens=tokens).temporal)


def test_the_head_mean_is_clamped_after_the_mean_unless_asked():
    model, tokens = random_model(TINY).double(), random_tokens(TINY).double()
    for clamp in ("after_mean", "before_mean"):
        result = explain(model, tokens=tokens, clamp=clamp, keep_maps=True)
        for block in result.blocks:
            product = block.temporal.relevance * block.temporal.gradient
            expected = product.mean(2).clamp(min=0) if clamp == "after_mean" else product.clamp(min=0).mean(2)
            torch.testing.assert_close(block.temporal.weighted - torch.eye(4).double(), expected)
        assert difference(explain(model, tokens=tokens, clamp=clamp).spatial, result.spatial) < 1e-9
    after, before = (explain(model, tokens=tokens, clamp=clamp).temporal for clamp in ("after_mean", "before_mean"))
    assert difference(after, before) > 1e-2


def test_the_temporal_map_of_a_cell_is_that_cell_over_time():
    """A transposed map puts frames where cells are: with T = H * W = 6 it would even have the right size."""
    config = replace(TINY, frames=6)
    model, tokens = random_model(config).double(), random_tokens(config).double()
    result = explain(model, tokens=tokens, keep_maps=True)
    rollout = torch.eye(7).double()
    for block in result.blocks:
        rollout = block.temporal.weighted @ rollout  # [B, S, F, F]
    for frame, row, column in ((0, 0, 0), (4, 1, 2), (2, 0, 1)):
        expected = rollout[:, 1 + 3 * row + column, 0, 1 + frame]
        torch.testing.assert_close(result.temporal[:, frame, row, column], expected)


def test_class_row_and_class_column_are_not_in_the_maps():
    model, tokens = random_model(TINY).double(), random_tokens(TINY).double()
    result = explain(model, tokens=tokens, keep_maps=True)
    rollout = torch.eye(7).double()
    for block in result.blocks:
        rollout = block.spatial.weighted @ rollout  # [B, F, S, S]
    assert (rollout[:, :, 0, 0] >= 1).all()  # the identity alone makes the class token the hottest of all
    torch.testing.assert_close(result.spatial.flatten(2), rollout[:, 1:, 0, 1:])
    torch.testing.assert_close(result.class_row.flatten(1), rollout[:, 0, 0, 1:])


def test_shares_of_heat_are_of_each_clip_and_zero_where_there_is_none():
    shares = explain(random_model(TINY), tokens=random_tokens(TINY)).shares()
    torch.testing.assert_close(sum(shares.values()), torch.ones(2))
    one_block = explain(random_model(replace(TINY, depth=1)), tokens=random_tokens(TINY)).shares()
    assert not one_block["spatial"].any()
    assert (one_block["class_row"] > 0).all()


def test_the_last_block_says_nothing_about_space_except_in_the_class_row():
    model, tokens = random_model(TINY), random_tokens(TINY)
    last = explain(model, tokens=tokens, keep_maps=True).blocks[-1]
    assert not last.spatial.gradient[:, 1:].any()
    assert not last.spatial.gradient[:, 0, :, 1:].any()
    assert last.spatial.gradient[:, 0, :, 0].any()
    assert not last.temporal.gradient[..., 1:, :].any()
    torch.testing.assert_close(last.spatial.weighted[:, 1:], torch.eye(7).expand(2, 3, 7, 7))


@pytest.mark.parametrize("method", ["lrp", "gradient", "gradcam"])
def test_with_one_block_the_spatial_maps_are_exactly_zero_and_the_temporal_ones_are_not(method):
    config = replace(TINY, depth=1)
    result = explain(random_model(config), tokens=random_tokens(config), method=method)
    assert not result.spatial.any()
    assert result.temporal.any()
    assert result.class_row.any() == (method != "gradcam")


def test_what_a_variant_does_not_have_is_zero():
    spatial = explain(random_model(replace(TINY, attention="spatial_only")), tokens=torch.randn(1, 3, 7, 24))
    assert not spatial.temporal.any()
    assert not spatial.class_row.any()
    assert spatial.spatial.flatten(2).any(2).all()
    temporal = explain(random_model(replace(TINY, attention="temporal_only")), tokens=torch.randn(1, 4, 6, 24))
    assert not temporal.spatial.any()
    assert temporal.temporal.any()


@pytest.mark.parametrize("method", TOKEN_METHODS)
def test_spatial_only_explains_frames_in_another_order_by_the_same_maps_in_that_order(method):
    config = replace(TINY, attention="spatial_only")
    model, tokens = random_model(config).double(), random_tokens(config).double()
    result = explain(model, tokens=tokens, method=method)
    order = [2, 0, 1]
    again = explain(model, tokens=tokens[:, order], method=method)
    torch.testing.assert_close(again.spatial, result.spatial[:, order])
    assert difference(result.spatial[:, order], result.spatial) > 1e-2


@pytest.mark.parametrize("method", ["gradient", "rollout", "raw"])
def test_spatial_only_explains_each_frame_by_itself_where_frames_do_not_share_relevance(method):
    """By LRP they share the 1 that starts at the logit, and Grad-CAM weighs a head by its gradient in all of them."""
    config = replace(TINY, attention="spatial_only")
    model, tokens = random_model(config).double(), random_tokens(config).double()
    result = explain(model, tokens=tokens, method=method)
    tokens[:, 1:] = random_tokens(config, seed=2)[:, 1:].double()
    again = explain(model, tokens=tokens, method=method)
    torch.testing.assert_close(again.spatial[:, 0], result.spatial[:, 0])
    assert difference(again.spatial[:, 1:], result.spatial[:, 1:]) > 1e-2


AGREE = 1e-3  # what is demanded of the default rule at full depth: a thousandth of a map cannot be seen
DEEP = ISTVTConfig(frames=6, grid=(5, 5), dim=64, heads=4, depth=12, mlp_dim=128)


def still_cells(config: ISTVTConfig, count: int, generator: torch.Generator) -> torch.Tensor:
    """Cells of clips that stand still: [count, T, H*W, C]."""
    cells = torch.randn(count, 1, config.positions - 1, config.dim, generator=generator)
    return cells.repeat(1, config.frames, 1, 1)


def token_grid(model: ISTVT, cells: torch.Tensor) -> torch.Tensor:
    """Cells [B, T, H*W, C] as tokens [B, F, S, C]: with the model's own class tokens and position embedding."""
    config, count = model.config, len(cells)
    grid = torch.cat([model.spatial_class_token.expand(count, config.frames, 1, -1), cells], 2)
    grid = torch.cat([model.temporal_class_token.expand(count, 1, config.positions, -1), grid], 1)
    return grid + model.position_embedding


def clips_of_tokens(model: ISTVT, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Token grids of clips that stand still and, every other one, of clips in which four cells flicker; labels."""
    config = model.config
    cells = still_cells(config, count, generator)
    labels = torch.arange(count) % 2
    for index in range(1, count, 2):
        flickering = torch.randperm(cells.shape[2], generator=generator)[:4]
        cells[index, :, flickering] = torch.randn(config.frames, 4, config.dim, generator=generator)
    return token_grid(model, cells), labels.float()


@pytest.fixture(scope="module")
def deep_trained() -> tuple[ISTVT, torch.Tensor]:
    """Twelve blocks that learnt to tell flicker from standstill, and clips they have not seen.

    Half as wide as `DEEP` and with fewer cells: they learn it in seconds, and it is depth that makes sums cancel.
    """
    torch.manual_seed(0)
    config = replace(DEEP, grid=(3, 3), dim=32, mlp_dim=64)
    model, generator = ISTVT(config).train(), torch.Generator().manual_seed(0)
    trained = [parameter for name, parameter in model.named_parameters() if not name.startswith("backbone")]
    optimizer = torch.optim.AdamW(trained, lr=2e-3)
    for _ in range(45):
        tokens, labels = clips_of_tokens(model, 10, generator)
        loss = functional.binary_cross_entropy_with_logits(model.classify(model.encode(tokens)), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        tokens, labels = clips_of_tokens(model, 32, generator)
        right = (model.classify(model.encode(tokens)) > 0) == labels.bool()
    assert right.float().mean() > 0.85  # it has learnt something
    return model, tokens[:2]


def assert_heatmaps_do_not_depend_on_rounding_but_by_the_reference_rule(model, tokens, monkeypatch):
    single, double = explain(model, tokens=tokens), explain(model, tokens=tokens.double())
    assert single.temporal.dtype == torch.float32
    for name in ("temporal", "spatial"):
        assert difference(getattr(single, name), getattr(double, name)) < AGREE

    exact = explain(model, tokens=tokens, stabilizer="reference")
    with monkeypatch.context() as patch:
        patch.setattr(explanation, "_arithmetic", lambda *_: torch.float32)
        rounded = explain(model, tokens=tokens, stabilizer="reference")
    # By how much is itself decided by rounding, from a percent to several times the map: never as little as above.
    assert max(difference(getattr(rounded, name), getattr(exact, name)) for name in ("temporal", "spatial")) > 5e-3
    # Absolute relevance is a multiple of what arrives (1): parts that cancel decide the map.
    assert exact.token_relevance.abs().sum() > 1.2 * double.token_relevance.abs().sum()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_heatmap_of_random_weights_does_not_depend_on_rounding_and_by_the_reference_rule_it_does(seed, monkeypatch):
    model, tokens = random_model(DEEP, seed), random_tokens(DEEP, 1, seed)
    assert_heatmaps_do_not_depend_on_rounding_but_by_the_reference_rule(model, tokens, monkeypatch)


def test_a_heatmap_of_trained_weights_does_not_depend_on_rounding_and_by_the_reference_rule_it_does(
    deep_trained, monkeypatch
):
    model, tokens = deep_trained
    assert_heatmaps_do_not_depend_on_rounding_but_by_the_reference_rule(model, tokens, monkeypatch)


@pytest.mark.parametrize("target", ["fake", "real"])
def test_a_heatmap_of_a_clip_that_stands_still_does_not_depend_on_rounding(target):
    """Frames that hardly differ cancel in every self-subtract: a clip each of those that differ more and more."""
    model, generator = random_model(DEEP), torch.Generator().manual_seed(50)
    noise = torch.tensor([0, 1e-3, 1e-2, 1e-1, 1]).view(-1, 1, 1, 1)
    with torch.no_grad():
        cells = still_cells(DEEP, len(noise), generator)
        tokens = token_grid(model, cells + noise * torch.randn(cells.shape, generator=generator))
    single, double = (explain(model, tokens=x, target=target) for x in (tokens, tokens.double()))
    for name in ("temporal", "spatial"):
        for clip in range(len(noise)):
            assert difference(getattr(single, name)[clip], getattr(double, name)[clip]) < AGREE


def test_a_half_precision_model_is_explained_in_float32():
    """1e-9 is 0 in float16, and eight bits are not enough for sums that cancel."""
    model, tokens = random_model(TINY), random_tokens(TINY)
    low = explain(model.bfloat16(), tokens=tokens.bfloat16())
    same = explain(model.float(), tokens=tokens.bfloat16().float())
    assert low.temporal.dtype == low.token_relevance.dtype == torch.float32
    torch.testing.assert_close(low.temporal, same.temporal)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(explain(model, tokens=tokens.bfloat16()).temporal, same.temporal)
    assert explain(model.half(), tokens=tokens.half()).spatial.isfinite().all()


def test_an_explanation_can_be_asked_for_in_inference_mode_and_of_what_was_made_in_it():
    """Evaluation is written under it, where the first gradient was a RuntimeError of PyTorch's."""
    config = ISTVTConfig(frames=3, image_size=40, dim=16, heads=2, depth=2, mlp_dim=24, backbone_dims=(4, 4, 8, 8))
    model, clips = random_model(config), torch.rand(2, 3, 3, 40, 40) * 2 - 1
    expected = explain(model, clips)
    with torch.inference_mode():
        made_inside, tokens = clips.clone(), model.tokenize(clips)
        found = [explain(model, clips)]
    found += [explain(model, made_inside), explain(model, tokens=tokens)]
    for result in found:
        assert not result.temporal.is_inference()
        for field in (*FIELDS, "logits", "token_relevance", "token_gradient"):
            torch.testing.assert_close(getattr(result, field), getattr(expected, field))


def test_a_model_that_was_made_in_inference_mode_is_one_sentence():
    with torch.inference_mode():
        model = random_model(TINY)
    with pytest.raises(InputError, match=r"the model was made under torch\.inference_mode"):
        explain(model, tokens=random_tokens(TINY))


def test_the_verdict_on_a_half_precision_model_is_on_clips_in_its_own_precision():
    """Clips of a loader are float32; explained they were, but not judged."""
    config = ISTVTConfig(frames=3, image_size=40, dim=16, heads=2, depth=2, mlp_dim=24, backbone_dims=(4, 4, 8, 8))
    model, clips = random_model(config).bfloat16(), torch.rand(4, 3, 3, 40, 40) * 2 - 1
    with torch.no_grad():
        model.head.bias -= model(clips.bfloat16()).median()
    model.train().backbone.block2.eval()  # a frozen part must stay as it is
    modes = [module.training for module in model.modules()]
    found = [verdict_of(probability) for probability in probability_of(logits_of(model, clips))]
    assert [module.training for module in model.modules()] == modes
    assert set(found) == {"fake", "real"}
    with torch.no_grad():
        logits = model.eval()(clips.bfloat16())
    assert found == ["fake" if logit > 0 else "real" for logit in logits]


def test_each_clip_of_a_batch_can_be_explained_for_a_side_of_its_own():
    model, tokens = random_model(TINY).double(), random_tokens(TINY).double()
    both = explain(model, tokens=tokens, target=["real", "fake"])
    for index, target in enumerate(("real", "fake")):
        alone = explain(model, tokens=tokens[index : index + 1], target=target)
        for field in (*FIELDS, "token_relevance", "token_gradient"):
            torch.testing.assert_close(getattr(both, field)[index], getattr(alone, field)[0], atol=1e-12, rtol=1e-9)


def test_identical_frames_and_silent_tokens_give_finite_maps():
    tokens = random_tokens(TINY)[:, :1].expand(-1, 4, -1, -1).contiguous()
    for stabilizer in (0.01, "reference"):
        for x in (tokens, torch.zeros_like(tokens)):
            result = explain(random_model(TINY), tokens=x, stabilizer=stabilizer)
            assert all(getattr(result, field).isfinite().all() for field in (*FIELDS, "token_relevance"))


def test_raw_is_the_last_attention_and_rollout_keeps_rows_of_sum_one():
    model, tokens = random_model(TINY), random_tokens(TINY)
    raw = explain(model, tokens=tokens, method="raw", keep_maps=True)
    expected = raw.blocks[-1].temporal.attention[:, 1:, :, 0, 1:].mean(2)  # [B, cells, T]
    torch.testing.assert_close(raw.temporal.flatten(2), expected.transpose(1, 2))
    rollout = explain(model, tokens=tokens, method="rollout", keep_maps=True)
    for block in rollout.blocks:
        sums = block.spatial.weighted.sum(-1)
        torch.testing.assert_close(sums, torch.ones_like(sums))


def test_an_empty_batch_is_explained_by_nothing():
    assert explain(random_model(TINY), tokens=random_tokens(TINY, batch=0)).temporal.shape == (0, 3, 2, 3)


def test_the_kernels_clamp_in_the_ways_that_can_be_asked_for():
    assert kernels.relevance.CLAMPS == CLAMPS


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"method": "lime"}, "method is 'lime'; expected one of lrp, attnlrp, gradient, rollout, raw, gradcam"),
        ({"target": 1}, "target is 1; expected one of fake, real"),
        ({"target": ["fake", "verdict"]}, "target is 'verdict'; expected one of fake, real"),
        ({"target": ["fake", "real"]}, "target holds 2 for 1 clips; expected one, or one for each clip"),
        ({"stabilizer": 0.0}, 'stabilizer is 0.0; expected "reference" or a number above 0'),
        ({"stabilizer": "default"}, "stabilizer is 'default'"),
        ({"stabilizer": None}, 'stabilizer is None; expected "reference" or a number above 0'),
        ({"stabilizer": True}, 'stabilizer is True; expected "reference" or a number above 0'),
        ({"stabilizer": [0.01]}, r'stabilizer is \[0.01\]; expected "reference" or a number above 0'),
        ({"stabilizer": float("nan")}, 'stabilizer is nan; expected "reference" or a number above 0'),
        ({"order": "forward"}, "order is 'forward'; expected one of last_block_first, literal"),
        ({"clamp": "never"}, "clamp is 'never'; expected one of after_mean, before_mean"),
        ({"tokens": torch.zeros(1, 4, 7, 23)}, r"tokens have shape \(1, 4, 7, 23\); expected .* 24 channels"),
        ({"tokens": torch.zeros(1, 4, 7, 24).int()}, r"tokens are torch.int32; expected floating point \[clips, 4"),
        ({"tokens": np.zeros((1, 4, 7, 24))}, "tokens are of type ndarray; expected a floating-point tensor"),
        ({"tokens": torch.full((1, 4, 7, 24), torch.nan)}, "tokens hold values that are not finite, first in clip 0"),
        ({"tokens": None, "clips": np.zeros(1)}, "clips are of type ndarray; expected a floating-point tensor"),
        ({"tokens": None, "clips": torch.zeros(1).byte()}, r"clips are torch.uint8; expected .* in \[-1, 1\]"),
        ({"tokens": None, "clips": torch.zeros(())}, r"clips have shape \(\); expected \[clips, 3 frames"),
        ({"tokens": None}, "either clips or tokens, and got neither"),
        ({"clips": torch.zeros(1)}, "either clips or tokens, and got both"),
    ],
)
def test_a_wrong_argument_is_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        explain(random_model(TINY), **({"tokens": torch.zeros(1, 4, 7, 24)} | arguments))


def test_a_model_whose_weights_have_diverged_is_one_sentence_and_not_a_map_of_nan():
    model = random_model(TINY)
    model.blocks[0].mlp.fc1.weight.data[0, 0] = torch.inf
    with pytest.raises(InputError, match="the logit of clip 0 is not finite; expected a model whose weights are"):
        explain(model, tokens=random_tokens(TINY))
