from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataloading.errors import InputError
from dataloading.face_index import FaceEntry, FaceIndex, FaceTrack


def entry(video: str = "a", **changes) -> FaceEntry:
    values = {
        "frames": 30,
        "fps": 25.0,
        "width": 640,
        "height": 480,
        "detector": "yuface",
        "boxes": FaceTrack((0, 10, 20), (100.0, 110.0, 120.0), (200.0, 200.0, 230.0), (80.0, 100.0, 60.0)),
    }
    return FaceEntry(video, **(values | changes))


def write(path: Path, *entries: FaceEntry, end: str = "\n") -> Path:
    path.write_text("\n".join(item.to_json() for item in entries) + end, encoding="utf-8")
    return path


def test_one_square_of_one_and_a_quarter_of_the_largest_face_around_the_median_nose():
    # Frames 5, 6, 7: x 105 106 107, y 200, size 90 92 94.
    assert entry().box([5, 6, 7]) == pytest.approx((106 - 58.75, 200 - 58.75, 106 + 58.75, 200 + 58.75))


def test_a_box_may_reach_beyond_the_picture():
    x0, y0, x1, y1 = entry(boxes=FaceTrack((0,), (0.0,), (0.0,), (80.0,))).box([0])
    assert (x0, y0, x1, y1) == pytest.approx((-50, -50, 50, 50))


def test_outside_the_frames_with_a_face_the_nearest_box_is_held():
    assert entry().face_range == (0, 20)
    assert entry().box([25, 29]) == entry().box([20])


def test_the_whole_picture_is_the_box_where_nothing_was_detected():
    whole = FaceEntry("a", frames=30, fps=25.0, width=640, height=480)
    assert whole.whole_frame
    assert whole.face_range == (0, 29)
    assert whole.box([0, 1]) == (0, 0, 640, 480)


@given(
    st.lists(st.tuples(st.floats(-500, 2000), st.floats(-500, 2000), st.floats(1, 900)), min_size=1, max_size=40),
    st.lists(st.integers(0, 200), min_size=1, max_size=16),
)
@settings(max_examples=200, deadline=None)
def test_a_line_of_the_file_gives_the_same_boxes_back_to_a_tenth_of_a_pixel(faces, frames):
    before = entry(boxes=FaceTrack(tuple(range(0, 5 * len(faces), 5)), *zip(*faces, strict=True)))
    after = FaceEntry.from_json(before.to_json())
    assert after.key_frames.tolist() == before.key_frames.tolist()
    assert np.allclose(after.box(frames), before.box(frames), atol=0.15)
    assert FaceEntry.from_json(after.to_json()).to_json() == after.to_json()
    x0, y0, x1, y1 = after.box(frames)
    assert x1 - x0 == pytest.approx(y1 - y0)


def test_shots_are_kept_and_a_line_of_the_version_before_them_is_read_as_one_shot(tmp_path):
    shots = ((0, 7), (8, 8), (12, 29))
    assert FaceEntry.from_json(entry(shots=shots).to_json()).shots == shots
    assert entry(shots=shots).clip_ranges == [(0, 0), (20, 20)]  # where the face is known: at 0, 10 and 20
    assert entry(shots=((0, 9), (10, 29))).clip_ranges == [(0, 0), (10, 20)]
    assert '"shots": null' in entry().to_json()
    line = entry("old").to_json().replace('"shots": null, "version": 2', '"version": 1')
    assert "shots" not in line
    old = FaceEntry.from_json(line)
    assert (old.shots, old.clip_ranges, old.to_json()) == (None, [(0, 20)], line)
    index = FaceIndex({"old": old, "new": entry("new", shots=shots), "bad": FaceEntry("bad", error="it is bad")})
    assert index.without_shots(["old", "new", "bad", "absent"]) == ["old"]


@pytest.mark.parametrize("shots", ["[[0, 30]]", "[[-1, 29]]", "[[5, 4]]", "[[0, 9], [9, 29]]", "[[3]]", "[[0, 9.5]]"])
def test_shots_that_are_none_of_the_video_are_named(shots):
    line = entry().to_json().replace('"shots": null', f'"shots": {shots}')
    with pytest.raises(InputError, match=r"a line of the face index: .*expected "):
        FaceEntry.from_json(line)


def test_an_index_is_read_from_its_set_or_its_file_and_later_lines_replace_earlier_ones(tmp_path):
    path = write(tmp_path / "face_index.jsonl", entry("a"), FaceEntry("b", error="b is empty."), entry("a", frames=7))
    for index in (FaceIndex.read(tmp_path), FaceIndex.read(path)):
        assert len(index) == 2
        assert index.entry("a").frames == 7
        assert index.errors == {"b": "b is empty."}
        assert "a" in index
        assert "c" not in index
        assert index.box("a", [0]) == (50, 150, 150, 250)


def test_a_video_that_cannot_be_used_or_is_not_there_is_said_when_its_box_is_asked_for(tmp_path):
    index = FaceIndex.read(write(tmp_path / "face_index.jsonl", FaceEntry("b", error="b.mp4 is empty.")))
    with pytest.raises(InputError, match=r"^b\.mp4 is empty\.$"):
        index.box("b", [0])
    with pytest.raises(InputError, match=r"c is not in .*face_index\.jsonl: run `istvt prepare`"):
        index.box("c", [0])


