"""Faithfulness is measured rightly: where the answer is known, the metrics give it."""

import json
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from dataloading import FaceIndex, read_dataset
from dataloading.clips.sampling import evaluation_clips
from dataloading.errors import InputError
from istvt.explain.explanation import logits_of
from istvt.explain.faithfulness import deletion
from istvt.explain.faithfulness import evaluate as faithfulness
from istvt.explain.faithfulness.evaluate import evaluate_explanations
from istvt.explain.faithfulness.localization import MaskedClip, mask_of
from istvt.explain.faithfulness.report import write_faithfulness
from istvt.inference.score import score_clips
from istvt.model.checkpoint import load_model


@pytest.fixture(scope="module")
def measured(synthetic_set, trained_run):
    model, _ = load_model(trained_run)
    dataset, index = read_dataset(synthetic_set), FaceIndex.read(synthetic_set)
    return evaluate_explanations(
        model, dataset, index, clips_per_video=1, stabilizers=(0.01, "reference"), methods=("lrp", "raw"), workers=1
    )


def test_every_method_every_stabilizer_and_chance_are_measured_on_the_same_clips(measured, synthetic_set):
    names = [item.ordering.name for item in measured.orderings]
    assert names == ["lrp 0.01", "lrp reference", "raw", "random"]
    assert measured.videos == len(read_dataset(synthetic_set).select("test"))
    assert len({item.accuracy[0] for item in measured.orderings}) == 1
    assert len({item.confidence[0] for item in measured.orderings}) == 1
    for item in measured.orderings:
        assert len(item.accuracy) == len(item.confidence) == 5
        assert item.localization["both"].clips > 0
        assert sum(part["both"].clips for part in item.by_manipulation.values()) == item.localization["both"].clips
        assert 0 <= item.localization["temporal"].mass <= 1


def test_the_results_are_written_as_json_table_and_plot(measured, tmp_path):
    files = write_faithfulness(measured, tmp_path)
    data = json.loads(files["data"].read_text())
    assert data["fractions"] == [0, 0.05, 0.1, 0.2, 0.3]
    assert len(data["orderings"]) == 4
    table = files["table"].read_text()
    assert all(f"| {item.ordering.name} |" in table for item in measured.orderings)
    plot = files["plot"].read_text()
    assert plot.startswith("<?xml")
    # Text is drawn as outlines, each after a comment that says it: one entry of the legend an ordering.
    assert all(plot.count(f"<!-- {item.ordering.name} -->") == 1 for item in measured.orderings)
    assert "<!-- accuracy of videos, mean over both classes -->" in plot
    assert "<!-- confidence in the first verdict -->" in plot


class CornerDetector(nn.Module):
    """Says fake where the upper left corner of the frames is anything but gray, and looks nowhere else."""

    def __init__(self, model) -> None:
        super().__init__()
        self.config, self.weight = model.config, nn.Parameter(torch.ones(1))

    def forward(self, clips):
        return 20 * self.weight * (clips[..., :10, :10].abs().mean((1, 2, 3, 4)) - 0.1)


class ConstantDetector(nn.Module):
    """Says the same of every clip."""

    def __init__(self, model, logit: float) -> None:
        super().__init__()
        self.config, self.logit = model.config, nn.Parameter(torch.tensor(logit))

    def forward(self, clips):
        return self.logit.expand(len(clips))


def measure(synthetic_set, model, **arguments):
    """One clip of each test video."""
    dataset, index = read_dataset(synthetic_set), FaceIndex.read(synthetic_set)
    return evaluate_explanations(model, dataset, index, **({"clips_per_video": 1, "workers": 1} | arguments))


def heat_by(maps_of):
    """In place of `explain`: the (temporal, spatial) heat [T, H, W] that `maps_of(target)` gives for each clip."""

    def explain(_, pictures, *, target, method, stabilizer):
        temporal, spatial = (torch.from_numpy(np.stack(maps)) for maps in zip(*map(maps_of, target), strict=True))
        return SimpleNamespace(temporal=temporal, spatial=spatial)

    return explain


def flat_heat(model):
    """In place of `explain`: heat that says nothing."""
    zeros = np.zeros((model.config.frames, *model.config.feature_grid), np.float32)
    return heat_by(lambda _: (zeros, zeros))


