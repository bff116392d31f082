"""The synthetic set: its files, interrupted runs, and how its frames are drawn."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from dataloading.errors import InputError
from dataloading.layouts import read_dataset
from dataloading.synthetic import forgeries, rendering, synthesize
from dataloading.synthetic.dataset import LOCK
from dataloading.synthetic.forgery import Extent, flicker_order, smooth_process
from dataloading.synthetic.rendering import MANIPULATIONS, VideoPlan, render, write_video

SETTINGS = {"identities": 8, "frames": 12, "size": 64, "workers": 1, "progress": False}
ROOT = Path(__file__).parents[3]
VIDEOS = 8 * (1 + len(MANIPULATIONS))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic") / "set"
    return synthesize(root, **SETTINGS)


@pytest.fixture
def without_noise(monkeypatch):
    monkeypatch.setattr(rendering, "SENSOR_NOISE", 0.0)


def plan(manipulation, frames=12, size=64, video=2):
    return VideoPlan(
        seed=0,
        video=video,
        person=video,
        source_video=video ^ 1,
        source=video ^ 1,
        manipulation=manipulation,
        frames=frames,
        size=size,
    )


def drawn(manipulation, **kwargs):
    pictures, masks = zip(*render(plan(manipulation, **kwargs)), strict=True)
    return np.stack(pictures), np.stack(masks)


def decoded(path, pixel_format="rgb24"):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format=pixel_format) for frame in container.decode(video=0)])


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_set_reads_back_as_faceforensics_with_nothing_left_out(tree):
    dataset = read_dataset(tree.directory)
    found = {
        split: {name: len(dataset.select(split=split, manipulation=name)) for name in ("original", *MANIPULATIONS)}
        for split in ("train", "val", "test")
    }
    assert found == {
        split: dict.fromkeys(("original", *MANIPULATIONS), videos)
        for split, videos in (("train", 4), ("val", 2), ("test", 2))
    }
    assert sum(sum(videos.values()) for videos in found.values()) == tree.written == VIDEOS
    assert dataset.left_out == []
    for video in dataset.videos:
        assert video.label == int(video.manipulation != "original")
        assert (video.mask is not None) == (video.source is not None) == bool(video.label)


def test_the_default_shares_and_empty_shares_give_the_pairs_they_promise(tree, tmp_path):
    root = synthesize(tmp_path / "set", **SETTINGS | {"identities": 4, "frames": 8, "splits": (1, 0, 1)}).directory
    for directory, videos in ((tree.directory, {"train": 4, "val": 2, "test": 2}), (root, {"train": 2, "test": 2})):
        assert read_dataset(directory).select(manipulation="blend").summary().splits == videos


def test_no_person_is_in_two_splits_even_with_several_videos_each(tmp_path):
    settings = {"identities": 6, "videos_per_identity": 2, "frames": 8, "size": 32, "workers": 1, "progress": False}
    root = synthesize(tmp_path / "set", **settings).directory
    people = []
    for split in ("train", "val", "test"):
        pairs = json.loads((root / "splits" / f"{split}.json").read_text())
        assert all(int(a) // 2 != int(b) // 2 for a, b in pairs)
        people.append({int(name) // 2 for pair in pairs for name in pair})
    assert sum(map(len, people)) == len(set.union(*people)) == 6


def test_every_file_is_h264_of_the_asked_size_rate_and_length_in_intra_frames(tree):
    paths = sorted(tree.directory.rglob("*.mp4"))
    assert len(paths) == VIDEOS + 8 * len(MANIPULATIONS)
    for path in paths:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
            assert (stream.width, stream.height, stream.average_rate) == (64, 64, 25)
            packets = [packet for packet in container.demux(stream) if packet.pts is not None]
            assert len(packets) == 12
            assert all(packet.is_keyframe for packet in packets)


def test_equal_settings_give_equal_bytes_whatever_the_number_of_workers(tmp_path):
    settings = SETTINGS | {"identities": 6, "frames": 8, "size": 32}
    one = synthesize(tmp_path / "one", **settings)
    two = synthesize(tmp_path / "two", **settings | {"workers": 2})
    assert files(one.directory) == files(two.directory)
    other_seed = synthesize(tmp_path / "three", **settings | {"seed": 1})
    assert not set(files(one.directory).values()) & {
        data for path, data in files(other_seed.directory).items() if path.suffix == ".mp4"
    }


def test_a_second_run_keeps_what_is_there_and_makes_again_only_what_is_missing(tmp_path):
    root = synthesize(tmp_path / "set", **SETTINGS).directory
    before = files(root)
    again = synthesize(root, **SETTINGS)
    assert (again.written, again.already_there) == (0, VIDEOS)
    flicker = root / "manipulated_sequences/flicker/c23/videos"
    (flicker / "000_001.mp4").unlink()
    (flicker / ".000_001.mp4.partial").write_bytes(b"what a killed run was writing")
    (root / "manipulated_sequences/blend/masks/videos/003_002.mp4").unlink()
    repaired = synthesize(root, **SETTINGS)
    assert (repaired.written, repaired.already_there) == (2, VIDEOS - 2)
    assert files(root) == before


def test_an_interrupted_video_leaves_no_file_behind(tmp_path):
    def stops():
        yield np.zeros((64, 64, 3), np.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "video.mp4", stops(), fps=25)
    assert list(tmp_path.iterdir()) == []


def test_a_run_with_other_settings_is_refused_and_says_which_differ(tree):
    with pytest.raises(InputError, match=r"made with frames 12 \(now 16\), seed 0 \(now 3\)"):
        synthesize(tree.directory, **SETTINGS | {"frames": 16, "seed": 3})


def test_a_second_run_into_one_directory_is_refused_for_as_long_as_the_first_one_lives(tmp_path):
    """One of two could die of the other's temporary file: "...part: cannot be read or written"."""
    code = "import sys, time; from pathlib import Path; from dataloading.io import locked\n"
    code += "with locked(Path(sys.argv[1]), ''): print('held', flush=True); time.sleep(600)"
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / LOCK)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=rf"another run \(process {first.pid}\) is writing to {tmp_path}; wait"):
            synthesize(tmp_path, **SETTINGS)
        assert os.listdir(tmp_path) == [LOCK]
    finally:
        first.kill()
        first.communicate()
    assert synthesize(tmp_path, **SETTINGS).already_there == 0


