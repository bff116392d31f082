"""Every metric against a second source: scikit-learn, a count by hand, or the equation that defines it."""

import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics
from video_scores import printed, random_scores, seed_scores, video_score

from dataloading.errors import InputError
from istvt.evaluation.intervals import resample_counts
from istvt.evaluation.metrics import compute_metrics, epoch_metrics
from istvt.inference.video_score import VideoScore


def test_the_metrics_of_the_seed_come_out_of_its_confusion_matrix():
    result = compute_metrics(seed_scores(), bootstrap=50).videos
    real, fake = result.classification_rows[:2]

    assert [round(value, 3) for value in (real.precision, real.recall, real.f1)] == [0.848, 0.975, 0.907]
    assert [round(value, 3) for value in (fake.precision, fake.recall, fake.f1)] == [0.971, 0.825, 0.892]
    assert (real.support, fake.support) == (40, 40)
    assert result.accuracy.value == pytest.approx(0.9)
    assert (round(result.accuracy.low, 3), round(result.accuracy.high, 3)) == (0.815, 0.948)
    assert result.accuracy.method == "wilson"
    counts = result.confusion
    assert [counts.true_negatives, counts.false_positives, counts.false_negatives, counts.true_positives] == [
        39,
        1,
        7,
        33,
    ]
    # 33 fakes score above all 40 real videos, 7 above 39 of them, and none is level with a real one.
    assert result.auc.value == pytest.approx((33 * 40 + 7 * 39) / 1600)


def test_every_metric_agrees_with_scikit_learn():
    scores = random_scores(60, 90)
    scores += [video_score(f"tie/{label}{i}", label, 0.375) for label in (0, 1) for i in range(9)]
    labels = np.array([score.label for score in scores])
    probabilities = np.array([score.probability for score in scores])
    called = (probabilities > 0.5).astype(int)
    result = compute_metrics(scores, bootstrap=20).videos

    assert result.accuracy.value == pytest.approx(sklearn_metrics.accuracy_score(labels, called))
    assert result.precision.value == pytest.approx(sklearn_metrics.precision_score(labels, called))
    assert result.recall.value == pytest.approx(sklearn_metrics.recall_score(labels, called))
    assert result.f1.value == pytest.approx(sklearn_metrics.f1_score(labels, called))
    assert result.loss.value == pytest.approx(sklearn_metrics.log_loss(labels, probabilities))
    assert result.auc.value == pytest.approx(sklearn_metrics.roc_auc_score(labels, probabilities))
    assert result.average_precision.value == pytest.approx(
        sklearn_metrics.average_precision_score(labels, probabilities)
    )
    expected = sklearn_metrics.roc_curve(labels, probabilities)
    np.testing.assert_allclose(
        np.interp(np.linspace(0.001, 0.999, 97), result.roc.false_positive_rate, result.roc.true_positive_rate),
        np.interp(np.linspace(0.001, 0.999, 97), expected[0], expected[1]),
    )
    report = sklearn_metrics.classification_report(labels, called, target_names=["Real", "Fake"], digits=3)
    assert result.classification_report == report
    assert epoch_metrics(scores) == {
        name: pytest.approx(getattr(result, name).value)
        for name in ("accuracy", "precision", "recall", "f1", "loss", "auc")
    }


def test_bootstrap_intervals_are_percentiles_of_metrics_of_resampled_videos():
    scores = random_scores(15, 25, seed=1)
    labels = np.array([score.label for score in scores])
    probabilities = np.array([score.probability for score in scores])
    areas, errors = [], []
    for counts in resample_counts(labels, 400, seed=7):
        for row in counts.astype(int):
            assert (row[labels == 0].sum(), row[labels == 1].sum()) == (15, 25)
            areas.append(sklearn_metrics.roc_auc_score(np.repeat(labels, row), np.repeat(probabilities, row)))
            errors.append(sklearn_metrics.f1_score(np.repeat(labels, row), np.repeat(probabilities > 0.5, row)))
    assert len(areas) == 400
    result = compute_metrics(scores, bootstrap=400, seed=7).videos
    assert [result.auc.low, result.auc.high] == pytest.approx(np.quantile(areas, [0.025, 0.975]).tolist())
    assert [result.f1.low, result.f1.high] == pytest.approx(np.quantile(errors, [0.025, 0.975]).tolist())
    assert result.auc.method == result.f1.method == "bootstrap"


def test_a_perfect_score_on_few_videos_is_not_called_certain():
    scores = [video_score(f"r{i}", 0, 0.1) for i in range(12)] + [video_score(f"f{i}", 1, 0.9) for i in range(8)]
    result = compute_metrics(scores, bootstrap=100).videos
    assert result.auc.value == 1
    assert result.auc.method == "newcombe"
    assert result.auc.low < 0.85
    assert (result.accuracy.low < 0.9, result.accuracy.high) == (True, 1.0)
    assert result.average_precision.low is None
    assert "every bootstrap resample" in result.average_precision.reason
    assert any("Only 8 fake videos" in note for note in result.notes)