def known(monkeypatch, synthetic_set, trained_run, heat_of):
    """Measures `CornerDetector` with heatmaps made by `heat_of(shape)`, beside the random order."""
    model = CornerDetector(load_model(trained_run)[0])
    shape = (model.config.frames, *model.config.feature_grid)
    monkeypatch.setattr(faithfulness, "explain", heat_by(lambda _: (heat_of(shape), np.zeros(shape, np.float32))))
    return measure(synthetic_set, model, methods=("lrp",), fill="gray").orderings


@pytest.mark.parametrize("logit", [2.0, -2.0])
def test_a_model_that_says_the_same_of_every_video_is_half_right_and_as_sure_whatever_it_says(
    monkeypatch, synthetic_set, trained_run, logit
):
    labels = [video.label for video in read_dataset(synthetic_set).select("test").videos]
    assert np.mean(labels) != 0.5
    model = ConstantDetector(load_model(trained_run)[0], logit)
    monkeypatch.setattr(faithfulness, "explain", flat_heat(model))
    sure = 1 / (1 + np.exp(-2))
    for item in measure(synthetic_set, model, methods=("raw",)).orderings:
        assert item.accuracy == [0.5] * 5
        assert item.confidence == pytest.approx([sure] * 5)
        # Both areas are the mean height of a curve that is level.
        assert (item.accuracy_area, item.confidence_area) == pytest.approx((0.5, sure))


def test_the_area_of_a_curve_is_its_mean_height_between_the_fractions(measured):
    for item in measured.orderings:
        for values, area in ((item.accuracy, item.accuracy_area), (item.confidence, item.confidence_area)):
            heights = [(left + right) / 2 for left, right in pairwise(values)]
            assert area == pytest.approx(np.dot(heights, [0.05, 0.05, 0.1, 0.1]) / 0.3)


def test_removing_what_the_model_used_hurts_more_than_chance_and_removing_the_rest_hurts_less(
    monkeypatch, synthetic_set, trained_run
):
    def used(shape):
        heat = np.zeros(shape, np.float32)
        heat[:, 0, 0] = 1
        return heat

    best, chance = known(monkeypatch, synthetic_set, trained_run, used)
    worst, _ = known(monkeypatch, synthetic_set, trained_run, lambda shape: 1 - used(shape))
    assert best.confidence_area < chance.confidence_area < worst.confidence_area
    assert worst.confidence[2] == pytest.approx(worst.confidence[0])  # nothing it looks at was touched
    assert best.confidence[2] < best.confidence[0] - 0.05


def masks_of_fakes(synthetic_set, trained_run) -> list[np.ndarray]:
    """Of one clip of each fake of the test set, where the cells of the model's grid look."""
    dataset, index = read_dataset(synthetic_set), FaceIndex.read(synthetic_set)
    fakes = [video for video in dataset.select("test").videos if video.label == 1]
    size = load_model(trained_run)[0].config.image_size
    return [mask_of(clip, size)[:, 3::16, 3::16] for clip in evaluation_clips(fakes, index, 6, 1)]


def in_every_mask(synthetic_set, trained_run) -> np.ndarray:
    """Cells that are forged in every clip: bool [T, H, W]."""
    cells = np.all(masks_of_fakes(synthetic_set, trained_run), axis=0)
    assert cells.any()
    return cells


def in_no_mask(synthetic_set, trained_run) -> np.ndarray:
    """Cells that are forged in no clip: bool [T, H, W]."""
    cells = ~np.any(masks_of_fakes(synthetic_set, trained_run), axis=0)
    assert cells.any()
    return cells


def test_heat_on_the_mask_scores_one_and_heat_beside_it_scores_nothing(monkeypatch, synthetic_set, trained_run):
    everywhere, nowhere = in_every_mask(synthetic_set, trained_run), in_no_mask(synthetic_set, trained_run)
    inside, _ = known(monkeypatch, synthetic_set, trained_run, lambda _: everywhere.astype(np.float32))
    outside, _ = known(monkeypatch, synthetic_set, trained_run, lambda _: nowhere.astype(np.float32))
    assert inside.localization["temporal"].pointing == 1
    assert inside.localization["temporal"].mass > 0.5
    assert outside.localization["temporal"].pointing == 0
    assert outside.localization["temporal"].mass < 0.2  # between two cells heat reaches from the one to the other
    # No heat at all points nowhere, which is a miss, and has no mass to be anywhere.
    assert inside.localization["spatial"].pointing == 0
    assert inside.localization["spatial"].mass is None


