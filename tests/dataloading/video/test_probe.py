import os

import av
import cv2
import numpy as np
import pytest
from video_fixtures import (
    CODECS,
    cut_short,
    damage_frame,
    numbered_frame,
    uneven_times,
    write_numbered,
    write_sound,
)

from dataloading.errors import InputError
from dataloading.video.probe import probe, probe_once

CANONICAL = {"h264_open_gop": "h264", "h264_intra": "h264"}


@pytest.mark.parametrize("codec", CODECS)
def test_a_video_is_described_without_decoding_all_of_it(tmp_path, codec):
    info = probe(write_numbered(tmp_path, "clip", codec, frames=30, width=160, height=96))
    assert (info.codec, info.frames, info.width, info.height) == (CANONICAL.get(codec, codec), 30, 160, 96)
    assert info.fps == pytest.approx(25, rel=1e-2)
    assert info.rotation == 0
    assert info.pixel_format == ("yuvj420p" if codec == "mjpeg" else "yuv420p")
    assert len(info.timestamps) == 30
    assert (np.diff(info.timestamps) > 0).all()
    assert info.keyframes[0] == 0


def test_the_times_of_a_variable_frame_rate_are_kept(tmp_path):
    info = probe(write_numbered(tmp_path, "clip", frames=20, timestamps=uneven_times(20)))
    seconds = (info.timestamps - info.timestamps[0]) * float(info.time_base)
    np.testing.assert_allclose(seconds, np.array(uneven_times(20)) / 1000, atol=1e-3)
    assert info.fps == pytest.approx(19 / (uneven_times(20)[-1] / 1000), rel=1e-3)


def test_a_phone_video_is_described_upright(tmp_path):
    info = probe(write_numbered(tmp_path, "clip", rotation=90, width=160, height=96))
    assert (info.width, info.height, info.rotation) == (96, 160, 90)


def test_ten_bit_and_other_pixel_formats_are_named(tmp_path):
    ten_bit = probe(write_numbered(tmp_path, "ten", pixel_format="yuv420p10le", frames=3))
    assert ten_bit.pixel_format == "yuv420p10le"


def test_frames_cut_off_by_an_edit_list_are_not_counted(tmp_path, trimmed_video):
    info = probe(trimmed_video)
    assert (info.frames, info.hidden) == (35, 3)


def test_a_remembered_description_is_renewed_when_the_file_changes(tmp_path):
    path = write_numbered(tmp_path, "clip", frames=5)
    assert probe_once(path) is probe_once(path)
    write_numbered(tmp_path, "clip", frames=9)
    os.utime(path, ns=(1, 1))
    assert probe_once(path).frames == 9


def test_a_missing_file_is_named(tmp_path):
    _expect(tmp_path / "gone.mp4", "does not exist")
    with pytest.raises(InputError, match="does not exist"):
        probe_once(tmp_path / "gone.mp4")


def test_a_directory_is_named(tmp_path):
    _expect(tmp_path, "is a directory")


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "empty.mp4").touch()
    _expect(tmp_path / "empty.mp4", "is empty (0 bytes)")


@pytest.mark.parametrize("name", ["noise.mp4", "noise.avi", "noise"])
def test_garbage_is_not_a_video(tmp_path, name):
    (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(20_000))
    _expect(tmp_path / name, "is not a video")


def test_text_and_pictures_are_not_videos(tmp_path):
    (tmp_path / "notes.txt").write_text("not a video\n" * 100)
    _expect(tmp_path / "notes.txt", "is text")
    (tmp_path / "renamed.mp4").write_text("not a video\n" * 100)
    _expect(tmp_path / "renamed.mp4", "is not a video")
    for suffix in (".png", ".jpg", ".bmp"):
        cv2.imwrite(str(tmp_path / f"picture{suffix}"), numbered_frame(1, 64, 48))
        _expect(tmp_path / f"picture{suffix}", "is a picture")


def test_a_download_cut_off_before_its_index_is_said_to_be_cut_short(tmp_path):
    whole = write_numbered(tmp_path, "whole", "h264_intra")
    _expect(cut_short(whole, tmp_path / "half.mp4", 0.5), "is cut short or was never finished")


def test_a_download_cut_off_after_its_index_is_said_to_be_cut_short(tmp_path):
    whole = write_numbered(tmp_path, "whole", "h264_intra", container_options={"movflags": "faststart"})
    _expect(cut_short(whole, tmp_path / "half.mp4", 0.5), "promises 50 frames and")


def test_sound_only_is_not_a_video(tmp_path):
    _expect(write_sound(tmp_path / "sound.m4a"), "sound only")
    _expect(write_sound(tmp_path / "sound.mp4"), "sound only")


def test_a_video_stream_without_frames_is_named(tmp_path):
    path = tmp_path / "nothing.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    _expect(path, "without frames")


def test_damage_inside_the_stream_does_not_stop_the_description(tmp_path):
    whole = write_numbered(tmp_path, "whole", "h264_intra")
    for number in (0, 20):
        assert probe(damage_frame(whole, tmp_path / "damaged.mp4", number)).frames == 50


def _expect(path, text):
    with pytest.raises(InputError) as caught:
        probe(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert text in message
    assert message.endswith(".") or "expected" in message
    assert "\n" not in message
