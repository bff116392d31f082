"""The schedule of a search: where it looks in short and in long videos, how large its pictures are, what it keeps."""

from pathlib import Path

import numpy as np
import pytest
from face_fixtures import detector_or_skip, searched_in_a_new_process, square
from video_fixtures import write_video

from bench.experiments.edited_videos import loop, looped_part, man, room, write
from dataloading.face_index import FaceEntry, FaceTrack
from dataloading.faces import find_face, search
from dataloading.faces.search import frames_looked_at
from dataloading.faces.tracking import find_people
from dataloading.video.probe import probe

HEIGHT, WIDTH = 48, 64


class BrightSquares:
    """Finds white squares of at least 8 pixels, as a detector finds faces."""

    name = "bright squares"
    second_side = 128

    def __init__(self):
        self.sides = []

    def detect(self, picture):
        self.sides.append(max(picture.shape[:2]))
        rows, columns = np.nonzero(picture.min(axis=2) > 200)
        if not len(rows) or (size := np.ptp(columns) + 1) < 8:
            return []
        return [square((columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2, float(size))]


def with_square(x: float, y: float, size: int = 12, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    picture = np.full((height, width, 3), 60, np.uint8)
    picture[round(y) : round(y) + size, round(x) : round(x) + size] = 255
    return picture


def searched(folder: Path, pictures, rate: int = 10) -> tuple[search.Search, BrightSquares]:
    path, detector = write_video(folder / "video.mp4", pictures, rate=rate), BrightSquares()
    return search.finished(search.search(path, probe(path), detector)), detector


def test_a_video_of_up_to_a_minute_is_looked_at_every_fifth_frame_as_ever(tmp_path):
    """Boxes of the published data sets do not change with the schedule of long videos."""
    found, _ = searched(tmp_path, [with_square(20, 20)] * 598)
    assert [frame for frame, _ in found.looks] == frames_looked_at(598).tolist() == [*range(0, 598, 5), 597]
    assert set(found.spans) == {1.0}


def test_a_long_video_is_looked_at_once_a_second_where_nothing_is(tmp_path):
    found, _ = searched(tmp_path, [with_square(0, 0, 0)] * 704)
    assert [frame for frame, _ in found.looks] == [*range(0, 704, 10), 703]
    assert sum(found.spans) == pytest.approx(704 / 5)


def test_a_face_that_rests_is_looked_at_twice_a_second_and_one_that_moves_is_where_it_is(tmp_path):
    """At 20 frames a second there are three frames to choose from between two looks a second apart."""
    resting = [with_square(20, 20, 20)] * 600
    # It goes and comes back within a second, and then moves evenly.
    moving = [with_square(20 + 8 * np.sin(2 * np.pi * k / 20 + 0.8), 20, 20) for k in range(300)]
    even = [with_square(20 + k / 20, 20, 20) for k in range(320)]
    found, _ = searched(tmp_path, [*resting, *moving, *even], rate=20)
    looks = np.array([frame for frame, _ in found.looks])
    assert set(np.diff(looks[looks <= 560])) == {10}
    assert set(np.diff(looks[(looks >= 620) & (looks <= 880)])) == {5}
    assert set(np.diff(looks[(looks >= 940) & (looks < 1210)])) == {10}
    [track] = find_people(found.looks, spans=found.spans, gap=found.gap).people
    assert np.interp(np.arange(920, 1220), track.frame, track.x) == pytest.approx(30.5 + np.arange(300) / 20, abs=1.2)


def test_a_shot_shorter_than_the_time_between_two_looks_is_looked_at(tmp_path):
    cut = [*[room(HEIGHT, WIDTH)] * 622, *[with_square(20, 20)] * 12, *[room(HEIGHT, WIDTH, 9)] * 100]
    entry = find_face(write_video(tmp_path / "video.mp4", cut, rate=20 // 2), BrightSquares(), clip_frames=6)
    assert entry.shots == ((0, 621), (622, 633), (634, 733))
    assert entry.key_frames.tolist() == [625, 630]


def test_small_faces_are_found_at_a_second_look_and_followed_in_the_part_around_them(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "LARGEST_SIDE", 64)
    pictures = [with_square(40 + k, 50, 14, 108, 192) for k in range(60)]
    found, detector = searched(tmp_path, pictures)
    assert not any(faces for _, faces in found.looks)  # 5 pixels at the first look
    assert all(len(faces) == 1 for _, faces in found.small)  # 9 at the second
    assert max(detector.sides) == 128
    # The whole picture once, then the part around the face: at every look it is a fifth of the work.
    assert [side for side in detector.sides if side != 64].count(128) == 1
    [track] = find_people(found.looks, small=found.small).people
    assert track.x == pytest.approx(46.5 + track.frame, abs=2)
    assert track.size == pytest.approx(14, abs=2.5)


def test_small_faces_are_not_used_in_a_shot_with_a_face_of_usual_size():
    looks = [(5 * look, [square(100, 80, 60)] if look % 2 else []) for look in range(20)]
    small = [(frame, [] if faces else [square(300, 90, 14)]) for frame, faces in looks]
    [alone] = find_people(looks, clip_frames=6).people
    [track] = find_people(looks, clip_frames=6, small=small).people
    assert np.array_equal(track.table, alone.table)
    assert find_people([(frame, []) for frame, _ in looks], small=small).people[0].size == pytest.approx(14)
    # In another shot they are.
    two_shots = find_people(looks[:10] + [(f, []) for f, _ in looks[10:]], [(0, 49), (50, 99)], 6, small=small).people
    assert [track.size.mean().round() for track in two_shots] == [60, 14]


class Crowd:
    """Finds a thousand faces in each picture."""

    name = "crowd"
    second_side = 1280

    def detect(self, picture):
        return [square(20 * (k % 40) + 10, 20 * (k // 40) + 10, 12 + k / 200) for k in range(1000)]


def test_of_a_thousand_faces_in_a_crowd_the_largest_are_followed(tmp_path):
    path = write_video(tmp_path / "crowd.mp4", [room(480, 640)] * 60)
    entry = find_face(path, Crowd(), clip_frames=6)
    assert len(entry.people) == search.MOST_FACES == 32
    assert min(track.size.mean() for track in entry.people) > 16.7
    assert entry.crowd == 1000


def test_a_face_that_leaves_the_picture_at_its_border_is_used_as_long_as_it_is_there(tmp_path):
    """Its box reaches beyond the picture and its appearance is taken from what is left of it."""
    leaving = [with_square(min(30 + k, WIDTH - 1), 20) for k in range(40)]
    path = write_video(tmp_path / "video.mp4", [*leaving, *[with_square(0, 0, 0)] * 30])
    entry = find_face(path, BrightSquares(), clip_frames=6)
    assert entry.face_range[1] == 25  # then it is narrower than 8 pixels
    x0, _, x1, _ = entry.box(range(20, 26))
    assert x1 > WIDTH - 8 > x0


def test_the_memory_of_a_search_does_not_grow_with_the_length_of_the_video(tmp_path):
    """It took 1.2 GB for 100,000 frames."""
    detector_or_skip("yuface")
    man()  # skips where there is no footage
    part = write(tmp_path / "part.mp4", looped_part(72, 88, 20, rate=10), {"preset": "ultrafast", "g": "200"})
    found = [searched_in_a_new_process(loop(part, tmp_path / f"{n}.mp4", n)) for n in (4, 16)]
    assert [each["frames"] for each in found] == [800, 3200]
    # At each turn three cuts, and one to the next, from the man to the man from the other side.
    assert [len(each["shots"]) for each in found] == [16, 64]
    assert found[1]["peak"] - found[0]["peak"] < 12  # MiB; 28 at what it took


def test_in_a_long_video_no_clip_lies_where_a_face_is_gone_for_a_while_and_in_a_short_one_ranges_are_as_ever():
    gone = [*range(0, 500, 10), *range(1200, 1500, 10)]
    track = FaceTrack(gone, *np.full((3, len(gone)), 50.0))
    long = FaceEntry("a", 1600, 25.0, 100, 100, "yuface", track, shots=((0, 1599),))
    assert long.clip_ranges == [(0, 490), (1200, 1490)]
    short = FaceEntry("a", 1500, 25.0, 100, 100, "yuface", track, shots=((0, 1499),))
    assert short.clip_ranges == [(0, 1490)]
    assert long.frames_seen == short.frames_seen + 1 == 491 + 291