def test_heat_is_compared_with_the_mask_pixel_by_pixel_where_its_cell_looks():
    """By an even division of the picture cell (1, 1), which looks at pixel (19, 19), was at (23.5, 23.5)."""
    heat, nothing = np.zeros((1, 4, 4), np.float32), np.zeros((1, 4, 4), np.float32)
    heat[0, 1, 1] = 1
    for where, pointing, mass in (
        (np.s_[:, :20, :20], True, (17 / 32) ** 2),  # a quarter of the tent and the peak
        (np.s_[:, 20:, :], False, 0.5 - 1 / 32),
        (np.s_[:, 35:, 35:], False, 0),
        (np.s_[:, 4:35, 4:35], True, 1),
    ):
        mask = np.zeros((1, 64, 64), bool)
        mask[where] = True
        clip = MaskedClip("blend", float(mask.mean()))
        clip.locate("lrp", heat, nothing, mask)
        assert clip.hit["lrp", "temporal"] == clip.hit["lrp", "both"] == pointing
        assert clip.mass["lrp", "temporal"] == pytest.approx(mass, abs=1e-6)
        assert (clip.hit["lrp", "spatial"], clip.mass["lrp", "spatial"]) == (False, None)


def test_each_clip_is_explained_by_what_the_model_says_of_it(monkeypatch, synthetic_set, trained_run):
    model, _ = load_model(trained_run)
    dataset, index = read_dataset(synthetic_set).select("test"), FaceIndex.read(synthetic_set)
    dataset.videos = [replace(video, mask=None) for video in dataset.videos]  # nothing is explained for a mask
    clips = evaluation_clips(dataset.videos, index, 6, 1)
    with torch.no_grad():  # fake of one half and real of the other
        model.head.bias -= float(np.median(score_clips(model, clips, workers=1).logits))
    seen = []

    def explain(_, pictures, *, target, **settings):
        seen.extend(zip(logits_of(model, pictures), target, strict=True))
        return flat_heat(model)(_, pictures, target=target, **settings)

    monkeypatch.setattr(faithfulness, "explain", explain)
    evaluate_explanations(model, dataset, index, methods=("lrp",), clips_per_video=1, workers=1)
    assert len(seen) == len(clips)
    assert {target for _, target in seen} == {"fake", "real"}
    assert all(target == ("fake" if logit > 0 else "real") for logit, target in seen)


@pytest.mark.parametrize("logit", [2.0, -2.0])
def test_a_fake_with_a_mask_is_explained_as_fake_to_find_the_mask_whatever_the_model_says(
    monkeypatch, synthetic_set, trained_run, logit
):
    inside, outside = in_every_mask(synthetic_set, trained_run), in_no_mask(synthetic_set, trained_run)
    model = ConstantDetector(load_model(trained_run)[0], logit)
    heat = {"fake": inside.astype(np.float32), "real": outside.astype(np.float32)}
    monkeypatch.setattr(faithfulness, "explain", heat_by(lambda target: (heat[target], np.zeros_like(heat[target]))))
    result, _ = measure(synthetic_set, model, methods=("lrp",)).orderings
    assert result.localization["temporal"].clips > 0
    assert result.localization["temporal"].pointing == 1


def test_a_model_that_gives_no_number_is_refused_at_its_first_clip(monkeypatch, synthetic_set, trained_run):
    """It was measured to the end, and its NaN was no JSON."""
    model = ConstantDetector(load_model(trained_run)[0], float("nan"))
    monkeypatch.setattr(faithfulness, "explain", None)
    with pytest.raises(InputError, match=r"The model gave nan for a clip of .+: its weights or its training have"):
        measure(synthetic_set, model)


def test_what_chance_says_of_one_ordering_does_not_depend_on_the_others(measured, synthetic_set, trained_run):
    model, _ = load_model(trained_run)
    alone = {item.ordering.name: item for item in measure(synthetic_set, model, methods=("raw",)).orderings}
    beside = {item.ordering.name: item for item in measured.orderings}
    assert alone["random"] == beside["random"]
    assert alone["raw"] == beside["raw"]


