from collections import Counter
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataloading.clips.sampling import RehearsedClips, TrainingClips, clips_over_shots, evaluation_clips
from dataloading.dataset import Video
from dataloading.errors import InputError
from dataloading.face_index import FaceEntry, FaceIndex, FaceTrack


def _video(name, label):
    manipulation = "fake" if label else "original"
    return Video(Path(f"{name}.mp4"), label, manipulation, "train", name, name)


def _set_of(lengths, labels):
    """Videos of the given numbers of frames, whole pictures."""
    videos = [_video(f"v{i}", label) for i, label in enumerate(labels)]
    entries = {
        video.name: FaceEntry(video.name, frames=length, fps=25.0, width=64, height=48)
        for video, length in zip(videos, lengths, strict=True)
    }
    return videos, FaceIndex(entries)


def _face_between(first, last, frames=100):
    """One video whose face is known from one frame to another."""
    video = _video("face", 0)
    keys = tuple(range(first, last + 1))
    boxes = FaceTrack(keys, (200.0,) * len(keys), (200.0,) * len(keys), (80.0,) * len(keys))
    entry = FaceEntry(video.name, frames, 25.0, 640, 480, "yuface", boxes)
    return [video], FaceIndex({video.name: entry})


def _key(clip):
    return clip.video.name, int(clip.frames[0])


def _starts(clips):
    return [int(clip.frames[0]) for clip in clips]


sets = st.lists(st.tuples(st.integers(1, 400), st.integers(0, 1)), min_size=1, max_size=12)


# Evaluation


def test_evaluation_clips_are_spread_over_the_first_270_frames_as_in_the_paper():
    videos, index = _set_of([1000], [0])
    clips = evaluation_clips(videos, index, frames=6, clips_per_video=4)
    assert _starts(clips) == [0, 88, 176, 264]
    assert clips[-1].frames.tolist() == [264, 265, 266, 267, 268, 269]
    assert clips[0].frames.dtype == np.int64


def test_evaluation_clips_of_a_short_video_reach_its_last_frame():
    videos, index = _set_of([20], [0])
    assert _starts(evaluation_clips(videos, index, frames=6, clips_per_video=3)) == [0, 7, 14]


def test_evaluation_can_use_all_frames():
    videos, index = _set_of([1000], [0])
    assert _starts(evaluation_clips(videos, index, clips_per_video=2, first_frames=None)) == [0, 994]


def test_a_video_with_room_for_fewer_clips_gives_each_of_them_once():
    videos, index = _set_of([8, 6], [0, 1])
    assert [_key(clip) for clip in evaluation_clips(videos, index, clips_per_video=10)] == [
        ("v0", 0),
        ("v0", 1),
        ("v0", 2),
        ("v1", 0),
    ]


@given(sets, st.integers(1, 12), st.integers(1, 6), st.sampled_from([None, 30, 270]))
@settings(max_examples=60, deadline=None)
def test_every_video_gives_clips_inside_it_or_is_listed_with_a_reason(rows, frames, clips_per_video, first_frames):
    videos, index = _set_of(*zip(*rows, strict=True))
    clips = evaluation_clips(videos, index, frames, clips_per_video, first_frames)
    lengths = {video.name: length for video, (length, _) in zip(videos, rows, strict=True)}
    counts = Counter(clip.video.name for clip in clips)
    for video in videos:
        usable = min(lengths[video.name], first_frames or lengths[video.name])
        assert counts[video.name] == min(clips_per_video, max(usable - frames + 1, 0))
    assert {item.video for item in clips.skipped} == {video for video in videos if not counts[video.name]}
    assert len({_key(clip) for clip in clips}) == len(clips)
    assert [clip.index for clip in clips] == list(range(len(clips)))
    for clip in clips:
        assert (np.diff(clip.frames) == 1).all()
        assert len(clip.frames) == frames
        assert clip.frames[-1] < min(lengths[clip.video.name], first_frames or 10**9)
        assert clip.label == clip.video.label
        assert clip.box == (0, 0, 64, 48)


