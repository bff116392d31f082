"""Shapley values are those of the definition: exact values by enumeration, axioms, and clips of any architecture."""

import itertools
import math

import numpy as np
import pytest
import torch

from bench.common.timing import peak_bytes
from dataloading.errors import InputError
from istvt import ISTVT, ISTVTConfig
from istvt.explain import attribution, explain
from istvt.explain.explanation import logits_of
from istvt.explain.faithfulness.deletion import remove
from istvt.explain.shap import partition, shapley_values

CONFIG = ISTVTConfig(frames=3, image_size=40, dim=16, heads=2, depth=2, mlp_dim=24, backbone_dims=(4, 4, 8, 8))


def index_of(coalitions):
    """Number the coalitions, bool [n, players]."""
    return (np.asarray(coalitions).astype(int) * 2 ** np.arange(len(coalitions[0]))).sum(1)


def enumerated(worth_of, players):
    """Shapley values by their definition: the weighted mean over all coalitions without each player."""
    table = worth_of(torch.tensor(list(itertools.product([False, True], repeat=players)))).double().numpy()
    table = dict(zip(itertools.product([False, True], repeat=players), table, strict=True))
    found = np.zeros(players)
    for player in range(players):
        for others in itertools.product([False, True], repeat=players - 1):
            without = (*others[:player], False, *others[player:])
            joined = (*others[:player], True, *others[player:])
            weight = math.factorial(sum(others)) * math.factorial(players - 1 - sum(others)) / math.factorial(players)
            found[player] += weight * (table[joined] - table[without])
    return found


def random_game(players, seed):
    table = torch.from_numpy(np.random.default_rng(seed).normal(size=2**players))
    return lambda chosen: table[index_of(chosen.numpy())]


