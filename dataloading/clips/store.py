"""Crop store: the region around each video's face, written once, from which clips are read without whole pictures.

A store is a directory that `istvt prepare ROOT --crops DIR` writes and that stands in the place of the data set::

    DIR/store.json           what is kept and of which videos: labels, splits, manipulations (`Manifest`)
    DIR/face_index.jsonl     the boxes that the regions were cut for, in the form of any data set
    DIR/crops.jsonl          a line a finished video: checksums, the original's version (`Finished`); later lines win
    DIR/videos/NAME.mkv      one region of every kept frame, each a key frame: FFV1 (lossless) or JPEG (lossy); or
    DIR/videos/NAME.mov      MagicYUV (lossless), which Matroska has no name for
    DIR/videos/NAME.json     where each frame's bytes are in it, with their CRC-32 (`CropTable`)
    DIR/masks/NAME.mp4       copies of mask videos

The files play anywhere. Clips do not go through their containers: the bytes of a frame are read by their position and
checked, and nothing else is. A lossless codec keeps the region in the video's own pixel format, so that its conversion
to RGB is that of the original; where that does not give the same bytes (odd picture sizes, whose chroma FFmpeg
interpolates depending on the size) the region of the converted picture is kept instead.
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from dataloading.dataset import FIRST_FRAMES, Video
from dataloading.errors import InputError
from dataloading.face_index import FILE_NAME as FACE_INDEX
from dataloading.face_index import FaceEntry, FaceIndex
from dataloading.io import parse_json, read_bytes

MANIFEST, JOURNAL, VIDEOS, MASKS = "store.json", "crops.jsonl", "videos", "masks"
VERSION = 1
LEAST_IMAGE_SIZE = 32  # pixels; the smaller the input of a model, the farther its resampling filter reaches
BORDER = 2  # pixels of a region beside the picture's edge whose chroma may come out otherwise than in the picture
MAX_BYTES = 4 << 30
COLUMNS = ("timestamps", "offset", "size", "crc32")  # of a table: one number a frame

CropFormat = Literal["ffv1", "magicyuv", "jpeg"]
LOSSLESS = {"ffv1": "FFV1", "magicyuv": "MagicYUV"}  # by FFmpeg's name of the codec
CONTAINERS = {"ffv1": "matroska", "magicyuv": "mov", "jpeg": "matroska"}  # as FFmpeg calls them
SUFFIXES = {"matroska": ".mkv", "mov": ".mov"}
Region = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the upright picture


@dataclass(frozen=True, slots=True)
class CropOptions:
    """What a store keeps of each video.

    Attributes:
        format: `"ffv1"` or `"magicyuv"`, lossless, or `"jpeg"`.
        quality: Of JPEG, 1 to 100; None for the others.
        first_frames: How many frames from the beginning; None for all.
    """

    format: CropFormat = "ffv1"
    quality: int | None = None
    first_frames: int | None = FIRST_FRAMES

    def __post_init__(self) -> None:
        if (self.format == "jpeg") != (self.quality is not None):
            raise ValueError(f"format {self.format} with quality {self.quality}; expected a quality with jpeg only")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"quality is {self.quality}; expected 1 to 100")
        if self.first_frames is not None and self.first_frames < 1:
            raise ValueError(f"first_frames is {self.first_frames}; expected 1 or more")

    def __str__(self) -> str:
        name = LOSSLESS.get(self.format)
        kind = f"lossless {name}" if name else f"lossy JPEG of quality {self.quality}"
        frames = "all frames" if self.first_frames is None else f"the first {self.first_frames} frames"
        return f"{kind} crops of {frames}"


@dataclass(frozen=True, slots=True)
class StoredVideo:
    """What a data set says of one video; see `dataloading.dataset.Video`. `mask` is relative to the store."""

    video: str
    label: Literal[0, 1]
    manipulation: str
    split: str | None
    identity: str
    source: str | None = None
    mask: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """Content of store.json.

    Attributes:
        source: Root of the data set.
        layout: Its layout.
        options: What is kept of each video.
        videos: All videos of the data set, also those that cannot be used.
        boxes: SHA-256 of the face index of the data set when it was copied; None where the store's is the only one.
        left_out: (path, reason) of the files of the data set that are not used.
        notes: Its notes.
        version: Of the files of a store.
    """

    source: str
    layout: str
    options: CropOptions
    videos: tuple[StoredVideo, ...]
    boxes: str | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    version: Literal[1] = VERSION


@dataclass(frozen=True, slots=True)
class Original:
    """A version of an original file: its size in bytes, its modification time in ns, its SHA-256."""

    path: str
    bytes: int
    modified: int
    sha256: str

    def is_unchanged(self) -> bool:
        """Whether size and time are as they were; also where the file is not there."""
        try:
            status = os.stat(self.path)
        except OSError:
            return True
        return (status.st_size, status.st_mtime_ns) == (self.bytes, self.modified)


@dataclass(frozen=True, slots=True)
class Finished:
    """A line of crops.jsonl: a video that is in the store.

    Attributes:
        video: `Video.name`.
        original: The file that it was cut from.
        options: What was kept of it.
        face: The line of the face index that the region was cut for.
        bytes, sha256: Of the video file.
        table_sha256: Of its `CropTable`.
        mask_sha256: Of the copy of its mask video.
    """

    video: str
    original: Original
    options: CropOptions
    face: str
    bytes: int
    sha256: str
    table_sha256: str
    mask_sha256: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class CropTable:
    """Content of NAME.json: what the video file beside it holds, n frames.

    Attributes:
        face: The line of the face index that the region was cut for.
        format: See `CropOptions`.
        width, height: Of the upright picture of the original.
        region: The part of it that is kept.
        rotation: Degrees counterclockwise by which a stored picture is turned to be upright.
        pixel_format: Of the stored pictures.
        colorspace, color_range, chroma_location: FFmpeg's numbers, of the original.
        extradata: Of the decoder, in hexadecimal.
        time_base: Seconds, as a fraction.
        timestamps: int64 [n], presentation times of the original in units of `time_base`.
        offset, size, crc32: int64 [n], of the bytes of each frame.
        damaged: Frames that could not be decoded, each with the reason; their size is 0.
        version: Of the files of a store.
    """

    face: str
    format: CropFormat
    width: int
    height: int
    region: Region
    rotation: int
    pixel_format: str
    colorspace: int
    color_range: int
    chroma_location: int
    extradata: str
    time_base: tuple[int, int]
    timestamps: Sequence[int]
    offset: Sequence[int]
    size: Sequence[int]
    crc32: Sequence[int]
    damaged: tuple[tuple[int, str], ...] = ()
    version: Literal[1] = VERSION

    def __post_init__(self) -> None:
        for name in COLUMNS:
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.int64))  # a quarter of a tuple's memory
        counts = {len(getattr(self, name)) for name in COLUMNS}
        if len(counts) > 1:
            raise ValueError(f"{sorted(counts)} values of {', '.join(COLUMNS)}; expected as many of each")

    @property
    def usable(self) -> Region:
        """The part of the region whose pixels are those of the picture."""
        x0, y0, x1, y1 = self.region
        return (
            x0 + BORDER * (x0 > 0),
            y0 + BORDER * (y0 > 0),
            x1 - BORDER * (x1 < self.width),
            y1 - BORDER * (y1 < self.height),
        )


def video_file(root: Path, name: str, crop_format: str) -> Path:
    """Return the file of a video in a store."""
    return root / VIDEOS / f"{name}{SUFFIXES[CONTAINERS[crop_format]]}"


def table_file(video: Path) -> Path:
    """Return the file with the table of a stored video."""
    return video.with_suffix(".json")


def is_store(root: Path) -> bool:
    """Return whether a directory is a crop store."""
    return (root / MANIFEST).is_file()


def read_manifest(root: Path) -> Manifest:
    """Read store.json; InputError where it is none or of another version."""
    return _this_version(root / MANIFEST, Manifest)


def read_table(path: Path) -> CropTable:
    """Read the table of a stored video, cached for as long as its file stays the same.

    Raises:
        InputError: It is not there, no table, or of another version.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a finished crop store") from error
    return _read_table(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16384)
