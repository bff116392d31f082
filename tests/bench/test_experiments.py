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
from bench.experiments.faithfulness import measure_explanations, section, targets, write_documents, write_section
from dataloading.io import read_json
from istvt.config import DataSettings, FaithfulnessSettings
from istvt.explain.faithfulness.results import (
    Faithfulness,
    MeasuredClip,
    MethodValues,
    Sanity,
    SanityRow,
)
from istvt.report import evaluate_checkpoint as evaluation
from istvt.report.evaluate_checkpoint import evaluate_checkpoint

QUICK = FaithfulnessSettings(
    methods=("lrp", "attnlrp", "raw", "motion", "center_blob", "random"), fractions=(0, 0.2), sanity=2
)
METHODS = {  # deletion with the original, rank accuracy on halves, hottest frame: one number for all clips
    "lrp": (0.50, 0.6, 1.0),
    "attnlrp": (0.40, 0.8, 1.0),
    "raw": (0.65, 0.3, 0.0),
    "motion": (0.70, 0.2, 1.0),
    "center_blob": (0.80, 0.3, 1 / 6),
    "random": (0.90, 0.1, 1 / 6),
}


@pytest.fixture(scope="module")
def results(synthetic_set, trained_run):
    """Of one run, twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explanation_experiment, "SETTINGS", QUICK)
        data = DataSettings(root=synthetic_set, workers=1)
        return measure_explanations({"fine": [trained_run, trained_run]}, data, Console(quiet=True))


def known(shift=0.0, **changes) -> Faithfulness:
    """A measurement of which the answers are known; `shift` is added to every deletion."""
    clips = [MeasuredClip(f"v{n}", 1, "blend", 0.95, True, [n], 0.1, half=True) for n in range(6)]
    clips += [MeasuredClip(f"r{n}", 0, "original", 0.1) for n in range(6)]

    def values(deletion, rank, when):
        fakes, reals = [[1.0, 2 * (deletion + shift) - 1.0]] * 6, [[0.1, 0.1]] * 6
        none, others = [None] * 6, (1 - when) / 5
        by_frame = [[when if frame == forged else others for frame in range(6)] for forged in range(6)]
        return MethodValues(
            fakes + reals, fakes + none, fakes + none, fakes + none, [rank] * 6 + none, [rank] * 6 + none,
            [rank] * 6 + none, by_frame + none,
        )  # fmt: skip

    def row(failing):
        other_target = [1.0, 1.0] if failing else [0.0, 0.0]
        return SanityRow([[0.1, 0.1]], [0.2, 0.2], other_target, [0.1, 0.1], None)

    sanity = Sanity(["backbone"], ["v0", "v1"], {name: row(name == "raw") for name in ("lrp", "attnlrp", "raw")})
    methods = {name: values(*(METHODS | changes)[name]) for name in METHODS}
    return Faithfulness([0.0, 0.3], 6, clips, methods, [], {}, sanity=sanity)


def test_a_measurement_is_kept_and_not_made_again(results, synthetic_set, trained_run, monkeypatch):
    monkeypatch.setattr(evaluation, "evaluate_explanations", None)
    data = DataSettings(root=synthetic_set, workers=1)
    again = measure_explanations({"fine": [trained_run] * 2}, data, Console(quiet=True))
    assert again == results
    assert read_json(trained_run / "explanations" / "faithfulness.json", Faithfulness) == results["fine"][0]


def test_the_report_of_a_run_shows_what_was_measured_of_its_explanations(results, synthetic_set, trained_run, tmp_path):
    """`explanations/` lay beside a report that did not know of it."""
    run = shutil.copytree(trained_run, tmp_path / "run")
    data = DataSettings(root=synthetic_set, evaluation_clips=1, workers=1)
    (run / "explanations").rename(tmp_path / "kept")
    report = evaluate_checkpoint(run, data, run, bootstrap=20).report
    assert '<section id="explanations"' not in report.read_text()
    (tmp_path / "kept").rename(run / "explanations")
    measure_explanations({"fine": [run]}, data, Console(quiet=True))
    assert '<section id="explanations"' in report.read_text()
    evaluate_checkpoint(run, data, run, bootstrap=20)
    assert '<section id="explanations"' in report.read_text()


def test_an_aim_is_met_by_every_seed_or_it_says_no():
    _, rows = targets([known(), known()])
    assert [row[2] for row in rows] == ["yes"] * 4
    assert rows[0][1] == "1.00 (1.00 to 1.00); seed by seed 1.00 (1.00 to 1.00); 1.00 (1.00 to 1.00)"
    assert rows[1][1] == "-0.15 (-0.15 to -0.15); -0.15 (-0.15 to -0.15)"
    assert "`attnlrp`" in rows[3][0]
    assert rows[3][1] == "0.70 (0.70 to 0.70); 0.50 (0.50 to 0.50)"
    # Of one seed LRP is only .06 below raw attention, though in the mean it is .105 below.
    _, rows = targets([known(), known(lrp=(0.59, 0.6, 0.0))])
    assert [row[2] for row in rows] == ["**no**", "**no**", "yes", "yes"]
    assert rows[0][1].startswith("0.50")
    _, rows = targets([known(attnlrp=(0.51, 0.25, 1.0), lrp=(0.5, 0.2, 1.0), raw=(0.65, 0.1, 1.0))])
    assert [row[2] for row in rows] == ["yes", "yes", "**no**", "**no**"]


def test_three_sentences_say_when_deletion_and_where_and_a_line_which_methods_are_sane():
    text = section({"fine": [known(), known(shift=0.02)]})
    assert "LRP's hottest frame is that frame in 1.00 (1.00 to 1.00) of cases (raw attention 0.00" in text
    assert "chance 0.17, the frame that moves most 1.00" in text
    assert "`attnlrp` 0.41 (0.41 to 0.41), `lrp` 0.51 (0.51 to 0.51), `raw` 0.66 (0.66 to 0.66)" in text
    assert "the hottest pixels of `attnlrp` lie in that half to 0.80" in text
    assert "`lrp`, `attnlrp` pass all of them with every seed; not so `raw` (other target)." in text
    assert "2 seeds of the model `fine`" in text
    one = section({"fine": [known()]})
    assert "1 seed of the model `fine`" in one and "with its one seed" in one


def test_the_command_goes_on_where_it_was_stopped_and_writes_the_documents(
    results, trained_run, synthetic_set, tmp_path, monkeypatch, capsys
):
    auc = {"value": 0.5, "low": 0.25, "high": 0.75, "fakes": 5, "reals": 4}
    rows = [
        {"preset": name, "attention": attention, "seed": seed, "seconds": 1.0, "auc": {"flicker": auc}}
        for name, attention, seed in (
            ("fine", "temporal_first", 0), ("fine", "temporal_first", 1), ("small", "spatial_only", 0),
            ("small", "temporal_first", 0), ("small", "temporal_first", 1),
        )
    ]  # fmt: skip
    for name in ("fine", "small"):
        for seed in (0, 1):
            shutil.copytree(trained_run, tmp_path / "runs" / f"{name}-temporal_first-{seed}")
    (tmp_path / "runs" / "results.json").write_text(json.dumps({"versions": {"istvt": "1"}, "rows": rows}))
    readme, documents, trained = tmp_path / "README.md", tmp_path / "docs", []
    readme.write_text("<!-- begin: faithfulness -->\n<!-- end: faithfulness -->\n")

    def train(data, config, settings, folder, console):
        trained.append((config.attention, config.image_size, settings.seed))
        return SimpleNamespace(checkpoint=folder, history=[{"seconds": 20.0}, {"seconds": 22.0}])

    found = SimpleNamespace(auc=SimpleNamespace(value=1.0, low=0.875, high=1.0), fake=5, real=4)
    evaluated = SimpleNamespace(evaluation=SimpleNamespace(manipulations={"flicker": found}))
    monkeypatch.setattr("istvt.training.trainer.train", train)
    monkeypatch.setattr(evaluation, "evaluate_checkpoint", lambda *_, **__: evaluated)
    monkeypatch.setattr(evaluation, "evaluate_explanations", None)
    monkeypatch.setattr(synthetic, "SEEDS", (0, 1))
    monkeypatch.setattr(synthetic, "_draw", lambda folder: DataSettings(root=synthetic_set, workers=1))
    words = ["experiment", "--output", str(tmp_path / "runs"), "--documents", str(documents)]

    assert main([*words, "--only", "faithfulness", "--preset", "fine", "--seed", "1"]) == 0
    assert not trained
    assert sorted(path.name for path in documents.iterdir()) == ["faithfulness-fine.svg", "faithfulness.md"]
    assert "## Model `fine`, seeds 1\n" in (documents / "faithfulness.md").read_text()
    capsys.readouterr()
    part = [*words, "--only", "faithfulness", "--preset", "small", "--readme", str(readme)]
    untouched = readme.read_text()
    assert main(part) == 0
    assert readme.read_text() == untouched and "Of detected fakes" not in capsys.readouterr().out
    assert not trained
    assert main([*words, "--readme", str(readme)]) == 0
    assert main(words) == 0
    assert trained == [("spatial_only", 64, 1)]
    page = (documents / "what-each-attention-sees.md").read_text()
    assert "| `small`, `spatial_only` | 1 | 1.000 (0.875 to 1.000) | 42 |" in page
    assert "| `small`, `spatial_only` | mean | **0.750** |  |" in page
    assert "(4 real videos, 5 of each manipulation)" in page
    assert "Of detected fakes" in readme.read_text() and "Of detected fakes" in capsys.readouterr().out


def test_the_page_its_pictures_and_the_section_hold_every_model_and_every_aim(tmp_path):
    found = {"fine": [known(), known()], "small": [known(), known()]}
    page = write_documents(found, (0, 2), {"istvt": "1"}, tmp_path / "docs")
    text = page.read_text()
    heads = "What was aimed at", "## Model `fine`, seeds 0, 2", "## Model `small`, seeds 0, 2", "Seed 2:"
    assert all(words in text for words in heads)
    # curves, accuracy, places, seed by seed, sanity of two seeds
    assert text.count("| `attnlrp` |") == 2 * (3 + 1 + 2)
    assert "| method | deletion, original, seed 0 | deletion, original, seed 2 |" in text
    for name in ("fine", "small"):
        assert f"(faithfulness-{name}.svg)" in text
        assert (page.parent / f"faithfulness-{name}.svg").read_text().startswith("<?xml")
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- begin: faithfulness -->\nold\n<!-- end: faithfulness -->\nafter\n")
    write_section(found, readme)
    written = readme.read_text()
    assert "old" not in written
    assert written.startswith("before\n") and written.endswith("after\n")
    assert section(found) in written


def test_why_lrp_misses_a_forged_frame_is_said_where_the_numbers_show_it(tmp_path):
    """It named the frame after the forged one, from which self-subtraction makes a difference just as large."""
    right, after = known(), known()
    after.methods["lrp"].by_frame[:6] = [
        [float(frame == min(forged + 1, 5)) for frame in range(6)] for forged in range(6)
    ]
    blob = [[1.0] * 6] * 6 + [None] * 6
    for one in (right, after):
        one.methods["center_blob"].by_frame = blob
    page = write_documents({"fine": [right, after], "small": [right] * 2}, (0, 1), {}, tmp_path).read_text()
    fine, small = (page.split(f"<!-- begin: {name} -->")[1].split("<!-- end")[0] for name in ("fine", "small"))
    assert "hottest frame is that frame or the one after it in 1.00 (1.00 to 1.00) of cases" in fine
    assert "1.00 (1.00 to 1.00), 0.00 (0.00 to 0.00); 0.17 (0.00 to 0.50), 1.00 (1.00 to 1.00)." in fine
    cause = "a difference does not say which of its frames is the odd one"
    assert cause in fine
    assert "that frame or the one after it in 1.00" in small and cause not in small


def test_a_page_keeps_what_it_says_of_models_that_are_not_measured_again(tmp_path):
    """The finer model takes half an hour of training a seed; writing the small model's tables removed its own."""
    seeds, versions = (0, 1), {"istvt": "1"}
    fine, small = {"fine": [known(), known()]}, {"small": [known(shift=0.1), known(shift=0.1)]}
    alone = write_documents(fine, seeds, versions, tmp_path).read_text()
    assert "The model `small` was not measured yet." in alone
    both = write_documents(small, seeds, {"istvt": "2"}, tmp_path).read_text()
    assert both.split("<!-- begin: small")[0] == alone.split("<!-- begin: small")[0]
    assert "Versions: istvt 2.\n<!-- end: small" in both and "Versions: istvt 1.\n<!-- end: fine" in both
    # The sentences above the tables are the finer model's, and are written anew with it.
    again = write_documents({"fine": [known(shift=0.3)] * 2}, seeds, versions, tmp_path).read_text()
    assert "`lrp` 0.80" in again and "`lrp` 0.80" not in both
    assert again.split("<!-- begin: small")[1] == both.split("<!-- begin: small")[1]


def test_measurements_of_a_real_run_make_a_page(results, tmp_path):
    page = write_documents({"fine": [replace(one, sanity=None) for one in results["fine"]]}, (0, 1), {}, tmp_path)
    assert "Sanity was not checked." in page.read_text()
    assert "| `center_blob` |" in page.read_text()
