"""Scores of the people of a video: by shot and over all, whose is that of the video, and what is not scored and why."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from face_fixtures import detector_or_skip, talking_face
from hypothesis import given
from hypothesis import strategies as st

from dataloading.clips.sampling import evaluation_clips
from dataloading.dataset import Video
from dataloading.errors import InputError
from dataloading.face_index import FaceEntry, FaceIndex, FaceTrack
from dataloading.layouts import open_dataset
from istvt.config import DataSettings
from istvt.evaluation.evaluate import evaluate_split
from istvt.inference import people as scoring
from istvt.inference.people import ShotScore, person_probability, score_people, small_face_remark
from istvt.inference.predict import face_entry, predict
from istvt.inference.score import ScoredClips, score_clips
from istvt.inference.video_score import probability_of
from istvt.model.checkpoint import load_model

MODEL = SimpleNamespace(config=SimpleNamespace(frames=6, image_size=64), parameters=lambda: iter([torch.zeros(1)]))
VIDEO = Path("edited.mp4")


def face(ranges, x=100.0, size=80.0):
    """A face that is recorded in every fifth frame of each of these ranges, at one place."""
    frames = sorted({frame for first, last in ranges for frame in (*range(first, last + 1, 5), last)})
    return FaceTrack(frames, [x] * len(frames), [90.0] * len(frames), [size] * len(frames))


def entry(faces, shots=((0, 39), (40, 79), (80, 119)), **more):
    main, *others = faces
    return FaceEntry("edited", 120, 25.0, 640, 360, "yuface", main, shots=shots, others=tuple(others), **more)


@pytest.fixture
def judged(monkeypatch):
    """Clips are judged by a rule instead of a model: called with (box's middle x, first frame), it gives a logit."""

    def judge_by(rule):
        def score(model, clips, *, advance=None, **_):
            logits = [rule((clip.box[0] + clip.box[2]) / 2, int(clip.frames[0])) for clip in clips]
            if advance:
                advance(len(clips))
            qualities = np.ones((2, len(clips)))
            return ScoredClips(list(clips), np.array(logits, np.float64), [], "pyav", *qualities)

        monkeypatch.setattr(scoring, "score_clips", score)

    return judge_by


def shots_of(*probabilities):
    return [ShotScore(number, 0, 9, p, 1) for number, p in enumerate(probabilities, start=1)]


probabilities = st.floats(0, 1)


@given(st.lists(probabilities, min_size=1, max_size=9))
def test_a_person_of_one_shot_has_the_mean_of_its_clips_bit_for_bit(clips):
    assert person_probability(clips, shots_of(0.999)) == float(np.mean(clips))


@given(st.lists(probabilities, min_size=2, max_size=20))
def test_a_person_of_several_shots_is_between_its_mean_and_its_worst_shot(shots):
    probability = person_probability(shots, shots_of(*shots))
    assert np.mean(shots) <= probability <= max(np.mean(shots), max(shots)) + 1e-15


def test_one_forged_shot_makes_a_person_fake_and_many_doubtful_ones_do_not():
    """The mean of 14 shots hides one that is forged, and the highest of 14 honest ones is high by chance."""
    assert person_probability([0.1, 0.97], shots_of(0.1, 0.97)) == pytest.approx(0.97 / (0.97 + 2 * 0.03))
    assert person_probability([0.1] * 13 + [0.99], shots_of(*[0.1] * 13, 0.99)) > 0.8
    assert person_probability([0.1] * 13 + [0.8], shots_of(*[0.1] * 13, 0.8)) < 0.5


def test_the_verdict_of_a_video_is_that_of_its_most_suspicious_person_and_says_where_and_when(judged):
    """The main person is real in all three shots; the other one is forged in the second."""
    found = entry([face([(0, 39), (40, 79), (80, 119)]), face([(0, 39), (40, 79)], x=400, size=50)])
    judged(lambda x, first: 5.0 if x > 300 and first >= 40 else -4.0)
    scored = score_people(MODEL, VIDEO, found)
    real, fake = scored.people
    assert (real.verdict, fake.verdict, scored.most_suspicious) == ("real", "fake", fake)
    assert (real.number, fake.number) == (1, 2)
    assert (real.name, fake.name) == ("person 1", "person 2")
    assert fake.most_suspicious_shot.place(25.0) == "shot 2 (1.6 to 3.2 s)"
    assert [shot.clips for shot in fake.shots] == [4, 4]
    assert np.mean(fake.clip_probabilities) < 0.51
    assert fake.probability == pytest.approx(1 / (1 + 2 * np.exp(-5.0)), rel=1e-9)
    assert 40 <= fake.clip_frames[fake.surest_clip][0] <= 74
    assert (fake.box[0] + fake.box[2]) / 2 == 400
    assert [(person.seconds, person.size) for person in scored.people] == [(4.8, 80), (3.2, 50)]
    assert scored.not_scored == []


def test_no_clip_of_any_person_spans_a_cut_and_each_shot_has_one(judged):
    judged(lambda x, first: 0.0)
    [person] = score_people(MODEL, VIDEO, entry([face([(0, 119)])]), clips=5).people
    assert all(frames[0] // 40 == frames[-1] // 40 for frames in person.clip_frames)
    assert {frames[0] // 40 for frames in person.clip_frames} == {0, 1, 2}
    assert len(person.clip_frames) == 5


def test_the_main_face_alone_has_the_mean_of_evenly_spread_clips_as_the_evaluation_of_a_data_set(judged):
    judged(lambda x, first: 6.0 if first < 40 else -6.0)
    found = entry([face([(0, 119)]), face([(0, 39)], x=400)])
    [main] = score_people(MODEL, VIDEO, found, faces="main").people
    video = Video(VIDEO, 0, "x", None, "edited", "edited")
    clips = evaluation_clips([video], FaceIndex({"edited": found}), 6, 8, None)
    assert main.clip_frames == [clip.frames.tolist() for clip in clips]
    assert main.probability == float(np.mean(main.clip_probabilities))


def test_a_person_too_brief_for_a_clip_is_named_with_the_reason(judged):
    judged(lambda x, first: 0.0)
    found = entry([face([(0, 39)]), face([(50, 53)], x=400)], brief=((60, 64, 33.4), (70, 70, 20.0)), briefs=2)
    scored = score_people(MODEL, VIDEO, found)
    assert [person.number for person in scored.people] == [1]
    needs = "is not scored: a clip needs the same face in 6 frames of one shot"
    assert scored.not_scored == [
        "person 2 is not scored: edited.mp4: shows a face in frames 50 to 53 only; a clip needs 6 frames.",
        f"a face of 33 pixels in frames 60 to 64 (2.4 to 2.6 s) {needs}",
        f"a face of 20 pixels in frame 70 (2.8 s) {needs}",
    ]
    with pytest.raises(InputError, match="edited shows 2 people, and person is 3; expected 1 to 2"):
        score_people(MODEL, VIDEO, found, person=3)
    with pytest.raises(InputError, match=r"shows a face in frames 50 to 53 only; a clip needs 6 frames\.$"):
        score_people(MODEL, VIDEO, found, person=2)


def test_of_a_thousand_people_in_a_crowd_the_largest_are_scored_and_the_bound_is_said(judged):
    judged(lambda x, first: -1.0)
    crowd = [face([(0, 39)], x=float(number), size=30) for number in range(1000)]
    found = entry(crowd, brief=tuple((80, 81, 20.0 - k / 10) for k in range(20)), briefs=4321)
    scored = score_people(MODEL, VIDEO, found)
    assert [person.number for person in scored.people] == list(range(1, 9))
    first, *brief, rest = scored.not_scored
    assert first.startswith("1000 people were found; the 8 largest and longest seen are scored (person 9 to 1000 can")
    assert len(brief) == 3
    assert rest == "4318 more faces are too brief for a clip"
    [chosen] = score_people(MODEL, VIDEO, found, person=1000).people
    assert (chosen.number, chosen.name) == (1000, "person 1000")


def test_a_face_much_smaller_than_the_models_input_has_a_remark_with_its_size():
    assert small_face_remark(30.0, 300) == (
        "its face is 30 pixels large and enlarged 8.0 times: fine traces cannot be seen"
    )
    assert small_face_remark(100.0, 300) is None
    assert small_face_remark(None, 300) is None


def old_path(model, path, found, clips=8):
    """The score of a video as it was before there were people: evenly spread clips of the main face, their mean."""
    video = Video(path, 0, "unlabeled", None, found.video, found.video)
    chosen = evaluation_clips([video], FaceIndex({found.video: found}), model.config.frames, clips, None)
    scored = score_clips(model, chosen, batch_size=8, workers=1)
    return [clip.frames.tolist() for clip in scored.clips], float(np.mean(probability_of(scored.logits)))


def test_a_video_of_one_shot_and_one_person_has_the_score_of_before_there_were_people_bit_for_bit(
    trained_run, synthetic_set
):
    model, info = load_model(trained_run)
    videos = sorted((synthetic_set / "manipulated_sequences").rglob("c23/videos/*.mp4"))[:2]
    cases = [(path, None, False) for path in videos]
    cases.append((talking_face(), detector_or_skip("yuface").name, True))
    for path, detector, detect in cases:
        found = face_entry(path, detector, model.config.frames)
        assert len(found.shots) == 1
        frames, expected = old_path(model, path, found)
        for faces in ("all", "main"):
            [prediction] = predict(model, [path], info=info, detect=detect, faces=faces, workers=1)
            assert len(prediction.people) == 1
            assert prediction.score.clip_frames == frames
            assert prediction.score.probability == expected


def test_the_evaluation_of_a_data_set_has_one_line_a_video_with_the_score_that_predict_gives_its_main_face(
    trained_run, synthetic_set
):
    model, info = load_model(trained_run)
    dataset, index = open_dataset(synthetic_set)
    _, scores = evaluate_split(model, info, dataset, index, DataSettings(root=synthetic_set), bootstrap=10)
    assert [score.name for score in scores] == [video.name for video in dataset.split_videos("test")]
    for score in scores[::3]:
        [prediction] = predict(model, [score.path], info=info, faces="main", clips=4, workers=1)
        assert prediction.score.clip_frames == score.clip_frames
        assert prediction.score.probability == score.probability


def test_an_evaluation_of_faces_whose_shots_are_not_known_says_so(trained_run, synthetic_set):
    """Only `prepare` said it, and its output is gone when the report is read."""
    model, info = load_model(trained_run)
    dataset, index = open_dataset(synthetic_set)
    settings = DataSettings(root=synthetic_set, evaluation_clips=1)
    whole, _ = evaluate_split(model, info, dataset, index, settings, bootstrap=10)
    assert not any("shots" in note for note in whole.notes)
    for found in index:
        boxes = FaceTrack([0, found.frames - 1], [24.0, 24.0], [24.0, 24.0], [30.0, 30.0])
        index.entries[found.video] = replace(found, boxes=boxes, detector="yuface")
    evaluation, scores = evaluate_split(model, info, dataset, index, settings, bootstrap=10)
    note = f"The shots of {len(scores)} of the {len(scores)} videos are not known: a clip of theirs may span a cut."
    assert note in evaluation.notes
