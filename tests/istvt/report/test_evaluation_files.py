"""evaluation.json, scores.csv and history.csv are read back as they were written, and anything else is one sentence."""

import json
from dataclasses import replace

import numpy as np
import pytest

from dataloading.errors import InputError
from istvt.evaluation.metrics import compute_metrics
from istvt.evaluation.reliability import with_reliability
from istvt.inference.calibration import fit_calibration
from istvt.inference.video_score import EvaluatedSet, VideoScore
from istvt.report.evaluation_files import (
    StoredEvaluation,
    read_evaluation,
    read_history,
    replaced_evaluation,
    write_evaluation,
)

EVALUATED = EvaluatedSet("/set", "c23", ["Deepfakes"], "test", "abc")


@pytest.fixture
def written(tmp_path):
    """An evaluation in a directory: (directory, what was stored, its scores)."""
    generator = np.random.default_rng(0)
    scores = []
    for position in range(12):
        label, clips = position % 2, generator.random(3).tolist()
        name = f'{"Deepfakes" if label else "original"}/{position:03d}, "quoted"'
        frames = [list(range(start, start + 6)) for start in (0, 13, 264)]
        manipulation = "Deepfakes" if label else "original"
        scores.append(VideoScore(name, f"/set/{name}.mp4", label, manipulation, float(np.mean(clips)), clips, frames))
    stored = StoredEvaluation(
        **vars(
            replace(
                with_reliability(compute_metrics(scores, bootstrap=20), scores, fit_calibration(scores)),
                skipped=[("original/099", "has 3 frames")],
                notes=["Drawn."],
            )
        ),
        checkpoint="/run/best.safetensors",
        evaluated=EVALUATED,
        title="ISTVT on /set, test split",
        settings={"split": "test", "manipulations": None},
        versions={"torch": "2.13.0"},
    )
    write_evaluation(tmp_path, stored, scores)
    return tmp_path, stored, scores


def test_an_evaluation_is_read_back_as_it_was_written(written):
    output, stored, scores = written
    assert read_evaluation(output) == (stored, scores)


def of(scores) -> StoredEvaluation:
    return StoredEvaluation(**vars(compute_metrics(scores, bootstrap=20)))


def test_a_score_is_written_so_that_no_digit_is_lost(tmp_path):
    """With six digits two videos could tie, and one above the threshold could lie on it."""
    near = [VideoScore(n, f"{n}.mp4", 1, "a", p, [p], [[0]]) for n, p in (("a", 0.5), ("b", 0.5 + 2e-16))]
    write_evaluation(tmp_path, of(near), near)
    assert [found.verdict for found in read_evaluation(tmp_path)[1]] == ["real", "fake"]


def test_a_file_name_that_is_not_valid_unicode_does_not_stop_the_evaluation(tmp_path):
    scores = [VideoScore("clip\udcff", "a.mp4", 1, "a", 0.5, [0.5], [[0]])]
    write_evaluation(tmp_path, of(scores), scores)
    assert read_evaluation(tmp_path)[1][0].name == "clip\\udcff"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.pop("videos"), "evaluation.json: videos: missing; expected a value"),
        (lambda d: d["videos"]["auc"].update(value="high"), "evaluation.json: videos.auc.value: 'high'; expected"),
        (lambda d: d["evaluated"].update(split=3), "evaluation.json: evaluated.split: 3; expected text"),
        (lambda d: d.update(threshold=[]), "evaluation.json: threshold: []; expected a number"),
        (lambda d: d.update(more=1), "evaluation.json: more: unknown field with the value 1; expected no such field"),
    ],
)
def test_another_evaluation_file_is_one_sentence_that_names_the_field(written, change, sentence):
    output, _, _ = written
    values = json.loads((output / "evaluation.json").read_text())
    change(values)
    (output / "evaluation.json").write_text(json.dumps(values))
    with pytest.raises(InputError) as refused:
        read_evaluation(output)
    assert sentence in str(refused.value)
    with pytest.raises(InputError, match="move it away, or choose another --output"):
        replaced_evaluation(output, EVALUATED)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("0-5 13-18 264-269", "0-5 13-18", "scores.csv: line 2: clip_probabilities '0."),
        ("0-5 13-18 264-269", "0-5 13-18 0-99999999999", "scores.csv: line 2: clip_probabilities '0."),
        ("probability_fake", "probability", "scores.csv: line 2: probability_fake: missing; expected a value"),
        (",original,", ",original,0.5,", "scores.csv: line 2: not as many cells as the header"),
        (",0,original,", ",7,original,", "scores.csv: line 2: label is 7; expected 0 or 1"),
        (",original,0", ",original,1", "scores.csv: line 2: a probability is not in its range; expected 0 to 1"),
    ],
)
def test_another_scores_file_is_one_sentence_that_names_the_line(written, old, new, sentence):
    output, _, _ = written
    path = output / "scores.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError) as refused:
        read_evaluation(output)
    assert sentence in str(refused.value)


def test_a_history_is_that_of_the_run_and_its_empty_cells_are_undefined(tmp_path):
    assert read_history(tmp_path) == []
    (tmp_path / "history.csv").write_text("epoch,train_loss,val_auc,skipped_steps\n1,0.5,,0\n2,0.25,0.75,1\n")
    first, second = read_history(tmp_path / "best.safetensors")
    assert (first.epoch, first.train_loss, first.val_auc, second.skipped_steps) == (1, 0.5, None, 1)
    (tmp_path / "history.csv").write_text("epoch,train_loss\n1,low\n")
    with pytest.raises(InputError, match=r"history\.csv: line 2: train_loss: 'low'; expected a number"):
        read_history(tmp_path)


def test_only_an_evaluation_of_something_else_is_named_before_it_is_replaced(written, tmp_path):
    output, _, _ = written
    assert replaced_evaluation(output, EVALUATED) is None
    assert replaced_evaluation(output / "nothing", EVALUATED) is None
    other_model = EvaluatedSet("/set", "c23", ["Deepfakes"], "test", "def")
    held = "/set (Deepfakes), c23, test split"
    assert replaced_evaluation(output, other_model) == (f"{held} by /run/best.safetensors as it was then", True)
    assert replaced_evaluation(output, EvaluatedSet("/set", "c23", ["Deepfakes"], "val", "abc")) == (held, False)
