"""Paired tests: DeLong against an independent computation, error rates of equal detectors, Holm's correction."""

import numpy as np
import pytest
from scipy.stats import norm

from istvt.evaluation.intervals import resample_counts
from istvt.evaluation.paired import delong_covariance, holm, paired_test
from istvt.evaluation.roc import Ranking


def drawn(generator, videos, models, ability=0.6, shared=0.7):
    """Labels of `videos` of each class, and scores [models, videos] that agree on which videos are hard."""
    labels = np.repeat([0, 1], videos)
    of_video = generator.normal(size=2 * videos)
    noise = shared * of_video + np.sqrt(1 - shared**2) * generator.normal(size=(models, 2 * videos))
    return labels, norm.cdf(np.asarray(ability).reshape(-1, 1) * (2 * labels - 1) + noise)


def test_the_covariance_is_that_of_pairwise_comparisons_and_the_areas_are_those_of_the_roc_curve():
    labels, scores = drawn(np.random.default_rng(0), 25, 3)
    scores = scores.round(1)  # ties
    areas, covariance = delong_covariance(labels, scores)
    fake, real = scores[:, labels == 1], scores[:, labels == 0]
    psi = (fake[:, :, None] > real[:, None, :]) + 0.5 * (fake[:, :, None] == real[:, None, :])  # [models, m, n]
    expected = np.cov(psi.mean(axis=2)) / 25 + np.cov(psi.mean(axis=1)) / 25
    np.testing.assert_allclose(covariance, expected, atol=1e-12)
    for area, of_model in zip(areas, scores, strict=True):
        assert area == pytest.approx(float(Ranking(labels, of_model).curve().area()[0]))


def test_the_standard_error_is_that_of_a_bootstrap_over_videos():
    """An independent computation: areas of two models of resampled videos, both of the same ones."""
    labels, scores = drawn(np.random.default_rng(1), 150, 2, ability=[0.9, 0.6])
    [counts] = [np.concatenate(list(resample_counts(labels, 4000, 0)))]
    first, second = (Ranking(labels, of_model).curve(counts).area() for of_model in scores)
    test = paired_test(labels, scores[:1], scores[1:])
    error = (test.auc.high - test.auc.low) / 2 / norm.ppf(0.975)
    assert error == pytest.approx(np.std(first - second), rel=0.06)
    assert (np.std(first) ** 2 + np.std(second) ** 2) ** 0.5 > 1.1 * error  # pairing is what makes it narrow
    assert test.p_videos == pytest.approx(2 * norm.sf(abs(test.auc.value) / error), rel=1e-6)


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (3, 0.25)])
def test_of_equal_detectors_about_one_in_twenty_is_called_different(seeds, spread):
    """With several seeds each model has its own ability, and both detectors draw theirs from the same distribution."""
    generator, trials, rejected, for_these_models = np.random.default_rng(2), 700, 0, 0
    for _ in range(trials):
        ability = 0.6 + spread * generator.normal(size=2 * seeds)
        labels, scores = drawn(generator, 60, 2 * seeds, ability)
        test = paired_test(labels, scores[:seeds], scores[seeds:], bootstrap=1)
        rejected += test.p < 0.05
        for_these_models += test.p_videos < 0.05
    assert 0.03 <= rejected / trials <= 0.07  # 5 % within 2.5 standard errors
    if seeds > 1:  # what is measured of three models alone says little of others of the same detectors
        assert for_these_models / trials > 0.2


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    generator, held, truth = np.random.default_rng(3), 0, norm.cdf([1.0 * 2**0.5, 0.6 * 2**0.5])
    for _ in range(400):
        labels, scores = drawn(generator, 60, 2, ability=[1.0, 0.6])
        auc = paired_test(labels, scores[:1], scores[1:], bootstrap=1).auc
        held += auc.low <= truth[0] - truth[1] <= auc.high
    assert 0.92 <= held / 400 <= 0.98


def test_the_same_scores_differ_by_nothing_and_two_perfect_detectors_say_nothing_of_variance():
    labels, scores = drawn(np.random.default_rng(4), 20, 1)
    same = paired_test(labels, scores, scores)
    assert (same.auc.value, same.p, same.accuracy.value) == (0, 1.0, 0)
    perfect = paired_test(labels, np.where(labels, 0.9, 0.1)[None], np.where(labels, 0.1, 0.9)[None])
    assert (perfect.auc.value, perfect.p) == (1.0, None)
    assert "nothing is known of their variance" in perfect.reason


def test_a_difference_of_accuracy_has_the_interval_of_pairs():
    labels, scores = drawn(np.random.default_rng(5), 100, 2, ability=[1.2, 0.3])
    right = (scores > 0.5) == labels
    found = paired_test(labels, scores[:1], scores[1:]).accuracy
    assert found.value == pytest.approx(right[0].mean() - right[1].mean())
    error = np.std(right[0].astype(float) - right[1]) / np.sqrt(200)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_one_video_of_a_class_is_too_few():
    test = paired_test(np.array([0, 1, 1]), np.array([[0.1, 0.9, 0.8]]), np.array([[0.2, 0.7, 0.1]]), bootstrap=10)
    assert test.p is None
    assert "1 real and 2 fake videos" in test.reason


def test_holm_gives_the_values_of_the_published_procedure():
    """Holm's step-down on .01, .04, .03 and .005: times 4, 3, 2, 1 in rising order, never falling."""
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