def _read_table(path: Path, modified: int, size: int) -> CropTable:
    return _this_version(path, CropTable)


@dataclass(frozen=True, slots=True)
class _Version:
    version: int


def _this_version(path: Path, model: type) -> Manifest | CropTable:
    data = read_bytes(path, MAX_BYTES)
    found = parse_json(data, _Version, str(path), unknown="ignore").version
    if found != VERSION:
        raise InputError(
            f"{path}: version {found} of a crop store; expected version {VERSION}: "
            "`istvt prepare ROOT --crops DIR` writes a new one into another directory"
        )
    return parse_json(data, model, str(path))


def read_journal(root: Path) -> dict[str, Finished]:
    """Return the finished videos of a store by name; a broken last line, which a killed run leaves, is ignored.

    Raises:
        InputError: Another line is none of a journal.
    """
    path = root / JOURNAL
    if not path.is_file():
        return {}
    finished = {}
    lines = read_bytes(path, MAX_BYTES).split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            item = parse_finished(line, f"{path}: line {number}")
        except InputError:
            if number == len(lines):
                continue
            raise
        finished[item.video] = item
    return finished


def parse_finished(line: bytes, where: str = "a line of the journal") -> Finished:
    """Return a line of crops.jsonl; InputError, which begins with `where`, if it is none."""
    return parse_json(line, Finished, where)


def as_stored(video: Video) -> Video:
    """Return the video of a file, as what it is in a crop store where it lies in one."""
    table = _table_of(video.path)
    return video if table is None else replace(video, crops=table, first_frames=len(read_table(table).offset))


def stored_face(path: Path) -> FaceEntry | None:
    """Return the boxes for which a file was cut, where it lies in a crop store."""
    table = _table_of(path)
    return None if table is None else FaceEntry.from_json(read_table(table).face, str(table))


def _table_of(path: Path) -> Path | None:
    """Return the file of the table of a stored video; None for any other file."""
    table = table_file(path)
    inside = path.suffix in SUFFIXES.values() and table.is_file() and any(map(is_store, path.absolute().parents))
    return table if inside else None


