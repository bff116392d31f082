"""Videos of extreme size and file names of extreme content are explained within bounded memory and time."""

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from dataloading.clips import reader
from dataloading.clips.loader import ClipLoader
from dataloading.clips.sampling import Clip
from dataloading.dataset import Video
from dataloading.face_index import FaceEntry
from istvt import ISTVT, ISTVTConfig
from istvt.config import ExplanationSettings
from istvt.explain_video import pictures
from istvt.explain_video.video import explain_video

MODEL = ISTVTConfig(image_size=40, dim=16, heads=2, depth=2, mlp_dim=24, backbone_dims=(4, 4, 8, 8))


def write_repeated(path: Path, width: int, height: int, frames: int) -> Path:
    """One MJPEG picture of a bright rectangle, the same packet as often as there are frames."""
    picture = np.full((height * 3 // 2, width), 128, np.uint8)
    picture[height // 4 : height // 2, width // 4 : width // 2] = 200
    with av.open(os.fsencode(path).decode("utf-8", "surrogateescape"), "w", format="mp4") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(picture, format="yuv420p").reformat(format="yuvj420p")
        [encoded] = [*stream.encode(frame), *stream.encode()]
        for number in range(frames):
            packet = av.Packet(bytes(encoded))
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), True
            packet.pts = packet.dts = number
            packet.duration = 1
            container.mux(packet)
    return path


def explained(video: str | Path, out: str | Path, clips_scored: int | None = None, **options):
    settings = ExplanationSettings(detect=False, clips=1, clips_scored=clips_scored, workers=1, batch_size=1)
    return explain_video(video, ISTVT(MODEL), out, settings, **options)


def peak_of_explaining(video: Path, out: Path) -> int:
    """Peak memory in bytes of a process that explains one clip of a video."""
    program = f"import test_size; test_size.explained({str(video)!r}, {str(out)!r})"
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    # Not ru_maxrss: a process that is started takes over the peak of the one that starts it.
    report = f"{program}; print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    result = subprocess.run(
        [sys.executable, "-c", report], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return int(result.stdout.split()[-1]) * 1024


def test_a_video_of_16k_is_explained_in_the_memory_of_ten_of_its_frames(tmp_path):
    """Six frames were held at full size for each clip, and blurred at full size for each picture."""
    video = write_repeated(tmp_path / "large.mp4", 15360, 8640, frames=6)
    frame = 15360 * 8640 * 3
    assert peak_of_explaining(video, tmp_path / "out") < 10 * frame
    data = json.loads((tmp_path / "out" / "explanation.json").read_text())
    assert (data["video"]["width"], data["video"]["height"]) == (15360, 8640)
    with av.open(str(tmp_path / "out" / "in_frame.mp4")) as container:
        shown = next(container.decode(video=0))
        assert (shown.width, shown.height) == (960, 3 * 540)


def test_a_very_large_part_of_a_frame_is_kept_in_a_smaller_size_and_gives_the_same_clip(tmp_path, monkeypatch):
    video = write_repeated(tmp_path / "video.mp4", 240, 160, frames=6)
    clip = Clip(Video(video, 0, "x", None, "x", "x"), np.arange(6), (10.0, 5.0, 150.0, 145.0), 0, 0)
    whole = next(iter(ClipLoader([clip], 1, 20, workers=1))).clips
    monkeypatch.setattr(reader, "LARGEST_AREA", 80 * 80)
    shrunk = next(iter(ClipLoader([clip], 1, 20, workers=1))).clips
    assert (whole - shrunk).abs().mean() < 0.01
    assert (whole - whole.mean()).abs().mean() > 0.05


def test_a_long_and_low_picture_is_kept_whole_and_keeps_its_few_rows(tmp_path):
    """Damage made a video of 8288x96: a third of its rows was kept, and its score was not that of its pictures."""
    video = write_repeated(tmp_path / "video.mp4", 8288, 96, frames=6)
    clip = Clip(Video(video, 0, "x", None, "x", "x"), np.arange(6), (0.0, 0.0, 8288.0, 96.0), 0, 0)
    (outcome,) = reader.decode_windows([clip], 40)
    assert outcome[0].shape == (6, 96, 8288, 3)


def test_of_a_video_of_100000_frames_only_the_clips_are_decoded(tmp_path):
    video = write_repeated(tmp_path / "long.mp4", 32, 32, frames=100_000)
    face = FaceEntry(str(video), 100_000, 25.0, 32, 32)  # known, so that nothing has to look for cuts in all of it
    result = explained(video, tmp_path / "out", face=face, clips_scored=3)
    assert len(result.score.clip_frames) == 3
    assert result.score.clip_frames[-1][-1] > 60_000
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) < 5_000_000


def test_a_file_name_that_no_font_can_lay_out_does_not_end_the_page(tmp_path):
    name = b"a\nb\x07c\x1b[31m\xff \xd7\x90.mp4"
    video = write_repeated(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)), 48, 48, frames=6)
    result = explained(video, tmp_path / "out", clips_scored=1)
    for key in ("panels", "pasted", "data", "page"):
        assert result.files[key].stat().st_size > 500
    assert json.loads(result.files["data"].read_text())["video"]["path"] == str(video)


def test_what_no_font_can_lay_out_becomes_one_sign_each():
    assert pictures.printable("a\nb\x00c\udcff é") == "a\ufffdb\ufffdc\ufffd é"
