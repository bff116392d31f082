"""Intervals against published values and the equations that define them; resamples keep the class sizes."""

import numpy as np
import pytest

from istvt.evaluation.intervals import area_interval, resample_counts, wilson_interval


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
