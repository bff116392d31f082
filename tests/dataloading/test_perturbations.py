"""Perturbations do what their names say, on real frames, and nothing that is drawn depends on anything but its seed."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from face_fixtures import talking_face
from PIL import Image

from dataloading.clips.sampling import Clip
from dataloading.dataset import Video
from dataloading.errors import InputError
from dataloading.face_index import FaceEntry, FaceTrack
from dataloading.perturbations import (
    PERTURBATIONS,
    generator_of,
    parse_sweeps,
    perturb_clip,
    perturb_pictures,
)
from dataloading.video.decode import decode_frames

PICTURES = [name for name, item in PERTURBATIONS.items() if item.stage == "picture"]
VIDEO = Video(Path("/set/a.mp4"), 1, "fake", "test", "a", "a")


@pytest.fixture(scope="module")
def frames():
    """Six frames of a real talking face, 300 x 300."""
    pictures = decode_frames(talking_face(), range(20, 26))
    return np.stack([cv2.resize(picture[:, 16:160], (300, 300)) for picture in pictures])


def psnr(a, b):
    error = np.square(a.astype(float) - b).mean()
    return 10 * np.log10(255**2 / error) if error else np.inf


@pytest.mark.parametrize("name", PICTURES)
def test_a_perturbation_of_pictures_keeps_size_and_input_and_changes_more_as_its_strength_does(frames, name):
    before = frames.copy()
    item = PERTURBATIONS[name]
    strengths = sorted(item.strengths, reverse=item.order == "falling")
    strengths = [value for value in strengths if value >= 1] if item.order == "both" else strengths
    changed = [perturb_pictures(name, frames, strength, 3) for strength in strengths]
    assert all(found.shape == frames.shape and found.dtype == np.uint8 for found in changed)
    assert (frames == before).all()
    assert not any(np.shares_memory(found, frames) for found in changed)
    qualities = [psnr(found, frames) for found in changed]
    assert qualities == sorted(qualities, reverse=True)
    assert len(set(qualities)) == len(qualities)
    again = perturb_pictures(name, frames, strengths[-1], 3)
    assert (again == changed[-1]).all()


def test_jpeg_is_that_of_pillow_frame_by_frame(frames):
    changed = perturb_pictures("jpeg", frames, 30)
    for frame, found in zip(frames, changed, strict=True):
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=30)
        assert (np.asarray(Image.open(file)) == found).all()


def test_a_downscaled_frame_is_of_blocks_that_hold_the_mean_of_their_pixels(frames):
    changed = perturb_pictures("downscale", frames, 0.1)
    blocks, originals = (array.reshape(6, 30, 10, 30, 10, 3) for array in (changed, frames))
    assert (blocks == blocks[:, :, :1, :, :1]).all()
    np.testing.assert_allclose(blocks[:, :, 0, :, 0], originals.mean(axis=(2, 4)), atol=0.51)
    assert (perturb_pictures("downscale", frames, 1) == frames).all()


@pytest.mark.parametrize(("side", "square"), [(300, 16), (64, 3)])
def test_dropout_is_so_many_squares_of_one_size_in_the_same_places_of_all_frames(side, square):
    white = np.full((6, side, side, 3), 255, np.uint8)
    [one, few, many] = [perturb_pictures("dropout", white, count, 5) for count in (1, 8, 40)]
    assert (many == many[:1]).all()
    assert set(np.unique(many)) == {0, 255}
    y, x = np.nonzero((one[0] == 0).all(axis=-1))
    assert (np.ptp(y) + 1, np.ptp(x) + 1, len(y)) == (square, square, square**2)
    holes = (few[0, :, :, 0] == 0).astype(np.uint8)
    # Where squares fit that are wholly dropped: an erosion leaves one pixel of each, and more where some touch.
    centers = cv2.connectedComponents(cv2.erode(holes, np.ones((square, square), np.uint8)))[0] - 1
    assert 1 <= centers <= 8
    assert holes.sum() <= 8 * square**2
    assert (many[few == 0] == 0).all()  # of 40 squares the first are those of 8
    areas = [(perturb_pictures("dropout", white[:1], 8, seed)[0, :, :, 0] == 0).sum() for seed in range(40)]
    assert max(areas) == 8 * square**2


def test_noise_has_its_standard_deviation_and_is_another_one_in_each_frame_and_channel():
    gray = np.full((4, 200, 200, 3), 128, np.uint8)
    noise = perturb_pictures("noise", gray, 20, 1).astype(float) - 128
    assert noise.std() == pytest.approx(20, rel=0.01)  # 480,000 values: one standard error is 0.1 %
    assert abs(noise.mean()) < 0.2
    rows = noise.transpose(0, 3, 1, 2).reshape(12, -1)
    assert np.abs(np.corrcoef(rows) - np.eye(12)).max() < 0.03
    half = perturb_pictures("noise", gray, 10, 1).astype(float) - 128
    assert np.abs(2 * half - noise).max() <= 1.5  # the same noise, smaller; each is rounded


@pytest.mark.parametrize("side", [300, 150])
def test_blur_is_a_gaussian_of_its_width_in_a_crop_of_300_pixels(side):
    point = np.zeros((1, side, side, 3), np.uint8)
    middle = side // 2
    point[:, middle - 4 : middle + 5, middle - 4 : middle + 5] = 255
    blurred = perturb_pictures("blur", point, 8)[0, :, :, 0].astype(float)
    along = blurred.sum(axis=0) / blurred.sum()
    at = np.arange(side) - middle
    square = (9**2 - 1) / 12  # variance of the square itself
    assert np.sqrt((along * at**2).sum() - square) == pytest.approx(8 * side / 300, rel=0.05)


def test_brightness_contrast_and_saturation_are_one_factor_for_all_frames(frames):
    for name in ("brightness", "contrast", "saturation"):
        assert (perturb_pictures(name, frames, 1) == frames).all()
    np.testing.assert_allclose(perturb_pictures("brightness", frames, 0.5), frames / 2, atol=0.51)
    flat = perturb_pictures("contrast", frames, 0.5).astype(float)
    np.testing.assert_allclose(flat - 128, (frames.astype(float) - 128) / 2, atol=0.51)
    gray = perturb_pictures("saturation", frames, 0)
    luma = frames @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(gray, np.repeat(luma[..., None], 3, axis=-1), atol=1)
    still = np.repeat(frames[:1], 2, axis=0)
    still[1, :50] = 255  # what else is in a frame does not change what happens to the rest, as a mean would
    for name in ("brightness", "contrast", "saturation"):
        changed = perturb_pictures(name, still, 1.4)
        assert (changed[0, 50:] == changed[1, 50:]).all(), name


def clip_at(start, frames=6, video=VIDEO):
    return Clip(video, np.arange(start, start + frames), (10.0, 20.0, 110.0, 120.0), 1, 0)


def entry(frames=100, fps=25.0, shots=None):
    at = np.arange(frames)
    track = FaceTrack(at, 60 + at, np.full(frames, 70), np.full(frames, 80))
    return FaceEntry("a", frames, fps, 640, 480, "yuface", track, shots=shots)


def test_draws_depend_on_the_seed_the_video_and_the_first_frame():
    def draw(start=3, name="noise", seed=0):
        return generator_of(clip_at(start), name, seed).random()

    assert draw() == draw()
    assert len({draw(), draw(start=4), draw(name="dropout"), draw(seed=1)}) == 4


def test_a_shifted_box_is_as_large_and_moved_by_its_part_of_the_side_in_one_direction():
    clip = clip_at(40)
    moves = []
    for strength in (0.1, 0.2):
        x0, y0, x1, y1 = perturb_clip("shift", clip, entry(), strength).box
        assert (x1 - x0, y1 - y0) == pytest.approx((100, 100))
        moves.append((x0 - 10, y0 - 20))
        assert np.hypot(*moves[-1]) == pytest.approx(100 * strength)
    assert np.multiply(moves[0], 2) == pytest.approx(moves[1])
    others = {perturb_clip("shift", clip_at(start), entry(), 0.1).box for start in range(20)}
    assert len(others) == 20


def test_frames_that_are_lost_leave_as_many_in_order_and_the_same_ones_are_lost_in_all_clips_of_a_video():
    def kept(strength):
        clips = (perturb_clip("drop", clip_at(start, frames=1), entry(), strength) for start in range(100))
        return sorted({int(clip.frames[0]) for clip in clips})

    for strength in (0.3, 0.6):
        left = kept(strength)
        assert 1 - strength == pytest.approx(len(left) / 100, abs=0.15)  # three standard deviations
        for start in (0, 17, 50):
            found = perturb_clip("drop", clip_at(start), entry(), strength)
            assert found.frames.tolist() == [frame for frame in left if frame >= start][:6]
            assert found.box == entry().box(found.frames)
        assert perturb_clip("drop", clip_at(94), entry(), strength).frames.tolist() == left[-6:]
    assert set(kept(0.6)) < set(kept(0.3))
    with pytest.raises(InputError, match=r"frames 40 to 46 are too few for a clip at 0\.6 part lost; it needs 6 that"):
        perturb_clip("drop", clip_at(40), entry(shots=((0, 39), (40, 46), (47, 99))), 0.6)


def test_a_lower_frame_rate_is_every_so_many_frames_within_the_shot():
    def at(rate, start=40, **of):
        return perturb_clip("fps", clip_at(start), entry(**of), rate).frames.tolist()

    assert at(5) == [40, 45, 50, 55, 60, 65]
    assert at(10) == [40, 42, 45, 47, 50, 52]  # the last frame at or before each time
    assert at(25) == at(50) == [40, 41, 42, 43, 44, 45]
    assert at(5, start=90) == [74, 79, 84, 89, 94, 99]
    assert at(5, start=40, shots=((0, 50), (51, 99))) == [25, 30, 35, 40, 45, 50]
    with pytest.raises(InputError, match=r"frames 30 to 50 are too few for a clip at 5 frames per second; it needs 26"):
        at(5, start=40, shots=((30, 50), (51, 99)))


def test_a_range_has_the_nine_strengths_of_the_paper_and_weak_ones_come_first():
    sweeps = parse_sweeps(["jpeg:10..50", "downscale:0.1..0.9", "dropout:8..40", "h264", "blur:2,1", "noise:5..15/3"])
    found = {sweep.name: sweep.strengths for sweep in sweeps}
    assert found["jpeg"] == (50, 45, 40, 35, 30, 25, 20, 15, 10)
    assert found["downscale"] == (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
    assert found["dropout"] == (8, 12, 16, 20, 24, 28, 32, 36, 40)
    assert (found["h264"], found["blur"], found["noise"]) == ((23, 28, 35, 40), (1, 2), (5, 10, 15))
    for name in PERTURBATIONS:  # its own strengths are within its range
        [sweep] = parse_sweeps([name])
        assert parse_sweeps([f"{name}:{','.join(map(str, sweep.strengths))}"]) == [sweep]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("jpg:10..50", "no perturbation 'jpg'; expected jpeg, downscale, dropout, blur,"),
        ("jpeg:0..50", "quality 0; expected whole numbers from 1 to 100, as a..b, a..b/n or a,b,c"),
        ("jpeg:10.5", "quality 10.5; expected whole numbers from 1 to 100"),
        ("downscale:0.1..1.5", "scale 1.5; expected numbers from 0.02 to 1,"),
        ("h264:23,52", "crf 52; expected whole numbers from 0 to 51"),
        ("noise:nan", "sigma in gray levels nan; expected numbers from 0.5 to 128"),
        ("noise:low", "perturb is 'noise:low'; expected numbers from 0.5 to 128"),
        ("jpeg:", "perturb is 'jpeg:'; expected whole numbers"),
        ("jpeg:10..50/1", "1 strengths; expected 2 to 100"),
        ("jpeg:10..50/1000000000", "1000000000 strengths; expected 2 to 100"),
        ("drop:0..1", "part lost 0; expected numbers from 0.01 to 0.9"),
    ],
)
def test_an_unknown_perturbation_or_a_strength_out_of_range_is_one_sentence_with_what_is_allowed(text, says):
    with pytest.raises(InputError) as refused:
        parse_sweeps(["blur", text])
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_one_perturbation_is_asked_for_once():
    with pytest.raises(InputError, match="perturb names jpeg twice; expected all its strengths in one"):
        parse_sweeps(["jpeg:10", "jpeg:20"])
