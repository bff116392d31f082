"""Scoring of clips: the device of the clips, the mode of the model."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dataloading import FaceIndex, read_dataset
from dataloading.clips.loader import ClipLoader
from dataloading.clips.sampling import evaluation_clips
from istvt import ISTVT, ISTVTConfig
from istvt.inference import score as scoring
from istvt.inference.video_score import probability_of
from istvt.model.checkpoint import load_model
from istvt.run_dir import model_file


class ModelOnTheSecondGPU:
    """A model with parameters on the second GPU; without a clip nothing else is used of it."""

    config = SimpleNamespace(image_size=40)

    def parameters(self):
        yield SimpleNamespace(device=torch.device("cuda", 1))

    def modules(self):
        return []

    def eval(self):
        return self


def test_clips_are_loaded_onto_the_very_gpu_that_holds_the_model(monkeypatch):
    """Once "cuda:1" became "cuda", the first GPU, and the model met clips of another device."""
    devices = []

    class Loader:
        decoder, skipped = "pyav", ()

        def __init__(self, *arguments, device, **named):
            devices.append(torch.device(device))

        def __iter__(self):
            return iter(())

    monkeypatch.setattr(scoring, "ClipLoader", Loader)
    scoring.score_clips(ModelOnTheSecondGPU(), [])
    assert devices == [torch.device("cuda", 1)]


def test_scoring_leaves_every_part_of_the_model_in_its_own_mode_whatever_happens(monkeypatch):
    """Once a frozen backbone was put into training by it, and an error left the model in evaluation mode."""

    def fails(*_):
        raise RuntimeError("the GPU is gone")

    monkeypatch.setattr(scoring, "ClipLoader", lambda *_, **__: map(fails, [None]))
    model = ISTVT(ISTVTConfig(image_size=40, dim=16, heads=2, depth=1, mlp_dim=24, backbone_dims=(4, 4, 8, 8)))
    model.train().backbone.eval()
    with pytest.raises(RuntimeError, match="the GPU is gone"):
        scoring.score_clips(model, [])
    assert [name for name, part in model.named_children() if not part.training] == ["backbone"]
    assert model.training


def test_probabilities_in_bfloat16_and_with_folded_batch_norms_are_those_of_float32(synthetic_set, trained_run):
    dataset = read_dataset(synthetic_set)
    model, _ = load_model(model_file(trained_run))
    clips = evaluation_clips(dataset.split_videos("test"), FaceIndex.read(dataset.root), model.config.frames, 2, None)
    scored = scoring.score_clips(model, clips, workers=1)
    in_bfloat16 = scoring.score_clips(model, clips, workers=1, dtype=torch.bfloat16)
    plain = []
    with torch.no_grad(), scoring.in_evaluation_mode(model):
        for batch in scoring.ClipLoader(list(clips), 8, model.config.image_size, workers=1):
            plain.append(model(batch.clips))
    plain = torch.cat(plain).numpy()
    assert len(plain) >= 8 and np.ptp(plain) > 0
    np.testing.assert_allclose(scored.logits, plain, atol=1e-4)
    assert np.abs(probability_of(in_bfloat16.logits) - probability_of(scored.logits)).max() < 0.01
    assert in_bfloat16.logits.tolist() != scored.logits.tolist()


def test_scores_of_a_model_trained_with_clips_of_the_dali_graph_stay_what_they_were(
    synthetic_set, trained_run, monkeypatch
):
    """On a CPU clips are no longer resized by DALI: that may move a score by rounding and no more."""
    dataset = read_dataset(synthetic_set)
    model, _ = load_model(model_file(trained_run))
    clips = evaluation_clips(dataset.split_videos("test"), FaceIndex.read(dataset.root), model.config.frames, 2, None)
    scored = scoring.score_clips(model, clips, workers=1)

    def by_dali(*arguments, **named):
        loader = ClipLoader(*arguments, **named)
        loader._by_dali = True
        return loader

    monkeypatch.setattr(scoring, "ClipLoader", by_dali)
    before = scoring.score_clips(model, clips, workers=1)
    assert len(scored.logits) >= 8 and np.ptp(before.logits) > 0
    assert np.abs(scored.logits - before.logits).max() < 0.01 * np.ptp(before.logits)
    assert [*np.argsort(scored.logits)] == [*np.argsort(before.logits)]
