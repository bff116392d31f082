"""Faithfulness is measured rightly: where the answer is known, the metrics give it."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from dataloading import FaceIndex, read_dataset
from dataloading.clips.sampling import evaluation_clips
from dataloading.dataset import FAKE
from dataloading.errors import InputError
from dataloading.faces.prepare import prepare
from dataloading.synthetic import forgeries, synthesize
from istvt.config import MEASURED_METHODS, FaithfulnessSettings
from istvt.explain.explanation import logits_of
from istvt.explain.faithfulness import evaluate as evaluation
from istvt.explain.faithfulness.deletion import changed_pixels, curve, hottest_first
from istvt.explain.faithfulness.evaluate import evaluate_explanations
from istvt.explain.faithfulness.heat import heat_of, integrated_gradients, marginals
from istvt.explain.faithfulness.localization import hottest_hit, mask_of, mass_in, rank_accuracy
from istvt.explain.faithfulness.report import faithfulness_tables, read_faithfulness, write_faithfulness, write_plot
from istvt.explain.faithfulness.results import (
    CURVES,
    MeasuredClip,
    MethodValues,
    accuracy_by_class,
    column,
    estimate,
    mean_height,
    pooled,
)
from istvt.model.checkpoint import load_model


@pytest.fixture(scope="module")
def varied_set(tmp_path_factory):
    """Fakes that differ in where and when they are forged, of 10 people."""
    root = tmp_path_factory.mktemp("varied") / "videos"
    shares = (0.2, 0.2, 0.6)
    synthesize(root, identities=10, frames=12, size=48, workers=1, splits=shares, varied=True, progress=False)
    prepare(read_dataset(root), detect=False)
    return root


@pytest.fixture(scope="module")
def model(trained_run):
    return load_model(trained_run)[0]


def measure(root, model, **settings):
    """One clip of each test video, three at a time, so that fakes and their originals come in different batches."""
    settings = FaithfulnessSettings(**({"batch_size": 3} | settings))
    return evaluate_explanations(model, read_dataset(root), FaceIndex.read(root), settings, workers=1)


@pytest.fixture(scope="module")
def measured(varied_set, model):
    settings = {"methods": MEASURED_METHODS, "evaluations": 97, "steps": 3}
    return measure(varied_set, model, fractions=(0, 0.1, 0.3), sanity=3, **settings)


class FakeEverywhere(nn.Module):
    """Says fake of every clip, the more surely the brighter it is."""

    def __init__(self, model) -> None:
        super().__init__()
        self.config, self.weight = model.config, nn.Parameter(torch.ones(1))

    def forward(self, clips):
        return self.weight * (3 + clips.mean((1, 2, 3, 4)))


class CornerDetector(FakeEverywhere):
    """Says fake where the upper left corner of the frames is bright, and looks nowhere else."""

    def forward(self, clips):
        return 10 * self.weight * clips[..., :10, :10].mean((1, 2, 3, 4))


def test_every_method_is_measured_on_the_same_clips(measured, varied_set):
    assert tuple(measured.methods) == MEASURED_METHODS
    assert measured.videos == len(measured.clips) == len(read_dataset(varied_set).select("test"))
    assert measured.skipped == []
    marked = forgeries(varied_set)
    for clip in measured.clips:
        assert clip.original == bool(clip.label)
        assert clip.half == (bool(clip.label) and marked[clip.video].region != "whole")
        if clip.label:
            frames = {frame for frame in range(6) if frame in marked[clip.video].frames}  # the clip begins at frame 0
            assert set(clip.forged) == frames
    for method, values in measured.methods.items():
        for clip, *of_clip in zip(measured.clips, *vars(values).values(), strict=True):
            found = dict(zip(vars(values), of_clip, strict=True))
            explained = clip.detected or method != "integrated_gradients"  # which need an original
            assert (found["deletion"] is not None) == explained
            assert (found["counterfactual_deletion"] is not None) == clip.detected
            assert (found["rank"] is not None) == bool(clip.label and explained)
            assert (found["by_frame"] is not None) == bool(clip.label and explained and len(clip.forged) < 6)


def test_the_results_are_written_as_json_tables_and_plot_and_read_back(measured, tmp_path):
    files = write_faithfulness(measured, tmp_path)
    assert read_faithfulness(tmp_path) == measured
    text = files["table"].read_text()
    curves, by_class, places = text.split("| method |")[1:4]
    for table in (curves, places):
        assert all(f"| `{method}` |" in table for method in MEASURED_METHODS)
    # Integrated gradients need an original: they say nothing of real clips.
    assert [method for method in MEASURED_METHODS if f"| `{method}` |" not in by_class] == ["integrated_gradients"]
    assert "Sanity checks:" in text
    plot = files["plot"].read_text()
    assert plot.startswith("<?xml")
    # Text is drawn as outlines, each after a comment that says it: one entry of the legend a method.
    assert all(plot.count(f"<!-- {method} -->") == 1 for method in MEASURED_METHODS)
    write_plot([measured], files["plot"])
    assert files["plot"].read_text() == plot  # a plot in the repository that nothing changed shows no difference


def test_the_same_pixels_change_in_every_frame_hottest_first_and_chance_orders_equal_heat():
    """Other pixels in each frame were flicker, a forged trace itself: reals fell from 78 to 32 % right."""
    where = np.zeros((2, 4, 4), np.float32)
    where[0, 1, 2], where[0, 3, 3] = 2, 1
    order = hottest_first(where, np.random.default_rng(0))
    assert order[0, :2].tolist() == [6, 15]
    assert order[1].tolist() != list(range(16)) and sorted(order[1]) == list(range(16))
    changed = changed_pixels(order, 2 / 16, 4, 4)
    assert changed.shape == (2, 1, 4, 4)  # one mask for all frames
    assert changed[0, 0].nonzero().tolist() == [[1, 2], [3, 3]]


def test_taking_away_what_the_model_uses_hurts_and_leaving_it_is_enough(model):
    detector, clips = CornerDetector(model), torch.rand(2, 6, 3, 40, 40) * 0.2 - 0.9
    clips[..., :10, :10] += 1.5
    where = np.zeros((2, 40, 40), np.float32)
    where[:, :10, :10] = 1
    used, unused = (hottest_first(heat, np.random.default_rng(0)) for heat in (where, -where))
    whole, originals = logits_of(detector, clips), clips - 1.0

    def logits(order, **options):
        return curve(lambda x: logits_of(detector, x), clips, order, (0, 1 / 16), whole, **options)[:, 1]

    assert (whole > 5).all()
    assert (logits(used) < -5).all()  # filled from the dark surroundings
    assert logits(unused) == pytest.approx(whole)
    assert logits(used, insert=True) == pytest.approx(whole)
    assert logits(used, originals=originals) == pytest.approx(logits_of(detector, originals), abs=1e-5)
    assert logits(used, insert=True, originals=originals) == pytest.approx(whole, abs=1e-5)
    assert logits(unused, originals=originals) == pytest.approx(whole, abs=1e-5)


def test_hottest_pixel_rank_accuracy_and_mass_by_hand():
    mask = np.zeros((4, 4), bool)
    mask[0, :2] = True
    where = np.zeros((4, 4))
    where[0, 0], where[3, 3], where[0, 1] = 3, 2, 1
    order = hottest_first(where[None], np.random.default_rng(0))[0]
    assert (hottest_hit(where, mask), rank_accuracy(order, mask), mass_in(where, mask)) == (1, 0.5, 4 / 6)
    where[3, 3] = 3  # as hot as the one in the mask: half a hit
    assert hottest_hit(where, mask) == 0.5
    assert hottest_hit(np.zeros((4, 4)), mask) == 2 / 16
    assert mass_in(np.zeros((4, 4)), mask) is None
    assert hottest_hit(np.array([1.0, 1.0, 1.0]), np.array([False, True, False])) == pytest.approx(1 / 3)


def test_the_hottest_frame_is_the_forged_one_or_a_neighbor_of_it_and_of_equal_ones_a_share():
    clips = [clip_of("first", forged=[0]), clip_of("last", forged=[2]), clip_of("all", forged=[0, 1, 2])]
    values = MethodValues(by_frame=[[1.0, 3.0, 2.0], [4.0, 4.0, 4.0], None])
    result = SimpleNamespace(clips=clips, methods={"lrp": values})
    assert column(result, "lrp", "when") == [0, 1 / 3, None]
    assert column(result, "lrp", "after") == [1, None, None]  # there is no frame after the last one
    assert column(result, "lrp", "before") == [None, 1 / 3, None]
    assert column(result, "lrp", "either") == [1, 1 / 3, None]


def heat_by(monkeypatch, root, model, heat):
    """In place of `heat_of`: the heat [T, h, w] that `heat(mask)` gives for a fake; nothing for a real clip."""
    masks = {}
    fakes = [video for video in read_dataset(root).select("test").videos if video.label == FAKE]
    for clip in evaluation_clips(fakes, FaceIndex.read(root), 6, 1):
        masks[clip.video.name] = mask_of(clip, model.config.image_size)
    monkeypatch.setattr(evaluation, "mask_of", lambda clip, size: masks[clip.video.name])
    rows = []
    row = evaluation._Row
    monkeypatch.setattr(evaluation, "_Row", lambda *fields: rows.append(fields[3]) or row(*fields))

    def heats(_, pictures, settings, random, originals=None, target="fake"):
        chosen, rows[:] = list(rows), []
        empty = np.zeros((6, *pictures.shape[-2:]), bool)
        found = np.stack([heat(empty if mask is None else mask) for mask in chosen]).astype(np.float32)
        return dict.fromkeys(settings.methods, found)

    monkeypatch.setattr(evaluation, "heat_of", heats)


def test_heat_on_the_mask_finds_where_and_when_and_heat_beside_it_nothing(monkeypatch, varied_set, model):
    detector = FakeEverywhere(model)
    with monkeypatch.context() as patch:
        heat_by(patch, varied_set, model, lambda mask: mask)
        right = measure(varied_set, detector, methods=("lrp",), fractions=(0, 0.9))
    with monkeypatch.context() as patch:
        heat_by(patch, varied_set, model, lambda mask: ~mask)
        wrong = measure(varied_set, detector, methods=("lrp",), fractions=(0, 0.9))
    for name, subset in (("rank", "halves"), ("hottest", "detected"), ("mass", "detected"), ("when", "one frame")):
        assert estimate([right], "lrp", name, subset).value == pytest.approx(1)
    assert estimate([wrong], "lrp", "when", "one frame").value == pytest.approx(0)
    for name in ("rank", "hottest", "mass"):
        # Of a clip with forged frames and others, the heat of the others lies over the mask too.
        whole = [clip for clip in wrong.clips if clip.label and len(clip.forged) == 6]
        values = dict(zip([clip.video for clip in wrong.clips], getattr(wrong.methods["lrp"], name), strict=True))
        assert max(values[clip.video] for clip in whole) < 0.2


def test_a_fake_whose_hottest_pixels_are_its_originals_is_its_original(monkeypatch, varied_set, model):
    detector = FakeEverywhere(model)
    heat_by(monkeypatch, varied_set, model, lambda mask: np.ones_like(mask))
    found = measure(varied_set, detector, methods=("lrp",), fractions=(0, 1))
    real = {clip.video: clip.probability for clip in found.clips if not clip.label}
    sources = {name: forgery.original for name, forgery in forgeries(varied_set).items()}
    curves = zip(found.clips, found.methods["lrp"].counterfactual_deletion, strict=True)
    for clip, one in curves:
        if clip.label:
            assert one == pytest.approx([clip.probability, real[sources[clip.video]]], abs=1e-6)
    inserted = zip(found.clips, found.methods["lrp"].counterfactual_insertion, strict=True)
    for clip, one in inserted:
        if clip.label:
            assert one == pytest.approx([real[sources[clip.video]], clip.probability], abs=1e-6)


def test_curves_are_of_a_part_of_the_videos_and_the_others_are_still_localized(varied_set, model):
    found = measure(varied_set, FakeEverywhere(model), methods=("center_blob",), curve_videos=2)
    values = found.methods["center_blob"]
    with_curves = [clip.label for clip, one in zip(found.clips, values.deletion, strict=True) if one is not None]
    assert sorted(with_curves) == [0, 0, 1, 1]
    assert sum(one is not None for one in values.rank) == sum(clip.label for clip in found.clips) > 2


def test_a_video_without_its_original_has_no_counterfactual_and_everything_else(varied_set, model):
    dataset, index = read_dataset(varied_set), FaceIndex.read(varied_set)
    dataset.videos = [replace(video, source=None) for video in dataset.videos]
    settings = FaithfulnessSettings(methods=("integrated_gradients", "center_blob"), fractions=(0, 0.2))
    found = evaluate_explanations(FakeEverywhere(model), dataset, index, settings, workers=1)
    assert not any(found.methods["integrated_gradients"].rank)
    assert not any(found.methods["center_blob"].counterfactual_deletion)
    assert estimate([found], "center_blob", "deletion", "detected").videos > 0
    assert "none" in faithfulness_tables([found])


def test_a_mask_that_cannot_be_read_is_counted_and_does_not_stop_the_measurement(varied_set, model, tmp_path):
    dataset, index = read_dataset(varied_set).select("test"), FaceIndex.read(varied_set)
    broken = tmp_path / "mask.mp4"
    broken.write_bytes(b"nothing")
    dataset.videos = [replace(v, mask=broken if v.manipulation == "blend" else v.mask) for v in dataset.videos]
    settings = FaithfulnessSettings(methods=("center_blob",), fractions=(0, 0.2))
    result = evaluate_explanations(model, dataset, index, settings, workers=1)
    blends = [video.name for video in dataset.videos if video.manipulation == "blend"]
    assert sorted(name for name, _ in result.skipped) == sorted(blends)
    assert all("mask.mp4" in reason for _, reason in result.skipped)


def test_a_model_that_gives_no_number_is_refused_at_its_first_clip(varied_set, model):
    """It was measured to the end, and its NaN was no JSON."""
    broken = FakeEverywhere(model)
    broken.weight.data[:] = float("nan")
    with pytest.raises(InputError, match=r"The model gave nan for a clip of .+: its weights or its training have"):
        measure(varied_set, broken)


def test_what_chance_says_of_random_does_not_depend_on_the_other_methods(measured, varied_set, model):
    alone = measure(varied_set, model, fractions=(0, 0.1, 0.3), methods=("random",))
    assert alone.methods["random"] == measured.methods["random"]


def test_masks_lie_over_the_middle_of_the_face(synthetic_set):
    dataset, index = read_dataset(synthetic_set), FaceIndex.read(synthetic_set)
    fake = next(video for video in dataset.videos if video.label == FAKE)
    mask = mask_of(evaluation_clips([fake], index, 6, 1)[0], 64)
    assert mask.shape == (6, 64, 64)
    assert mask[:, 28:36, 28:36].mean() > 0.9
    assert not mask[:, :7].any()
    assert not mask[:, :, :7].any()


def test_integrated_gradients_sum_to_the_difference_of_the_logits_and_are_zero_where_nothing_was_forged(model):
    torch.manual_seed(0)
    model = model.double()
    original = torch.rand(2, 6, 3, 40, 40, dtype=torch.float64) * 2 - 1
    fake = original.clone()
    fake[:, 2, :, 10:20, 10:20] += 0.3
    found = integrated_gradients(model, fake, original, steps=200)
    differences = logits_of(model, fake) - logits_of(model, original)
    model.float()
    assert found.flatten(1).sum(1).numpy() == pytest.approx(differences, abs=0.02 * np.abs(differences).max())
    found[:, 2, :, 10:20, 10:20] = 0
    assert not found.any()


def test_heat_of_a_clip_says_where_in_its_sum_over_frames_and_when_in_its_sum_over_pixels(model):
    clips = torch.rand(2, 6, 3, 40, 40) * 2 - 1
    settings = FaithfulnessSettings(methods=("lrp", "attnlrp", "token_relevance", "raw", "center_blob"))
    for heat in heat_of(model, clips, settings, {}).values():
        assert heat.shape == (2, 6, 40, 40)
        assert (heat >= 0).all()
        where, when = marginals(heat)
        assert where.sum((1, 2)) == pytest.approx(when.sum(1), rel=1e-4)
    blob = heat_of(model, clips, replace(settings, methods=("center_blob",)), {})["center_blob"]
    where, when = marginals(blob)
    assert np.ptp(when) == 0  # knows no frame
    assert where[0, 19:21, 19:21] == pytest.approx(where[0].max())


def test_motion_knows_the_clip_and_not_the_model(model):
    clips = torch.zeros(1, 6, 3, 40, 40)
    clips[0, 4, :, 10:20, 20:30] = 0.5
    where, when = marginals(heat_of(model, clips, FaithfulnessSettings(methods=("motion",)), {})["motion"])
    assert when[0].argmax() == 4
    assert where[0, 15, 25] == pytest.approx(where[0].max(), rel=1e-3)
    assert where[0, :5].max() == 0


def clip_of(name, label=FAKE, probability=0.9, **fields):
    return MeasuredClip(name, label, "blend", probability, **fields)


def test_a_mean_over_videos_counts_each_video_once_and_more_models_do_not_narrow_its_interval():
    clips = [clip_of("a"), clip_of("a"), clip_of("b"), clip_of("real", label=0), clip_of("missed", probability=0.1)]
    result = SimpleNamespace(clips=clips)
    mean = pooled([result], [[0.0, 0.0, 1.0, 5.0, 5.0]], "detected")
    assert (mean.value, mean.videos) == (0.5, 2)
    assert (mean.low, mean.high) == (0, 1)
    many = [clip_of(str(number)) for number in range(100)]
    values = (np.arange(100) % 2).astype(float).tolist()
    one = pooled([SimpleNamespace(clips=many)], [values], "detected")
    three = pooled([SimpleNamespace(clips=many)] * 3, [values] * 3, "detected")
    assert (three.value, three.low, three.high) == (one.value, one.low, one.high)
    assert one.low == pytest.approx(0.4, abs=0.02) and one.high == pytest.approx(0.6, abs=0.02)
    nothing = pooled([result], [[None] * 5], "detected")
    assert (nothing.value, nothing.videos, str(nothing)) == (None, 0, "none")


def test_a_difference_of_two_methods_is_taken_clip_by_clip(measured):
    rank = estimate([measured], "lrp", "rank", "detected").value, estimate([measured], "raw", "rank", "detected").value
    difference = estimate([measured], "lrp", "rank", "detected", minus="raw")
    assert difference.value == pytest.approx(rank[0] - rank[1])
    same = estimate([measured], "lrp", "rank", "detected", minus="lrp")
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_the_area_of_a_curve_is_its_mean_height_and_accuracy_is_by_class(measured):
    assert mean_height((0, 0.1, 0.3), (1.0, 0.5, 0.0)) == pytest.approx((0.75 * 0.1 + 0.25 * 0.2) / 0.3)
    before = accuracy_by_class([measured], "lrp", 0.0)
    for label, name in enumerate(("real", "fake")):
        right = [(clip.probability > 0.5) == bool(label) for clip in measured.clips if clip.label == label]
        assert before[name].value == pytest.approx(np.mean(right))
    assert all(len(one) == 3 for name in CURVES for one in getattr(measured.methods["lrp"], name) if one is not None)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"methods": ("lpr",)}, "methods holds 'lpr'; expected some of lrp, attnlrp"),
        ({"methods": ("lrp", "lrp")}, "methods holds 'lrp' twice"),
        ({"methods": "lrp"}, "methods is 'lrp'; expected a list"),
        ({"fractions": (0.1, 0.2)}, r"fractions are \[0.1, 0.2\]; expected 0 and rising shares"),
        ({"fractions": (0, 2)}, "fractions are"),
        ({"stabilizer": 0}, "stabilizer is 0; expected"),
        ({"clips_per_video": 0}, "clips_per_video is 0; expected at least 1"),
        ({"sanity": -1}, "sanity is -1"),
    ],
)
def test_settings_that_measure_nothing_are_named(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        FaithfulnessSettings(**wrong)


def test_a_set_without_a_usable_video_is_one_sentence(varied_set, model):
    dataset, index = read_dataset(varied_set), FaceIndex.read(varied_set)
    dataset.videos = [video for video in dataset.videos if video.split == "train"]
    with pytest.raises(InputError, match="no usable video in the test set"):
        evaluate_explanations(model, dataset, index, workers=1)


def test_a_measurement_that_is_not_whole_is_none(tmp_path):
    assert read_faithfulness(tmp_path) is None
    (tmp_path / "faithfulness.json").write_text(json.dumps({"fractions": [0]}))
    assert read_faithfulness(tmp_path) is None
