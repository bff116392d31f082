"""The summary of an evaluation in the terminal."""

from video_scores import printed, random_scores

from istvt.evaluation.metrics import compute_metrics


def test_the_terminal_shows_intervals_manipulations_and_clips_within_eighty_columns():
    scores = random_scores(40, 60, manipulations=("Deepfakes", "[b]NeuralT"))
    evaluation = compute_metrics(scores, bootstrap=100)
    text = printed(evaluation, width=80)
    assert max(map(len, text.splitlines())) <= 80
    result = evaluation.videos
    assert f"{result.auc.value:.3f}   {result.auc.low:.3f} to {result.auc.high:.3f}" in text
    assert "[b]NeuralT" in text
    assert "By clip, not by video: 400 clips" in text
    assert result.classification_report.splitlines()[2] in text
