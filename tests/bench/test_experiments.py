"""Explanations measured with several trained models are averaged, kept, and written where a reader looks."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from bench.__main__ import main
from bench.experiments import faithfulness as explanation_experiment
from bench.experiments import synthetic
from bench.experiments.faithfulness import (
    average,
    conclusion,
    measure_explanations,
    section,
    write_documents,
    write_section,
)
from dataloading.io import read_json
from istvt.config import DataSettings
from istvt.explain.faithfulness.evaluate import Faithfulness
from istvt.report import evaluate_checkpoint as evaluation
from istvt.report.evaluate_checkpoint import evaluate_checkpoint


@pytest.fixture(scope="module")
def results(synthetic_set, trained_run):
    """Of one run, twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explanation_experiment, "STABILIZERS", (0.01, "reference"))
        data = DataSettings(root=synthetic_set, workers=1)
        return measure_explanations([trained_run, trained_run], data, Console(quiet=True))


def test_a_measurement_is_kept_and_not_made_again(results, synthetic_set, trained_run, monkeypatch):
    monkeypatch.setattr(evaluation, "evaluate_explanations", None)
    again = measure_explanations([trained_run] * 2, DataSettings(root=synthetic_set, workers=1), Console(quiet=True))
    assert again == results
    assert read_json(trained_run / "explanations" / "faithfulness.json", Faithfulness) == results["surroundings"][0]
    assert results["gray"][0].settings["fill"] == "gray"
    assert results["surroundings"][0].settings["fill"] == "surroundings"


def test_the_report_of_a_run_shows_what_was_measured_of_its_explanations(results, synthetic_set, trained_run, tmp_path):
    """`explanations/` lay beside a report that did not know of it."""
    run = shutil.copytree(trained_run, tmp_path / "run")
    data = DataSettings(root=synthetic_set, evaluation_clips=1, workers=1)
    (run / "explanations").rename(tmp_path / "kept")
    report = evaluate_checkpoint(run, data, run, bootstrap=20).report
    assert '<section id="explanations"' not in report.read_text()
    (tmp_path / "kept").rename(run / "explanations")
    measure_explanations([run], data, Console(quiet=True))
    assert '<section id="explanations"' in report.read_text()
    evaluate_checkpoint(run, data, run, bootstrap=20)
    assert '<section id="explanations"' in report.read_text()


def test_an_average_of_models_is_the_mean_of_each_number(results):
    first, second = results["surroundings"]
    item = first.orderings[0]
    better = replace(item, accuracy=[x / 2 for x in item.accuracy], accuracy_area=item.accuracy_area / 2)
    mean = average([first, replace(second, orderings=[better, *second.orderings[1:]])]).orderings[0]
    assert mean.accuracy == pytest.approx([0.75 * x for x in item.accuracy])
    assert mean.accuracy_area == pytest.approx(0.75 * item.accuracy_area)
    assert mean.localization["both"].clips == item.localization["both"].clips  # the same clips, not more of them
    with pytest.raises(ValueError, match="results differ"):
        average([first, results["gray"][0]])
    with pytest.raises(ValueError, match="results is empty"):
        average([])


def test_it_is_said_whether_lrp_is_better_and_when_it_is_not(results):
    def with_area(result, area):
        better = [
            replace(item, accuracy_area=area) if item.ordering.method == "lrp" else item for item in result.orderings
        ]
        return replace(result, orderings=better)

    first, second = results["surroundings"]
    assert "with 2 of 2 seeds" in conclusion([with_area(first, -1.0), with_area(second, -1.0)])
    assert "with 1 of 2 seeds" in conclusion([with_area(first, -9.0), with_area(second, 2.0)])
    assert "does **not** beat" in conclusion([with_area(first, 2.0), with_area(second, 2.0)])