@pytest.fixture(scope="module")
def model() -> ISTVT:
    torch.manual_seed(3)
    return ISTVT(CONFIG).eval()


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    return torch.rand(2, 3, 3, 40, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_sampled_values_of_a_game_are_the_enumerated_ones_within_their_errors():
    game = random_game(5, seed=2)
    found = shapley_values(game, 5, 2400)
    assert np.abs((found.values - enumerated(game, 5)) / found.errors).max() < 4
    assert found.errors.max() < 0.1
    assert found.evaluations <= 2400
    # A fourth of the evaluations: errors twice as large.
    fewer = shapley_values(game, 5, 600, seed=1)
    assert fewer.errors.mean() == pytest.approx(2 * found.errors.mean(), rel=0.25)


def test_values_of_a_game_whose_players_add_up_are_exact_after_one_order():
    weights = torch.tensor([3.0, 0.0, -1.5, 0.25], dtype=torch.float64)
    found = shapley_values(lambda chosen: 7 + chosen.double() @ weights, 4, 5)
    np.testing.assert_allclose(found.values, weights.numpy(), atol=1e-6)
    assert (found.none, found.evaluations) == (7, 5)
    assert np.isnan(found.errors).all()  # one order has no spread


def test_a_dummy_has_nothing_equal_players_have_the_same_and_the_sum_is_what_there_is_to_share():
    """Of three votes two decide; the fourth player has none."""
    found = shapley_values(lambda chosen: (chosen[:, :3].sum(1) >= 2).double(), 4, 1000)
    assert found.values[3] == 0
    np.testing.assert_allclose(found.values[:3], 1 / 3, atol=4 * found.errors[:3].max())
    for seed in range(5):  # whatever orders were drawn, and however few
        few = shapley_values(random_game(6, seed), 6, 12, seed)
        assert few.additivity_error < 1e-6
        assert few.values.sum() == pytest.approx(few.all - few.none, abs=1e-6)


def test_the_same_seed_gives_the_same_values_and_another_one_others():
    game = random_game(6, 0)
    first, again, other = (shapley_values(game, 6, 40, seed).values for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_values_of_a_clip_are_the_enumerated_ones_of_its_regions_and_frames(model, clips):
    of_pixel = partition(3, 40, 40, 2, 1)

    def worth(chosen):
        removed = ~chosen[:, of_pixel]
        return torch.from_numpy(logits_of(model, remove(clips[:1].expand(len(chosen), -1, -1, -1, -1), removed)))

    result = explain(model, clips[:1], method="shap", tiles=2, spans=1, evaluations=400)
    exact = enumerated(worth, 4)
    values, errors = (x.flatten().numpy() for x in (result.shapley.values, result.shapley.errors))
    assert (np.abs(values - exact) <= 4 * errors + 1e-5 * np.abs(exact).max()).all()
    assert np.abs(values - exact).max() < 0.1 * np.abs(exact).max()


def test_the_values_share_out_the_logit_less_that_of_nothing_and_every_pixel_has_a_part(model, clips):
    result = explain(model, clips, method="shap", target=["fake", "real"], tiles=2, spans=3, evaluations=40)
    shapley, sign = result.shapley, torch.tensor([1.0, -1.0])
    nothing = torch.from_numpy(logits_of(model, torch.zeros_like(clips)))
    torch.testing.assert_close(shapley.baseline_logits, nothing, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.logits.double(), torch.from_numpy(logits_of(model, clips)), rtol=1e-5, atol=1e-6)
    explained = sign * (result.logits - nothing).float()
    torch.testing.assert_close(result.pixels.sum((1, 2, 3)), explained, rtol=1e-4, atol=1e-6)
    assert shapley.additivity_error.max() < 1e-6
    assert shapley.evaluations == 2 + 2 * 11  # two orders of 12 players
    assert shapley.values.shape == (2, 3, 2, 2)
    for frame, row, column in itertools.product(range(3), range(2), range(2)):
        part = result.pixels[0, frame, 20 * row : 20 * row + 20, 20 * column : 20 * column + 20]
        assert part.unique().numel() == 1
        assert part.sum().item() == pytest.approx(shapley.values[0, frame, row, column].item(), rel=1e-4, abs=1e-7)
    colors = attribution(model, clips, ["fake", "real"], "shap", tiles=2, spans=3, evaluations=40)
    assert colors.shape == clips.shape
    torch.testing.assert_close(colors.sum(2), result.pixels)


def test_regions_and_spans_are_as_equal_as_pixels_and_frames_allow():
    found = partition(5, 10, 7, 3, 2)
    assert found.shape == (5, 10, 7)
    assert sorted(found.unique().tolist()) == list(range(18))
    assert [int((found[frame] // 9).unique()) for frame in range(5)] == [0, 0, 0, 1, 1]
    assert partition(2, 4, 4, 2, 6).unique().numel() == 8  # a span has at least a frame


def test_too_few_and_too_many_evaluations_are_one_sentence_before_anything_runs(model, clips, monkeypatch):
    with pytest.raises(InputError, match="evaluations is 30; expected at least 49, which one order of 48 players"):
        explain(model, clips, method="shap", evaluations=30)
    with pytest.raises(InputError, match="tiles is 41; expected at most 40, the side of the picture in pixels"):
        explain(model, clips, method="shap", tiles=41)
    calls = []
    monkeypatch.setattr(model, "forward", lambda x: calls.append(len(x)) or torch.zeros(len(x)))
    asked = {"evaluations": 10_000_000, "time_limit": 1e-3}
    sentence = (
        r"evaluations is 10000000: 2 clips would take about .*; expected at most about \d+, or a time_limit of more"
    )
    with pytest.raises(InputError, match=sentence):
        explain(model, clips, method="shap", **asked)
    assert calls == [1, 1]  # one clip, twice, for the time of a pass


def test_memory_does_not_grow_with_evaluations(model, clips):
    def peak(evaluations):
        return peak_bytes(lambda: explain(model, clips, method="shap", tiles=2, evaluations=evaluations), "cpu")

    assert peak(100) < 1.05 * peak(26)
