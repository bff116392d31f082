"""Every figure against a second source: scikit-learn, a count by hand, or the equation that defines it."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from sklearn import metrics as sklearn_metrics

from dataloading.clips.sampling import Clip
from dataloading.dataset import Video
from dataloading.errors import InputError
from istvt.evaluation.intervals import area_interval, resample_counts, wilson_interval
from istvt.evaluation.metrics import compute_metrics, epoch_metrics
from istvt.evaluation.roc import Ranking, without_collinear_points
from istvt.inference.video_score import VideoScore, score_videos
from istvt.report.summary import summary


def video_score(name, label, probability, manipulation=None, clips=None):
    clips = [probability] if clips is None else clips
    manipulation = manipulation or ("Deepfakes" if label else "original")
    return VideoScore(name, f"/set/{name}.mp4", label, manipulation, probability, clips, [[0, 1, 2]] * len(clips))


def random_scores(real, fake, seed=0, manipulations=("Deepfakes",), clips=4, gap=1.5):
    """Overlapping classes; clips of one video are alike."""
    generator = np.random.default_rng(seed)
    scores = []
    for position in range(real + fake):
        label = int(position >= real)
        center = generator.normal(gap if label else -gap, 1.5)
        values = 1 / (1 + np.exp(-(center + generator.normal(0, 0.5, clips))))
        manipulation = manipulations[position % len(manipulations)] if label else "original"
        scores.append(
            video_score(f"{manipulation}/{position}", label, float(values.mean()), manipulation, values.tolist())
        )
    return scores


def seed_scores():
    """The seed's test set of 40 real and 40 fake videos, with its 39, 1, 7 and 33 verdicts."""
    counts = [(0, 0.2, 39), (0, 0.8, 1), (1, 0.3, 7), (1, 0.9, 33)]
    return [video_score(f"{label}-{p}-{i}", label, p) for label, p, count in counts for i in range(count)]


def printed(evaluation, width=100):
    """The summary as a terminal of that width shows it."""
    console = Console(file=io.StringIO(), width=width)
    console.print(summary(evaluation))
    return console.file.getvalue()


def clip_of(folder, start, label=0):
    name = f"{folder}/000_001"
    video = Video(Path(f"/set/{name}.mp4"), label, folder if label else "original", "test", name, "000")
    return Clip(video, np.arange(start, start + 6), (0.0, 0.0, 1.0, 1.0), label, 0)


def test_the_figures_of_the_seed_come_out_of_its_confusion_matrix():
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


def test_every_figure_agrees_with_scikit_learn():
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


def test_the_equal_error_rate_is_where_the_two_error_rates_meet():
    # As the threshold falls from .4 past .35, false positives stay at 1/4 and misses fall from 1/2 to 1/4.
    scores = [0.1, 0.2, 0.25, 0.5, 0.35, 0.3, 0.9, 0.8]
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    assert Ranking(labels, np.array(scores)).curve().equal_error_rate()[0] == pytest.approx(0.25)

    from scipy.interpolate import interp1d
    from scipy.optimize import brentq

    many = random_scores(70, 110, seed=3)
    labels = np.array([score.label for score in many])
    probabilities = np.array([score.probability for score in many])
    false_positive_rate, true_positive_rate, _ = sklearn_metrics.roc_curve(labels, probabilities)
    meeting = brentq(lambda x: 1 - x - float(interp1d(false_positive_rate, true_positive_rate)(x)), 0, 1)
    found = Ranking(labels, probabilities).curve().equal_error_rate()[0]
    assert found == pytest.approx(meeting, abs=1e-9)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=2, max_size=24), st.integers(0, 99))
def test_weighted_ranking_is_ranking_of_repeated_samples(samples, seed):
    labels = np.array([0, 1] + [label for label, _ in samples])
    scores = np.array([3.0, 3.0] + [score for _, score in samples]) / 6
    weights = np.random.default_rng(seed).integers(0, 4, (3, len(labels))).astype(float)
    weights[:, :2] = 1  # both classes are always there
    curve = Ranking(labels, scores).curve(weights)
    for row, area, precision in zip(weights.astype(int), curve.area(), curve.average_precision(), strict=True):
        repeated = np.repeat(labels, row), np.repeat(scores, row)
        assert area == pytest.approx(sklearn_metrics.roc_auc_score(*repeated))
        assert precision == pytest.approx(sklearn_metrics.average_precision_score(*repeated))
    assert ((curve.equal_error_rate() >= 0) & (curve.equal_error_rate() <= 1)).all()


def test_bootstrap_intervals_are_percentiles_of_figures_of_resampled_videos():
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


