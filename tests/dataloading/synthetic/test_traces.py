"""Traces of each manipulation in one frame and in two: measured on decoded files and unseen people."""

import json

import av
import cv2
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dataloading.synthetic import synthesize

FRAMES, SIZE, CLIP = 12, 96, 6
DCT = np.array(
    [[np.sqrt((1 + (k > 0)) / 8) * np.cos(np.pi * (n + 0.5) * k / 8) for n in range(8)] for k in range(8)], np.float32
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    directory = tmp_path_factory.mktemp("traces") / "set"
    synthesize(directory, identities=48, frames=FRAMES, size=SIZE, splits=(2, 0, 1), progress=False)
    return directory


def videos(root, split, manipulation):
    """Frames uint8 `[FRAMES, SIZE, SIZE, 3]`, coded bytes a frame, and the person, for each video."""
    for pair in json.loads((root / "splits" / f"{split}.json").read_text()):
        for target, source in (pair, pair[::-1]):
            path = root / "original_sequences/youtube/c23/videos" / f"{target}.mp4"
            if manipulation != "original":
                path = root / "manipulated_sequences" / manipulation / "c23/videos" / f"{target}_{source}.mp4"
            with av.open(str(path)) as container:
                sizes, frames = [], []
                for packet in container.demux(video=0):
                    sizes += [packet.size] if packet.size else []
                    frames += [frame.to_ndarray(format="rgb24") for frame in packet.decode()]
            yield np.stack(frames), sizes, int(target)


def frame_features(frame, coded_bytes):
    """Colors, contrast, gradients, noise, block edges and DCT spectrum of one frame, and what it cost to code."""
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    across, down = np.abs(np.diff(gray, axis=1, append=0)), np.abs(np.diff(gray, axis=0, append=0))
    residual = np.abs(gray - cv2.GaussianBlur(gray, (0, 0), 1.0))
    energies = [np.log1p(cv2.resize(e, (8, 8), interpolation=cv2.INTER_AREA)) for e in (across + down, residual)]
    contrast = np.log1p(gray.reshape(8, SIZE // 8, 8, SIZE // 8).var(axis=(1, 3)))
    blocks = gray.reshape(SIZE // 8, 8, SIZE // 8, 8).transpose(0, 2, 1, 3)
    spectrum = np.log1p(np.abs(DCT @ blocks @ DCT.T).mean(axis=(0, 1)))
    block_edges = [across[:, k::8].mean() for k in range(8)] + [down[k::8].mean() for k in range(8)]
    pixels = cv2.resize(frame, (12, 12), interpolation=cv2.INTER_AREA)
    parts = [pixels, *energies, contrast, spectrum, np.array(block_edges), np.array([coded_bytes])]
    return np.concatenate([part.ravel() for part in parts])


@pytest.fixture(scope="module")
def single_frames(root):
    """Features and people of all frames, by split and manipulation.

    All frames, because a flickering video holds exactly the inner-face states of its original: what differs between the
    two samples is then the pairing of states with poses, and the interval is that much narrower.
    """

    def gather(split, manipulation):
        rows = [
            (frame_features(frames[k], sizes[k]), person)
            for frames, sizes, person in videos(root, split, manipulation)
            for k in range(FRAMES)
        ]
        return np.array([row[0] for row in rows]), np.array([row[1] for row in rows])

    return {(s, m): gather(s, m) for s in ("train", "test") for m in ("original", "flicker", "blend")}


def auc_with_interval(labels, scores, people, resamples=200):
    """AUC and its 95 % bootstrap interval over people, whose frames are not independent."""
    rng = np.random.default_rng(0)
    rows = {person: np.flatnonzero(people == person) for person in np.unique(people)}
    drawn = [np.concatenate([rows[p] for p in rng.choice(list(rows), len(rows))]) for _ in range(resamples)]
    low, high = np.percentile([roc_auc_score(labels[k], scores[k]) for k in drawn], (2.5, 97.5))
    return roc_auc_score(labels, scores), low, high


def single_frame_auc(single_frames, manipulation, classifier):
    train, test = ([single_frames[split, name] for name in ("original", manipulation)] for split in ("train", "test"))
    labels = [np.repeat((0, 1), [len(part[0]) for part in parts]) for parts in (train, test)]
    classifier.fit(np.concatenate([features for features, _ in train]), labels[0])
    scores = classifier.predict_proba(np.concatenate([features for features, _ in test]))[:, 1]
    return auc_with_interval(labels[1], scores, np.concatenate([people for _, people in test]))


CLASSIFIERS = {
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300)),
    "forest": lambda: RandomForestClassifier(100, min_samples_leaf=3, random_state=0),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_one_frame_does_not_tell_flicker_from_real(single_frames, name):
    auc, low, high = single_frame_auc(single_frames, "flicker", CLASSIFIERS[name]())
    print(f"flicker, {name}: single-frame AUC {auc:.3f} [{low:.3f}, {high:.3f}]")
    assert abs(auc - 0.5) < 0.03
    assert high - low < 0.08


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_one_frame_tells_blend_from_real(single_frames, name):
    auc, low, high = single_frame_auc(single_frames, "blend", CLASSIFIERS[name]())
    print(f"blend, {name}: single-frame AUC {auc:.3f} [{low:.3f}, {high:.3f}]")
    assert low > 0.55
    assert auc > 0.65


def test_real_and_flickering_frames_cost_the_encoder_the_same(single_frames):
    real, flicker = (single_frames["test", name][0][:, -1] for name in ("original", "flicker"))
    assert flicker.mean() == pytest.approx(real.mean(), rel=0.01)
    assert flicker.std() == pytest.approx(real.std(), rel=0.1)


@pytest.fixture(scope="module")
def clip_changes(root):
    """Mean absolute change from frame to frame over each clip of six, by manipulation."""

    def changes(frames):
        difference = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
        return [difference[k : k + CLIP - 1].mean() for k in range(0, FRAMES, CLIP)]

    return {
        name: np.concatenate([changes(frames) for frames, _, _ in videos(root, "test", name)])
        for name in ("original", "blend", "flicker", "both")
    }


def test_the_change_between_frames_separates_flicker_and_both_from_real(clip_changes):
    for name in ("flicker", "both"):
        values = np.concatenate([clip_changes["original"], clip_changes[name]])
        labels = np.repeat((0, 1), [len(clip_changes["original"]), len(clip_changes[name])])
        assert roc_auc_score(labels, values) > 0.95


def test_the_change_between_frames_does_not_separate_blend_from_real(clip_changes):
    values = np.concatenate([clip_changes["original"], clip_changes["blend"]])
    labels = np.repeat((0, 1), [len(clip_changes["original"]), len(clip_changes["blend"])])
    assert 0.35 < roc_auc_score(labels, values) < 0.65
