"""Faithfulness is measured rightly: where the answer is known, the figures give it."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from dataloading import FaceIndex, read_dataset
from dataloading.errors import InputError
from dataloading.sampling import evaluation_clips
from istvt.checkpoint import load_model
from istvt.explain import faithfulness
from istvt.explain.faithfulness import evaluate_explanations, mask_on_grid
from istvt.explain.faithfulness_report import write_faithfulness


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
    assert "reference" in plot or plot.count("<path") > 10


class CornerDetector(nn.Module):
    """Says fake where the upper left corner of the frames is anything but grey, and looks nowhere else."""

    def __init__(self, model) -> None:
        super().__init__()
        self.config, self.weight = model.config, nn.Parameter(torch.ones(1))

    def forward(self, clips):
        return 20 * self.weight * (clips[..., :10, :10].abs().mean((1, 2, 3, 4)) - 0.1)


def known(monkeypatch, synthetic_set, trained_run, heat_of):
    """Measures `CornerDetector` with heatmaps made by `heat_of(shape)`, beside the random order."""
    model = CornerDetector(load_model(trained_run)[0])

    def explain_batch(_, clips, targets, settings):
        shape = (model.config.frames, *model.config.feature_grid)
        for target in targets:
            yield 0.0, target, heat_of(shape), np.zeros(shape, np.float32)

    monkeypatch.setattr(faithfulness, "explain_batch", explain_batch)
    return evaluate_explanations(
        model,
        read_dataset(synthetic_set),
        FaceIndex.read(synthetic_set),
        methods=("lrp",),
        fill="grey",
        clips_per_video=1,
        workers=1,
    ).orderings


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


def test_heat_on_the_mask_scores_one_and_heat_beside_it_scores_nothing(monkeypatch, synthetic_set, trained_run):
    dataset, index = read_dataset(synthetic_set), FaceIndex.read(synthetic_set)
    fakes = [video for video in dataset.select("test").videos if video.label == 1]
    grid = load_model(trained_run)[0].config.feature_grid
    masks = [mask_on_grid(clip, grid) for clip in evaluation_clips(fakes, index, 6, 1)]
    everywhere = np.min(masks, axis=0) >= 0.5  # cells that are forged in every clip
    assert everywhere.any()
    nowhere = np.max(masks, axis=0) == 0
    assert nowhere.any()
    inside, _ = known(monkeypatch, synthetic_set, trained_run, lambda _: everywhere.astype(np.float32))
    outside, _ = known(monkeypatch, synthetic_set, trained_run, lambda _: nowhere.astype(np.float32))
    assert inside.localization["temporal"].pointing == 1
    assert inside.localization["temporal"].mass > 0.5
    assert outside.localization["temporal"].pointing == outside.localization["temporal"].mass == 0
    # No heat at all points nowhere, which is a miss, and has no mass to be anywhere.
    assert inside.localization["spatial"].pointing == 0
    assert inside.localization["spatial"].mass is None


def test_masks_lie_over_the_middle_of_the_face(synthetic_set):
    dataset, index = read_dataset(synthetic_set), FaceIndex.read(synthetic_set)
    fake = next(video for video in dataset.videos if video.label == 1)
    mask = mask_on_grid(evaluation_clips([fake], index, 6, 1)[0], (9, 9))
    assert mask.shape == (6, 9, 9)
    assert mask[:, 4, 4].mean() > 0.9
    assert mask[:, 0].max() == mask[:, :, 0].max() == 0


def test_a_quiet_map_does_not_count_as_much_as_a_loud_one(monkeypatch, synthetic_set, trained_run):
    """Each map was stretched to 0..1 before the sum: a spatial map a thousandth as large decided half of the order."""
    model, _ = load_model(trained_run)
    shape = (model.config.frames, *model.config.feature_grid)
    loud, quiet = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    loud[:, 0, 0], loud[:, 1, 1], quiet[:, 2, 2] = 1.0, 0.5, 1e-3
    monkeypatch.setattr(
        faithfulness, "explain_batch", lambda _, clips, targets, settings: ((0.0, t, loud, quiet) for t in targets)
    )
    seen = []
    monkeypatch.setattr(faithfulness, "remove", lambda clips, removed, fill: seen.append(removed) or clips)
    evaluate_explanations(
        model, read_dataset(synthetic_set), FaceIndex.read(synthetic_set),
        methods=("lrp",), fractions=(0, 0.05), clips_per_video=1, workers=1,
    )  # fmt: skip
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
    from dataclasses import replace

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
        ({"fill": "black"}, "fill is 'black'; expected one of surroundings, grey"),
        ({"fractions": (0.1, 0.2)}, r"fractions are \[0.1, 0.2\]; expected 0 and rising"),
    ],
)
def test_a_wrong_argument_is_one_sentence(synthetic_set, trained_run, arguments, sentence):
    model, _ = load_model(trained_run)
    with pytest.raises(InputError, match=sentence):
        evaluate_explanations(model, read_dataset(synthetic_set), FaceIndex.read(synthetic_set), **arguments)
