"""Probing of a video file: size, frame times and keyframes from its packets; decoding stops at the first picture."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np

from dataloading.errors import InputError
from dataloading.video.processes import alive

_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
# Containers with an index: after a seek the times of their packets are still right (in MPEG-PS they are not).
_INDEXED = (_MP4, "matroska,webm", "avi")


@dataclass(frozen=True, slots=True, eq=False)
class VideoInfo:
    """The first video stream of a file.

    Attributes:
        codec: FFmpeg's name of the codec, such as `"h264"`.
        pixel_format: FFmpeg's name of the pixel format, such as `"yuv420p"`.
        width, height: Size of the upright picture (after rotation) in pixels.
        frames: Number of frames that are shown.
        fps: Average frames per second.
        rotation: Degrees counterclockwise by which a stored picture is turned to be upright (phone videos).
        timestamps: int64 [frames], strictly ascending presentation times in units of `time_base`.
        time_base: Seconds.
        keyframes: int64 [K], ascending indices of the frames at which decoding can start; always 0 at least.
        timed: Whether the file gives each frame its own time. If not (AVI), `timestamps` counts the frames and they
            can only be reached from the beginning.
        hidden: Packets that are never shown (cut off by an edit list, or alternate references of VP8).
    """

    codec: str
    pixel_format: str
    width: int
    height: int
    frames: int
    fps: float
    rotation: int
    timestamps: np.ndarray
    time_base: Fraction
    keyframes: np.ndarray
    timed: bool
    hidden: int


def probe(path: str | Path) -> VideoInfo:
    """Describe a video file: a few milliseconds for a small one, since only packets are read.

    Raises:
        InputError: The file is missing, empty, not a video, cut short, has sound only, or has no frames. Damage inside
            the stream shows only when it is decoded.
    """
    path = Path(path)
    with open_video(path) as container:
        stream = video_stream(container, path)
        return _describe(container, stream, path)


def describe(path: str | Path) -> dict[str, float | int | str]:
    """Return what `probe` finds as plain data, with the length in seconds; for a call in a worker process.

    Raises:
        InputError: As `probe`.
    """
    info = probe(path)
    shown = {name: getattr(info, name) for name in ("codec", "width", "height", "frames", "fps")}
    return shown | {"seconds": info.frames / info.fps if info.fps else 0.0}


def picture_size(path: str | Path) -> tuple[int, int]:
    """Return width and height of the upright picture in pixels."""
    info = probe_once(path)
    return info.width, info.height


def open_video(path: Path) -> "av.container.InputContainer":
    """Open a file that should hold a video; one sentence in an InputError where it does not."""
    if not path.exists():
        raise InputError(f"{path} does not exist; expected a video file.")
    if path.is_dir():
        raise InputError(f"{path} is a directory; expected a video file.")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); expected a video file.")
    try:
        container = av.open(str(path), mode="r", metadata_errors="replace")  # titles and such: any bytes
    except PermissionError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except (av.FFmpegError, OSError) as error:
        if _is_mp4(path):
            raise InputError(f"{path} is cut short or was never finished: its index (moov) is missing.") from error
        raise InputError(f"{path} is not a video: no known video format was recognized in it.") from error
    # FFmpeg also "plays" text and single pictures.
    if container.format.name in ("tty", "image2") or container.format.name.endswith("_pipe"):
        kind = "text" if container.format.name == "tty" else "a picture"
        container.close()
        raise InputError(f"{path} is {kind}; expected a video file.")
    return container


def video_stream(container: "av.container.InputContainer", path: Path) -> "av.VideoStream":
    """Return the first stream of moving pictures; InputError where there is only sound (a cover is no video)."""
    covers = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not streams:
        sound = "it has sound only" if container.streams.audio else "it has no video stream"
        raise InputError(f"{path} is not a video: {sound}.")
    if streams[0].codec_context is None:
        raise InputError(f"{path} is encoded with a codec that this build of FFmpeg cannot decode.")
    return streams[0]


def _describe(container: "av.container.InputContainer", stream: "av.VideoStream", path: Path) -> VideoInfo:
    times: list[int | None] = []
    keys: list[int | None] = []
    hidden = 0
    corrupt = False
    codec = stream.codec_context.codec.canonical_name
    first: av.VideoFrame | None = None  # only a decoded picture knows how it is rotated
    damaged = False
    for packet in _packets(container, stream):
        if first is None and not damaged:
            try:
                first = next(iter(stream.decode(packet)), None)
            except av.FFmpegError:
                damaged = True  # decoding will say so, and where
        corrupt = corrupt or packet.is_corrupt
        if not _is_shown(packet, codec):
            hidden += 1
            continue
        times.append(packet.pts)
        if packet.is_keyframe:
            keys.append(packet.pts)
    promised = stream.frames if container.format.name == _MP4 else 0
    if promised and (corrupt or len(times) + hidden < promised):
        raise InputError(f"{path} is cut short: its index promises {promised} frames and {len(times)} are there.")
    if not times:
        raise InputError(f"{path} has a video stream without frames.")
    # AVI stores no presentation times. FFmpeg's guess is right only where frames are not reordered.
    guessed = container.format.name == "avi" and codec != "mjpeg"
    timed = not guessed and None not in times and len(set(times)) == len(times)
    if not timed or container.format.name not in _INDEXED:
        keys = []
    timestamps = np.sort(np.asarray(times, np.int64)) if timed else np.arange(len(times), dtype=np.int64)
    time_base = Fraction(stream.time_base) if timed else 1 / Fraction(stream.average_rate or 25)
    rotation = round(first.rotation / 90) * 90 % 360 if first else 0
    context = stream.codec_context
    width, height = (context.width, context.height)[:: -1 if rotation % 180 else 1]
    return VideoInfo(
        codec=codec,
        pixel_format=context.pix_fmt or (first.format.name if first else "unknown"),
        width=width,
        height=height,
        frames=len(times),
        fps=_frames_per_second(timestamps, time_base, stream.average_rate),
        rotation=rotation,
        timestamps=timestamps,
        time_base=time_base,
        keyframes=np.union1d(0, np.searchsorted(timestamps, np.asarray(keys, np.int64))),
        timed=timed,
        hidden=hidden,
    )


def _packets(container: "av.container.InputContainer", stream: "av.VideoStream") -> Iterator["av.Packet"]:
    """Yield all packets with data; one that cannot be read ends them, as it does for a player."""
    try:
        for packet in alive(container.demux(stream)):
            if packet.size > 0:
                yield packet
    except av.FFmpegError:
        return


def _is_shown(packet: "av.Packet", codec: str) -> bool:
    """Whether a packet gives a picture to show: not if an edit list cuts it off, nor for a hidden VP8 reference."""
    if packet.is_discard:
        return False
    # RFC 6386, section 9.1: bit 4 of a frame's first byte is show_frame.
    return codec != "vp8" or bool(bytes(packet)[0] & 0x10)


def _is_mp4(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8)[4:] in (b"ftyp", b"mdat", b"moov", b"free", b"wide", b"skip")


def _frames_per_second(timestamps: np.ndarray, time_base: Fraction, average: Fraction | None) -> float:
    if len(timestamps) > 1:
        return float((len(timestamps) - 1) / ((int(timestamps[-1]) - int(timestamps[0])) * time_base))
    return float(average or 0)


def probe_once(path: str | Path) -> VideoInfo:
    """Return `probe`'s result, cached for as long as the file's size and modification time stay the same."""
    path = Path(path)
    try:
        status = path.stat()
    except OSError:
        return probe(path)  # says what is wrong
    return _probe_version(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16384)
def _probe_version(path: Path, modified: int, size: int) -> VideoInfo:
    return probe(path)
