"""Frame-exact decoding of a video file to RGB arrays, by PyAV (FFmpeg)."""

import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from dataloading.errors import InputError
from dataloading.video.probe import VideoInfo, open_video, probe, video_stream
from dataloading.video.processes import alive

# Decoders that look at `skip_frame` for the packet at hand; others, such as dav1d, work ahead.
_SKIPS_PACKET_BY_PACKET = ("h264", "hevc")
# Opening a file again costs about as much as decoding this many small frames.
_FRAMES_WORTH_A_JUMP = 12
_converter = threading.local()


def decode_frames(path: str | Path, frames: Sequence[int] | np.ndarray, info: VideoInfo | None = None) -> np.ndarray:
    """Decode chosen frames, upright, as 8-bit RGB.

    A frame is found by its place in the sorted presentation times, so the index is exact with constant and variable
    frame rates, reordered frames and open groups of pictures; rates and durations play no part.

    Args:
        path: The file.
        frames: Indices in display order, in any order.
        info: What `probe` says of the file, if it is known already.

    Returns:
        uint8 [n, H, W, 3], in the order of `frames`.

    Raises:
        InputError: The file is no video, it has no such frame, or the frame is damaged; file and frame are named.
    """
    path = Path(path)
    info = info or probe(path)
    decoded = dict(iterate_frames(path, frames, info))
    return np.stack([decoded[int(frame)] for frame in frames])


