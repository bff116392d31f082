"""Curves of a detector on perturbed videos: right values, paired intervals, the same whatever the batches are."""

from collections import defaultdict

import numpy as np
import pytest
from video_scores import random_scores, video_score

from dataloading import FaceIndex, read_dataset
from dataloading.errors import InputError
from dataloading.io import read_csv
from dataloading.perturbations import parse_sweeps
from istvt.config import DataSettings
from istvt.evaluation.evaluate import SplitScoring, split_clips
from istvt.evaluation.metrics import compute_metrics
from istvt.evaluation.robustness import (
    PerturbedVideos,
    curve_of,
    gather_passes,
    passes_of,
    robustness_point,
    score_pass,
)
from istvt.model.checkpoint import load_model
from istvt.report.evaluate_checkpoint import evaluate_checkpoint
from istvt.report.evaluate_robustness import evaluate_checkpoint_robustness
from istvt.report.evaluation_files import PerturbedRow, ScoreRow, read_evaluation, read_robustness


def changed(scores, to):
    return [
        video_score(score.name, score.label, float(to(score.probability, score.label)), score.manipulation)
        for score in scores
    ]


def test_a_point_has_the_metrics_of_its_scores_and_their_change_from_the_same_videos():
    plain = random_scores(30, 40)
    worse = changed(plain, lambda p, label: 0.3 * p)  # fewer are called fake; the order of videos stays
    point = robustness_point(plain, worse, 3.0, bootstrap=300)
    expected = compute_metrics(worse, bootstrap=300).videos
    assert (point.auc, point.accuracy, point.fakes_found) == (expected.auc, expected.accuracy, expected.recall)
    assert point.reals_suspected.value == expected.confusion.false_positives / 30 == 0
    assert (point.real, point.fake, point.lost) == (30, 40, 0)
    before = compute_metrics(plain, bootstrap=300).videos
    assert (point.auc_change.value, point.auc_change.low, point.auc_change.high) == (0, 0, 0)
    assert point.accuracy_change.value == pytest.approx(expected.accuracy.value - before.accuracy.value)
    assert point.accuracy_change.low < point.accuracy_change.value < point.accuracy_change.high < 0
    # Both scores of a video are drawn together, so the change is known better than the difference of two evaluations.
    apart = np.hypot(before.accuracy.high - before.accuracy.low, expected.accuracy.high - expected.accuracy.low)
    assert point.accuracy_change.high - point.accuracy_change.low < apart


def test_the_interval_of_a_change_holds_the_truth_about_as_often_as_it_says():
    """Videos are drawn from a population in which the perturbation turns a known share of the right verdicts."""
    generator, held, turned = np.random.default_rng(0), 0, 0.2
    for trial in range(100):
        labels = np.repeat([0, 1], 40)
        before = np.where(generator.random(80) < 0.9, labels, 1 - labels)  # 90 % right
        after = np.where((before == labels) & (generator.random(80) < turned), 1 - labels, before)
        sets = [
            [video_score(str(i), int(label), 0.9 if verdict else 0.1) for i, (label, verdict) in enumerate(pairs)]
            for pairs in (list(zip(labels, before, strict=True)), list(zip(labels, after, strict=True)))
        ]
        change = robustness_point(*sets, 1.0, bootstrap=200, seed=trial).accuracy_change
        held += change.low <= -0.9 * turned <= change.high
    assert 87 <= held <= 100


def test_a_curve_has_the_unperturbed_videos_at_its_weak_end_or_where_the_factor_is_one():
    plain = random_scores(10, 10)
    for text, expected in (("jpeg:10,50", [None, 50, 10]), ("brightness:0.5,1.5,2", [0.5, None, 1.5, 2])):
        [sweep] = parse_sweeps([text])
        perturbed = {(sweep.name, strength): PerturbedVideos(plain, []) for strength in sweep.strengths}
        curve = curve_of(sweep, plain, perturbed, bootstrap=20)
        assert [point.strength for point in curve.points] == expected
        assert len({point.accuracy.value for point in curve.points}) == 1


def test_videos_too_short_for_a_perturbation_are_counted_and_where_all_are_it_is_one_sentence():
    plain = random_scores(10, 10)
    assert robustness_point(plain, plain[3:], 5.0, bootstrap=20).lost == 3
    one_class = robustness_point(plain, plain[:10], 5.0, bootstrap=20)
    assert one_class.auc_change.value is None and "only real videos" in one_class.auc_change.reason
    with pytest.raises(InputError, match="not one video can be scored at a strength of 5"):
        robustness_point(plain, [], 5.0)


