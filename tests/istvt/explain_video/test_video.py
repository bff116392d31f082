"""Explanation of a video: files that open anywhere, with heat where the face is and numbers that agree."""

import json
import re
from html.parser import HTMLParser

import av
import cv2
import numpy as np
import pytest
import torch
from video_fixtures import write_numbered

from dataloading.clips import loader
from dataloading.clips.loader import ClipLoader
from dataloading.errors import InputError
from dataloading.face_index import FaceEntry, FaceTrack
from dataloading.video.decode import decode_frames
from dataloading.video.probe import probe
from istvt.config import ExplanationSettings
from istvt.explain import explain, heatmap
from istvt.explain_video import pictures
from istvt.explain_video.video import explain_video
from istvt.inference.predict import predict
from istvt.model.checkpoint import load_model

IMAGE_SIZE = 40  # of the model of `trained_run`


def quick(**settings):
    """Settings: whole pictures, and one scored clip, unless others are given."""
    return ExplanationSettings(**({"detect": False, "clips_scored": 1, "workers": 1} | settings))


@pytest.fixture(scope="module")
def video(synthetic_set):
    return next(iter(sorted(synthetic_set.glob("manipulated_sequences/both/c23/videos/*.mp4"))))


@pytest.fixture(scope="module")
def explained(video, trained_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("explained")
    return explain_video(video, trained_run, out, quick(clips_scored=4, clips=2))


def test_a_model_without_a_mask_head_says_nothing_of_masks(explained):
    data = json.loads(explained.files["data"].read_text())
    assert all(clip["mask"] is None for person in data["people"] for clip in person["explained_clips"])
    assert "predicted mask" not in explained.files["page"].read_text()


def undecodable(monkeypatch, frames):
    """Clips that start at one of these frames cannot be decoded."""

    def read(clips, *arguments):
        read = {int(clip.frames[0]): sample for clip, sample in zip(clips, whole(clips, *arguments), strict=True)}
        return [f"frame {first} is damaged" if first in frames else sample for first, sample in read.items()]

    whole = loader.read_decoded
    monkeypatch.setattr(loader, "read_decoded", read)


def pictures_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


def heat_of(clip, normalization="clip"):
    """Temporal, spatial and class-frame heat [T, h, w] as it is drawn over the model's input of `IMAGE_SIZE` pixels."""
    maps = []
    for name, heat in clip.maps().items():
        heat = heatmap.upscale(heatmap.normalize(heat, normalization), IMAGE_SIZE, IMAGE_SIZE)
        maps.append(np.resize(heat, (6, IMAGE_SIZE, IMAGE_SIZE)) * (0.3 if clip.shares[name] < 0.01 else 1))
    return maps


def test_the_score_is_the_one_that_predict_gives(video, trained_run, tmp_path):
    """By default `explain` scored other clips than `predict`, and a verdict could differ."""
    explained = explain_video(video, trained_run, tmp_path, quick(clips_scored=None, clips=1))
    model, _ = load_model(trained_run)
    [prediction] = predict(model, [video], detect=False, workers=1)
    assert explained.score.clip_frames == prediction.score.clip_frames
    assert explained.score.probability == pytest.approx(prediction.score.probability, abs=1e-6)
    assert explained.target == prediction.score.verdict


def test_a_video_is_cropped_as_those_of_training_and_what_is_doubtful_is_said_from_python_too(
    video, trained_run, tmp_path
):
    """A model of whole pictures was shown face boxes unless the command line chose, and nothing said it."""
    result = explain_video(video, trained_run, tmp_path, quick(detect=None), notes=["Found online."])
    data, page = json.loads(result.files["data"].read_text()), result.files["page"].read_text()
    assert data["settings"]["detector"] == "none"
    mine, caveat, crop = data["notes"]
    assert mine == "Found online."
    assert "has only ever seen drawn faces" in caveat
    assert crop == "whole pictures, as this model was trained on them (--detect looks for faces)"
    assert result.notes == data["notes"]
    assert all(note in page for note in result.notes)


def test_a_face_that_is_given_and_is_no_crop_of_training_or_hardly_ever_there_is_doubtful(trained_run, tmp_path):
    video = write_numbered(tmp_path, "numbered", frames=31)
    info = probe(video)
    seen = FaceTrack((0, 30), (40.0, 40.0), (40.0, 40.0), (30.0, 30.0))
    face = FaceEntry(str(video), info.frames, info.fps, info.width, info.height, "yuface", seen)
    result = explain_video(video, trained_run, tmp_path, quick(detect=None), face=face)
    assert "trained on whole pictures, and here it is shown faces found by yuface" in result.notes[-2]
    assert result.notes[-1].startswith("its shots are not known, because the face boxes that were given have none")


def test_the_explained_clips_are_the_surest_on_the_side_of_the_verdict_and_share_no_frame(explained):
    probabilities = explained.score.clip_probabilities
    surest = max(probabilities) if explained.target == "fake" else min(probabilities)
    assert any(clip.probability == pytest.approx(surest, abs=1e-5) for clip in explained.clips)
    frames = np.concatenate([clip.clip.frames for clip in explained.clips])
    assert len(frames) == len(set(frames.tolist()))


def test_the_heatmaps_are_those_of_the_clip_as_the_loader_makes_it(explained, trained_run):
    model, _ = load_model(trained_run)
    for clip in explained.clips:
        batch = next(iter(ClipLoader([clip.clip], 1, model.config.image_size, workers=1)))
        result = explain(model, batch.clips, target=explained.target)
        np.testing.assert_allclose(clip.temporal, result.temporal[0].numpy(), rtol=1e-3, atol=1e-9)
        np.testing.assert_allclose(clip.spatial, result.spatial[0].numpy(), rtol=1e-3, atol=1e-9)
        assert clip.logit == pytest.approx(float(result.logits), abs=1e-5)


def test_both_videos_are_h264_with_one_picture_a_frame(explained):
    frames = sum(len(clip.clip.frames) for clip in explained.clips)
    panels, pasted = pictures_of(explained.files["panels"]), pictures_of(explained.files["pasted"])
    assert len(panels) == len(pasted) == frames
    assert all(side % 2 == 0 for side in (*panels[0].shape[:2], *pasted[0].shape[:2]))


def test_the_panels_show_the_crop_and_both_overlays_in_their_colors(explained, video):
    clip = explained.clips[0]
    shown = pictures_of(explained.files["panels"])[0].astype(int)
    frame = decode_frames(video, clip.clip.frames[:1])[0]
    face = heatmap.crop(frame, clip.clip.box, 288)
    expected = [face, *(heatmap.overlay(face, heat[0]) for heat in heat_of(clip))]
    for column, picture in enumerate(expected):
        left = 12 + column * 300
        difference = np.abs(shown[72 : 72 + 288, left : left + 288] - picture)
        assert difference.mean() < 6  # what H.264 costs; another panel or another color matrix is far above
    assert np.abs(expected[1].astype(int) - expected[0]).mean() > 20


def test_the_original_frames_are_shown_with_each_map_side_by_side(explained, video):
    shown = iter(pictures_of(explained.files["pasted"]))
    for clip in explained.clips:
        maps = heat_of(clip)
        for t, frame in enumerate(decode_frames(video, clip.clip.frames)):
            pasted = [heatmap.paste(frame, heat[t], clip.clip.box).astype(int) for heat in maps]
            picture = next(shown)
            assert np.abs(picture - np.concatenate(pasted, axis=1)).mean() < 6
            assert np.abs(picture - np.concatenate(pasted[::-1], axis=1)).mean() > 12


def assert_strip_shows(path, clip, video, normalization):
    """A picture a frame of the crop, and below it of each map, and no other ones."""
    strip = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    maps = heat_of(clip, normalization)
    for t, frame in enumerate(decode_frames(video, clip.clip.frames)):
        face = heatmap.crop(frame, clip.clip.box, 150)
        for row, picture in enumerate([face, *(heatmap.overlay(face, heat[t]) for heat in maps)]):
            top, left = 58 + 154 * row, 92 + 154 * t
            np.testing.assert_array_equal(strip[top : top + 150, left : left + 150], picture)


def test_a_strip_shows_the_crop_and_every_map_of_every_frame(explained, video):
    for path, clip in zip(explained.files["strips"], explained.clips, strict=True):
        assert not np.allclose(heatmap.normalize(clip.temporal), heatmap.normalize(clip.spatial), atol=0.1)
        assert_strip_shows(path, clip, video, "clip")


def test_a_strip_of_one_frame_is_wide_enough_for_what_is_written_below_it():
    picture = np.zeros((150, 150, 3), np.uint8)
    titles = [pictures.CROP_TITLE] * 3
    shown = pictures.strip([[picture]] * 3, titles, ["frame 0"], "", "from the coldest to the hottest cell of the clip")
    assert (shown[:, -pictures.MARGIN :] == pictures.GROUND).all()


def test_each_frame_has_a_scale_of_its_own_where_that_is_asked_for(video, trained_run, tmp_path):
    result = explain_video(video, trained_run, tmp_path, quick(normalization="frame"))
    for maps in (result.clips[0].temporal, result.clips[0].spatial):
        assert not np.allclose(heatmap.normalize(maps, "frame"), heatmap.normalize(maps, "clip"), atol=0.1)
    assert_strip_shows(result.files["strips"][0], result.clips[0], video, "frame")


def test_the_timeline_shows_every_clip_that_was_scored_at_its_time_and_their_mean(
    explained, video, trained_run, tmp_path
):
    logits = [np.log(p / (1 - p)) for p in explained.score.clip_probabilities]
    model, _ = load_model(trained_run)
    with torch.no_grad():  # of the small model all are nearly the same
        model.head.bias -= float(np.mean(logits))
        for parameter in model.head.parameters():
            parameter *= 2 / float(np.std(logits))
        model.head.bias += 1
    result = explain_video(video, model, tmp_path, quick(clips_scored=4, clips=1))
    page, score, fps = result.files["page"].read_text(), result.score, probe(video).fps
    assert np.std(score.clip_probabilities) > 0.1
    dots = re.findall(r"<title>([0-9.]+) s: ([0-9.]+)</title>", page)
    middles = [(np.mean(frames) + 0.5) / fps for frames in score.clip_frames]
    assert [float(time) for time, _ in dots] == pytest.approx(middles, abs=0.006)
    assert [float(p) for _, p in dots] == pytest.approx(score.clip_probabilities, abs=0.0006)
    assert f"their mean is {score.probability:.3f}" in page


def test_the_timeline_in_the_video_has_a_dot_where_each_clip_is_and_a_cursor_where_the_frame_is():
    timeline = pictures.Timeline(centers=[1.0, 3.0], probabilities=[0.25, 1.0], seconds=4.0)
    black = [np.zeros((64, 64, 3), np.uint8)] * 3
    shown = pictures.explanation_frame(black, [("", "")] * 3, "", timeline, 2.0, "")
    left, right, top, bottom = 46, 220, 198, 278  # of the chart, below panels of 64 pixels

    def at(seconds, probability):
        return shown[round(bottom - probability * (bottom - top)), round(left + seconds / 4 * (right - left))]

    assert tuple(at(1, 0.25)) == tuple(at(3, 1)) == pictures.INK
    assert tuple(at(1, 0.75)) == tuple(at(3, 0.25)) == pictures.GROUND
    assert tuple(at(2, 0.1)) == tuple(heatmap.colorize(np.array(0.8)))


def test_the_crop_that_is_shown_is_the_one_the_model_sees(explained, video, trained_run):
    model, _ = load_model(trained_run)
    clip, size = explained.clips[0].clip, model.config.image_size
    batch = next(iter(ClipLoader([clip], 1, size, workers=1)))
    seen = batch.clips[0].permute(0, 2, 3, 1).add(1).mul(127.5).numpy()
    shown = np.stack([heatmap.crop(frame, clip.box, size) for frame in decode_frames(video, clip.frames)])
    assert np.abs(seen - shown).mean() < 4


def test_there_is_a_strip_a_clip_with_a_column_a_frame(explained):
    assert len(explained.files["strips"]) == len(explained.clips)
    for path in explained.files["strips"]:
        height, width = cv2.imread(str(path)).shape[:2]
        assert width >= 6 * 150
        assert height >= 3 * 150


def all_heat(clip):
    return sum(heat.sum() for heat in clip.maps().values())


def test_the_json_agrees_with_what_was_computed(explained, video):
    data = json.loads(explained.files["data"].read_text())
    assert data["verdict"] == explained.score.verdict
    assert data["probability_fake"] == pytest.approx(
        np.mean([c["probability_fake"] for c in data["people"][0]["scored_clips"]])
    )
    assert data["settings"]["method"] == "lrp"
    assert data["settings"]["stabilizer"] == 0.01
    assert data["settings"]["model"]["frames"] == 6
    assert [item["frame"] for item in data["people"][0]["frame_scores"]] == sorted(
        {n for f in explained.score.clip_frames for n in f}
    )
    for clip, values in zip(explained.clips, data["people"][0]["explained_clips"], strict=True):
        assert sum(values[kind]["share_of_all_heat"] for kind in clip.maps()) == pytest.approx(1)
        for kind, heat in clip.maps().items():
            assert values[kind]["share_of_all_heat"] == pytest.approx(heat.sum() / all_heat(clip), rel=1e-4)
            assert values[kind]["drawn_dim"] == (heat.sum() / all_heat(clip) < 0.01)
            if kind == "class_row":
                hottest = values[kind]["hottest_cell"]
                assert heat[0, hottest["row"], hottest["column"]] == heat.max()
                continue
            shares = [frame["share_of_heat"] for frame in values[kind]["frames"]]
            np.testing.assert_allclose(shares, heat.sum((1, 2)) / heat.sum(), rtol=1e-5)
            for grid, frame in zip(heat, values[kind]["frames"], strict=True):
                hottest = frame["hottest_cell"]
                assert (hottest is not None) == grid.any()
                if hottest is not None:
                    assert grid[hottest["row"], hottest["column"]] == grid.max()
                    x0, y0, x1, y1 = clip.clip.box
                    # The middle of pixel 16 j + 3 of those that the model sees.
                    assert hottest["x"] == pytest.approx(x0 + (16 * hottest["column"] + 3.5) / IMAGE_SIZE * (x1 - x0))
                    assert hottest["y"] == pytest.approx(y0 + (16 * hottest["row"] + 3.5) / IMAGE_SIZE * (y1 - y0))


class Addresses(HTMLParser):
    """Collects everything a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.found += [value for name, value in attrs if name in ("src", "href", "srcset", "poster", "data")]


def test_the_page_holds_everything_and_loads_nothing(explained):
    text = explained.files["page"].read_text()
    page = Addresses()
    page.feed(text)
    assert page.tags.count("video") == 2
    assert page.tags.count("img") == len(explained.clips)
    assert "script" not in page.tags
    assert all(address.startswith(("data:", "#")) for address in page.found)
    assert not re.search(r"https?://", re.sub(r"data:[^\"']*", "", text))
    assert f"{explained.score.probability:.3f}" in text


def test_a_file_name_cannot_become_part_of_the_page(video, trained_run, tmp_path):
    hostile = tmp_path / "<img src=x onerror=alert(1)>.mp4"
    hostile.write_bytes(video.read_bytes())
    settings = quick(target="real", method="rollout", normalization="frame")
    result = explain_video(hostile, trained_run, tmp_path / "out", settings)
    text = result.files["page"].read_text()
    assert "<img src=x" not in text
    assert "from the coldest to the hottest cell of the frame, however near they are" in text
    assert result.target == "real"


def test_rules_other_than_the_default_change_the_maps_and_are_said_in_the_json_and_on_the_page(
    explained, video, trained_run, tmp_path
):
    rules = {"stabilizer": "reference", "clamp": "before_mean", "order": "literal"}
    result = explain_video(video, trained_run, tmp_path, quick(clips_scored=4, clips=2, **rules))
    assert not np.allclose(result.clips[0].temporal, explained.clips[0].temporal, rtol=1e-2)
    settings = json.loads(result.files["data"].read_text())["settings"]
    page = result.files["page"].read_text()
    for name, value in rules.items():
        assert settings[name] == value
        assert f'<th scope="row">{name}</th><td>{value}</td>' in page


def test_attnlrp_writes_the_same_files_with_the_relevance_of_pixels_and_its_conservation(
    video, trained_run, tmp_path, explained
):
    result = explain_video(video, trained_run, tmp_path, quick(method="attnlrp", clips_scored=2))
    assert {path.name for path in tmp_path.iterdir()} >= {"explanation.mp4", "in_frame.mp4", "clip_1.png"}
    [clip] = result.clips
    [values] = json.loads(result.files["data"].read_text())["people"][0]["explained_clips"]
    assert clip.pixels.shape == (6, IMAGE_SIZE, IMAGE_SIZE)
    assert values["conservation"] == pytest.approx(1, abs=1e-4)
    assert values["relevance_at_pixels"] == pytest.approx(clip.pixels.sum() / values["explained_logit"], rel=1e-3)
    for grid, frame in zip(heatmap.smooth(clip.pixels), values["pixels"]["frames"], strict=True):
        assert grid[frame["hottest_cell"]["row"], frame["hottest_cell"]["column"]] == grid.max()
    shown = cv2.cvtColor(cv2.imread(str(result.files["strips"][0])), cv2.COLOR_BGR2RGB)
    frame = decode_frames(video, clip.clip.frames[:1])[0]
    face = heatmap.crop(frame, clip.clip.box, 150)
    pixels = heatmap.normalize(heatmap.smooth(clip.pixels))[0]
    np.testing.assert_array_equal(shown[58 + 154 : 58 + 304, 92:242], heatmap.overlay(face, pixels))
    page = result.files["page"].read_text()
    assert f", {clip.pixels.sum():+.3f} is relevance of pixels" in page
    assert "share of pixel relevance" in page
    assert "<dt>spatial relevance</dt>" not in page


def test_shap_writes_its_values_and_how_sure_they_are(video, trained_run, tmp_path):
    rules = {"tiles": 2, "spans": 3, "evaluations": 60}
    result = explain_video(video, trained_run, tmp_path, quick(method="shap", **rules))
    data, page = json.loads(result.files["data"].read_text()), result.files["page"].read_text()
    [values], [clip] = data["people"][0]["explained_clips"], result.clips
    shap = values["shap"]
    assert np.shape(shap["values"]) == (3, 2, 2)
    assert shap["evaluations"] == 46  # two and four orders of twelve players
    assert shap["additivity_error"] < 1e-5
    sign = 1 if result.target == "fake" else -1
    assert sign * (values["logit"] - shap["baseline_logit"]) == pytest.approx(shap["sum"], abs=1e-4)
    for said in (
        "46 evaluations of the model",
        f"additivity error of {shap['additivity_error']:.1e}",
        f"the largest standard error {shap['largest_standard_error']:.3f}",
        "filled from what is left around them",
        '<th scope="row">evaluations</th><td>60</td>',
    ):
        assert said in page
    assert clip.maps()["tiles"].shape == (6, IMAGE_SIZE, IMAGE_SIZE)
    frame = values["tiles"]["frames"][0]["hottest_cell"]
    if frame is not None:  # the middle of a tile
        assert frame["x"] in (12, 36) and frame["y"] in (12, 36)


@pytest.mark.parametrize(
    ("bound", "says"), [(200, "The verdict of this clip turns: "), (0.001, "No change within the")]
)
def test_the_face_with_its_enlarged_change_is_marked_as_made_and_the_page_says_whether_the_verdict_turned(
    video, trained_run, tmp_path, bound, says
):
    result = explain_video(video, trained_run, tmp_path, quick(method="counterfactual", bound=bound, steps=15))
    [values] = json.loads(result.files["data"].read_text())["people"][0]["explained_clips"]
    page, [clip] = result.files["page"].read_text(), result.clips
    found = values["counterfactual"]
    assert found["called_target"] and found["verdict_turned"] == (bound == 200)
    assert 0 < found["largest_change"] <= bound * 1.001
    assert found["largest_change"] == pytest.approx(np.abs(clip.change).max() * 127.5, rel=1e-4)
    assert says in page and "was made by this program" in page
    assert f"drawn {values['enlarged']} times as large" in page
    shown = cv2.cvtColor(cv2.imread(str(result.files["strips"][0])), cv2.COLOR_BGR2RGB)
    frame = decode_frames(video, clip.clip.frames[:1])[0]
    face = heatmap.crop(frame, clip.clip.box, 150)
    made = shown[58 + 154 : 58 + 304, 92:242]
    np.testing.assert_array_equal(shown[58 : 58 + 150, 92:242], face)
    np.testing.assert_array_equal(made, pictures.made_picture(face, values["enlarged"] * clip.change[0]))
    assert (made[0] == made[0, 0]).all() and made[0, 0].tolist() == [255, 214, 10]  # its border
    size = heatmap.normalize(clip.maps()["change"])[0]
    np.testing.assert_array_equal(shown[58 + 308 : 58 + 458, 92:242], heatmap.overlay(face, size))


def test_more_or_fewer_evaluations_than_can_be_used_are_one_sentence_before_the_video_is_read(
    video, trained_run, tmp_path
):
    settings = quick(method="shap", evaluations=10_000_000, time_limit=0.01, clips=3)
    with pytest.raises(InputError, match="evaluations is 10000000: 3 clips would take about"):
        explain_video(tmp_path / "absent.mp4", trained_run, tmp_path / "out", settings)
    with pytest.raises(InputError, match="evaluations is 10; expected at least 97, which one order of 96 players"):
        explain_video(tmp_path / "absent.mp4", trained_run, tmp_path / "out", quick(method="shap", evaluations=10))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("method", "read"), [("gradient", {"clamp", "order"}), ("rollout", {"order"}), ("raw", set()), ("gradcam", set())]
)
def test_a_rule_that_the_method_does_not_read_is_not_among_its_settings(video, trained_run, tmp_path, method, read):
    """It was written down as if it had been applied."""
    result = explain_video(video, trained_run, tmp_path, quick(method=method))
    settings = json.loads(result.files["data"].read_text())["settings"]
    assert settings.keys() & {"stabilizer", "clamp", "order"} == read


def test_the_settings_of_an_explanation_are_those_it_was_given_and_those_that_are_written(explained):
    assert explained.settings == quick(clips_scored=4, clips=2)
    written = json.loads(explained.files["data"].read_text())["settings"]
    assert written.items() >= (explained.settings.to_dict() | {"detector": "none"}).items()
    assert written.keys() - explained.settings.to_dict().keys() == {"checkpoint", "model"}
    page = explained.files["page"].read_text()
    assert '<th scope="row">clips_scored</th><td>4</td>' in page
    assert '<th scope="row">person</th>' not in page  # none was chosen


def test_strips_of_an_explanation_with_more_clips_do_not_stay_and_nothing_else_goes(video, trained_run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "clip_4.png").write_text("not of an explanation: there is no explanation here yet")
    settings = quick(clips_scored=4, clips=1)
    model = load_model(trained_run)[0]
    first = explain_video(video, model, out, settings)
    assert (out / "clip_4.png").is_file()
    for name in ("clip_2.png", "clip_30.png", "clip_art.png"):
        (out / name).write_bytes(first.files["strips"][0].read_bytes())
    second = explain_video(video, model, out, settings)
    assert second.files["strips"] == [out / "clip_1.png"]
    assert {path.name for path in out.glob("*.png")} == {"clip_1.png", "clip_art.png"}


def test_clips_that_cannot_be_decoded_are_listed_with_their_first_frame(video, trained_run, tmp_path, monkeypatch):
    undecodable(monkeypatch, frames=range(2))
    result = explain_video(video, trained_run, tmp_path, quick(clips_scored=5))
    assert result.skipped == [(0, "frame 0 is damaged"), (1, "frame 1 is damaged")]
    assert [frames[0] for frames in result.score.clip_frames] == [2, 3, 4]
    data = json.loads(result.files["data"].read_text())
    assert data["people"][0]["skipped"][1] == {"first_frame": 1, "reason": "frame 1 is damaged"}
    assert "From frame 1: frame 1 is damaged" in result.files["page"].read_text()


def test_a_model_of_one_block_has_no_spatial_heat_and_everything_is_written_all_the_same(video, tmp_path):
    from istvt import ISTVT, ISTVTConfig

    model = ISTVT(ISTVTConfig(image_size=40, dim=16, heads=2, depth=1, mlp_dim=24, backbone_dims=(4, 4, 8, 8)))
    result = explain_video(video, model, tmp_path, quick())
    assert not result.clips[0].spatial.any()
    data = json.loads(result.files["data"].read_text())
    spatial = data["people"][0]["explained_clips"][0]["spatial"]
    assert spatial["frames"][0]["hottest_cell"] is None
    assert (spatial["share_of_all_heat"], spatial["drawn_dim"]) == (0, True)
    assert "no heat" in result.files["page"].read_text()


def test_a_map_that_holds_almost_no_heat_is_drawn_dim_and_says_so():
    heat = np.ones((1, 8, 8), np.float32)
    faint, plain = (pictures.HeatPanel("spatial", heat, share) for share in (0.004, 0.4))
    assert plain.title == ("spatial relevance", "40.0 % of heat")
    assert faint.title == ("spatial relevance", "0.4 % of heat, dim")
    assert pictures.HeatPanel("spatial", heat, 0.0).title == ("spatial relevance", "no heat")
    picture = np.full((8, 8, 3), 90, np.uint8)
    bright, dim = (heatmap.overlay(picture, panel.frame(3)).mean() for panel in (plain, faint))
    assert dim < 0.7 * bright


def test_the_page_says_of_each_map_its_share_of_all_heat_and_what_it_can_and_cannot_say(explained):
    text = explained.files["page"].read_text()
    for clip in json.loads(explained.files["data"].read_text())["people"][0]["explained_clips"]:
        for kind in clip.keys() & pictures.PANEL_TITLES.keys():
            title = pictures.PANEL_TITLES[kind]
            dim = " (drawn dim)" if clip[kind]["drawn_dim"] else ""
            part = clip[kind]["share_of_all_heat"]
            share = "under 0.1" if 0 < part < 0.001 else f"{100 * part:.1f}"  # as the picture above says it
            assert f"{title} holds {share}&thinsp;%{dim}" in text
    for kind in explained.clips[0].maps():
        title = pictures.PANEL_TITLES[kind]
        (note,) = re.findall(rf"<dt>{title}</dt><dd[^>]*>(.*?)</dd>", text)
        assert note.startswith("Can say") and "Cannot say" in note
        assert ("how each frame differs from the one before it" in note) == (kind == "temporal")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"target": "forged"}, "target is 'forged'; expected one of verdict, fake, real"),
        ({"method": "lime"}, "method is 'lime'"),
        ({"normalization": "video"}, "normalization is 'video'"),
        ({"stabilizer": -1.0}, "stabilizer is -1.0"),
        ({"clamp": "never"}, "clamp is 'never'; expected one of after_mean, before_mean"),
        ({"method": "raw", "stabilizer": 0.3}, "stabilizer is 0.3, but method raw reads none; expected method lrp"),
        (
            {"method": "gradcam", "order": "literal"},
            "order is 'literal', but method gradcam reads none; expected method lrp or gradient or rollout",
        ),
        ({"order": "random"}, "order is 'random'; expected one of last_block_first, literal"),
        ({"clips": 0}, "clips is 0; expected 1 or more"),
        ({"clips_scored": 0}, "clips_scored is 0; expected 1 or more"),
        ({"person": 0}, "person is 0; expected 1 or more"),
        ({"batch_size": 0.5}, "batch_size is 0.5; expected a whole number from 1 to 65,536"),
    ],
)
def test_a_wrong_argument_is_one_sentence_and_nothing_is_written(video, trained_run, tmp_path, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        explain_video(video, trained_run, tmp_path / "out", quick(**arguments))
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_video_is_one_sentence(trained_run, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(InputError, match=r"text\.mp4"):
        explain_video(tmp_path / "text.mp4", trained_run, tmp_path / "out", quick())