def test_clips_lie_where_the_face_is_known():
    videos, index = _face_between(30, 50)
    assert _starts(evaluation_clips(videos, index, frames=6, clips_per_video=2)) == [30, 45]


def test_a_clip_has_the_box_of_its_own_frames():
    videos, index = _face_between(0, 99)
    (clip,) = evaluation_clips(videos, index, clips_per_video=1)
    assert clip.box == index.box("face", clip.frames) == (150, 150, 250, 250)


def test_a_video_shorter_than_a_clip_is_listed_with_its_length():
    videos, index = _set_of([5, 30], [0, 1])
    (short,) = evaluation_clips(videos, index, frames=6).skipped
    assert short.video.name == "v0"
    assert "has 5 frames; a clip needs 6" in short.reason


def test_a_video_without_a_face_is_listed_with_what_the_index_says():
    videos, index = _set_of([30, 30], [0, 1])
    index.entries["v1"] = FaceEntry("v1", error="no face was found in v1.mp4")
    (item,) = evaluation_clips(videos, index).skipped
    assert (item.video.name, item.reason) == ("v1", "no face was found in v1.mp4")  # the file is named once


def test_a_video_that_shows_its_face_too_briefly_is_listed():
    videos, index = _face_between(30, 33)
    clips = evaluation_clips(videos, index)
    assert clips == []
    assert "shows a face in frames 30 to 33 only; a clip needs 6 frames within the first 270" in clips.skipped[0].reason


def test_a_video_missing_from_the_index_is_listed():
    videos, index = _set_of([30], [0])
    (item,) = evaluation_clips([*videos, _video("new", 1)], index).skipped
    assert "new.mp4 is not in the face index" in item.reason


@pytest.mark.parametrize("argument", ["frames", "clips_per_video"])
def test_a_number_below_one_is_named(argument):
    videos, index = _set_of([30], [0])
    with pytest.raises(InputError, match=f"{argument} is 0; expected 1 or more"):
        evaluation_clips(videos, index, **{argument: 0})


# Shots


@st.composite
def cut_videos(draw):
    """Entries of one video in up to five shots, with gaps of dissolves, and with or without a face every few frames."""
    lengths = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 40)), min_size=1, max_size=5))
    shots, at = [], 0
    for gap, length in lengths:
        shots.append((at + gap, at + gap + length - 1))
        at += gap + length
    keys = draw(st.lists(st.integers(0, at - 1), min_size=1, max_size=20, unique=True).map(sorted) | st.none())
    boxes = keys and FaceTrack(keys, [200.0] * len(keys), [200.0] * len(keys), [80.0] * len(keys))
    return FaceEntry("cut", at, 25.0, 640, 480, "yuface", boxes, shots=tuple(shots))


@given(cut_videos(), st.integers(1, 8), st.integers(1, 6), st.sampled_from([None, 30]))
@settings(max_examples=100, deadline=None)
def test_no_clip_spans_a_cut_in_evaluation_or_training(entry, frames, clips_per_video, first_frames):
    video, real, other = _video("cut", 1), *_set_of([50], [0])
    index = FaceIndex({"cut": entry} | other.entries)
    clips = evaluation_clips([video], index, frames, clips_per_video, first_frames)
    reaches = [set(range(first, last + 1)) for first, last in entry.clip_ranges]
    room = [{f for f in reach if first_frames is None or f < first_frames} for reach in reaches]
    fitting = sum(max(len(reach) - frames + 1, 0) for reach in room)
    assert len(clips) == min(clips_per_video, fitting)
    assert bool(clips.skipped) == (fitting == 0)
    if any(len(reach) >= frames for reach in reaches):
        clips = [*clips, *TrainingClips([*real, video], index, frames, 3).epoch(0)]
    for clip in clips:
        if clip.video is video:
            assert any(set(clip.frames.tolist()) <= reach for reach in reaches)
            assert any(first <= clip.frames[0] and clip.frames[-1] <= last for first, last in entry.shots)


