"""Expected calibration error, by hand and against what chance gives; what bands do on other videos."""

import numpy as np
import pytest
from video_scores import random_scores, video_score

from istvt.evaluation.metrics import compute_metrics
from istvt.evaluation.reliability import reliability, with_reliability
from istvt.inference.calibration import fit_calibration
from istvt.inference.video_score import probability_of


def drawn(generator, videos, temperature=1.0):
    logits = generator.normal(0, 2, videos)
    return (generator.random(videos) < probability_of(logits)).astype(int), probability_of(temperature * logits)


def test_the_error_is_that_of_its_definition():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 0, 1])
    probabilities = np.array([0.1, 0.2, 0.2, 0.1, 0.4, 0.9, 0.8, 0.7, 0.6, 0.8])
    found = reliability(labels, probabilities, resamples=50)
    low, high = probabilities[[0, 3, 1, 2, 4]], probabilities[[8, 7, 6, 9, 5]]
    assert [item.count for item in found.bins] == [5, 5]
    assert [item.probability for item in found.bins] == pytest.approx([low.mean(), high.mean()])
    assert [item.fakes.value for item in found.bins] == [0.2, 0.8]
    assert found.error.value == pytest.approx((abs(0.2 - low.mean()) + abs(0.8 - high.mean())) / 2)


def test_right_probabilities_seldom_have_more_error_than_chance_explains_and_wrong_ones_always():
    """The plain error of right probabilities is far from 0 in a small set."""
    generator, beyond, errors, debiased = np.random.default_rng(0), 0, [], []
    for _ in range(60):
        found = reliability(*drawn(generator, 140), resamples=200)
        beyond += found.error.value > found.if_calibrated_high
        errors.append(found.error.value - found.if_calibrated)
        debiased.append(found.debiased)
        assert 0 <= found.error.low <= found.error.value <= found.error.high
    assert beyond <= 6
    assert abs(np.mean(errors)) < 0.01
    assert np.mean(debiased) < 0.04
    for _ in range(10):
        found = reliability(*drawn(generator, 300, temperature=4.0), resamples=200)
        assert found.error.value > found.if_calibrated_high and found.debiased > 0.08


def test_an_evaluation_says_what_calibration_and_each_error_rate_do_on_its_own_videos():
    validation, scores = random_scores(80, 80, seed=1, gap=2.5), random_scores(60, 60, seed=2, gap=2.5)
    evaluation = with_reliability(compute_metrics(scores, bootstrap=100), scores, fit_calibration(validation))
    result = evaluation.calibration
    assert result.low < result.temperature < result.high
    assert (result.real, result.fake) == (80, 80)
    bands = {band.max_error: band for band in result.bands}
    assert bands[0.01].sure is None and "support no error rate below" in bands[0.01].reason
    band = bands[0.1]
    withheld = [score for score in scores if 1 - band.sure < score.probability < band.sure]
    others = [score for score in scores if score not in withheld]
    assert band.withheld.value == len(withheld) / 120
    assert band.real_withheld.value == sum(score.label == 0 for score in withheld) / 60
    assert band.wrong.value == sum(not score.is_correct() for score in others) / len(others)
    assert band.wrong.low < 0.1


def test_one_class_has_no_reliability_and_a_model_without_calibration_none_of_it():
    scores = random_scores(10, 10)
    assert with_reliability(compute_metrics(scores[:10], bootstrap=10), scores[:10], None).reliability is None
    found = with_reliability(compute_metrics(scores, bootstrap=10), scores, None)
    assert found.calibration is None and len(found.reliability.bins) == 4
    sure = [video_score(str(i), i % 2, float(i % 2)) for i in range(20)]
    assert with_reliability(compute_metrics(sure, bootstrap=10), sure, fit_calibration(sure)).calibration