def read_frames(path: Path, table: CropTable, frames: Sequence[int] | np.ndarray) -> Iterator[tuple[int, bytes]]:
    """Read the bytes of chosen frames of a stored video, ascending; neighbors in one go, and no others.

    Raises:
        InputError: It has no such frame, the original's was damaged, or the bytes are not those that were written.
        OSError: The file cannot be read.
    """
    wanted = sorted({int(frame) for frame in frames})
    count = len(table.offset)
    for frame in (wanted[0], wanted[-1]):
        if not 0 <= frame < count:
            raise InputError(f"{path} has no frame {frame}: the store keeps {count} of its video, counted from 0.")
    for frame, reason in table.damaged:
        if frame in wanted:
            raise InputError(reason)
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for run in np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1):
            start = int(table.offset[run[0]])
            data = os.pread(file, int(table.offset[run[-1]] + table.size[run[-1]]) - start, start)
            for frame in run.tolist():
                begin = int(table.offset[frame]) - start
                packet = data[begin : begin + int(table.size[frame])]
                if zlib.crc32(packet) != table.crc32[frame]:
                    raise InputError(
                        f"{path} is damaged: frame {frame} is not what was written. Delete the file, and "
                        "`istvt prepare` with its --crops writes it again."
                    )
                yield frame, packet
    finally:
        os.close(file)


def decode_crops(path: Path, table: CropTable, frames: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Decode the region of chosen frames of a stored video, ascending.

    Yields:
        `(frame, uint8 [h, w, 3])`, upright; the place of `CropTable.region` in the picture of the original.

    Raises:
        InputError: As `read_frames`.
    """
    # Data sets are listed, stores too, where PyAV and OpenCV are not installed.
    import av
    import cv2

    from dataloading.video.decode import to_rgb

    if table.format == "jpeg":
        for frame, data in read_frames(path, table, frames):
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
            if picture is None:
                raise InputError(f"{path} is damaged: the JPEG picture of frame {frame} cannot be decoded.")
            yield frame, picture
        return
    decoder = av.CodecContext.create(table.format, "r")
    # The bytes are those that were written, by their CRC: a decoder of its own process is not needed.
    decoder.extradata = bytes.fromhex(table.extradata)
    decoder.width, decoder.height, decoder.pix_fmt = *_stored_size(table), table.pixel_format
    decoder.thread_count = 1
    decoder.options = {"chroma_sample_location": str(table.chroma_location)}
    for frame, packet in read_frames(path, table, frames):
        [picture] = decoder.decode(av.Packet(packet))
        picture.colorspace, picture.color_range = table.colorspace, table.color_range
        yield frame, to_rgb(picture, table.rotation)


def _stored_size(table: CropTable) -> tuple[int, int]:
    x0, y0, x1, y1 = table.region
    width, height = x1 - x0, y1 - y0
    return (height, width) if table.rotation % 180 else (width, height)


def turned(region: Region, width: int, height: int, rotation: int) -> Region:
    """Return where a region of a picture of `width` x `height` lies after turning it counterclockwise by `rotation`."""
    x0, y0, x1, y1 = region
    match rotation % 360:
        case 90:
            return y0, width - x1, y1, width - x0
        case 180:
            return width - x1, height - y1, width - x0, height - y0
        case 270:
            return height - y1, x0, height - y0, x1
    return region


def why_stale(root: Path, manifest: Manifest, finished: dict[str, Finished]) -> str | None:
    """Return the sentence that says which videos of a store are not what their data set is now; None for none.

    Looked at are the sizes and times of the originals and the boxes in the face index of the data set, as far as these
    can be reached: a store may have been moved to another machine.
    """
    again = f"`istvt prepare {manifest.source} --crops {root}` brings it up to date"
    source = Path(manifest.source)
    if not source.is_dir():
        return None
    changed = [item for item in finished.values() if not item.original.is_unchanged()]
    if changed:
        return (
            f"{root}: {len(changed)} of its {len(finished)} crops are of originals that have changed, such as "
            f"{changed[0].original.path}; {again}."
        )
    index_file = source / FACE_INDEX
    if manifest.boxes is None or not index_file.is_file() or checksum(index_file) == manifest.boxes:
        return None
    index = FaceIndex.read(index_file, leave_out_broken=True)
    other = [name for name, item in finished.items() if name in index and index.entry(name).to_json() != item.face]
    if other:
        return (
            f"{root}: {len(other)} of its {len(finished)} crops were cut for other boxes than {index_file} holds now, "
            f"such as that of {other[0]}; {again}."
        )
    return None


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_video(root: Path, item: StoredVideo, options: CropOptions) -> Video:
    """Return a video of a store."""
    path = video_file(root, item.video, options.format)
    return Video(
        path=path,
        label=item.label,
        manipulation=item.manipulation,
        split=item.split,
        name=item.video,
        identity=item.identity,
        source=item.source,
        mask=root / item.mask if item.mask else None,
        crops=table_file(path),
        first_frames=options.first_frames,
    )