@given(st.integers(1, 300), st.integers(0, 299), st.integers(1, 12), st.sampled_from([None, 30, 270]))
@settings(max_examples=60, deadline=None)
def test_a_video_of_one_shot_gives_the_clips_of_a_video_without_shots(frames, first, clips_per_video, first_frames):
    """FaceForensics++ and its like: the protocol is as it was, bit for bit."""
    videos, unknown = _face_between(min(first, frames - 1), frames - 1, frames)
    entry = replace(unknown.entry("face"), shots=((0, frames - 1),))
    found, known = _set_of([60], [0]), FaceIndex({"face": entry})
    for make in (
        lambda index: evaluation_clips(videos, index, 6, clips_per_video, first_frames),
        lambda index: TrainingClips(
            [*videos, _video("v0", 1)], FaceIndex(index.entries | found[1].entries), 6, clips_per_video
        ).epoch(1) if frames - first > 6 else [],
    ):  # fmt: skip
        one, other = make(unknown), make(known)
        assert [(clip.frames.tolist(), clip.box) for clip in one] == [(c.frames.tolist(), c.box) for c in other]


def test_the_clips_of_the_protocol_are_those_of_before_there_were_shots():
    videos, index = _face_between(7, 411, 430)
    entry = index.entries["face"] = replace(index.entry("face"), shots=((0, 429),))
    expected = np.unique(np.rint(np.linspace(7, 264, 50)).astype(np.int64)).tolist()
    assert _starts(evaluation_clips(videos, index, clips_per_video=50)) == expected
    assert entry.clip_ranges == [(7, 411)]


def test_a_video_of_only_short_shots_is_listed_with_the_longest():
    videos, index = _face_between(0, 99)
    index.entries["face"] = replace(index.entry("face"), shots=tuple((start, start + 3) for start in range(0, 100, 4)))
    [item] = evaluation_clips(videos, index).skipped
    assert "shows a face in frames 0 to 3 at most, the longest of 25 shots; a clip needs 6 frames" in item.reason
    index.entries["face"] = replace(index.entry("face"), shots=())
    [item] = evaluation_clips(videos, index).skipped
    assert "shows a face in dissolves and fades only; a clip needs 6 frames" in item.reason


# Videos outside a data set


def _edited(*shots, frames=None, fps=25.0):
    """The entry of a video of such shots, each (first, last), whole pictures."""
    return FaceEntry("v0", frames or shots[-1][1] + 1, fps, 64, 48, shots=shots)


