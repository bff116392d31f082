"""Sanity checks tell explanations that depend on the weights, the clip and the class from those that do not."""

import numpy as np
import pytest
import torch

from istvt.config import FaithfulnessSettings, ISTVTConfig
from istvt.explain.explanation import explain
from istvt.explain.faithfulness import sanity
from istvt.explain.faithfulness.report import sanity_table
from istvt.explain.faithfulness.sanity import cascaded, check_sanity, verdicts
from istvt.model.istvt import ISTVT

CONFIG = ISTVTConfig(frames=3, image_size=40, dim=16, heads=2, depth=2, mlp_dim=24, backbone_dims=(4, 4, 8, 8))
NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def model() -> ISTVT:
    torch.manual_seed(3)
    return ISTVT(CONFIG).eval()


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    return torch.rand(3, 3, 3, 40, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1


def checked(model, clips, *methods):
    return check_sanity(model, clips, NAMES, FaithfulnessSettings(methods=methods))


def test_weights_become_fresh_from_the_head_down_and_the_model_itself_does_not_change(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    changed = []
    for stage, randomized in cascaded(model, seed=5):
        differs = {
            name.split(".")[0] + (f".{name.split('.')[1]}" if name.startswith("blocks") else "")
            for name, value in randomized.state_dict().items()
            if not torch.equal(value, before[name])
        }
        changed.append((stage, differs))
    stages = [stage for stage, _ in changed]
    assert stages == ["head", "block 1", "block 0", "backbone"]
    assert changed[0][1] == {"head"}  # a fresh LayerNorm is the same as an untrained one
    assert changed[1][1] == {"head", "blocks.1"}
    assert changed[2][1] == {"head", "blocks.1", "blocks.0"}
    assert changed[3][1] >= {"head", "blocks.1", "blocks.0", "backbone", "position_embedding"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_raw_attention_says_the_same_of_both_classes_and_fails_and_attnlrp_says_the_opposite(model, clips):
    found = checked(model, clips, "raw", "attnlrp")
    raw, attnlrp = (verdicts(found.methods[method]) for method in ("raw", "attnlrp"))
    assert raw["other target"][0].value == pytest.approx(1)
    assert raw["other target"][1] is False
    assert attnlrp["other target"][1] is True
    assert raw["conservation"] == (None, None)
    assert attnlrp["conservation"][0].value == pytest.approx(1, abs=1e-3)
    table = sanity_table(found)
    assert "1.00 (1.00 to 1.00) **fails**" in table
    assert "| `raw` |" in table and table.count("| no |") >= 1


def test_shapley_values_share_out_all_of_the_logit_which_is_their_conservation(model, clips):
    settings = FaithfulnessSettings(methods=("shap",), evaluations=49)
    conserved = verdicts(check_sanity(model, clips[:2], NAMES[:2], settings).methods["shap"])["conservation"]
    assert conserved[0].value == pytest.approx(1, abs=1e-3)


def test_the_relevance_that_arrives_at_the_tokens_is_the_conservation_of_lrp(model, clips):
    found = checked(model, clips, "lrp")
    arrived = explain(model, clips).token_relevance.flatten(1).sum(1)
    assert found.methods["lrp"].conservation == pytest.approx(arrived.tolist())


def constant_heat(monkeypatch, heat):
    def heats(model, clips, settings, random, originals=None, target="fake"):
        return {method: heat(model, clips) for method in settings.methods}

    monkeypatch.setattr(sanity, "heat_of", heats)


def test_heat_that_depends_neither_on_weights_nor_on_the_clip_fails_every_check_but_sensitivity(
    monkeypatch, model, clips
):
    blob = np.random.default_rng(0).random((1, 3, 40, 40)).astype(np.float32)
    constant_heat(monkeypatch, lambda model, clips: np.repeat(blob, len(clips), axis=0))
    found = {
        name: passes for name, (_, passes) in verdicts(checked(model, clips, "gradient").methods["gradient"]).items()
    }
    assert found == {
        "randomized": False, "other clip": False, "other target": False, "max-sensitivity": True, "conservation": None,
    }  # fmt: skip


def test_heat_that_changes_with_every_gray_level_is_too_sensitive(monkeypatch, model, clips):
    random = np.random.default_rng(0)

    def spots(model, clips):
        return np.kron(random.random((len(clips), 3, 4, 4)) ** 30, np.ones((10, 10))).astype(np.float32)

    constant_heat(monkeypatch, spots)
    assert verdicts(checked(model, clips, "gradient").methods["gradient"])["max-sensitivity"][1] is False


def test_heat_that_appears_with_noise_alone_is_a_number(monkeypatch, model, clips):
    """Its change over a norm of 0 was infinite, which is no JSON: a measurement of 20 minutes was lost at its end."""

    def appears(_, changed):
        return np.full((len(changed), 3, 40, 40), float(not torch.equal(changed, clips)), np.float32)

    constant_heat(monkeypatch, appears)
    assert checked(model, clips, "gradcam").methods["gradcam"].sensitivity == [1, 1, 1]


def test_flat_heat_ranks_nothing_and_correlates_with_nothing(monkeypatch, model, clips):
    constant_heat(monkeypatch, lambda model, clips: np.zeros((len(clips), 3, 40, 40), np.float32))
    row = checked(model, clips, "gradient").methods["gradient"]
    assert row.other_clip == row.other_target == row.sensitivity == [0, 0, 0]