def test_a_directory_of_other_files_is_refused(tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"mine")
    with pytest.raises(InputError, match="holds files that are not a synthetic set"):
        synthesize(tmp_path, **SETTINGS)
    with pytest.raises(InputError, match=r"holiday.mp4 is a file"):
        synthesize(tmp_path / "holiday.mp4", **SETTINGS)
    assert os.listdir(tmp_path) == ["holiday.mp4"]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"identities": 7}, "identities is 7; .* an even number"),
        ({"identities": 4}, "identities is 4; expected at least 6: 3 splits need a pair"),
        ({"frames": 5}, "frames is 5; .* at least 8"),
        ({"size": 65}, "size is 65; .* an even number"),
        ({"fps": 0}, "fps is 0; .* at least 1"),
        ({"workers": 0}, "workers is 0; 1 to 1,024"),
        ({"seed": -1}, "seed is -1; it must not be negative"),
        ({"splits": (1, -1, 1)}, "splits is .* none of them negative"),
        ({"splits": (1, 1)}, "three shares"),
    ],
)
def test_settings_that_make_no_set_are_named(tmp_path, wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        synthesize(tmp_path / "set", **SETTINGS | wrong)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("manipulation", ["original", "flicker"])
def test_a_frame_decodes_to_the_same_pixels_alone_as_in_its_video(tmp_path, manipulation):
    """The encoder carries nothing from frame to frame, so that it cannot betray `flicker` to a single frame."""
    pictures, _ = drawn(manipulation, size=128)
    write_video(tmp_path / "video.mp4", pictures, fps=25)
    together = decoded(tmp_path / "video.mp4", "yuv420p")
    for frame, picture in enumerate(pictures):
        write_video(tmp_path / "frame.mp4", [picture], fps=25)
        assert np.array_equal(decoded(tmp_path / "frame.mp4", "yuv420p")[0], together[frame])


def test_a_latent_is_standard_normal_at_every_frame_and_smooth_over_five():
    values = smooth_process(np.random.default_rng(0), frames=12, dimensions=20_000, correlation_frames=5.0)
    assert np.abs(values.mean(axis=1)).max() < 4 / np.sqrt(20_000)
    assert np.abs(values.var(axis=1) - 1).max() < 4 * np.sqrt(2 / 20_000)
    for lag in (1, 3, 5, 8):
        assert (values[0] * values[lag]).mean() == pytest.approx(np.exp(-(lag**2) / 50), abs=0.03)


@pytest.mark.parametrize(("frames", "gap"), [(8, 2), (12, 3), (24, 6), (100, 6)])
def test_a_flickering_video_takes_every_state_once_and_neighbors_from_far_apart(frames, gap):
    orders = [flicker_order(np.random.default_rng(seed), frames) for seed in range(20)]
    for order in orders:
        assert sorted(order) == list(range(frames))
        assert np.abs(np.diff(order)).min() >= gap
    assert len({tuple(order) for order in orders}) > 15


def test_outside_its_mask_a_fake_is_its_original_pixel_by_pixel(without_noise):
    real, _ = drawn("original")
    for manipulation in MANIPULATIONS:
        fake, mask = drawn(manipulation)
        outside = np.stack([cv2.dilate(one, np.ones((3, 3))) for one in mask]) == 0
        assert np.array_equal(real[outside], fake[outside])
        inside = np.abs(real.astype(int) - fake)[mask > 128]
        assert inside.mean() > 5
        assert 0.1 < (mask > 128).mean() < 0.4


def test_a_flickering_frame_is_the_frame_of_a_real_video_in_that_state(without_noise, monkeypatch):
    """Held still, the frames of `flicker` are the frames of its original, each once."""
    monkeypatch.setattr(rendering, "POSE", dict.fromkeys(rendering.POSE, 0.0))
    real, flicker = drawn("original")[0], drawn("flicker")[0]
    assert sorted(frame.tobytes() for frame in real) == sorted(frame.tobytes() for frame in flicker)
    assert len({frame.tobytes() for frame in real}) == len(real)


def test_a_blended_face_moves_as_smoothly_as_the_original():
    def change(manipulation):
        return np.mean([np.abs(np.diff(drawn(manipulation, video=v)[0].astype(int), axis=0)).mean() for v in range(4)])

    real, blend, flicker, both = (change(name) for name in ("original", *MANIPULATIONS))
    assert blend < 1.15 * real
    assert min(flicker, both) > 1.5 * real


def test_the_mask_video_shows_the_manipulated_region(tree):
    root = tree.directory / "manipulated_sequences"
    for manipulation in MANIPULATIONS:
        stored = decoded(root / manipulation / "masks/videos/002_003.mp4", "gray")
        _, mask = drawn(manipulation, frames=SETTINGS["frames"], size=SETTINGS["size"])
        assert ((stored > 128) == (mask > 128)).mean() > 0.98


VARIED = SETTINGS | {"identities": 16, "frames": 18, "size": 48, "varied": True}


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    return synthesize(tmp_path_factory.mktemp("varied") / "set", **VARIED).directory


def test_a_varied_set_marks_where_and_when_each_fake_is_forged_and_of_which_video_it_was_made(varied, tree):
    """Masks in the middle of every face could not tell an explanation from a habit of location."""
    marked, videos = forgeries(varied), {video.name: video for video in read_dataset(varied).videos}
    assert set(marked) == {name for name, video in videos.items() if video.label}
    for name, forgery in marked.items():
        assert forgery.original == videos[name].source
        assert videos[name].manipulation != "flicker" or forgery.region == "whole"
        of_six = {sum(start <= frame < start + 6 for frame in forgery.frames) for start in range(13)}
        assert of_six in ({1}, {2}, {6})  # whichever six consecutive frames make a clip
    assert {forgery.region for forgery in marked.values()} == {"whole", "left", "right", "upper", "lower"}
    assert {len(forgery.frames) for forgery in marked.values()} == {3, 6, 18}
    plain = forgeries(tree.directory)
    assert {(forgery.region, len(forgery.frames)) for forgery in plain.values()} == {("whole", 12)}
    with pytest.raises(InputError, match=r"forgeries\.json"):
        forgeries(varied / "splits")


def test_masks_of_a_varied_set_are_where_and_when_its_fakes_differ_from_their_originals(varied):
    for name, forgery in forgeries(varied).items():
        method, stem = name.split("/")[1], Path(name).name
        mask = decoded(varied / "manipulated_sequences" / method / "masks/videos" / f"{stem}.mp4", "gray") > 128
        fake, real = (decoded(varied / f"{one}.mp4").astype(int) for one in (name, forgery.original))
        change = np.abs(fake - real).max(-1)
        assert [frame for frame in range(18) if mask[frame].any()] == list(forgery.frames)
        assert change[mask].mean() > 2 * change[~mask].mean()
        rows, columns = mask.any((0, 2)), mask.any((0, 1))
        reaches = {"left": columns[:18], "right": columns[30:], "upper": rows[:23], "lower": rows[34:]}
        opposite = {"left": "right", "right": "left", "upper": "lower", "lower": "upper"}
        for half, part in reaches.items():
            assert part.any() == (forgery.region != opposite[half])


def test_the_latents_of_a_single_forged_frame_are_standard_normal_and_not_those_of_its_neighbors(monkeypatch):
    """Its trace is in time alone: by itself the frame has the distribution of any frame."""
    drawn_with = []
    draw = rendering.InnerFace.draw
    monkeypatch.setattr(
        rendering.InnerFace, "draw", lambda self, latents: drawn_with.append(latents) or draw(self, latents)
    )
    states = {}
    for video in range(12):
        for manipulation, frames in (("original", None), ("flicker", (2, 8))):
            drawn_with.clear()
            one = replace(plan(manipulation, size=32, video=video), extent=Extent(frames=frames))
            list(render(one))
            states.setdefault(manipulation, []).append(np.array(drawn_with))
    real, flicker = (np.array(states[name]) for name in ("original", "flicker"))
    others = [frame for frame in range(12) if frame not in (2, 8)]
    assert np.array_equal(real[:, others], flicker[:, others])
    forged, neighbors = flicker[:, [2, 8]].ravel(), flicker[:, [1, 7]].ravel()
    assert abs(forged.mean()) < 4 / np.sqrt(forged.size)
    assert abs(forged.var() - 1) < 4 * np.sqrt(2 / forged.size)
    assert abs(np.corrcoef(forged, neighbors)[0, 1]) < 4 / np.sqrt(forged.size)
