"""The score of a video is the mean of its clips' probabilities."""

import numpy as np
import pytest
from video_scores import clip_of

from dataloading.errors import InputError
from istvt.evaluation.metrics import epoch_metrics
from istvt.inference.video_score import score_videos


def test_the_same_file_name_in_two_manipulations_stays_two_videos():
    clips = [clip_of(folder, start, 1) for start in (0, 12) for folder in ("Deepfakes", "Face2Face")]
    scores = score_videos(clips, [4.0, -4.0, 2.0, -2.0])
    assert [score.name for score in scores] == ["Deepfakes/000_001", "Face2Face/000_001"]
    assert [score.verdict for score in scores] == ["fake", "real"]
    assert [len(score.clip_probabilities) for score in scores] == [2, 2]


def test_a_video_scores_the_mean_of_its_clip_probabilities_in_the_order_of_their_frames():
    clips = [clip_of("original", 24), clip_of("original", 0), clip_of("original", 12)]
    logits = np.array([3.0, -1.0, 0.5])
    (score,) = score_videos(clips, logits)
    probabilities = 1 / (1 + np.exp(-logits[[1, 2, 0]]))
    assert score.clip_probabilities == pytest.approx(probabilities.tolist())
    assert score.probability == pytest.approx(probabilities.mean())
    assert [frames[0] for frames in score.clip_frames] == [0, 12, 24]
    assert all(isinstance(frame, int) for frames in score.clip_frames for frame in frames)


def test_a_large_logit_is_a_probability_and_not_an_overflow():
    clips = [clip_of("a", 0, 1), clip_of("b", 0)]
    with np.errstate(all="raise", under="ignore"):
        scores = score_videos(clips, [-1000.0, 1000.0])
        loss = epoch_metrics(scores)["loss"]
    assert [score.probability for score in scores] == [0.0, 1.0]
    assert 30 < loss < 40


def test_a_logit_of_exactly_zero_is_called_real():
    (score,) = score_videos([clip_of("a", 0, 1)], [0.0])
    assert (score.probability, score.verdict, score.is_correct()) == (0.5, "real", False)


@pytest.mark.parametrize(
    ("logits", "sentence"),
    [
        ([1.0, 2.0], "one number for each of the 1 clips"),
        ([float("nan")], "The model gave nan for a clip of a/000_001"),
    ],
)
def test_logits_that_are_no_score_are_refused_in_one_sentence(logits, sentence):
    with pytest.raises(InputError, match=sentence):
        score_videos([clip_of("a", 0)], logits)
