"""The table of all detectors goes on where it was stopped, says what it lacks, and has simple judges beside it."""

import shutil

import pytest
import torch

from bench.__main__ import main
from bench.experiments import detectors
from bench.experiments.detectors import Cell, Trained, sentence, summary, total_time, training_of
from bench.experiments.simple_judges import JUDGES
from istvt.evaluation.results import Estimate
from istvt.evaluation.seeds import MeanMetric


@pytest.fixture(scope="module")
def output(synthetic_set, tmp_path_factory):
    """A folder with the videos of 8 people in place of its own."""
    folder = tmp_path_factory.mktemp("detectors")
    shutil.copytree(synthetic_set, folder / "videos")
    return folder


def test_a_part_runs_alone_is_kept_and_stands_on_a_page_that_says_what_was_not_run(
    output, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(detectors, "TRAIN_CLIPS", 1)
    monkeypatch.setattr(detectors, "EPOCHS", 1)
    readme = tmp_path / "README.md"
    readme.write_text("<!-- begin: detectors -->\n<!-- end: detectors -->\n")
    words = ["detectors", f"--output={output}", f"--documents={tmp_path}", f"--readme={readme}"]
    part = ["--detectors", "xception", "--kinds", "blend", "--seeds", "0", "--perturbations"]
    assert main([*words, *part]) == 0
    page = (tmp_path / detectors.PAGE).read_text()
    [row] = [
        line
        for line in page.splitlines()
        if line.startswith("| `xception` | ") and "not run" not in line and "(" in line
    ]
    _, _, auc, by_seed, _ = (cell.strip() for cell in row.split("|"))
    assert auc.split()[0] == by_seed  # of one seed
    unbroken = " ".join(page.split())
    assert "Missing: all with seed 1, 2; `blend` with seed 0 of istvt, cnn_lstm, c3d" in unbroken
    assert "`flicker` with seed 0 of every detector; `both`" in unbroken
    assert "All 9 trainings take 0.0 hours of processor time, without those of istvt, cnn_lstm" in unbroken
    assert "| *mean color* |" in page and "jpeg:30" not in page
    assert "- `blend` (2 real and 2 forged videos): " in readme.read_text()

    monkeypatch.setattr("istvt.comparison.models.train", None)  # what is trained is not trained again
    assert main([*words, *part, "jpeg:30"]) == 0
    again = (tmp_path / detectors.PAGE).read_text()
    assert "| plain | by seed | jpeg:30 |" in again
    assert row.rstrip("|") in again  # the plain one is not scored again
    capsys.readouterr()
    assert main([*words, *part[:-1], "--perturbations", "jpeg:300"]) == 2
    assert "perturb is 'jpeg:300': quality 300" in capsys.readouterr().err


def test_a_judge_of_color_does_not_see_order_nor_one_of_differences_what_stands_still():
    clips = torch.rand(2, 6, 3, 8, 8) * 2 - 1
    color, difference = JUDGES["mean color"], JUDGES["frame difference"]
    torch.testing.assert_close(color(clips.flip(1)), color(clips))
    assert color(clips).shape == (2, 3)
    assert difference(clips[:, :1].expand(-1, 6, -1, -1, -1)).eq(0).all()
    assert (difference(clips) > 0.5).all()


def test_the_sentence_names_as_learned_what_has_an_interval_above_one_half():
    def found(value, low, high):
        return Cell([0, 1], {"plain": MeanMetric(Estimate(value, low, high, "bootstrap"), [value])}, 72, 72)

    cells = {
        ("istvt", "flicker"): found(0.98, 0.95, 1.0),
        ("xception", "flicker"): found(0.56, 0.47, 0.66),
        ("frame difference", "flicker"): found(0.99, 0.97, 1.0),
    }
    text = " ".join(sentence(cells).split())
    assert "On `flicker` the AUC of `istvt` 0.980 (0.950 to 1.000) is above chance" in text
    assert "and that of `xception` 0.560 (0.470 to 0.660) is not" in text
    assert "on frame difference 0.990" in text and "72 real and 72 forged" in text and "2 seeds" in text


def test_the_summary_names_detectors_that_learn_with_some_seeds_alone():
    def found(*values):
        return Cell(
            [0, 1], {"plain": MeanMetric(Estimate(sum(values) / 2, 0.6, 1.0, "bootstrap"), list(values))}, 72, 72
        )

    text = summary({("istvt", "blend"): found(0.94, 0.97), ("c3d", "blend"): found(0.91, 0.61)})
    assert "2 of 2 detectors above chance, at 0.760 to 0.955; seeds lie more than 0.2 apart for `c3d`." in text


def test_the_total_time_is_that_of_the_trainings_that_were_run():
    costs = {"istvt": [Trained(90.0, 100.0, {}), Trained(90.0, 140.0, {})], "vtn": []}
    assert total_time(costs).startswith(
        "All 9 trainings take 0.3 hours of processor time, without those of vtn, of which none was run: "
        "0.1 hours on 2 cores"
    )


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for kind in detectors.KINDS for name in detectors.detectors_of(kind)]
)
def test_every_detector_has_settings_that_a_training_takes(name, kind, tmp_path):
    [model] = detectors.plan_of(tmp_path, [name], kind, [3], []).models
    assert model.training.seed == 3
    assert model.training.epochs == training_of(name, kind)["epochs"]
    assert model.training.warmup_epochs == pytest.approx(0.1 * model.training.epochs)