def iterate_frames(
    path: str | Path, frames: Sequence[int] | np.ndarray, info: VideoInfo | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode as `decode_frames` does, but one frame at a time, ascending: for many frames of a long video.

    Yields:
        `(frame, uint8 [H, W, 3])`, each of the different `frames` once.

    Raises:
        InputError: As `decode_frames`, before the first frame that is missing.
    """
    path = Path(path)
    info = info or probe(path)
    for frame, picture in iterate_pictures(path, frames, info):
        yield frame, to_rgb(picture, info.rotation)


def scan_frames(
    path: str | Path,
    frames: Sequence[int] | np.ndarray,
    thumbnail: tuple[int, int],
    info: VideoInfo | None = None,
    largest: int | None = None,
    threads: int = 1,
) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
    """Decode every frame of a video once: a thumbnail of each, and chosen ones whole.

    Args:
        path: The file.
        frames: Indices of those that are wanted whole.
        thumbnail: Height and width, as the picture is stored (not turned upright).
        info: What `probe` says of the file, if it is known already.
        largest: Chosen pictures are scaled down so that no side has more pixels; None leaves them as they are.
        threads: That decode.

    Yields:
        `(frame, uint8 [height, width, 3], uint8 [H, W, 3] or None)`, ascending.

    Raises:
        InputError: As `decode_frames`, before the first frame that is missing.
    """
    path = Path(path)
    info = info or probe(path)
    whole = {int(frame) for frame in frames}
    height, width = thumbnail
    for frame, picture in iterate_pictures(path, range(info.frames), info, threads):
        yield (
            frame,
            _scaled(picture, width, height),
            to_rgb(picture, info.rotation, largest) if frame in whole else None,
        )


def iterate_pictures(
    path: Path, frames: Sequence[int] | np.ndarray, info: VideoInfo, threads: int = 1
) -> Iterator[tuple[int, "av.VideoFrame"]]:
    """Decode as `iterate_frames` does, but yield each picture as it is stored: in its own pixel format, not turned."""
    wanted = sorted({int(frame) for frame in frames})
    if not wanted:
        raise InputError(f"No frame of {path} is asked for; expected one or more.")
    for frame in (wanted[0], wanted[-1]):
        if not 0 <= frame < info.frames:
            raise InputError(f"{path} has no frame {frame}: it has {info.frames}, counted from 0.")
    for run in _runs(wanted, info):
        yield from _decode_run(path, run, info, threads)


def _runs(wanted: list[int], info: VideoInfo) -> Iterator[list[int]]:
    """Split the wanted frames where jumping to a keyframe is cheaper than decoding what lies between."""
    run = wanted[:1]
    for frame in wanted[1:]:
        if _keyframe_before(frame, info) - run[-1] > _FRAMES_WORTH_A_JUMP:
            yield run
            run = []
        run.append(frame)
    yield run


def _keyframe_before(frame: int, info: VideoInfo) -> int:
    return int(info.keyframes[np.searchsorted(info.keyframes, frame, side="right") - 1])


def _decode_run(path: Path, wanted: list[int], info: VideoInfo, threads: int) -> Iterator[tuple[int, "av.VideoFrame"]]:
    """Yield the wanted frames, or raise an InputError that names the first one that is missing."""
    # From the nearest keyframe first. Where a stream cannot be entered there, its beginning always works.
    error: av.FFmpegError | None = None
    for start in dict.fromkeys((_keyframe_before(wanted[0], info), 0)):
        done = 0
        try:
            for frame, picture in _decode_from(path, start, wanted, info, threads):
                width, height = (
                    (picture.height, picture.width) if info.rotation % 180 else (picture.width, picture.height)
                )
                if (width, height) != (info.width, info.height):
                    size, expected = f"{width}x{height}", f"{info.width}x{info.height}"
                    raise InputError(f"{path} changes its picture size: {expected} at first, {size} in frame {frame}.")
                done += 1
                yield frame, picture
        except av.FFmpegError as failure:
            error = failure
        wanted = wanted[done:]
        if not wanted:
            return
    reason = f" ({error.strerror})" if error is not None and error.strerror else ""
    raise InputError(f"{path} is damaged: frame {wanted[0]} of {info.frames} cannot be decoded{reason}.") from error


def _decode_from(
    path: Path, start: int, wanted: list[int], info: VideoInfo, threads: int
) -> Iterator[tuple[int, "av.VideoFrame"]]:
    """Yield the wanted frames, ascending, decoded forward from keyframe `start`; end early where one is missing."""
    with open_video(path) as container:
        stream = video_stream(container, path)
        # An error must be an error: by default FFmpeg paints over damage and says nothing. One thread a file unless it
        # is the only one: the loader decodes several files at once.
        stream.codec_context.options = {"err_detect": "explode"}
        stream.codec_context.thread_count = threads
        pictures = (
            _pictures_by_time(container, stream, start, wanted, info)
            if info.timed
            else enumerate(alive(container.decode(stream)))
        )
        expected = iter(wanted)
        remaining = set(wanted)
        for frame, picture in pictures:
            if frame not in remaining:
                continue
            if frame != next(expected):
                return
            remaining.remove(frame)
            yield frame, picture
            if not remaining:
                return


def _pictures_by_time(
    container: "av.container.InputContainer", stream: "av.VideoStream", start: int, wanted: list[int], info: VideoInfo
) -> Iterator[tuple[int, "av.VideoFrame"]]:
    """Yield decoded pictures and their frame numbers, by presentation time; at least the wanted ones."""
    wanted_times = {int(time) for time in info.timestamps[wanted]}
    entry = int(info.timestamps[start])
    if start > 0:
        container.seek(entry, stream=stream, backward=True)
    for packet in alive(container.demux(stream)):
        if start > 0 and packet.pts is not None and packet.pts < entry:
            # Shown before the keyframe. In an open group of pictures some of these come after it and refer to what
            # came before; nothing shown later refers to them.
            continue
        # What is neither wanted nor a reference of something else need not be decoded: half of the frames of x264.
        if info.codec in _SKIPS_PACKET_BY_PACKET:
            skip = packet.pts is not None and packet.pts not in wanted_times
            stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"
        for picture in stream.decode(packet):
            if picture.pts is not None:
                yield int(np.searchsorted(info.timestamps, picture.pts)), picture


def to_rgb(picture: "av.VideoFrame", rotation: int, largest: int | None = None) -> np.ndarray:
    """Return uint8 [H, W, 3], turned upright. More than 8 bits are scaled to 8.

    Where a side has more pixels than `largest`, the picture is scaled down.
    """
    factor = max(picture.width, picture.height) / (largest or sys.maxsize)
    if factor > 1:
        rgb = _scaled(picture, *(max(round(side / factor), 1) for side in (picture.width, picture.height)))
    else:
        rgb = _converter_to(None).reformat(picture, format="rgb24", threads=1).to_ndarray()
    return np.ascontiguousarray(np.rot90(rgb, rotation // 90)) if rotation else rgb


def _scaled(picture: "av.VideoFrame", width: int, height: int) -> np.ndarray:
    """Return uint8 [height, width, 3]: each pixel is the mean of those that it stands for."""
    converter = _converter_to((width, height))
    return converter.reformat(picture, width, height, "rgb24", interpolation="AREA", threads=1).to_ndarray()


def _converter_to(size: tuple[int, int] | None) -> VideoReformatter:
    """Return this thread's converter to a size: one that is given others in turn is set up for each picture.

    Its calls are given threads=1: by default each picture would start as many as there are processors.
    """
    if not hasattr(_converter, "of_thread"):
        _converter.of_thread = {}
    if size not in _converter.of_thread:
        if len(_converter.of_thread) > 4:
            _converter.of_thread.clear()
        _converter.of_thread[size] = VideoReformatter()
    return _converter.of_thread[size]
