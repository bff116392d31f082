"""Encoders of real test videos: every frame shows its own number as a grid of light and dark cells."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from dataloading.dataset import Video
from dataloading.face_index import FaceEntry, FaceIndex

ROWS, COLUMNS = 3, 4  # 12 bits
DARK, LIGHT = 40, 215
CODECS = {
    "h264": ("libx264", ".mp4", {"preset": "ultrafast", "crf": "18"}),
    "h264_open_gop": ("libx264", ".mp4", {"x264-params": "keyint=12:min-keyint=12:open-gop=1:bframes=3:b-pyramid=2"}),
    "h264_intra": ("libx264", ".mp4", {"x264-params": "keyint=1", "crf": "18"}),
    "hevc": ("libx265", ".mp4", {"x265-params": "keyint=12:min-keyint=12:open-gop=1:log-level=none"}),
    "vp8": ("libvpx", ".webm", {"auto-alt-ref": "1", "lag-in-frames": "12", "cpu-used": "8"}),
    "vp9": ("libvpx-vp9", ".webm", {"cpu-used": "8", "crf": "20", "deadline": "realtime"}),
    "mjpeg": ("mjpeg", ".avi", {"qmin": "1", "qmax": "3"}),
    "mpeg4": ("mpeg4", ".avi", {"qmin": "1", "qmax": "3"}),
    "av1": ("libsvtav1", ".mp4", {"preset": "12", "svtav1-params": "keyint=12"}),
}


def numbered_frame(number: int, width: int, height: int) -> np.ndarray:
    """uint8 [H, W, 3]: the bits of the number as light and dark cells, slightly tinted from left to right."""
    bits = (number >> np.arange(ROWS * COLUMNS)) & 1
    cells = np.where(bits, LIGHT, DARK).reshape(ROWS, COLUMNS)
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    gray = cells[rows][:, columns].astype(np.float64)
    tint = np.linspace(-20, 20, width)
    return np.stack([gray + tint, gray, gray - tint], axis=-1).clip(0, 255).astype(np.uint8)


def read_number(picture: np.ndarray) -> int:
    """The number in a picture [H, W, 3] of any size in gray levels 0 to 255."""
    height, width = picture.shape[:2]
    rows = ((np.arange(ROWS) + 0.5) * height / ROWS).astype(int)
    columns = ((np.arange(COLUMNS) + 0.5) * width / COLUMNS).astype(int)
    bits = picture.astype(np.float64).mean(axis=-1)[rows][:, columns].ravel() > (DARK + LIGHT) / 2
    return int((bits << np.arange(ROWS * COLUMNS)).sum())


@contextlib.contextmanager
def ordinary_scheduling() -> Iterator[None]:
    """Give every thread of this process back its share of a processor when an encoder is done.

    libsvtav1, run by root, puts its threads and the one that opens it into `SCHED_FIFO` at priority 99, and leaves it
    there. All processes started after it inherit that: a test that waits for its browser in a loop starves it, and
    everything else on the machine.
    """
    try:
        yield
    finally:
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):  # ended since it was listed
                if os.sched_getscheduler(int(thread)) != os.SCHED_OTHER:
                    os.sched_setscheduler(int(thread), os.SCHED_OTHER, os.sched_param(0))


def write_video(
    path: Path,
    pictures: Sequence[np.ndarray],
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pixel_format: str = "yuv420p",
    rotation: int | None = None,
    timestamps: Sequence[int] | None = None,
    rate: int = 25,
    container_options: dict[str, str] | None = None,
    threads: int | None = None,
) -> Path:
    """Encodes pictures uint8 [H, W, 3]; `timestamps` in milliseconds make the frame rate variable."""
    with ordinary_scheduling(), av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixel_format
        if threads is not None:
            stream.thread_count = threads
        if timestamps is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if timestamps is not None:
                frame.pts, frame.time_base = timestamps[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_numbered(
    directory: Path, name: str, codec: str = "h264", frames: int = 50, width: int = 128, height: int = 96, **kwargs
) -> Path:
    """A numbered video in one of the `CODECS`."""
    encoder, suffix, options = CODECS[codec]
    kwargs.setdefault("pixel_format", "yuvj420p" if encoder == "mjpeg" else "yuv420p")
    pictures = [numbered_frame(number, width, height) for number in range(frames)]
    return write_video(directory / f"{name}{suffix}", pictures, encoder, {**options}, **kwargs)


def uneven_times(frames: int) -> list[int]:
    """Milliseconds of a variable frame rate: a pause, a burst, ordinary frames."""
    steps = np.resize([40, 40, 7, 250, 33, 40, 90], frames)
    return np.concatenate([[0], np.cumsum(steps)[:-1]]).tolist()


def write_sound(path: Path) -> Path:
    """A file with a second of sound and no pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def damage_frame(source: Path, target: Path, number: int) -> Path:
    """A copy in which every byte of one frame's packet is inverted; the frame is counted in decoding order."""
    data = np.fromfile(source, np.uint8)
    with av.open(str(source)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    # Found by its contents: where a container wraps the packet differently, its position is not that of the data.
    packet = bytes(packets[number])
    start = data.tobytes().find(packet)
    assert start >= 0
    data[start : start + len(packet)] ^= 0xFF
    data.tofile(target)
    return target


def cut_short(source: Path, target: Path, part: float) -> Path:
    """A copy of the first part of a file."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * part)])
    return target


def video_of(path: Path, label: int = 0, name: str | None = None) -> Video:
    """A `Video` for a file that belongs to no data set."""
    name = name or path.stem
    return Video(path, label, "fake" if label else "original", None, name, name)


def whole_frame_index(videos: dict[Video, tuple[int, int, int]]) -> FaceIndex:
    """An index without detection; each video's value is its (frames, width, height)."""
    return FaceIndex(
        {
            video.name: FaceEntry(video.name, frames=frames, fps=25.0, width=width, height=height)
            for video, (frames, width, height) in videos.items()
        }
    )
