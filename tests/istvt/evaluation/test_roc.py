"""ROC curve and what is read from it, against scikit-learn, SciPy and counts by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from video_scores import random_scores

from istvt.evaluation.roc import Ranking, without_collinear_points


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


def test_points_on_a_straight_line_are_dropped_from_a_curve():
    x, y = without_collinear_points(np.array([0, 0, 0, 0.5, 1.0]), np.array([0, 0.25, 0.5, 0.75, 1.0]))
    assert (x.tolist(), y.tolist()) == ([0, 0, 1], [0, 0.5, 1])
