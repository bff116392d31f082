"""Temperature of video scores, and error rates that a validation split supports or not."""

import numpy as np
import pytest
from video_scores import random_scores, video_score

from dataloading.errors import InputError
from istvt.evaluation.metrics import compute_metrics
from istvt.inference.calibration import (
    NOT_SURE,
    band_of,
    calibrated,
    fit_calibration,
    fit_temperature,
    temperature_interval,
)
from istvt.inference.video_score import probability_of
from istvt.model.checkpoint import Calibration


def drawn(generator, videos, temperature=1.0, spread=2.0):
    """Labels, and scores that are `temperature` times too sure."""
    logits = generator.normal(0, spread, videos)
    labels = (generator.random(videos) < probability_of(logits)).astype(int)
    return labels, probability_of(temperature * logits)


def calibration_of(labels, scores):
    real, fake = (scores[labels == label].tolist() for label in (0, 1))
    return Calibration(fit_temperature(real, fake), real, fake)


def test_the_temperature_is_found_and_its_interval_holds_it_about_as_often_as_it_says():
    generator, held = np.random.default_rng(0), 0
    for _ in range(100):
        found = calibration_of(*drawn(generator, 120, temperature=3.0))
        low, high = temperature_interval(found, 1.96)
        held += low <= 3.0 <= high
    assert 88 <= held <= 99
    assert calibration_of(*drawn(generator, 20_000, temperature=3.0)).temperature == pytest.approx(3, rel=0.05)


def test_no_verdict_and_no_rank_changes_by_a_temperature():
    """The mean of scaled clips would do both."""
    scores = random_scores(30, 30)
    for temperature in (0.3, 4.0):
        scaled = [
            video_score(s.name, s.label, float(calibrated(s.probability, temperature)), s.manipulation) for s in scores
        ]
        before, after = (compute_metrics(each, bootstrap=10).videos for each in (scores, scaled))
        assert (before.accuracy, before.confusion, before.auc.value) == (
            after.accuracy, after.confusion, after.auc.value,
        )  # fmt: skip
    assert calibrated([0.0, 0.5, 1.0], 2.0) == pytest.approx([0, 0.5, 1], abs=1e-5)


def test_without_a_wrong_verdict_the_temperature_is_finite_and_without_a_class_there_is_none():
    scores = [video_score(str(i), i % 2, 0.99 if i % 2 else 0.01) for i in range(40)]
    found = fit_calibration(scores)
    assert 0.5 < found.temperature < 2  # 20 of 20 right says no more than Platt's 21/22, that is 0.955
    assert (len(found.real), len(found.fake)) == (20, 20)
    assert fit_calibration(scores[::2]) is None


@pytest.mark.parametrize("max_error", [0.05, 0.1])
def test_the_error_rate_asked_for_is_exceeded_by_few_validation_splits(max_error):
    generator, exceeded, promised = np.random.default_rng(1), 0, 0
    labels, scores = drawn(generator, 200_000, temperature=2.0, spread=4.0)
    for _ in range(150):
        at = generator.integers(0, len(labels), 600)
        real, fake = (scores[at][labels[at] == label].tolist() for label in (0, 1))
        try:
            band = band_of(Calibration(1.0, real, fake), max_error)
        except InputError:
            continue
        promised += 1
        answered = np.maximum(scores, 1 - scores) >= band.sure
        wrong = ((scores > 0.5) != (labels == 1))[answered].mean()
        exceeded += wrong > max_error
        assert band.sure > 0.5 or max_error == 0.1  # without a band more than 0.05 would be wrong
    assert promised > 100
    assert exceeded <= 0.05 * promised + 3


def test_a_band_says_how_often_it_would_have_said_so():
    labels, scores = drawn(np.random.default_rng(2), 400)
    band = band_of(calibration_of(labels, scores), 0.1)
    verdicts = np.array([band.verdict(score) for score in scores])
    withheld = verdicts == NOT_SURE
    assert (band.real_withheld, band.fake_withheld) == tuple((withheld & (labels == label)).sum() for label in (0, 1))
    assert band.wrong == ((verdicts == "fake") != (labels == 1))[~withheld].sum()
    assert f"{withheld.sum()} ({withheld.mean():.0%}) would have no verdict" in str(band)
    assert [band.verdict(p) for p in (band.sure, 1 - band.sure, 0.5)] == ["fake", "real", NOT_SURE]


def test_a_split_too_small_for_an_error_rate_is_one_sentence_with_what_it_supports():
    scores = np.repeat([0.01, 0.99], 20)
    few = calibration_of(np.repeat([0, 1], 20), scores)
    with pytest.raises(InputError, match=r"the 40 validation videos of this model support no error rate below 0\.125,"):
        band_of(few, 0.05)
    assert band_of(few, 0.125).sure == 0.5  # of 40 right verdicts: 1 - 0.005^(1/40)
    for number in (0, 0.5, -1, float("nan")):
        with pytest.raises(InputError, match=r"expected more than 0 and less than 0\.5"):
            band_of(few, number)
    wrong = calibration_of(np.repeat([1, 0], 200), np.repeat([0.01, 0.99], 200))
    with pytest.raises(InputError, match="support no error rate below 1,"):
        band_of(wrong, 0.3)