@given(st.integers(6, 400), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_a_video_of_one_shot_gives_the_clips_of_evaluation_over_all_its_frames(frames, count):
    entry, video = _edited((0, frames - 1)), _video("v0", 0)
    expected = evaluation_clips([video], FaceIndex({"v0": entry}), 6, count, None)
    assert _starts(clips_over_shots(video, entry, 6, count)) == _starts(expected)


@given(st.lists(st.integers(1, 90), min_size=2, max_size=12), st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_every_shot_that_holds_a_clip_gives_one_and_long_ones_more(lengths, count):
    ends = np.cumsum(lengths)
    shots = tuple((int(end - length), int(end - 1)) for end, length in zip(ends, lengths, strict=True))
    room = [max(length - 5, 0) for length in lengths]
    clips = clips_over_shots(_video("v0", 0), _edited(*shots), 6, count)
    if not any(room):
        assert (len(clips), len(clips.skipped)) == (0, 1)
        return
    assert _starts(clips) == sorted(set(_starts(clips)))
    assert len(clips) == min(count, sum(room))
    assert [clip.index for clip in clips] == list(range(len(clips)))
    inside = [sum(first <= start and start + 5 <= last for start in _starts(clips)) for first, last in shots]
    assert sum(inside) == len(clips)  # none spans a cut
    if count >= sum(map(bool, room)):
        assert all(bool(given) == bool(possible) for given, possible in zip(inside, room, strict=True))
        pairs = zip(room, inside, strict=True)
        assert all(here >= there for (a, here), (b, there) in product(list(pairs), repeat=2) if a > b)


def test_there_are_more_clips_of_a_face_that_is_seen_for_longer_or_in_more_shots():
    def count(*shots, **options):
        return len(clips_over_shots(_video("v0", 0), _edited(*shots, **options)))

    assert count((0, 749)) == 8  # half a minute
    assert count((0, 2999)) == 30
    assert count((0, 44_999)) == 64  # half an hour
    assert count(*((20 * k, 20 * k + 19) for k in range(14))) == 14
    assert count(*((20 * k, 20 * k + 19) for k in range(200))) == 64


# Training

training_sets = st.tuples(
    st.lists(st.integers(6, 60), min_size=1, max_size=8), st.lists(st.integers(6, 60), min_size=1, max_size=8)
)


def _training_set(lengths):
    real, fake = lengths
    return _set_of([*real, *fake], [0] * len(real) + [1] * len(fake))


@given(training_sets, st.integers(1, 5), st.integers(0, 3), st.integers(0, 2**31), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_the_shards_of_an_epoch_are_every_so_manyth_clip_of_one_balanced_list(
    lengths, per_video, epoch, seed, world_size
):
    """The list used to depend on the number of processes: another number went on with another list."""
    videos, index = _training_set(lengths)
    whole = [_key(clip) for clip in TrainingClips(videos, index, 6, per_video, seed).epoch(epoch)]
    for rank in range(world_size):
        sampler = TrainingClips(videos, index, 6, per_video, seed, rank, world_size)
        shard = sampler.epoch(epoch)
        assert [_key(clip) for clip in shard] == whole[rank::world_size]
        assert [clip.index for clip in shard] == list(range(len(shard)))
        assert len(sampler) - 1 <= len(shard) <= len(sampler)
        assert sampler.clips_in_all == len(whole)
    labels = {video.name: video.label for video in videos}
    classes = Counter(labels[name] for name, _ in whole)
    assert classes[0] == classes[1] == max(len(lengths[0]), len(lengths[1])) * per_video


@given(training_sets, st.integers(1, 4), st.integers(0, 8))
@settings(max_examples=30, deadline=None)
def test_another_number_of_processes_goes_on_with_the_clips_that_are_left(lengths, before, steps):
    videos, index = _training_set(lengths)

    def rest(world_size, position):
        shards = [TrainingClips(videos, index, 6, 3, 1, rank, world_size) for rank in range(world_size)]
        return Counter(_key(clip) for shard in shards for clip in shard.epoch(2, position))

    # Of as many clips as both numbers of processes can have used in whole rounds.
    assert rest(before, 6 * steps) == rest(2 * before, 3 * steps) == rest(3 * before, 2 * steps)


@given(training_sets, st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_a_clip_is_drawn_again_only_after_every_other_clip_of_its_video(lengths, per_video):
    videos, index = _training_set(lengths)
    counts = Counter(_key(clip) for clip in TrainingClips(videos, index, 6, per_video).epoch(0))
    for video in videos:
        room = index.entry(video.name).frames - 5
        drawn = [counts[video.name, start] for start in range(room)]
        assert max(drawn) - min(drawn) <= 1


@given(training_sets, st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_the_videos_of_a_class_give_equally_many_clips(lengths, per_video):
    videos, index = _training_set(lengths)
    counts = Counter((clip.label, clip.video.name) for clip in TrainingClips(videos, index, 6, per_video).epoch(1))
    for label in (0, 1):
        of_class = [counts[label, video.name] for video in videos if video.label == label]
        assert max(of_class) - min(of_class) <= 1


def test_an_epoch_depends_on_seed_and_number_alone():
    videos, index = _training_set(([50] * 3, [50] * 9))

    def drawn(seed, epoch):
        return [_key(clip) for clip in TrainingClips(videos, index, seed=seed).epoch(epoch)]

    assert drawn(1, 2) == drawn(1, 2)
    assert drawn(1, 2) != drawn(1, 3)
    assert drawn(1, 2) != drawn(2, 2)
    sampler = TrainingClips(videos, index, seed=1)
    sampler.epoch(0)
    assert [_key(clip) for clip in sampler.epoch(2)] == drawn(1, 2)


def test_classes_are_mixed_within_an_epoch():
    videos, index = _training_set(([50] * 20, [50] * 20))
    labels = [clip.label for clip in TrainingClips(videos, index).epoch(0)]
    assert sum(a != b for a, b in pairwise(labels)) > len(labels) / 3


@given(st.integers(0, 40))
@settings(max_examples=20, deadline=None)
def test_resuming_gives_exactly_the_rest_of_the_epoch(position):
    videos, index = _training_set(([50] * 4, [50] * 5))
    sampler = TrainingClips(videos, index, seed=3, rank=1, world_size=2)
    whole, rest = sampler.epoch(4), sampler.epoch(4, position=position)
    assert [(_key(c), c.index) for c in rest] == [(_key(c), c.index) for c in whole[position:]]


def test_skipped_videos_are_listed_by_the_sampler_and_by_each_epoch():
    videos, index = _set_of([50, 50, 3], [0, 1, 1])
    sampler = TrainingClips(videos, index)
    assert [item.video.name for item in sampler.skipped] == ["v2"]
    assert sampler.epoch(0).skipped == sampler.skipped


def test_training_on_one_class_is_refused_with_the_counts():
    videos, index = _set_of([50, 3], [1, 0])
    with pytest.raises(InputError, match=r"no usable real video .*usable: 1, skipped: 1, such as v1.mp4: has 3 frames"):
        TrainingClips(videos, index)


def test_a_rank_outside_the_world_is_named():
    videos, index = _set_of([50, 50], [1, 0])
    with pytest.raises(InputError, match="rank is 2; expected 0 to 1 with a world_size of 2"):
        TrainingClips(videos, index, rank=2, world_size=2)


# Rehearsal


@pytest.mark.parametrize(("share", "earlier"), [(0.5, 1), (0.75, 1), (0.2, 2)])
def test_a_share_of_an_epoch_is_of_earlier_sets_balanced_and_shuffled_among_the_new_clips(share, earlier):
    new, old = _set_of([40] * 8, [0, 1] * 4), _set_of([40] * 30, [0, 1, 1] * 10)
    sampler = RehearsedClips([new, *[old] * earlier], share, 6, 3, seed=1)
    clips = sampler.epoch(0)
    assert len(clips) == len(sampler) == sampler.clips_in_all
    rehearsed = [clip for clip in clips if clip.rehearsed]
    assert len(clips) - len(rehearsed) == TrainingClips(*new, 6, 3).clips_in_all == 24
    whole_clips = earlier  # each class of each earlier set has a whole number, half a clip off at the most
    assert len(rehearsed) == sampler.rehearsed_in_all == pytest.approx(24 * share / (1 - share), abs=whole_clips)
    assert sum(clip.label for clip in rehearsed) == len(rehearsed) / 2
    assert [clip.index for clip in clips] == list(range(len(clips)))
    changes = sum(first.rehearsed != second.rehearsed for first, second in pairwise(clips))
    assert changes > len(rehearsed) / 4
    other = [_key(clip) for clip in sampler.epoch(1) if clip.rehearsed]
    assert sorted(other) != sorted(map(_key, rehearsed))  # each epoch draws others


def test_rehearsed_clips_are_shared_among_processes_and_resumed_as_training_clips_are():
    sets = [_set_of([40] * 5, [0, 1, 1, 0, 1]), _set_of([30] * 9, [0, 1, 1] * 3)]
    whole = [(clip.index, _key(clip), clip.rehearsed) for clip in RehearsedClips(sets, 0.4, 6, 3, 7).epoch(2)]
    parts = [RehearsedClips(sets, 0.4, 6, 3, 7, rank, 3) for rank in range(3)]
    for rank, part in enumerate(parts):
        mine = [(_key(clip), clip.rehearsed) for clip in part.epoch(2)]
        assert mine == [each[1:] for each in whole[rank::3]]
        assert [(_key(clip), clip.rehearsed) for clip in part.epoch(2, 2)] == mine[2:]


def test_a_set_of_one_class_cannot_be_rehearsed():
    with pytest.raises(InputError, match="There is no usable fake video to train on"):
        RehearsedClips([_set_of([40] * 4, [0, 1] * 2), _set_of([40] * 3, [0] * 3)], 0.5)
