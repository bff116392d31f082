"""A detector of `blend` learns `flicker` from few videos and keeps what it knows; the page says what was measured."""

import json
import shutil

import numpy as np
import pytest
from video_scores import random_scores

from bench.__main__ import main
from bench.experiments import adaptation
from bench.experiments.adaptation import ALONE, ARMS, BEFORE, JUDGE, NEW, OLD, Row, all_rows, draw_few, page
from dataloading import read_dataset
from istvt.evaluation.seeds import mean_metrics

ADAPTED, *OTHERS, PLAIN = ARMS


@pytest.fixture
def drawn(synthetic_set, tmp_path, monkeypatch):
    """A folder of the experiment with the videos of 8 people, of whose two training pairs both show the new forgery."""
    monkeypatch.setattr(adaptation, "PART", 1)
    shutil.copytree(synthetic_set, tmp_path / "videos")
    return tmp_path


def test_the_few_videos_are_links_into_the_whole_set_with_splits_of_their_own(synthetic_set, drawn):
    few = draw_few(drawn)
    assert draw_few(drawn) == few
    assert (few.root / "original_sequences").is_symlink()
    whole, found = read_dataset(synthetic_set).select(manipulation=NEW), read_dataset(few.root).select(manipulation=NEW)
    names = {split: {video.name for video in found.split_videos(split)} for split in ("train", "val", "test")}
    assert [len(of) for of in names.values()] == [2, 2, 2]
    assert names["train"] | names["val"] == {video.name for video in whole.split_videos("train")}
    assert names["test"] == {video.name for video in whole.split_videos("test")}
    pairs = json.loads((synthetic_set / "splits" / "train.json").read_text())
    assert json.loads((few.root / "splits" / "val.json").read_text()) == pairs[:1]


def test_the_page_says_what_is_lost_and_what_was_not_run(drawn):
    draw_few(drawn)

    def metric(gap, before=()):
        sets = [random_scores(40, 40, seed, gap=gap) for seed in (0, 1)]
        return mean_metrics(sets, before, bootstrap=50)["auc"]

    known = [random_scores(40, 40, seed, gap=1.5) for seed in (0, 1)]
    rows = {
        BEFORE: Row([0, 1], {OLD: metric(1.5), NEW: metric(0)}),
        ADAPTED: Row([0, 1], {OLD: metric(1.5, known), NEW: metric(1)}),
        PLAIN: Row([0, 1], {OLD: metric(0.3, known), NEW: metric(1)}),
        ALONE: Row([0], {OLD: metric(0), NEW: metric(0.1)}),
        JUDGE: Row([], {NEW: metric(3)}),
    }
    text = " ".join(page(rows, drawn).split())
    kept, lost = text.split("With a plain continuation")
    assert "changes by +0.000 (+0.000 to +0.000): at most 2 points are lost." in kept
    assert "more than 2 points are lost." in lost
    assert "slows down the learning" not in text
    never = "; ".join(f"{arm} with seed 0, 1, 2" for arm in OTHERS)
    lacking = f"{ADAPTED} with seed 2; {never}; {PLAIN} with seed 2; {ALONE} with seed 1, 2."
    assert f"Missing: {lacking}" in text
    assert "shown by 4 of them, real and forged: 2 to train on, 2 to choose the epoch by" in text


@pytest.mark.exhaustive
def test_a_detector_of_blend_learns_flicker_from_a_tenth_of_the_videos_and_keeps_blend(tmp_path):
    """`make adaptation`: what `python -m bench adaptation --seeds 0` measures, drawn and trained from nothing."""
    assert main(["adaptation", f"--output={tmp_path}", f"--documents={tmp_path / 'docs'}", "--seeds", "0"]) == 0
    whole, few = (json.loads((tmp_path / of / "splits/train.json").read_text()) for of in ("videos", "few"))
    assert 0 < len(few) <= 0.1 * len(whole)
    rows = all_rows(tmp_path, [0])
    learned, kept = rows[ADAPTED].auc[NEW], rows[ADAPTED].auc[OLD]
    assert learned.mean.low > 0.5
    assert learned.mean.value > rows[BEFORE].auc[NEW].mean.value + 0.05
    assert kept.change.value >= -adaptation.MOST_LOST
    assert rows[PLAIN].auc[OLD].change.value < kept.change.value
    assert np.isfinite(rows[JUDGE].auc[NEW].mean.value)
