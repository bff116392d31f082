"""Tables of scores that are known: which set is across, who is compared with whom, and on which videos."""

from dataclasses import replace

import numpy as np
import pytest
from video_scores import random_scores, video_score

from istvt.comparison.check import CheckedPlan
from istvt.comparison.models import EvaluatedModel
from istvt.comparison.pages import write_comparison
from istvt.comparison.results import gather
from istvt.comparison.settings import ELSEWHERE, ComparisonSettings, DataSet, DetectorSettings, comparison_plan
from istvt.comparison.tables import TRIVIAL, tables
from istvt.evaluation.metrics import compute_metrics
from istvt.model.architectures import model_preset

VIDEOS = {"a": random_scores(20, 40, seed=1), "b": random_scores(30, 30, seed=2)}


def settings_of(**more) -> ComparisonSettings:
    return ComparisonSettings(
        detectors={"one": DetectorSettings(), "two": DetectorSettings(), "old": DetectorSettings(checkpoints=["x"])},
        data={name: DataSet(root=f"/sets/{name}") for name in VIDEOS},
        train=["a"],
        test=["a", "b"],
        seeds=[0, 1],
        bootstrap=50,
        **more,
    )


def results_of(settings: ComparisonSettings, lost: int = 0):
    """Results of detectors that score with some noise: `two` with more than `one`."""
    plan = comparison_plan(settings, "/nowhere")
    plan = replace(plan, models=[replace(m, trained_on=m.trained_on or ELSEWHERE) for m in plan.models])
    evaluated = []
    for number, model in enumerate(plan.models):
        for test, videos in VIDEOS.items():
            generator = np.random.default_rng([number, len(test)])
            noise = {"one": 0.05, "two": 0.6, "old": 0.3}[model.detector]
            scores = [
                video_score(s.name, s.label, float(np.clip(s.probability + noise * generator.normal(), 0, 1)))
                for s in videos[lost if model.detector == "old" else 0 :]
            ]
            evaluation = compute_metrics(scores, bootstrap=10)
            evaluated.append(EvaluatedModel(model, test, evaluation, scores, None, []))
    config = model_preset("istvt")
    layouts = dict.fromkeys(VIDEOS, "plain")
    return gather(CheckedPlan(plan, dict.fromkeys(settings.detectors, config), layouts, set()), evaluated)


@pytest.fixture(scope="module")
def results():
    return results_of(settings_of())


def table(results, title: str):
    [found] = [item for item in tables(results) if item.title == title]
    return found


def test_table_ii_has_the_sets_that_were_not_trained_on_and_their_mean(results):
    across = table(results, "Table II: AUC across sets, trained on a")
    assert across.header == ["Detector", "b\n30 real, 30 fake", "Mean"]
    assert [row[0] for row in across.rows] == ["one", "two", TRIVIAL["auc"]]
    [cell] = [c for c in results.cells if (c.detector, c.test) == ("one", "b")]
    assert across.rows[0][2] == f"{np.mean(cell.auc.values):.3f}" == f"{cell.auc.mean.value:.3f}"
    elsewhere = table(results, "Table II: AUC across sets, trained elsewhere")
    assert elsewhere.header == ["Detector", "a\n20 real, 40 fake", "b\n30 real, 30 fake", "Mean"]
    within = table(results, "Table I: accuracy within a")
    assert within.rows[-1] == [TRIVIAL["accuracy"], "0.667"]


def test_variants_and_perturbed_videos_stand_beside_a_verdict_without_a_model_too():
    plain = settings_of()
    variants = replace(plain, detectors=plain.detectors | {"two": DetectorSettings(variant_of="one")})
    found = table(results_of(variants), "Table III: variants of one, trained on a")
    assert found.rows[-1] == [TRIVIAL["both"], "–", "0.667", "0.500", "–", "0.500", "0.500", "–"]


def test_a_checkpoint_stands_beside_the_preset_that_it_differs_least_from():
    """It was listed with every size as a difference from `published`, which was not named."""
    settings = settings_of()
    facts = results_of(settings).detectors["old"]
    assert (facts.preset, facts.differs) == ("small", {})


def test_every_pair_is_tested_once_on_each_set_those_from_elsewhere_beside_the_others(results):
    pairs = [(p.test, p.first, p.second) for p in results.pairs]
    every = [("one", "two"), ("one", "old"), ("two", "old")]
    assert pairs == [(test, *pair) for test in ("a", "b") for pair in every]
    several = {(p.first, p.second): p.result.p_seeds is not None for p in results.pairs}
    assert several == {("one", "two"): True, ("one", "old"): False, ("two", "old"): False}
    values = sorted((p.result.p, p.p_corrected) for p in results.pairs)
    assert values[0][1] == pytest.approx(min(1, 6 * values[0][0]))
    assert all(corrected >= p for p, corrected in values)


def test_against_one_detector_fewer_pairs_are_tested_and_it_is_the_first(results):
    pairs = results_of(settings_of(against="two")).pairs
    assert {(p.first, p.second) for p in pairs} == {("two", "one"), ("two", "old")}
    [pair] = [p for p in pairs if (p.test, p.second) == ("b", "one")]
    [other] = [p for p in results.pairs if (p.test, p.first, p.second) == ("b", "one", "two")]
    assert pair.result.auc.value == pytest.approx(-other.result.auc.value)
    assert pair.result.p == pytest.approx(other.result.p)


def test_a_detector_that_lacks_videos_is_compared_on_those_that_both_have_and_named():
    results = results_of(settings_of(), lost=5)
    counts = {(p.first, p.second): (p.result.real, p.result.fake) for p in results.pairs if p.test == "a"}
    assert counts == {("one", "two"): (20, 40), ("one", "old"): (15, 40), ("two", "old"): (15, 40)}
    assert any("old, trained on elsewhere, has scores of 55 of the 60 videos of a" in note for note in results.notes)


def test_the_files_are_the_same_wherever_they_are(results, tmp_path):
    written = []
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        written.append(write_comparison(results, tmp_path / name))
    first, second = written
    assert [path.read_bytes() for path in first.files] == [path.read_bytes() for path in second.files]
    assert "comparison-robustness.csv" not in [path.name for path in first.files]