@pytest.mark.parametrize(("label", "name", "probability"), [(0, "real", 0.2), (1, "fake", 0.8), (0, "real", 0.8)])
def test_a_split_of_one_class_says_what_is_undefined_and_never_nan(label, name, probability):
    scores = [video_score(f"v{i}", label, probability, clips=[probability, probability]) for i in range(5)]
    evaluation = compute_metrics(scores, bootstrap=100)
    result = evaluation.videos

    assert result.auc.value is None
    assert str(result.auc) == f"AUC is undefined: the split holds only {name} videos"
    assert str(result.average_precision) == f"Average precision is undefined: the split holds only {name} videos"
    assert str(result.equal_error_rate) == f"Equal error rate is undefined: the split holds only {name} videos"
    assert str(evaluation.clips.auc) == f"AUC is undefined: the split holds only clips of {name} videos"
    assert result.roc is None
    assert result.accuracy.value == float((probability > 0.5) == label)
    written = json.dumps(evaluation.to_dict(), allow_nan=False)
    shown = printed(evaluation)
    assert f"the split holds only {name} videos" in " ".join(shown.split())
    assert "nan" not in (written + shown).lower()
    assert epoch_metrics(scores)["auc"] is None


def test_precision_is_undefined_when_nothing_is_called_fake():
    scores = [video_score(f"{label}-{i}", label, 0.1 + 0.01 * i) for label in (0, 1) for i in range(6)]
    result = compute_metrics(scores, bootstrap=50).videos
    assert str(result.precision) == "Precision is undefined: no video was called fake"
    assert (result.recall.value, result.f1.value) == (0.0, 0.0)
    assert result.classification_rows[1].precision is None
    assert epoch_metrics(scores)["precision"] is None


def test_an_evaluation_survives_json():
    evaluation = compute_metrics(random_scores(20, 40, manipulations=("a", "b")), bootstrap=50)
    read = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert read["videos"]["auc"]["value"] == evaluation.videos.auc.value
    assert sorted(read["manipulations"]) == ["a", "b"]
    assert read["clips"]["unit"] == "clip"


def test_each_manipulation_stands_against_all_real_videos():
    scores = random_scores(30, 60, manipulations=("Deepfakes", "Face2Face", "FaceSwap"))
    evaluation = compute_metrics(scores, bootstrap=50)
    assert list(evaluation.manipulations) == ["Deepfakes", "Face2Face", "FaceSwap"]
    for name, result in evaluation.manipulations.items():
        chosen = [score for score in scores if score.label == 0 or score.manipulation == name]
        assert (result.real, result.fake) == (30, 20)
        area = sklearn_metrics.roc_auc_score([s.label for s in chosen], [s.probability for s in chosen])
        assert result.auc.value == pytest.approx(area)


def test_clip_metrics_count_clips_and_draw_whole_videos():
    scores = [
        VideoScore(s.name, s.path, s.label, s.manipulation, s.probability, [s.probability] * 3, [[0], [6], [12]])
        for s in random_scores(25, 35, seed=5)
    ]
    evaluation = compute_metrics(scores, bootstrap=200)
    assert (evaluation.clips.unit, evaluation.clips.count) == ("clip", 180)
    # Three equal clips a video hold no more knowledge than one: the intervals must not be narrower than by video.
    for name in ("auc", "average_precision", "equal_error_rate", "f1", "loss"):
        video, clip = getattr(evaluation.videos, name), getattr(evaluation.clips, name)
        assert [clip.value, clip.low, clip.high] == pytest.approx([video.value, video.low, video.high])
    assert evaluation.clips.accuracy.method == "bootstrap"


def test_the_band_holds_the_roc_curve_and_ends_where_it_ends():
    roc = compute_metrics(random_scores(40, 60), bootstrap=300).videos.roc
    curve = np.interp(roc.band_rate, roc.false_positive_rate, roc.true_positive_rate)
    low, high = np.array(roc.band_low), np.array(roc.band_high)
    assert (low <= high).all()
    assert ((low <= curve) & (curve <= high)).all()
    assert (roc.band_low[-1], roc.band_high[-1]) == (1.0, 1.0)


def test_the_threshold_moves_verdicts_and_leaves_the_ranking():
    scores = random_scores(30, 30)
    half, high = compute_metrics(scores, bootstrap=20), compute_metrics(scores, threshold=0.9, bootstrap=20)
    assert high.videos.recall.value < half.videos.recall.value
    assert high.videos.auc.value == half.videos.auc.value
    assert "above a probability of 0.9" in " ".join(printed(high).split())


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: compute_metrics([]), "There is no video to evaluate"),
        (lambda: compute_metrics([video_score("a/b", None, 0.5)]), "a/b cannot be evaluated: its label is None"),
        (
            lambda: compute_metrics([video_score("a/b", 1, float("nan"))]),
            "a/b cannot be evaluated: its probability is nan",
        ),
        (lambda: compute_metrics([video_score("a/b", 1, 0.5)] * 2), "a/b is scored twice"),
        (lambda: compute_metrics(seed_scores(), threshold=1.5), "threshold must lie between 0 and 1, got 1.5"),
        (lambda: compute_metrics(seed_scores(), bootstrap=0), "bootstrap must be at least 1 resample, got 0"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_one_sentence(call, sentence):
    with pytest.raises(InputError) as caught:
        call()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