def test_a_missing_index_says_how_to_make_it(tmp_path):
    with pytest.raises(InputError, match=r"There is no face index .*face_index\.jsonl: run `istvt prepare .*` first"):
        FaceIndex.read(tmp_path)


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_last_line_that_was_never_finished_is_ignored(tmp_path, cut):
    path = write(tmp_path / "face_index.jsonl", entry("a"), entry("b"))
    path.write_bytes(path.read_bytes()[: -1 - cut])
    assert set(FaceIndex.read(path).entries) == {"a"}


@pytest.mark.parametrize("line", ["{", "[]", '{"video": "a"}', entry("x").to_json().replace("[0, 10, 20]", "[0]")])
def test_a_broken_line_elsewhere_is_named(tmp_path, line):
    path = tmp_path / "face_index.jsonl"
    path.write_text(f"{entry('a').to_json()}\n{line}\n{entry('b').to_json()}\n")
    with pytest.raises(InputError, match=rf"^{path}: line 2: .*expected .* drops such lines"):
        FaceIndex.read(path)


def test_faces_too_brief_for_a_clip_are_kept_and_a_line_without_them_is_read():
    line = entry(brief=((3, 5, 41.5), (7, 7, 20.0)), briefs=30).to_json()
    again = FaceEntry.from_json(line)
    assert (again.brief, again.briefs) == (((3, 5, 41.5), (7, 7, 20.0)), 30)
    assert "brief" not in entry().to_json()


def test_a_face_is_seen_from_its_first_to_its_last_box_of_each_shot_without_the_breaks_in_which_it_was_gone():
    def seen(frames, shots=None, **changes):
        boxes = FaceTrack(frames, [9.0] * len(frames), [9.0] * len(frames), [9.0] * len(frames))
        return entry(frames=500, boxes=boxes, shots=shots, **changes).frames_seen

    assert seen([0, 5, 10]) == 11
    assert seen([0, 5, 10], ((0, 6), (7, 499))) == 6 + 1
    assert seen([0, 50, 200, 210]) == 51 + 10  # 50 frames at 25 a second are two seconds
    assert seen([0, 100], fps=60.0) == 101
    assert entry(boxes=None, frames=77).frames_seen == 77


# Of a face whose eyes are 40 pixels apart and 30 above a mouth of 20: the scale is 40.
POINTS = [80.0, 100.0, 120.0, 100.0, 100.0, 115.0, 90.0, 130.0, 110.0, 130.0]


def with_landmarks(*shifts: tuple[float, float]) -> FaceTrack:
    """A face on frames 0, 10, 20, ..., moved by so many pixels on each."""
    points = [np.add(np.reshape(POINTS, (5, 2)), shift).ravel() for shift in shifts]
    count = len(shifts)
    return FaceTrack(range(0, 10 * count, 10), [p[4] for p in points], [p[5] for p in points], [90.0] * count, points)


def test_eyes_and_mouth_are_squares_around_their_landmarks_that_grow_with_the_face_alone():
    seen = entry(boxes=with_landmarks((0, 0), (0, 0)))
    assert seen.of_region("face") is seen
    for region, x, y, side in (("eyes", 100, 100, 70), ("mouth", 100, 130, 50)):
        of_part = seen.of_region(region)
        assert of_part.box([0, 5]) == pytest.approx((x - side / 2, y - side / 2, x + side / 2, y + side / 2))
        assert (of_part.clip_ranges, of_part.others) == (seen.clip_ranges, ())


def test_clips_of_a_part_lie_between_frames_that_show_it():
    """The face leaves the picture at the bottom: at first without its mouth, then without its eyes."""
    seen = entry(boxes=with_landmarks((0, 0), (0, 100), (0, 360), (0, 500)), frames=40)
    assert seen.of_region("eyes").key_frames.tolist() == [0, 10, 20]
    assert seen.of_region("mouth").key_frames.tolist() == [0, 10]


@pytest.mark.parametrize(
    ("changes", "region", "sentence"),
    [
        ({"boxes": with_landmarks((0, 380))}, "eyes", "shows no eyes in view: on its one frame with landmarks an eye"),
        (
            {"boxes": with_landmarks((-105, 0), (-110, 0))},
            "mouth",
            "shows no mouth in view: on each of its 2 frames with landmarks a corner of the mouth is outside",
        ),
        (
            {"detector": "dlib"},
            "eyes",
            "crops of the eyes need the landmarks of a face, and there are none: faces found",
        ),
        ({"boxes": None, "detector": "none"}, "mouth", "and there are none: whole pictures"),
    ],
)
def test_a_video_without_the_part_in_view_says_so(changes, region, sentence):
    assert sentence in entry(**changes).of_region(region).error


def test_landmarks_are_an_optional_field_of_a_line():
    assert "landmarks" not in entry().to_json()
    assert '"face"' not in entry().to_json()
    for seen in (
        entry(boxes=with_landmarks((0.04, 0), (3, 1))),
        entry(boxes=None, detector="none", face=with_landmarks((0, 0))),
    ):
        again = FaceEntry.from_json(seen.to_json())
        assert again.to_json() == seen.to_json()
        assert again.has_landmarks
        assert np.allclose(again.of_region("eyes").box([0]), seen.of_region("eyes").box([0]), atol=0.2)
    line = entry(boxes=with_landmarks((0, 0))).to_json().replace("[[80.0, ", "[[")
    with pytest.raises(InputError, match=r"landmarks are 1 rows of 9 numbers; expected one of 10 for each frame"):
        FaceEntry.from_json(line)
