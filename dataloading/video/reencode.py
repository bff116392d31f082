"""Re-encoding of videos with H.264 (libx264), in memory: what an upload to a web site does to every frame."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import cv2
import numpy as np

from dataloading.dataset import FIRST_FRAMES
from dataloading.video.decode import iterate_pictures, to_rgb
from dataloading.video.probe import VideoInfo

PRESET = "medium"  # FFmpeg's default, as FaceForensics++ was compressed
_AVX512 = 256  # CV_CPU_AVX512_SKX of OpenCV, which has no name for it in Python
# x264's AVX-512 code reads memory beyond a row of macroblocks (mbtree), so that the same pictures give other packets in
# some runs; its AVX2 code gives those of any other processor, each time.
REPEATABLE = {"x264-params": "asm=avx2"} if cv2.checkHardwareSupport(_AVX512) else {}


def reencoded_frames(
    path: Path, frames: Iterable[int] | np.ndarray, info: VideoInfo, crf: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode frames as `iterate_frames` does, of a copy of the video that was encoded once more.

    Encoded are the whole pictures of the first `FIRST_FRAMES` frames, or of all where a later one is asked for: what a
    frame looks like depends on those before it, and on those that the encoder looks ahead to.

    Args:
        path: The file.
        frames: Indices in display order.
        info: What `probe` says of the file.
        crf: Constant rate factor, 0 (lossless) to 51.

    Yields:
        `(frame, uint8 [H, W, 3])`, ascending and upright.

    Raises:
        InputError: As `iterate_frames`, also where a frame that is not asked for is damaged.
    """
    count = encoded_count(frames, info.frames)
    pictures = (picture for _, picture in iterate_pictures(path, range(count), info))
    yield from _chosen(reencode(pictures, crf, info.fps, info.rotation), frames)


def reencoded_regions(
    regions: Iterable[tuple[int, np.ndarray]], frames: Iterable[int] | np.ndarray, crf: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Do the same to the regions of a crop store, which has no more of the pictures.

    Args:
        regions: `(frame, uint8 [h, w, 3])` of the frames to encode, from 0 on without a gap.
        frames: Those that are yielded.
        crf: As above.
    """
    pictures = (av.VideoFrame.from_ndarray(region, format="rgb24") for _, region in regions)
    yield from _chosen(reencode(pictures, crf), frames)


def encoded_count(frames: Iterable[int] | np.ndarray, available: int) -> int:
    """Return how many frames from the beginning are encoded for these, of so many that there are."""
    return available if max(map(int, frames)) >= FIRST_FRAMES else min(available, FIRST_FRAMES)


def reencode(
    pictures: Iterable["av.VideoFrame"], crf: int, fps: float = 25.0, rotation: int = 0
) -> Iterator[np.ndarray]:
    """Encode and decode pictures of one size; yield each as uint8 [H, W, 3], turned upright by `rotation` degrees."""
    pictures = iter(pictures)
    first = next(pictures)
    encoded = _in_420(first)
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    for packet in chain(encode(chain([first], pictures), crf, fps), [None]):  # None: give out what is held back
        for picture in decoder.decode(packet):
            picture.colorspace, picture.color_range = encoded.colorspace, encoded.color_range
            rgb = to_rgb(picture, 0)[: first.height, : first.width]
            yield np.ascontiguousarray(np.rot90(rgb, rotation // 90))


def encode(pictures: Iterable["av.VideoFrame"], crf: int, fps: float = 25.0) -> Iterator["av.Packet"]:
    """Yield the packets of H.264 in 4:2:0 at a constant rate factor.

    Args:
        pictures: Of one size, in any pixel format; their place in the order is their time.
        crf: Constant rate factor.
        fps: Frames per second, which the encoder's choices depend on.
    """
    encoder: av.VideoCodecContext | None = None
    rate = Fraction(fps or 25.0).limit_denominator(1001)
    for number, picture in enumerate(map(_in_420, pictures)):
        if encoder is None:
            encoder = av.CodecContext.create("libx264", "w")
            encoder.width, encoder.height, encoder.pix_fmt = picture.width, picture.height, "yuv420p"
            encoder.time_base, encoder.framerate = 1 / rate, rate
            encoder.thread_count = 1
            encoder.options = {"crf": str(crf), "preset": PRESET, **REPEATABLE}
        picture.pts, picture.time_base = number, 1 / rate
        picture.pict_type = av.video.frame.PictureType.NONE  # else it keeps the type that it had in the original
        yield from encoder.encode(picture)
    if encoder is not None:
        yield from encoder.encode(None)


def _in_420(picture: "av.VideoFrame") -> "av.VideoFrame":
    """Return a picture in 8-bit 4:2:0, whose sides are even: an odd one gets its last row or column twice."""
    odd = picture.height % 2, picture.width % 2
    if any(odd):
        rgb = np.pad(to_rgb(picture, 0), ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
    return picture if picture.format.name == "yuv420p" else picture.reformat(format="yuv420p", threads=1)


def _chosen(pictures: Iterable[np.ndarray], frames: Iterable[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    wanted = {int(frame) for frame in frames}
    for number, picture in enumerate(pictures):
        if number in wanted:
            yield number, picture
