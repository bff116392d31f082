"""`mouth` and `eyes` of the synthetic set: forgeries of a part of the face, and landmarks of every drawn face."""

import cv2
import numpy as np
import pytest

from dataloading import read_dataset
from dataloading.errors import InputError
from dataloading.faces.boxes_file import FACES, read_boxes
from dataloading.faces.prepare import prepare
from dataloading.io import read_json
from dataloading.layouts import open_dataset
from dataloading.synthetic import forgeries, rendering, synthesize
from dataloading.synthetic.forgery import Extent
from dataloading.synthetic.rendering import VideoPlan, render

SETTINGS = {"identities": 4, "frames": 12, "size": 48, "workers": 1, "progress": False, "splits": (1, 1, 0)}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A set of the usual kinds, and one of some of these and the parts."""
    root = tmp_path_factory.mktemp("parts")
    for name, more in (("usual", {}), ("parts", {"manipulations": ("blend", "mouth", "eyes")})):
        synthesize(root / name, **SETTINGS, **more)
    return root


@pytest.fixture
def without_noise(monkeypatch):
    monkeypatch.setattr(rendering, "SENSOR_NOISE", 0.0)


def drawn(manipulation, video=2, frames=18, size=64):
    region = manipulation if manipulation in ("mouth", "eyes") else "whole"
    plan = VideoPlan(0, video, video, video ^ 1, video ^ 1, manipulation, frames, size, Extent(region=region))
    pictures, masks = zip(*render(plan), strict=True)
    return np.stack(pictures), np.stack(masks), plan


def test_the_other_kinds_and_the_real_videos_are_the_same_files_beside_the_new_kinds(sets):
    shared = ["original_sequences", "manipulated_sequences/blend"]
    files = [path for folder in shared for path in (sets / "usual" / folder).rglob("*.mp4")]
    assert len(files) == 4 + 2 * 4
    for path in files:
        assert path.read_bytes() == (sets / "parts" / path.relative_to(sets / "usual")).read_bytes()
    assert "manipulations" not in read_json(sets / "usual" / "synthetic.json", dict)


@pytest.mark.parametrize("part", ["mouth", "eyes"])
def test_a_fake_of_a_part_is_its_original_outside_of_that_part_and_outside_of_its_forged_frames(without_noise, part):
    changed = 0
    for video in range(4):
        real, _, _ = drawn("original", video)
        fake, masks, plan = drawn(part, video)
        outside = np.stack([cv2.dilate(mask, np.ones((3, 3))) for mask in masks]) == 0
        assert np.array_equal(real[outside], fake[outside])
        assert (masks > 128).mean() < 0.12
        forged = [frame for frame in range(18) if masks[frame].any()]
        assert forged == list(rendering.forged_frames(plan))
        changed += np.abs(real.astype(int) - fake)[forged].max(initial=0) > 30
        middle = np.argwhere(masks[forged[0]] > 128).mean(axis=0) / 64 if forged else None
        assert middle is None or (middle[0] > 0.6 if part == "mouth" else middle[0] < 0.55)
    assert changed >= (3 if part == "mouth" else 1)  # who does not blink in 18 frames is not changed


def test_lips_of_a_forged_mouth_take_the_states_of_the_real_ones_in_another_order(without_noise, monkeypatch):
    """Held still, its frames are those of its original, each once, so that no frame by itself betrays it."""
    monkeypatch.setattr(rendering, "POSE", dict.fromkeys(rendering.POSE, 0.0))
    smooth = rendering.smooth_process

    def mouth_alone(rng, frames, dimensions, correlation):
        latents = smooth(rng, frames, dimensions, correlation)
        latents[:, 2:] = 0.0
        return latents

    monkeypatch.setattr(rendering, "smooth_process", mouth_alone)
    real, mouth = drawn("original")[0], drawn("mouth")[0]
    assert sorted(frame.tobytes() for frame in real) == sorted(frame.tobytes() for frame in mouth)
    assert [a.tobytes() for a in real] != [b.tobytes() for b in mouth]


def test_real_people_blink_and_those_of_eyes_never_do():
    lids = {}
    for manipulation in ("original", "eyes"):
        states = []
        for video in range(40):
            plan = VideoPlan(0, video, video, video ^ 1, video ^ 1, manipulation, 64, 48, Extent(region="eyes"))
            real, forged, frames = rendering._latents(plan)
            states.append(np.where(np.isin(np.arange(64), list(frames))[:, None], forged, real)[:, 3])
        lids[manipulation] = np.array(states)
    closed = lids["original"] > 1.05  # half-way
    assert closed.any(axis=1).mean() > 0.7
    assert not (lids["eyes"] > rendering.LIDS_CLOSE).any()
    # A frame with open eyes is as it is in a real video.
    open_eyes = lids["original"] < rendering.LIDS_CLOSE
    assert np.array_equal(lids["original"][open_eyes], lids["eyes"][open_eyes])


def test_forgeries_and_faces_say_which_part_is_forged_and_where_each_face_is(sets):
    root = sets / "parts"
    marked = forgeries(root)
    assert {name.split("/")[1]: forgery.region for name, forgery in marked.items()} == {
        "blend": "whole", "mouth": "mouth", "eyes": "eyes",
    }  # fmt: skip
    dataset = read_dataset(root)
    rows = read_boxes(root / FACES, dataset)
    assert set(rows) == {video.name for video in dataset.videos}
    for video in dataset.videos:
        box, points = rows[video.name][:, 1:5], rows[video.name][:, 5:].reshape(-1, 5, 2)
        assert ((points > box[:, None, :2]) & (points < box[:, None, 2:])).all()
        right_eye, left_eye, nose, right_corner, left_corner = points.transpose(1, 0, 2)
        assert (right_eye[:, 0] < nose[:, 0]).all() and (nose[:, 0] < left_eye[:, 0]).all()
        assert (nose[:, 1] < right_corner[:, 1]).all() and (right_corner[:, 0] < left_corner[:, 0]).all()
        moved = np.abs(rows[video.name] - rows[video.source or video.name]).max()
        # A pasted face has other landmarks, a forged mouth has its corners elsewhere, and eyelids move no landmark.
        assert {"blend": moved > 0.3, "mouth": moved > 0, "eyes": moved == 0, "original": moved == 0}[
            video.manipulation
        ]


def test_the_mouth_is_in_the_crop_of_the_mouth_and_the_eyes_are_in_that_of_the_eyes(sets):
    """Masks are where the parts are; and a fake is cropped as its original is."""
    root = sets / "parts"
    prepare(read_dataset(root), detect=False, workers=1, progress=False)
    for part, other in (("mouth", "eyes"), ("eyes", "mouth")):
        dataset, index = open_dataset(root, region=part)
        for video in dataset.videos:
            assert index.box(video.name, [0, 1, 2]) == index.box(video.source or video.name, [0, 1, 2])
            if video.manipulation not in (part, other) or not forgeries(root)[video.name].frames:
                continue
            frame = forgeries(root)[video.name].frames[0]
            x0, y0, x1, y1 = index.box(video.name, [frame])
            rows, columns = np.nonzero(_mask(video.mask, frame) > 128)
            inside = ((columns > x0) & (columns < x1) & (rows > y0) & (rows < y1)).mean()
            assert inside > 0.85 if video.manipulation == part else inside < 0.5


def _mask(path, frame):
    from dataloading.video.decode import decode_frames

    return decode_frames(path, [frame])[0][..., 0]


@pytest.mark.parametrize("kinds", [(), ("nose",), ("eyes", "eyes")])
def test_kinds_that_are_none_are_refused(tmp_path, kinds):
    with pytest.raises(
        InputError, match=r"manipulations is .*; expected one or more of blend, flicker, both, mouth, eyes"
    ):
        synthesize(tmp_path / "set", **SETTINGS, manipulations=kinds)