@pytest.fixture(scope="module")
def scored(trained_run, synthetic_set):
    """A model, its clips, and a function that scores them under perturbations."""
    model, _ = load_model(trained_run)
    dataset, index = read_dataset(synthetic_set), FaceIndex.read(synthetic_set)
    data = DataSettings(root=synthetic_set, evaluation_clips=2)
    clips = split_clips(dataset, index, data, "test", model.config.frames)

    def score(texts, clips=clips, batch_size=16, workers=2, seed=0):
        passes, how = passes_of(parse_sweeps(texts)), SplitScoring(batch_size, "float32", "pyav", workers)
        outcomes = [list(score_pass(model, of.clips(clips, index, seed), of, how, seed)) for of in passes]
        return gather_passes(clips, "pyav", passes, outcomes)

    return clips, score


def test_scores_do_not_depend_on_batches_workers_other_videos_or_other_perturbations(scored):
    clips, score = scored
    texts = ["dropout:20", "noise:10", "jpeg:30", "h264:35", "drop:0.2", "shift:0.2"]
    together = score(texts, batch_size=16, workers=2)
    assert len(together) == 6
    apart = score([texts[1]], batch_size=16, workers=1) | score([texts[4]], clips[4:8], batch_size=16, workers=1)
    for point, found in apart.items():
        of = {video.name: video for video in found.scores}
        assert [video for video in together[point].scores if video.name in of] == found.scores
    assert score(["noise:10"], seed=1)["noise", 10].scores != together["noise", 10].scores
    plain = {point: [video.probability for video in found.scores] for point, found in together.items()}
    assert len({tuple(values) for values in plain.values()}) == 6


def test_progress_counts_every_clip_at_every_strength_also_those_that_cannot_be_made(
    trained_run, synthetic_set, tmp_path
):
    data, counts = DataSettings(root=synthetic_set, evaluation_clips=2), []
    evaluate_checkpoint(trained_run, data, tmp_path, bootstrap=20)
    how = {"bootstrap": 20, "advance": lambda *of: counts.append(of)}
    found = evaluate_checkpoint_robustness(trained_run, data, tmp_path, ["drop:0.45", "blur:1,2"], **how)
    assert found.curves[0].points[-1].lost > 0  # ten frames
    done, totals = zip(*counts, strict=True)
    assert list(done) == sorted(done) and set(totals) == {3 * 16} and done[-1] == 3 * 16


def test_a_strength_at_which_no_clip_can_be_made_has_no_scores_and_says_why(scored):
    clips, score = scored
    found = score(["fps:3,25"])
    assert found["fps", 3].scores == []  # ten frames
    assert found["fps", 3].notes == [
        f"without {len(clips)} of the {len(clips)} clips: their shots have too few frames."
    ]


def test_the_same_from_python_in_three_lines_and_curves_of_an_earlier_call_stay(trained_run, synthetic_set, tmp_path):
    data = DataSettings(root=synthetic_set, evaluation_clips=1)
    evaluate_checkpoint(trained_run, data, tmp_path, bootstrap=50)
    first = evaluate_checkpoint_robustness(trained_run, data, tmp_path, ["brightness:1,3", "h264:0,51"], bootstrap=50)

    [brightness, h264] = first.curves
    assert read_robustness(tmp_path) == first
    unperturbed = brightness.points[0]
    # A factor of 1 is 8-bit rounding alone, and crf 0 is lossless: what is measured is the perturbation.
    plain = {row.video: row.probability_fake for row in read_csv(tmp_path / "scores.csv", ScoreRow)}
    rows, of = read_csv(tmp_path / "robustness.csv", PerturbedRow), defaultdict(dict)
    for row in rows:
        of[row.perturbation, row.strength][row.video] = row.probability_fake
    assert len(rows) == 4 * len(plain)
    moved = {point: max(abs(values[name] - plain[name]) for name in plain) for point, values in of.items()}
    assert moved["brightness", 1.0] < 0.1 * moved["brightness", 3.0]
    assert moved["h264", 0.0] < 0.1 * moved["h264", 51.0]
    stored, _ = read_evaluation(tmp_path)
    assert unperturbed.accuracy == stored.videos.accuracy

    again = evaluate_checkpoint_robustness(trained_run, data, tmp_path, ["brightness:2"], bootstrap=50)
    assert [curve.perturbation for curve in again.curves] == ["h264", "brightness"]
    assert again.curves[0] == h264
    assert {row.perturbation: row.strength for row in read_csv(tmp_path / "robustness.csv", PerturbedRow)} == {
        "h264": 51, "brightness": 2,
    }  # fmt: skip
    other = evaluate_checkpoint_robustness(trained_run, data, tmp_path, ["blur:2"], bootstrap=60)
    assert [curve.perturbation for curve in other.curves] == ["blur"]  # other intervals do not stand beside these
    page = (tmp_path / "report.html").read_text()
    section = page.split('<section id="robustness"')[1].split("</section>")[0]
    assert section.count('<svg class="chart"') == 1 and "each frame is blurred" in section
    with pytest.raises(InputError, match=r"evaluation\.json is of another model or other videos"):
        evaluate_checkpoint_robustness(trained_run, data, tmp_path, ["blur:2"], split="val")
