"""Pixel accuracy and IoU of masks by video: exact, with intervals over videos, beside masks that need no network."""

import numpy as np
import pytest
import torch

from dataloading.dataset import FAKE, REAL
from dataloading.layouts import open_dataset
from istvt.evaluation.metrics import mask_metrics
from istvt.evaluation.results import ConfusionMatrix, MaskCounts
from istvt.inference.masks import count_pixels, mean_mask


def counts(tn: int, fp: int, fn: int, tp: int, mean: tuple[int, int, int, int] | None = None) -> MaskCounts:
    return MaskCounts(ConfusionMatrix(tn, fp, fn, tp), mean and ConfusionMatrix(*mean))


def test_pixels_are_counted_by_clip_and_unknown_ones_are_not():
    masks = torch.tensor([[[0, 0, 1, 1]], [[-1, -1, -1, -1]]], dtype=torch.int8)[:, None]  # [2, 1, 1, 4]
    predicted = torch.tensor([False, True, False, True]).view(1, 1, 1, 4).expand(2, 1, 1, 4)
    assert count_pixels(predicted, masks).tolist() == [[1, 1, 1, 1], [0, 0, 0, 0]]


def test_accuracy_and_iou_are_means_over_videos_and_iou_is_of_fakes():
    videos = [
        (REAL, counts(90, 10, 0, 0, (80, 20, 0, 0))),
        (FAKE, counts(60, 10, 10, 20, (65, 5, 15, 15))),
        (FAKE, counts(80, 0, 0, 20, (60, 20, 10, 10))),
        (FAKE, counts(100, 0, 0, 0, (80, 20, 0, 0))),  # its clips show no forged pixel: no IoU
        (FAKE, None),
    ]
    found = mask_metrics(*zip(*videos, strict=True), resamples=500)
    assert (found.real, found.fake, found.forged, found.unknown) == (1, 3, 2, 1)
    assert found.forged_share == pytest.approx((0.3 + 0.2 + 0) / 3)
    model, mean, nothing = found.rows
    assert model.accuracy.value == pytest.approx((0.9 + 0.8 + 1 + 1) / 4)
    assert model.accuracy_of_fakes.value == pytest.approx((0.8 + 1 + 1) / 3)
    assert model.iou.value == pytest.approx((0.5 + 1) / 2)
    assert (model.iou.low, model.iou.high) == pytest.approx((0.5, 1))
    assert mean.iou.value == pytest.approx((15 / 35 + 10 / 40) / 2)
    assert mean.model_above.value == pytest.approx(model.iou.value - mean.iou.value)
    assert nothing.iou.value == 0
    assert nothing.accuracy_of_fakes.value == pytest.approx((0.7 + 0.8 + 1) / 3)
    assert nothing.model_above.value == pytest.approx(model.iou.value)
    # Of all pixels together, the 10 and 20 that are called forged in the real video among them.
    assert model.pooled_iou.value == pytest.approx(40 / (10 + 40 + 20))
    assert mean.pooled_iou.value == pytest.approx(25 / (20 + 35 + 40 + 20))
    assert mean.model_above_pooled.value == pytest.approx(model.pooled_iou.value - mean.pooled_iou.value)
    assert mean.model_above_pooled.low < mean.model_above_pooled.value < mean.model_above_pooled.high


def test_without_a_mean_mask_or_a_known_fake_the_rest_is_given():
    assert mask_metrics([REAL, FAKE], [counts(9, 1, 0, 0), None]) is None
    found = mask_metrics([FAKE], [counts(5, 1, 1, 3)])
    assert [row.name for row in found.rows] == ["this model", "nothing forged"]
    assert found.rows[0].iou.low is None and "every resample" in found.rows[0].iou.reason


def test_the_interval_covers_the_mean_of_many_videos_in_most_sets():
    """95 of 100 sets by chance; fewer than 88 would be by chance in one of 1,000."""
    random, covered = np.random.default_rng(0), 0
    for _ in range(100):
        hits = random.integers(0, 101, 40)
        sets = [counts(100, 0, int(100 - hit), int(hit)) for hit in hits]
        iou = mask_metrics([FAKE] * 40, sets, resamples=400).rows[0].iou
        covered += iou.low <= 0.5 <= iou.high
    assert covered >= 88


def test_the_mean_mask_of_drawn_faces_is_the_inner_face_and_needs_masks(synthetic_set):
    dataset, index = open_dataset(synthetic_set)
    mask, videos = mean_mask(dataset, index, 6, 40)
    assert mask.shape == (40, 40) and videos == 12
    assert mask[20, 20] and not mask[0].any() and not mask[:, 0].any()
    bare = dataset.select(manipulation="original")
    assert mean_mask(bare, index, 6, 40) is None
