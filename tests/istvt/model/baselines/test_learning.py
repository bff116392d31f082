"""Every small detector learns `blend` of the synthetic set, and one that judges frames alone cannot see `flicker`.

`make detectors`. Each test trains one detector with the steps of a training run, on clips that were decoded once for
all of them, and prints the AUC by video, with its 95 % interval, of people that it was not trained on. No step of it
looks at them. Of 40 real and 40 forged videos a detector that saw nothing would have .5, with a standard error of .065.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from istvt.cli.demo import TRAINING, VIDEO_FRAMES, VIDEO_SIZE
from istvt.model.architectures import ARCHITECTURES, build, model_preset

pytestmark = pytest.mark.exhaustive

IDENTITIES, SPLITS, SIDE = 160, (0.6, 0.15, 0.25), 64
# Steps of 8 clips. A transformer over patches has to learn first what a convolution begins with: neighborhood.
STEPS, RATE = 300, 1e-3
LONGER = {"timesformer": 1000, "vivit": 1000}


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """160 people, each in one real video and one fake of each kind."""
    from dataloading import read_dataset
    from dataloading.faces.prepare import prepare
    from dataloading.synthetic import synthesize

    root = tmp_path_factory.mktemp("learning") / "videos"
    drawing = {"frames": VIDEO_FRAMES, "size": VIDEO_SIZE, "splits": SPLITS}
    synthesize(root, identities=IDENTITIES, **drawing, workers=1, progress=False)
    prepare(read_dataset(root), detect=False)
    return root


@pytest.fixture(scope="session")
def decoded(drawn):
    """A function of manipulation and split: clips of all frames of its videos, and these frames [n, 16, 3, H, W]."""
    from dataloading.clips.loader import ClipLoader
    from dataloading.clips.sampling import evaluation_clips
    from dataloading.layouts import open_dataset

    @cache
    def read(manipulation, split):
        dataset, index = open_dataset(root=drawn, manipulations=[manipulation])
        clips = evaluation_clips(dataset.split_videos(split), index, VIDEO_FRAMES, 1)
        batches = list(ClipLoader(list(clips), 16, SIDE, decoder="pyav", workers=1))
        order = torch.cat([batch.indices for batch in batches])
        assert order.tolist() == list(range(len(clips)))
        return clips, torch.cat([batch.clips for batch in batches])

    return read


def trained(name, clips, frames):
    """A small detector after its steps on parts of the clips, half of each batch real and half forged."""
    from dataloading.clips.loader import Batch
    from istvt.training.distributed import Processes
    from istvt.training.optim import build_optimizer, warmup_cosine
    from istvt.training.step import TrainingStep

    torch.manual_seed(0)
    random = np.random.default_rng(0)
    config, steps = model_preset(name), LONGER.get(name, STEPS)
    assert config.image_size == SIDE
    settings = replace(TRAINING, learning_rate=RATE)
    model = build(config).train()
    step = TrainingStep(model, model, build_optimizer(model, settings), torch.float32, settings, Processes())
    labels = np.array([clip.label for clip in clips])
    of_class = [np.flatnonzero(labels == label) for label in (0, 1)]
    for number in range(steps):
        chosen = np.concatenate([random.choice(members, 4, replace=False) for members in of_class])
        starts = random.integers(0, VIDEO_FRAMES - config.frames + 1, len(chosen))
        pictures = torch.stack([frames[i, at : at + config.frames] for i, at in zip(chosen, starts, strict=True)])
        turned = torch.from_numpy(random.random(len(chosen)) < 0.5)
        pictures = torch.where(turned[:, None, None, None, None], pictures.flip(-1), pictures)
        batch = Batch(pictures, torch.from_numpy(labels[chosen]).float(), torch.from_numpy(chosen))
        step(iter([batch]), 1, RATE * warmup_cosine(number, steps / 20, steps))
    assert step.counts().skipped_steps == 0
    return model.eval()


def auc(name, manipulation, decoded):
    """The AUC by video of a small detector that is trained and tested on one manipulation, with its interval."""
    from istvt.evaluation.metrics import compute_metrics
    from istvt.inference.video_score import score_videos

    model = trained(name, *decoded(manipulation, "train"))
    clips, frames = decoded(manipulation, "test")
    last = VIDEO_FRAMES - model.config.frames
    scored, logits = [], []
    with torch.inference_mode():
        for at in sorted({0, last // 2, last}):
            found = [model(part[:, at : at + model.config.frames]) for part in frames.split(16)]
            logits.append(torch.cat(found).double().numpy())
            scored += [replace(clip, frames=clip.frames[at : at + model.config.frames]) for clip in clips]
    found = compute_metrics(score_videos(scored, np.concatenate(logits))).videos.auc
    print(f"\n{name} on {manipulation}: AUC {found}", flush=True)
    return found.value


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "istvt"])
def test_it_learns_blend(name, decoded):
    assert auc(name, "blend", decoded) > 0.8


def test_xception_by_frame_cannot_see_flicker(decoded):
    assert abs(auc("xception", "flicker", decoded) - 0.5) < 3 * 0.065


def test_what_compares_frames_sees_flicker_in_the_same_clips(decoded):
    """So that the test above is one of the detector, and not of the clips."""
    assert auc("vtn", "flicker", decoded) > 0.8
