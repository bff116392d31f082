"""The edited synthetic video: who is in which shot, and that one person is forged in one shot and nowhere else."""

import numpy as np
import pytest

from dataloading.clips.sampling import clips_over_shots
from dataloading.dataset import Video
from dataloading.errors import InputError
from dataloading.faces.detect import whole_picture
from dataloading.synthetic import EDITED, draw_edited_video, read_edited_video, synthesize
from dataloading.video.decode import decode_frames


@pytest.fixture(scope="module")
def content(edited_video):
    return read_edited_video(edited_video)


def test_only_one_person_in_one_shot_depends_on_the_forgery(edited_video, content, tmp_path):
    """All frames are intra frames, so what is equal before encoding is equal after it."""
    other = tmp_path / "other.mp4"
    draw_edited_video(other, seed=2026, frames=10, size=48, manipulation="flicker")
    frames = range(content.shots[-1][1] + 1)
    both, flicker = (decode_frames(path, frames).astype(int) for path in (edited_video, other))
    assert both.shape == (55, 48, 96, 3)
    first, last = content.shots[content.forged_shot - 1]
    changed = np.abs(both - flicker).max(axis=(1, 2, 3)) > 0
    assert np.flatnonzero(changed).tolist() == list(range(first, last + 1))
    assert content.people[content.forged_shot - 1] == (content.forged_person,)
    assert sum(content.forged_person in people for people in content.people) == 3


def test_its_cuts_are_found_where_it_says_that_they_are(edited_video, content):
    assert whole_picture(edited_video).shots == content.shots == ((0, 14), (15, 24), (25, 34), (35, 44), (45, 54))


def test_the_clips_of_each_person_show_all_of_its_part_of_the_picture_and_no_other(edited_video, content):
    entry = content.face_entry(edited_video)
    assert [(person, shot) for person, shot, _ in entry.tracks()] == [(1, 0), (1, 2), (1, 4), (2, 1), (2, 2), (2, 3)]
    video = Video(edited_video, 0, "x", None, entry.video, entry.video)
    for number in (1, 2):
        clips = clips_over_shots(video, entry.of_person(number), 6, 12)
        assert len(clips) == 12
        for clip in clips:
            [shot] = [s for s, (first, last) in enumerate(content.shots) if first <= clip.frames[0] <= last]
            place = content.places[shot][content.people[shot].index(number)]
            assert clip.box == pytest.approx(place)


def test_a_set_has_it_where_that_is_asked_for_and_is_the_same_set_otherwise(tmp_path):
    settings = {"identities": 6, "frames": 8, "size": 32, "workers": 1, "progress": False}
    root = synthesize(tmp_path / "set", **settings).directory
    before = {path: path.read_bytes() for path in root.rglob("*.mp4")}
    again = synthesize(root, **settings, edited=True)
    assert (again.written, again.already_there) == (0, 24)
    after = {path: path.read_bytes() for path in root.rglob("*.mp4")}
    assert after.keys() - before.keys() == {root / EDITED}
    assert all(after[path] == data for path, data in before.items())
    assert read_edited_video(root / EDITED).forged_shot == 4


def test_a_video_without_its_description_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"alone\.json"):
        read_edited_video(tmp_path / "alone.mp4")