def test_masks_lie_over_the_middle_of_the_face(synthetic_set):
    dataset, index = read_dataset(synthetic_set), FaceIndex.read(synthetic_set)
    fake = next(video for video in dataset.videos if video.label == 1)
    mask = mask_of(evaluation_clips([fake], index, 6, 1)[0], 64)
    assert mask.shape == (6, 64, 64)
    assert mask[:, 28:36, 28:36].mean() > 0.9
    assert not mask[:, :7].any()
    assert not mask[:, :, :7].any()


@pytest.mark.parametrize("louder", ["temporal", "spatial"])
def test_a_quiet_map_does_not_count_as_much_as_a_loud_one(monkeypatch, synthetic_set, trained_run, louder):
    """Each map was stretched to 0..1 before the sum: a spatial map a thousandth as large decided half of the order."""
    model, _ = load_model(trained_run)
    shape = (model.config.frames, *model.config.feature_grid)
    loud, quiet = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    loud[:, 0, 0], loud[:, 1, 1], quiet[:, 2, 2] = 1.0, 0.5, 1e-3
    maps = (loud, quiet) if louder == "temporal" else (quiet, loud)
    monkeypatch.setattr(faithfulness, "explain", heat_by(lambda _: maps))
    seen = []
    monkeypatch.setattr(deletion, "remove", lambda clips, removed, fill: seen.append(removed) or clips)
    measure(synthetic_set, model, methods=("lrp",), fractions=(0, 0.05))
    height, width = seen[0].shape[-2:]
    removed = seen[0][0].float().mean(0)
    assert removed[: height // 4, : width // 4].mean() > 5 * removed[height // 2 :, width // 2 :].mean()


def test_flat_heat_is_ranked_by_chance_not_by_position(monkeypatch, synthetic_set, trained_run):
    flat, chance = known(monkeypatch, synthetic_set, trained_run, lambda shape: np.zeros(shape, np.float32))
    # Pixel by pixel chance spares the mean of the corner: ranking by position would remove the corner first.
    assert flat.confidence[1] > chance.confidence[1] - 0.1


def test_a_mask_that_cannot_be_read_is_counted_and_does_not_stop_the_measurement(
    synthetic_set, trained_run, tmp_path, monkeypatch
):
    model, _ = load_model(trained_run)
    dataset, index = read_dataset(synthetic_set).select("test"), FaceIndex.read(synthetic_set)
    broken = tmp_path / "mask.mp4"
    broken.write_bytes(b"nothing")
    dataset.videos = [replace(v, mask=broken if v.manipulation == "blend" else v.mask) for v in dataset.videos]
    result = evaluate_explanations(model, dataset, index, methods=("raw",), clips_per_video=1, workers=1)
    blends = [video.name for video in dataset.videos if video.manipulation == "blend"]
    assert sorted(name for name, _ in result.skipped) == sorted(blends)
    assert all("mask.mp4" in reason for _, reason in result.skipped)
    assert result.videos == len(dataset)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"split": "holdout"}, "no usable video in the holdout set"),
        ({"methods": ("lrp", "shap")}, "methods holds 'shap'"),
        ({"methods": ("raw", "raw")}, "methods holds 'raw' twice; expected each once"),
        ({"methods": ()}, r"methods is \(\); expected a list of one or more"),
        ({"stabilizers": (0.01, 0.03, 1e-2)}, "stabilizers holds 0.01 twice; expected each once"),
        ({"stabilizers": (0.01, "0.01")}, "stabilizers holds 0.01 twice; expected each once"),
        ({"stabilizers": ("reference", "reference")}, "stabilizers holds 'reference' twice"),
        ({"stabilizers": (0.01, -1)}, 'stabilizer is -1; expected "reference" or a number above 0'),
        ({"stabilizers": []}, r"stabilizers is \[\]; expected a list of one or more"),
        ({"stabilizers": 0.01}, r"stabilizers is 0.01; expected a list of one or more"),
        ({"fill": "black"}, "fill is 'black'; expected one of surroundings, gray"),
        ({"fractions": (0.1, 0.2)}, r"fractions are \[0.1, 0.2\]; expected 0 and rising"),
    ],
)
def test_a_wrong_argument_is_one_sentence(synthetic_set, trained_run, arguments, sentence):
    model, _ = load_model(trained_run)
    with pytest.raises(InputError, match=sentence):
        evaluate_explanations(model, read_dataset(synthetic_set), FaceIndex.read(synthetic_set), **arguments)