def test_the_command_goes_on_where_it_was_stopped_and_writes_the_documents(
    results, trained_run, synthetic_set, tmp_path, monkeypatch, capsys
):
    auc = {"value": 0.5, "low": 0.25, "high": 0.75, "fakes": 5, "reals": 4}
    rows = [
        {"attention": attention, "seed": seed, "seconds": 1.0, "auc": {"flicker": auc}}
        for attention, seed in (("spatial_only", 0), ("temporal_first", 0), ("temporal_first", 1))
    ]
    for seed in (0, 1):
        shutil.copytree(trained_run, tmp_path / "runs" / f"temporal_first-{seed}")
    (tmp_path / "runs" / "results.json").write_text(json.dumps({"versions": {"istvt": "1"}, "rows": rows}))
    readme, documents, trained = tmp_path / "README.md", tmp_path / "docs", []
    readme.write_text("<!-- begin: faithfulness -->\n<!-- end: faithfulness -->\n")

    def train(data, config, settings, folder, console):
        trained.append((config.attention, settings.seed))
        return SimpleNamespace(checkpoint=folder, history=[{"seconds": 20.0}, {"seconds": 22.0}])

    measured = SimpleNamespace(auc=SimpleNamespace(value=1.0, low=0.875, high=1.0), fake=5, real=4)
    evaluated = SimpleNamespace(evaluation=SimpleNamespace(manipulations={"flicker": measured}))
    monkeypatch.setattr("istvt.training.trainer.train", train)
    monkeypatch.setattr(evaluation, "evaluate_checkpoint", lambda *_, **__: evaluated)
    monkeypatch.setattr(evaluation, "evaluate_explanations", None)
    monkeypatch.setattr(synthetic, "SEEDS", (0, 1))
    monkeypatch.setattr(synthetic, "_draw", lambda folder: DataSettings(root=synthetic_set, workers=1))
    words = ["experiment", "--output", str(tmp_path / "runs"), "--documents", str(documents)]

    assert main([*words, "--only", "faithfulness"]) == 0
    assert not trained and [path.name for path in documents.iterdir()] == ["faithfulness.svg", "faithfulness.md"]
    assert main([*words, "--readme", str(readme)]) == 0
    assert main(words) == 0
    assert trained == [("spatial_only", 1)]
    page = (documents / "what-each-attention-sees.md").read_text()
    assert "| `spatial_only` | 1 | 1.000 (0.875 to 1.000) | 42 |" in page
    assert "| `spatial_only` | mean | **0.750** |  |" in page
    assert "(4 real videos, 5 of each manipulation)" in page and "seeds\n0, 1." in page
    assert "| `lrp` |" in readme.read_text() and "| `lrp` |" in capsys.readouterr().out


def with_stabilizer_areas(result, areas):
    """The same measurement with other mean accuracies, by stabilizer."""
    orderings = [
        replace(item, accuracy_area=areas[item.ordering.stabilizer]) if item.ordering.method == "lrp" else item
        for item in result.orderings
    ]
    return replace(result, orderings=orderings)


def test_a_stabilizer_is_compared_with_the_default_seed_by_seed_and_what_does_not_tell_them_apart_is_no_reason(results):
    """The table stood there with "The default is 0.01", as if its figures said so."""
    first, second = results["surroundings"]

    def page(*areas):
        pairs = zip((first, second), areas, strict=True)
        found = [with_stabilizer_areas(result, {0.01: a, "reference": b}) for result, (a, b) in pairs]
        return explanation_experiment._page({**results, "surroundings": found}, {})

    text = page((0.60, 0.61), (0.70, 0.73))
    assert "| reference | 67.0 | 61.0 / 73.0 | +2.0 ± 1.0 |" in text
    assert "differ from 0.01 by 2.0 points at most, less than it differs from itself between seeds (10.0)" in text
    assert (
        "Better than it with every seed: none; worse: `reference` (2 seeds agree by chance in one of 2 cases)" in text
    )
    assert "The default is 0.01: nothing here speaks for another" in text
    mixed = page((0.60, 0.59), (0.70, 0.71))
    assert "Better than it with every seed: none; worse: none" in mixed
    other = page((0.70, 0.60), (0.71, 0.62))
    assert "by 9.5 points at most, not less than it differs from itself between seeds (1.0)" in other
    assert "by this alone it would be `reference`" in other


def test_the_page_its_picture_and_the_section_hold_every_method(results, tmp_path):
    page = write_documents(results, {"istvt": "1"}, tmp_path / "docs")
    text = page.read_text()
    for heading in ("The stabilizer", "With gray", "seed by seed"):
        assert heading in text
    assert "| reference |" in text
    assert (page.parent / "faithfulness.svg").read_text().startswith("<?xml")
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- begin: faithfulness -->\nold\n<!-- end: faithfulness -->\nafter\n")
    write_section(results["surroundings"], readme)
    written = readme.read_text()
    assert "old" not in written
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert all(f"| `{name}` |" in written for name in ("lrp", "gradient", "rollout", "raw", "gradcam", "random"))
    assert section(results["surroundings"]) in written
