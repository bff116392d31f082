"""Metrics in the mean over seeds: those of `compute_metrics` for one, paired resamples for several."""

import numpy as np
import pytest
from video_scores import random_scores, video_score

from istvt.evaluation.metrics import compute_metrics
from istvt.evaluation.seeds import common_scores, mean_metrics


def of_seed(scores, seed, noise=0.5):
    """The scores of another model on the same videos."""
    generator = np.random.default_rng(seed)
    logits = [np.log(s.probability / (1 - s.probability)) + noise * generator.normal() for s in scores]
    return [
        video_score(s.name, s.label, float(1 / (1 + np.exp(-logit))), s.manipulation)
        for s, logit in zip(scores, logits, strict=True)
    ]


def test_one_set_has_the_estimates_of_an_evaluation():
    scores = random_scores(30, 50)
    found, expected = mean_metrics([scores], bootstrap=300), compute_metrics(scores, bootstrap=300).videos
    assert found["accuracy"].mean == expected.accuracy
    assert found["auc"].mean == expected.auc
    assert (found["auc"].values, found["auc"].spread) == ([expected.auc.value], None)


def test_several_sets_have_their_mean_their_spread_and_an_interval_of_resampled_videos():
    first = random_scores(60, 60)
    sets = [first, of_seed(first, 1), of_seed(first, 2)]
    found = mean_metrics(sets, bootstrap=800)["auc"]
    values = [compute_metrics(scores, bootstrap=1).videos.auc.value for scores in sets]
    assert found.values == values
    assert found.mean.value == pytest.approx(np.mean(values))
    assert found.spread == pytest.approx(np.std(values, ddof=1))
    alone = compute_metrics(first, bootstrap=800).videos.auc
    # The models agree on which videos are hard: three of them are no three times as many videos.
    assert found.mean.high - found.mean.low > 0.8 * (alone.high - alone.low)


def test_a_change_is_of_the_same_videos_and_so_known_better_than_either():
    before = random_scores(60, 60)
    after = [of_seed(before, seed, 0.3) for seed in (1, 2)]
    change = mean_metrics(after, [before], bootstrap=800)["auc"].change
    alone = compute_metrics(before, bootstrap=800).videos.auc
    assert change.low < 0 < change.high or abs(change.value) < 0.05
    assert change.high - change.low < 0.7 * (alone.high - alone.low)
    nothing = mean_metrics([before], [before], bootstrap=50)["auc"].change
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)


def test_an_accuracy_that_no_resample_changes_still_has_an_interval():
    right = [video_score(str(place), place % 2, 0.9 if place % 2 else 0.1) for place in range(20)]
    found = mean_metrics([right, right], bootstrap=20)["accuracy"]
    assert found.mean == mean_metrics([right], bootstrap=20)["accuracy"].mean
    assert found.mean.low < found.mean.value == 1


def test_videos_that_one_set_lacks_are_in_none():
    scores = random_scores(3, 3)
    sets = common_scores([scores, scores[1:][::-1]])
    assert [[s.name for s in one] for one in sets] == [[s.name for s in scores[1:]]] * 2
    assert mean_metrics([[]], [[]])["auc"].mean.value is None