def test_resamples_do_not_depend_on_how_they_are_divided_into_blocks():
    large = np.repeat([0, 1], [7_000, 9_000])
    blocks = list(resample_counts(large, 10, seed=0))
    assert len(blocks) > 1
    assert max(block.size for block in blocks) <= 50_000  # they fit the cache, and memory does not grow with the set
    assert sum(len(block) for block in blocks) == 10
    assert all((block[:, :7_000].sum(1) == 7_000).all() and (block.sum(1) == 16_000).all() for block in blocks)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # 72 of 80 from the seed's test set; 81 of 263 and 15 of 148 from Newcombe 1998, table I, method 3.
    [(72, 80, 0.815, 0.948), (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)],
)
def test_wilson_intervals_are_the_published_ones(successes, trials, low, high):
    found = wilson_interval(successes, trials)
    assert found == pytest.approx((low, high), abs=6e-4)
    mirrored = wilson_interval(trials - successes, trials)
    assert mirrored == pytest.approx((1 - found[1], 1 - found[0]))


@pytest.mark.parametrize(("area", "negatives", "positives"), [(0.93, 14, 9), (1.0, 12, 8), (0.0, 6, 30), (0.5, 40, 40)])
def test_the_limits_of_an_area_solve_the_score_equation(area, negatives, positives):
    low, high = area_interval(area, negatives, positives)
    assert 0 <= low < high <= 1
    # (t - a)^2 m n (2 - t)(1 + t) = z^2 t (1 - t) [(2 - t)(1 + t) + N (1 - t)(1 + t) + N t (2 - t)]
    excess = (negatives + positives) / 2 - 1
    t, one = np.poly1d([1, 0]), np.poly1d([1])
    right = t * (one - t) * ((2 - t) * (1 + t) + excess * (1 - t) * (1 + t) + excess * t * (2 - t))
    equation = (t - area) ** 2 * negatives * positives * (2 - t) * (1 + t) - 1.959963984540054**2 * right
    roots = [root.real for root in equation.roots if abs(root.imag) < 1e-6 and -1e-6 <= root.real <= 1 + 1e-6]
    assert min(roots) == pytest.approx(low, abs=1e-6)
    assert max(roots) == pytest.approx(high, abs=1e-6)


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


def test_the_same_file_name_in_two_manipulations_stays_two_videos():
    clips = [clip_of(folder, start, 1) for start in (0, 12) for folder in ("Deepfakes", "Face2Face")]
    scores = score_videos(clips, [4.0, -4.0, 2.0, -2.0])
    assert [score.name for score in scores] == ["Deepfakes/000_001", "Face2Face/000_001"]
    assert [score.verdict for score in scores] == ["fake", "real"]
    assert [len(score.clip_probabilities) for score in scores] == [2, 2]


def test_a_video_scores_the_mean_of_its_clip_probabilities_in_the_order_of_their_frames():
    clips = [clip_of("original", 24), clip_of("original", 0), clip_of("original", 12)]
    logits = np.array([3.0, -1.0, 0.5])
    (score,) = score_videos(clips, logits)
    probabilities = 1 / (1 + np.exp(-logits[[1, 2, 0]]))
    assert score.clip_probabilities == pytest.approx(probabilities.tolist())
    assert score.probability == pytest.approx(probabilities.mean())
    assert [frames[0] for frames in score.clip_frames] == [0, 12, 24]
    assert all(isinstance(frame, int) for frames in score.clip_frames for frame in frames)


def test_a_large_logit_is_a_probability_and_not_an_overflow():
    clips = [clip_of("a", 0, 1), clip_of("b", 0)]
    with np.errstate(all="raise", under="ignore"):
        scores = score_videos(clips, [-1000.0, 1000.0])
        figures = epoch_metrics(scores)
    assert [score.probability for score in scores] == [0.0, 1.0]
    assert 30 < figures["loss"] < 40


def test_a_logit_of_exactly_zero_is_called_real():
    (score,) = score_videos([clip_of("a", 0, 1)], [0.0])
    assert (score.probability, score.verdict, score.is_right()) == (0.5, "real", False)


def test_clip_figures_count_clips_and_draw_whole_videos():
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


def test_points_on_a_straight_line_are_dropped_from_a_curve():
    x, y = without_collinear_points(np.array([0, 0, 0, 0.5, 1.0]), np.array([0, 0.25, 0.5, 0.75, 1.0]))
    assert (x.tolist(), y.tolist()) == ([0, 0, 1], [0, 0.5, 1])


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
        (lambda: score_videos([clip_of("a", 0)], [1.0, 2.0]), "one number for each of the 1 clips"),
        (lambda: score_videos([clip_of("a", 0)], [float("nan")]), "The model gave nan for a clip of a/000_001"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_one_sentence(call, sentence):
    with pytest.raises(InputError) as caught:
        call()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_terminal_shows_intervals_manipulations_and_clips_within_eighty_columns():
    scores = random_scores(40, 60, manipulations=("Deepfakes", "[b]NeuralT"))
    evaluation = compute_metrics(scores, bootstrap=100)
    text = printed(evaluation, width=80)
    assert max(map(len, text.splitlines())) <= 80
    result = evaluation.videos
    assert f"{result.auc.value:.3f}   {result.auc.low:.3f} to {result.auc.high:.3f}" in text
    assert "[b]NeuralT" in text
    assert "By clip, not by video: 400 clips" in text
    assert result.classification_report.splitlines()[2] in text
