"""Relevance kernels: properties for any shape and memory layout, and explanations computed by them."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import kernels.common.launch
from istvt import ISTVT, ISTVTConfig
from istvt.explain import explain
from kernels.common.launch import interpreted
from kernels.relevance import operator, reference

DEVICE = torch.device("cpu" if interpreted() else "cuda")
KINDS = ("temporal", "spatial")


def inputs(clips, frames, positions, heads, head_dim, seed=0):
    """q, k, v (views of one packed product), u and dO."""
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(clips, frames, positions, 3, heads, head_dim, generator=generator).to(DEVICE)
    u, gradient = torch.randn(2, clips, frames, positions, heads, head_dim, generator=generator).to(DEVICE)
    return (*qkv.unbind(3), u, gradient)


def row_for(kind, q, seed=2):
    clips, frames, positions = q.shape[:3]
    shape = (clips, positions, frames) if kind == "temporal" else (clips, frames, positions)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def everything(kind, q, k, v, u, gradient, row, scale, clamp="after_mean", stabilizer=0.01):
    """All that the public functions give; in float64 they are the reference."""
    parts = getattr(kernels, f"{kind}_relevance")(q, k, v, u, scale=scale, stabilizer=stabilizer)
    tensors = (q, k, v, u, gradient)
    found = getattr(kernels, f"{kind}_relevance_map")(*tensors, scale=scale, clamp=clamp)
    step = getattr(kernels, f"{kind}_rollout_step")(row, *tensors, scale=scale, clamp=clamp)
    return [*parts, found, step]


def amplified(error, stabilizer=0.01):
    """What is left of an error of float32: a division by a sum that cancels amplifies by up to `1 / stabilizer`."""
    return error / stabilizer


def assert_near(found, exact, tolerance=2e-5):
    for x, y in zip(found, exact, strict=True):
        assert x.shape == y.shape
        error = (x.double() - y).norm() / max(y.norm().item(), 1e-3 * y.numel() ** 0.5, 1e-12)
        assert error <= tolerance, f"relative error {error:.1e}"


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4 if interpreted() else 20, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    clips=st.integers(0, 2),
    frames=st.integers(1, 9),
    positions=st.integers(1, 20),
    heads=st.integers(1, 2),
    head_dim=st.integers(1, 128),
    scale=st.sampled_from([0.3, 1.0, -0.5, 0.0]),
    clamp=st.sampled_from(["after_mean", "before_mean"]),
    stabilizer=st.sampled_from([0.01, 0.1]),
)
def test_any_shape_agrees_with_the_reference_and_reads_nothing_beyond_its_rows(
    kind, clips, frames, positions, heads, head_dim, scale, clamp, stabilizer
):
    tensors = []
    for x in inputs(clips, frames, positions, heads, head_dim):
        surrounding = torch.full(
            (clips + 1, frames + 2, positions + 1, heads + 1, head_dim + 3), torch.nan, device=DEVICE
        )
        inner = surrounding[:clips, 1 : frames + 1, :positions, :heads, 2 : head_dim + 2]
        tensors.append(inner.copy_(x))
    row = row_for(kind, tensors[0])
    found = everything(kind, *tensors, row, scale, clamp, stabilizer)
    exact = everything(kind, *(x.double() for x in tensors), row.double(), scale, clamp, stabilizer)
    assert all(x.dtype == torch.float32 for x in found)
    assert_near(found, exact, amplified(1e-6, stabilizer))


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_and_not_the_reference_run(kind, monkeypatch, poisoned):
    def forbidden(*_, **__):
        raise AssertionError("the reference ran")

    for name in (f"{kind}_relevance", f"{kind}_relevance_map", f"{kind}_rollout_step"):
        monkeypatch.setattr(reference, name, forbidden)
    tensors = inputs(1, 3, 5, 2, 16)
    found = everything(kind, *tensors, row_for(kind, tensors[0]), 0.25)
    assert all(x.isfinite().all() for x in found)


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_are_equal_bit_for_bit(kind):
    tensors = inputs(1, 2, 40 if kind == "spatial" else 9, 1, 24)
    row = row_for(kind, tensors[0])
    first, second = (everything(kind, *tensors, row, 0.2) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("with_u", "with_gradient"), [(False, True), (True, False), (False, False)])
def test_without_relevance_or_gradient_the_attention_itself_is_rolled_out(kind, with_u, with_gradient):
    q, k, v, u, gradient = inputs(1, 4, 6, 2, 16)
    tensors = (q, k, v, u if with_u else None, gradient if with_gradient else None)
    row = row_for(kind, q)
    step, found = (getattr(kernels, f"{kind}_{name}") for name in ("rollout_step", "relevance_map"))
    exact = [None if x is None else x.double() for x in tensors]
    assert_near([found(*tensors), step(row, *tensors)], [found(*exact), step(row.double(), *exact)])
    if not with_u and not with_gradient:
        torch.testing.assert_close(found(*tensors).sum(-1), torch.ones_like(found(*tensors)[..., 0]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sum_that_is_nothing_gives_no_relevance_and_no_nan(kind):
    q, k, v, u, gradient = inputs(1, 3, 5, 1, 16)
    q[:, 1], k[:, :, 2], u[:, 0] = 0, 0, 0
    r_q, r_k, r_v, *_ = everything(kind, q, k, v, u, gradient, row_for(kind, q), 0.25)
    assert all(x.isfinite().all() for x in (r_q, r_k, r_v))
    assert not r_q[:, 1].any()
    assert not r_k[:, :, 2].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sign", [1, -1])
def test_scores_far_from_zero_neither_overflow_nor_let_padding_in(kind, sign):
    """All scores near +800 or -800, where padding, whose score is 0, would have an infinite attention."""
    q, k, v, u, gradient = inputs(1, 5, 21, 2, 16)
    q, k = q + 20, k + 20 * sign
    row = row_for(kind, q)
    found = everything(kind, q, k, v, u, gradient, row, 0.125)
    exact = everything(kind, *(x.double() for x in (q, k, v, u, gradient)), row.double(), 0.125)
    assert all(x.isfinite().all() for x in found)
    # Scores of this size are rounded by 800 times float32's epsilon, and attention is off in proportion.
    assert_near(found, exact, 2 * 800 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_beyond_32_bits_take_the_wide_path(kind, monkeypatch):
    tensors = inputs(1, 3, 5, 2, 16)
    row = row_for(kind, tensors[0])
    narrow = everything(kind, *tensors, row, 0.25)
    monkeypatch.setattr(kernels.common.launch, "LARGEST_32_BIT_OFFSET", 10)
    with kernels.common.launch.recorded(90) as launches:
        everything(kind, *tensors, row, 0.25)
    assert launches
    assert all(launch.arguments["INT64_OFFSETS"] for launch in launches)
    wide = everything(kind, *tensors, row, 0.25)
    assert all(torch.equal(x, y) for x, y in zip(narrow, wide, strict=True))


def test_nothing_as_large_as_a_map_of_all_heads_is_allocated_for_a_rollout_step():
    q, k, v, u, gradient = (torch.empty(1, 2, 3000, 8, 64, device="meta") for _ in range(5))
    sizes = []
    original = torch.empty
    with pytest.MonkeyPatch.context() as patch, kernels.common.launch.recorded(90):
        patch.setattr(torch, "empty", lambda *a, **b: sizes.append(original(*a, **b).nbytes) or original(*a, **b))
        operator.launch_spatial_map(torch.empty(1, 2, 3000, device="meta"), q, k, v, u, gradient, 0.1, False)
    assert max(sizes) < 1.05 * q.nbytes  # 3000 positions padded to 3072, in parts; the map has 576 MB
    assert 20 * q.nbytes < 4 * 2 * 8 * 3000**2


@pytest.mark.parametrize("attention", ["temporal_first", "joint"])
def test_an_explanation_made_by_the_kernels_is_that_of_the_stored_version(attention):
    torch.manual_seed(0)
    config = ISTVTConfig(frames=3, grid=(2, 2), dim=24, heads=2, depth=2, mlp_dim=32, attention=attention)
    model = ISTVT(config).eval().to(DEVICE)
    tokens = torch.randn(1, config.frame_rows, config.positions, 24).to(DEVICE)
    fused, stored = explain(model, tokens=tokens), explain(model, tokens=tokens, keep_maps=True)
    for name in ("temporal", "spatial", "token_relevance"):
        found, expected = getattr(fused, name), getattr(stored, name)
        assert expected.any()
        assert (found - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("attention", ["temporal_first", "decomposed_blocks", "joint"])
def test_stored_maps_of_the_kernels_own_emission_are_those_of_the_reference(attention, monkeypatch):
    """Attention and gradient are what the kernels emit; neither is computed a second time."""
    torch.manual_seed(0)
    config = ISTVTConfig(frames=3, grid=(2, 3), dim=20, heads=2, head_dim=10, depth=2, mlp_dim=32, attention=attention)
    model = ISTVT(config).eval().to(DEVICE)
    tokens = torch.randn(2, config.frame_rows, config.positions, 20).to(DEVICE)
    expected = explain(model.set_backend("reference"), tokens=tokens.double(), keep_maps=True).blocks

    def forbidden(*_, **__):
        raise AssertionError("the reference ran")

    monkeypatch.setattr("istvt.explain.lrp.plain_temporal_attention", forbidden)
    monkeypatch.setattr("istvt.model.attention.plain_temporal_attention", forbidden)
    monkeypatch.setattr("istvt.model.attention.plain_spatial_attention", forbidden)
    found = explain(model.set_backend("triton"), tokens=tokens, keep_maps=True).blocks
    compared = 0
    for block, exact in zip(found, expected, strict=True):
        for kind in ("temporal", "spatial", "joint"):
            maps, reference_maps = getattr(block, kind), getattr(exact, kind)
            assert (maps is None) == (reference_maps is None)
            for name, map_ in vars(maps).items() if maps else ():
                assert map_.dtype == torch.float32
                expected_map = getattr(reference_maps, name)
                assert (map_ - expected_map).norm() <= 1e-4 * expected_map.norm()
                compared += 1
    assert compared >= 4 * config.depth
