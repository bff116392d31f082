"""Writing of a crop store: cuts the region around the face of every video of a data set, and checks each file."""

import contextlib
import hashlib
import json
import logging
import mmap
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import BinaryIO

import av
import cv2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dataloading import remote
from dataloading.clips import store
from dataloading.clips.sampling import why_no_clip
from dataloading.clips.store import CropOptions, CropTable, Finished, Manifest, Original, Region, StoredVideo
from dataloading.dataset import REGIONS, SYNTHETIC_SETTINGS, Dataset, Video
from dataloading.engines import Engine, versions
from dataloading.engines.journal import Line, Shard, keeping, typed
from dataloading.errors import InputError, writing
from dataloading.face_index import FILE_NAME as FACE_INDEX
from dataloading.face_index import MARGIN, FaceEntry, FaceIndex
from dataloading.io import locked, parse_json, replacing, write_json
from dataloading.video.decode import iterate_pictures, to_rgb
from dataloading.video.probe import VideoInfo, probe
from dataloading.video.processes import Workers

logger = logging.getLogger(__name__)

# Pixel formats whose planes can be cut (without the j of full range, which is kept apart).
_PLANAR = re.compile(r"(gray|yuv4(20|22|44)p)(9|10|12|14|16)?(le)?")
LOCK = ".store.lock"
_CHROMA_LOCATIONS = range(7)  # AVChromaLocation: unspecified, left, center, top left, top, bottom left, bottom
_MILLISECONDS = Fraction(1, 1000)  # the unit of time in Matroska, and here in all containers


class _NotTheSameError(Exception):
    """A region in the video's own pixel format that is not converted to the same RGB as the whole picture."""


@dataclass(frozen=True, slots=True)
class Job:
    """One video to cut into the store at `root`: `face` is its line in the face index.

    `original` is its file in the data set, of which that of `video` may be a copy.
    """

    video: Video
    face: str
    options: CropOptions
    root: Path
    original: Path


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did: the videos that are in the store, those that were cut now, and why others could not be."""

    finished: dict[str, Finished]
    cut: int
    failed: dict[str, str]


def index_place(dataset: Dataset, root: Path) -> Path:
    """Return the file that holds the face index while a data set is prepared for a store, and make the store's folder.

    It is the one in the data set, as without a store, unless that cannot be written or is remote: then it is the
    store's own, which begins as a copy of what the data set has.

    Raises:
        InputError: The store cannot be written, or `root` holds something else.
    """
    _check_directory(root, dataset)
    own, of_set = root / FACE_INDEX, dataset.root / FACE_INDEX
    if not of_set.is_file() and own.is_file():
        return own
    try:
        if remote.mirrored(dataset.root):
            raise PermissionError
        of_set.open("ab").close()
    except OSError:
        copied = store.read_manifest(root).boxes if store.is_store(root) else None
        if of_set.is_file() and (not own.is_file() or store.checksum(of_set) != copied):
            _copy(of_set, own)
        return own
    return of_set


def changed_originals(dataset: Dataset, root: Path) -> list[str]:
    """Return the names of the videos whose files are others than those that a store was cut from."""
    finished = store.read_journal(root) if store.is_store(root) else {}
    return [video.name for video in dataset.videos if (item := finished.get(video.name)) and not _is_same(item, video)]


def write_crops(
    dataset: Dataset,
    index: FaceIndex,
    root: str | Path,
    options: CropOptions | None = None,
    *,
    workers: int = 2,
    replace_other: bool = False,
    progress: bool = True,
    engine: Engine | None = None,
    shard: Shard | None = None,
    source: dict[str, str | None] | None = None,
) -> Report:
    """Cut the videos of a data set into a crop store, or bring a store up to date.

    Each video is decoded once, its file is read back and compared with the region of the decoded pictures, and is then
    put in its place. A run that was stopped goes on where it was. Videos are cut again whose original, boxes or options
    are not those that they were cut with.

    Args:
        dataset: From `read_dataset`.
        index: Its face index.
        root: Directory of the store, made where it is not there.
        options: What is kept; lossless crops of the first 270 frames by default.
        workers: Processes that decode and encode.
        replace_other: Cut again what a store holds in another format, or more or fewer frames of. Without it a store
            that has such crops is refused: they may have taken hours.
        progress: Show a progress bar and a summary on standard error.
        engine: Cuts on other machines, which see data set and store under the same paths; None on this one.
        shard: The part of the videos that is cut, for `merge_crops`; the lines of the journal are in a file of their
            own, `Shard.file`, until then.
        source: With a shard: the arguments of `read_dataset` that gave the data set.

    Raises:
        InputError: `root` holds something else, or crops that would be replaced, or another run is writing there.
        OSError: The disk is full; what was finished is kept.
    """
    root, options = Path(root), options or CropOptions()
    if workers < 1:
        raise InputError(f"workers is {workers}; expected at least 1.")
    remote.require_one_machine(dataset.root, engine, shard)
    _check_directory(root, dataset)
    opened = _whole_store(dataset, index, root, options, replace_other)
    if shard is not None:
        opened = _shard_of_store(dataset, index, root, options, replace_other, shard, source or {})
    with opened as (finished, todo, keep):
        failed: dict[str, str] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        bar = Progress(*columns, console=Console(stderr=True), disable=not (progress and todo))
        with bar, Workers() as processes:
            shown = bar.add_task("Cutting crops", total=len(todo))
            ready = partial(_local_job, processes=processes)
            run_all = engine.run_all if engine else partial(processes.run_all, ready=ready)
            for job, line in run_all(cut_video, todo, workers, lambda job: job.video.path):
                if isinstance(line, InputError):
                    failed[job.video.name] = str(line)
                else:
                    finished[job.video.name] = store.parse_finished(line.encode())
                keep(job.video.name, line)
                bar.advance(shown)
    report = Report(finished, len(todo) - len(failed), failed)
    if progress:
        logger.info(format_report(report, root, options))
    return report


# What is in the store as it should be, what is to be cut, and what keeps a line of the journal, or the reason for none.
_Opened = tuple[dict[str, Finished], list[Job], Callable[[str, str | InputError], None]]


@contextlib.contextmanager
def _whole_store(
    dataset: Dataset, index: FaceIndex, root: Path, options: CropOptions, replace_other: bool
) -> Iterator[_Opened]:
    """Open a store, and leave its journal in order."""
    with locked(root / LOCK, f"writing the crops in {root}; wait for it"):
        before = store.read_journal(root)
        if store.is_store(root):
            _check_same(store.read_manifest(root), dataset, options, before, root, replace_other)
        _write_manifest(dataset, index, root, options)
        _write_journal(root, before)  # without what a killed run left of its last line
        finished, todo = _plan(dataset, index, root, options, before)
        yield finished, todo, lambda _, line: None if isinstance(line, InputError) else _append(root, [line])
        _write_journal(root, finished)


@contextlib.contextmanager
def _shard_of_store(
    dataset: Dataset,
    index: FaceIndex,
    root: Path,
    options: CropOptions,
    replace_other: bool,
    shard: Shard,
    source: dict[str, str | None],
) -> Iterator[_Opened]:
    """Open a shard of a store, whose own journal and manifest are only read. Failures are None in its journal."""
    names = {video.name: at for at, video in enumerate(dataset.videos)}
    settings = {"source": {"root": str(dataset.root), **source}, "crops": asdict(options), "versions": versions()}
    with keeping(
        shard.file(root / store.JOURNAL),
        "crops",
        settings,
        [(video.name, video.path) for video in dataset.videos],
        shard,
        to_dict=lambda item: {"crop": item and asdict(item)},
        parse=lambda data, where: parse_json(data, ShardLine, where).crop,
        failed=lambda item: item is None,
    ) as journal:
        before = store.read_journal(root) if store.is_store(root) else {}
        if store.is_store(root):
            _check_same(store.read_manifest(root), dataset, options, before, root, replace_other)
        before |= {item.video: item for item in journal.results.values() if item}
        own = Dataset(dataset.root, dataset.layout, [dataset.videos[at] for at in journal.positions])
        finished, todo = _plan(own, index, root, options, before)
        yield (
            finished,
            todo,
            lambda name, line: journal.add(
                names[name], None if isinstance(line, InputError) else store.parse_finished(line.encode())
            ),
        )
        journal.results = {at: finished.get(dataset.videos[at].name) for at in journal.positions}
        journal.rewrite()


@dataclass(frozen=True, slots=True)
class ShardLine:
    """Result of a video in the journal of a shard: its line in that of the store; None where it was not cut."""

    crop: Finished | None


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """Settings of a shard of a store: the arguments of `read_dataset`, and what is kept."""

    source: dict[str, str | None]
    crops: CropOptions
    versions: dict[str, str]


def merge_crops(
    dataset: Dataset, index: FaceIndex, root: Path, options: CropOptions, lines: Sequence[Line]
) -> dict[str, Finished]:
    """Make a store of the crops that all shards have cut.

    Raises:
        InputError: `root` is another directory than that of the shards, or another run is writing there.
    """
    _check_directory(root, dataset)
    with locked(root / LOCK, f"writing the crops in {root}; wait for it"):
        cut = [typed(line.result, ShardLine, line.video).crop for line in lines]
        finished = [item for item in cut if item is not None]
        gone = [item for item in finished if not _is_there(root, item)]
        if gone:
            raise InputError(f"{root} lacks the crops of {gone[0].video}, which a shard has cut; cut that shard again")
        _write_manifest(dataset, index, root, options)
        _write_journal(root, {item.video: item for item in finished})
    return {item.video: item for item in finished}


def format_report(report: Report, root: Path, options: CropOptions) -> str:
    """Return what a store holds now, and why videos could not be cut, as some lines."""
    size = sum(item.bytes for item in report.finished.values())
    lines = [f"{root}: {options} of {len(report.finished)} videos, {size / 1e6:,.1f} MB; {report.cut} cut now."]
    if options.format == "jpeg":
        lines.append("JPEG is lossy: traces of forgery may go, and clips are not those of the originals.")
    if report.failed:
        lines += [f"{len(report.failed)} could not be cut:", *(f"  {reason}" for reason in report.failed.values())]
    return "\n".join(lines)


def verify(root: Path, advance: Callable[[int, int], None] | None = None) -> tuple[int, list[str]]:
    """Read every file of a store again.

    Args:
        root: The store.
        advance: Called with (videos done, videos in all).

    Returns:
        How many files there are, and a sentence for each that is not what was written or has changed.

    Raises:
        InputError: There is no store, or it cannot be read.
    """
    manifest, finished = store.read_manifest(root), store.read_journal(root)
    masks = {item.video: item.mask for item in manifest.videos}
    count, problems = 0, []
    for done, (name, item) in enumerate(finished.items(), start=1):
        path = store.video_file(root, name, item.options.format)
        files = [(path, item.sha256), (store.table_file(path), item.table_sha256)]
        if item.mask_sha256 and masks.get(name):
            files.append((root / masks[name], item.mask_sha256))
        count += len(files)
        for file, expected in files:
            try:
                if store.checksum(file) != expected:
                    problems.append(f"{file}: is not what was written")
            except OSError as error:
                problems.append(f"{file}: cannot be read ({error.strerror})")
        if not item.original.is_unchanged() and not _has_sha(Path(item.original.path), item.original.sha256):
            problems.append(f"{item.original.path}: has changed since it was cut into {root}")
        if advance:
            advance(done, len(finished))
    return count, problems


@contextlib.contextmanager
def _local_job(job: Job, processes: Workers) -> Iterator[Job]:
    """Give the job with files of this machine."""
    with remote.local_video(job.video, processes.is_stopped) as video:
        yield replace(job, video=video)


def cut_video(job: Job) -> str:
    """Write one video of a store; called in a worker process.

    Returns:
        Its line of the journal.

    Raises:
        InputError: The video cannot be decoded, or is not the one whose face was found.
        OSError: The disk is full or cannot be written.
    """
    video, options = job.video, job.options
    entry, info = FaceEntry.from_json(job.face), probe(video.path)
    if (info.frames, info.width, info.height) != (entry.frames, entry.width, entry.height):
        raise InputError(
            f"{video.path} has {info.frames} frames of {info.width}x{info.height} and had {entry.frames} of "
            f"{entry.width}x{entry.height} when its face was found; its line in the face index is of another file."
        )
    original = _stat_of(job.original, store.checksum(video.path))
    frames = min(info.frames, options.first_frames or info.frames)
    needed = _needed_region(entry, frames)
    path = store.video_file(job.root, video.name, options.format)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        try:
            table = _write(temporary, job, info, frames, needed, native=options.format in store.LOSSLESS)
        except _NotTheSameError:
            table = _write(temporary, job, info, frames, needed, native=False)
        size, digest = temporary.stat().st_size, store.checksum(temporary)
    text = json.dumps(asdict(table) | {name: getattr(table, name).tolist() for name in store.COLUMNS})
    with replacing(store.table_file(path)) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    for other in store.CONTAINERS:  # what a store of another format had
        if (old := store.video_file(job.root, video.name, other)) != path:
            old.unlink(missing_ok=True)
    mask = None
    if video.mask is not None:
        place = job.root / _mask_name(video)
        place.parent.mkdir(parents=True, exist_ok=True)
        _copy(video.mask, place)
        mask = store.checksum(place)
    table_digest = hashlib.sha256((text + "\n").encode()).hexdigest()
    return json.dumps(
        asdict(Finished(video.name, original, options, job.face, size, digest, table_digest, mask)), ensure_ascii=False
    )


def _needed_region(entry: FaceEntry, frames: int) -> Region:
    """Return the part of the picture that clips within the first `frames` frames can read, in whole pixels.

    In each shot the center of a clip's box (`FaceEntry.box`) is between the extremes of the face's, and its side at
    most `MARGIN` times the largest size; resampling to `LEAST_IMAGE_SIZE` reads a little beyond. Clips of the parts of
    the face are in it too, where there are landmarks.
    """
    if entry.boxes is None:
        return 0, 0, entry.width, entry.height
    low, high = np.array([np.inf, np.inf]), np.array([-np.inf, -np.inf])
    crops = [entry.of_region(region) for region in REGIONS]
    usable = ((crop, shot) for crop in crops if crop.error is None for shot in crop.clip_ranges)
    for crop, (first, last) in usable:
        if first >= frames:
            continue
        at = np.arange(first, min(last + 1, frames))
        x, y, size = (np.interp(at, crop.boxes.frame, values) for values in crop.boxes.table.T[1:4])
        side = MARGIN * size.max()
        reach = side / 2 + 3 + side / store.LEAST_IMAGE_SIZE  # as in `reader`, and a pixel for rounding to float32
        low, high = (
            np.minimum(low, (x.min() - reach, y.min() - reach)),
            np.maximum(high, (x.max() + reach, y.max() + reach)),
        )
    limit = np.array([entry.width, entry.height])
    if not (low < high).all():  # no clip
        return 0, 0, entry.width, entry.height
    x0, y0 = np.clip(np.floor(low), 0, limit - 1).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(high), (x0 + 1, y0 + 1), limit).astype(int).tolist()
    return x0, y0, x1, y1


def _aligned(needed: Region, info: VideoInfo) -> Region:
    """Return a region of the picture as it is stored (not turned) that holds the needed one of the upright picture.

    It begins at even pixels, where chroma does; its sides are odd where the picture's are, because FFmpeg converts odd
    pictures in another way; and it has a border whose chroma is interpolated from what lies outside.
    """
    stored = (info.height, info.width) if info.rotation % 180 else (info.width, info.height)
    x0, y0, x1, y1 = store.turned(needed, info.width, info.height, -info.rotation)

    def side(low: int, high: int, length: int) -> tuple[int, int]:
        low = max(low - store.BORDER, 0) // 2 * 2
        high = min(high + store.BORDER, length)
        return low, high + (high - length) % 2

    (x0, x1), (y0, y1) = side(x0, x1, stored[0]), side(y0, y1, stored[1])
    return x0, y0, x1, y1


def _write(temporary: Path, job: Job, info: VideoInfo, frames: int, needed: Region, native: bool) -> CropTable:
    """Write the file of a video and check it against the decoded pictures; return its table.

    Raises:
        _NotTheSameError: `native`, and the regions are not converted to the same RGB.
    """
    part = _aligned(needed, info)
    stored_size = (info.height, info.width) if info.rotation % 180 else (info.width, info.height)
    region = store.turned(part, *stored_size, info.rotation)
    table = CropTable(
        face=job.face,
        format=job.options.format,
        width=info.width,
        height=info.height,
        region=region,
        rotation=info.rotation if native else 0,
        pixel_format="",
        colorspace=0,
        color_range=0,
        chroma_location=0,
        extradata="",
        time_base=info.time_base.as_integer_ratio(),
        timestamps=info.timestamps[:frames],
        offset=np.zeros(frames),
        size=np.zeros(frames),
        crc32=np.zeros(frames),
    )
    damaged: list[tuple[int, str]] = []
    digests: dict[int, int] = {}
    with temporary.open("wb") as file, _container(file, job.options.format) as container:
        writer: _LosslessWriter | _JpegWriter | None = None
        for frame, picture in _readable(job.video.path, frames, info, damaged):
            whole = to_rgb(picture, info.rotation)
            digests[frame] = _digest(whole, table.usable)
            if writer is None:
                times = _milliseconds(table)
                kind = _JpegWriter if job.options.format == "jpeg" else _LosslessWriter
                writer = kind(container, picture, part, table, native, job.options.quality)
            writer.add(picture, whole, int(times[frame]))
        if writer is None:
            raise InputError(damaged[0][1])
        writer.close()
    table = replace(writer.table, damaged=tuple(damaged))
    _find_packets(temporary, table, sorted(digests))
    if job.options.format == "jpeg":
        return table
    table = _with_chroma_location(temporary, table, digests)
    for frame, rgb in store.decode_crops(temporary, table, sorted(digests)):
        if _digest(rgb, table.usable, table.region) != digests[frame]:
            if native:
                raise _NotTheSameError
            raise InputError(f"{job.video.path}: frame {frame} could not be stored without loss.")
    return table


def _with_chroma_location(path: Path, table: CropTable, digests: dict[int, int]) -> CropTable:
    """Return the table with the chroma location with which the first picture is that of the original.

    A decoder says where chroma samples lie, FFmpeg's conversion of more than 8 bits interpolates them accordingly, and
    PyAV does not show it: of a few it is found by trying.
    """
    first = min(digests)
    for location in _CHROMA_LOCATIONS:
        candidate = replace(table, chroma_location=location)
        [(_, rgb)] = store.decode_crops(path, candidate, [first])
        if _digest(rgb, table.usable, table.region) == digests[first]:
            return candidate
    return table


@contextlib.contextmanager
def _container(file: BinaryIO, crop_format: str) -> Iterator[av.container.OutputContainer]:
    """Write a container; an error of writing, such as that of a full disk, is not hidden by one of closing."""
    # Without the random identity of Matroska and the date of others: the same video gives the same bytes.
    container = av.open(file, "w", format=store.CONTAINERS[crop_format], options={"fflags": "+bitexact"})
    try:
        yield container
    except BaseException:
        with contextlib.suppress(Exception):
            container.close()
        raise
    container.close()


def _readable(
    path: Path, frames: int, info: VideoInfo, damaged: list[tuple[int, str]]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield the first frames that can be decoded, and list the others with the reason."""
    first = 0
    while first < frames:
        try:
            for frame, picture in iterate_pictures(path, range(first, frames), info):
                first = frame + 1
                yield frame, picture
        except InputError as error:
            damaged.append((first, str(error)))
            first += 1


# By codec: the RGB pixel format for what it cannot keep as it is, and options of the encoder.
_CODECS = {"ffv1": ("bgr0", {"level": "3", "slicecrc": "1"}), "magicyuv": ("gbrp", {"pred": "gradient"})}


class _LosslessWriter:
    """Losslessly encoded frames of a container, in the pixel format of the video (`native`) or as RGB."""

    def __init__(
        self,
        container: av.container.OutputContainer,
        picture: av.VideoFrame,
        part: Region,
        table: CropTable,
        native: bool,
        quality: int | None,
    ) -> None:
        name, (rgb, options) = picture.format.name.replace("yuvj", "yuv"), _CODECS[table.format]
        known = {pixels.name for pixels in av.codec.Codec(table.format, "w").video_formats}
        if native and (_PLANAR.fullmatch(name) is None or name not in known):
            raise _NotTheSameError
        self._first, self._part, self._native, self._container = picture.format.name, part, native, container
        self.table = replace(
            table,
            pixel_format=name if native else rgb,
            colorspace=int(picture.colorspace) if native else 0,
            color_range=int(picture.color_range) if native else 0,
        )
        self._stream = container.add_stream(table.format, rate=25)
        x0, y0, x1, y1 = part if native else table.region
        self._stream.width, self._stream.height, self._stream.pix_fmt = x1 - x0, y1 - y0, self.table.pixel_format
        self._stream.time_base = _MILLISECONDS
        context = self._stream.codec_context
        context.options, context.thread_count = dict(options), 1
        context.time_base, context.gop_size = _MILLISECONDS, 1
        context.colorspace, context.color_range = self.table.colorspace, self.table.color_range

    def add(self, picture: av.VideoFrame, whole: np.ndarray, time: int) -> None:
        """Write the region of a picture: as it is stored, and `whole`, upright RGB."""
        if self._native:
            tags = int(picture.colorspace), int(picture.color_range)
            if picture.format.name != self._first or tags != (self.table.colorspace, self.table.color_range):
                raise _NotTheSameError
            frame = _cut_planes(picture, self._part, self.table.pixel_format)
            frame.colorspace, frame.color_range = tags
        else:
            x0, y0, x1, y1 = self.table.region
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(whole[y0:y1, x0:x1]), format="rgb24")
            frame = rgb.reformat(format=self.table.pixel_format)
        frame.pts, frame.time_base = time, _MILLISECONDS
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what is left."""
        self._container.mux(self._stream.encode())
        self.table = replace(self.table, extradata=(self._stream.codec_context.extradata or b"").hex())


class _JpegWriter:
    """JPEG pictures of a container, upright."""

    def __init__(
        self,
        container: av.container.OutputContainer,
        picture: av.VideoFrame,
        part: Region,
        table: CropTable,
        native: bool,
        quality: int | None,
    ) -> None:
        self.table, self._container, self._quality = replace(table, pixel_format="yuvj420p"), container, quality
        x0, y0, x1, y1 = table.region
        self._stream = container.add_stream("mjpeg", rate=25)
        self._stream.width, self._stream.height, self._stream.pix_fmt = x1 - x0, y1 - y0, "yuvj420p"
        self._stream.time_base = self._stream.codec_context.time_base = _MILLISECONDS

    def add(self, picture: av.VideoFrame, whole: np.ndarray, time: int) -> None:
        """Write the region of a picture: `whole` is upright RGB."""
        x0, y0, x1, y1 = self.table.region
        bgr = cv2.cvtColor(whole[y0:y1, x0:x1], cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, self._quality])
        packet = av.Packet(data.tobytes())
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = self._stream, time, time, True
        packet.time_base = _MILLISECONDS
        self._container.mux(packet)

    def close(self) -> None:
        """Write what is left: nothing."""


def _cut_planes(picture: av.VideoFrame, part: Region, pixel_format: str) -> av.VideoFrame:
    """Return a part of a planar picture that begins at even pixels, plane by plane."""
    x0, y0, x1, y1 = part
    cut = av.VideoFrame(x1 - x0, y1 - y0, pixel_format)
    item = -(-max(component.bits for component in picture.format.components) // 8)
    chroma = 64 // picture.format.chroma_width(64), 64 // picture.format.chroma_height(64)
    for number, (plane, target) in enumerate(zip(picture.planes, cut.planes, strict=True)):
        left, top = (x0, y0) if number == 0 else (x0 // chroma[0], y0 // chroma[1])
        source = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        rows = np.frombuffer(target, np.uint8).reshape(target.height, target.line_size)
        columns = source[top : top + target.height, left * item : (left + target.width) * item]
        rows[:, : target.width * item] = columns
    return cut


def _find_packets(path: Path, table: CropTable, frames: Sequence[int]) -> None:
    """Fill in where the bytes of each frame are in a file."""
    end = 0
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        av.open(str(path)) as container,
    ):
        packets = (packet for packet in container.demux(video=0) if packet.size)
        for frame, packet in zip(frames, packets, strict=True):
            content = bytes(packet)
            start = data.find(content, end)
            if start < 0:
                raise InputError(f"{path}: frame {frame} is not in it as it was written.")
            end = start + len(content)
            table.offset[frame], table.size[frame], table.crc32[frame] = start, len(content), zlib.crc32(content)


def _milliseconds(table: CropTable) -> np.ndarray:
    """Return the times of frames in milliseconds, int64 [n], strictly ascending."""
    base = Fraction(*table.time_base) / _MILLISECONDS
    times = np.round((table.timestamps - table.timestamps[0]) * float(base)).astype(np.int64)
    steps = np.arange(len(times))
    return np.maximum.accumulate(times - steps) + steps


def _digest(rgb: np.ndarray, usable: Region, region: Region | None = None) -> int:
    """Return the CRC-32 of the usable part of a picture [H, W, 3], or of its region."""
    left, top = region[:2] if region else (0, 0)
    x0, y0, x1, y1 = usable
    return zlib.crc32(np.ascontiguousarray(rgb[y0 - top : y1 - top, x0 - left : x1 - left]))


def _check_directory(root: Path, dataset: Dataset) -> None:
    """Make the directory of a store; InputError where it cannot be, or holds something else."""
    if url := remote.url_of(root):
        raise InputError(f"The crop store {url} is remote; expected a directory of this machine, to be copied there.")
    if root.resolve().is_relative_to(dataset.root.resolve()):
        raise InputError(f"The crop store {root} is in the data set {dataset.root}; expected a directory beside it.")
    if store.is_store(dataset.root):
        raise InputError(f"{dataset.root} is a crop store itself; expected the data set that it was cut from.")
    try:
        root.mkdir(parents=True, exist_ok=True)
        others = [path.name for path in root.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise InputError(
            f"The crop store {root} cannot be written ({error.strerror}); expected a directory."
        ) from error
    begun = any(name.startswith(f"{store.JOURNAL}.shard-") for name in others)
    others = [name for name in others if not name.startswith(FACE_INDEX)]
    if others and not begun and not store.is_store(root):
        raise InputError(f"{root} holds {others[0]} and is no crop store; expected one, or an empty directory.")


def _check_same(
    manifest: Manifest, dataset: Dataset, options: CropOptions, before: dict[str, Finished], root: Path, replace: bool
) -> None:
    """Refuse to throw away crops of other videos, or with other options, unless they are to be replaced."""
    names = {video.name for video in dataset.videos}
    if before and names.isdisjoint(before):
        raise InputError(
            f"{root} holds crops of {manifest.source} and none of the videos of {dataset.root}; expected another "
            "directory for these."
        )
    other = [item for name, item in before.items() if name in names and item.options != options]
    if other and not replace:
        raise InputError(
            f"{root} holds {other[0].options} for {len(other)} of {len(names)} videos, and this run would have "
            f"{options} in their place: --replace does that, and another directory keeps both."
        )


def _write_manifest(dataset: Dataset, index: FaceIndex, root: Path, options: CropOptions) -> None:
    """Write store.json and the store's own face index."""
    of_set = dataset.root / FACE_INDEX
    boxes = store.checksum(of_set) if of_set.is_file() else None
    if index.path is None or index.path.resolve() != (root / FACE_INDEX).resolve():
        with replacing(root / FACE_INDEX) as temporary:
            names = [video.name for video in dataset.videos if video.name in index]
            temporary.write_text("".join(f"{index.entry(name).to_json()}\n" for name in names), encoding="utf-8")
    settings = dataset.root / SYNTHETIC_SETTINGS
    if settings.is_file():
        _copy(settings, root / SYNTHETIC_SETTINGS)
    videos = tuple(
        StoredVideo(
            video=video.name,
            label=video.label,
            manipulation=video.manipulation,
            split=video.split,
            identity=video.identity,
            source=video.source,
            mask=_mask_name(video) if video.mask else None,
        )
        for video in dataset.videos
    )
    left_out = tuple((str(item.path), item.reason) for item in dataset.left_out)
    source = remote.mirrored(dataset.root) or str(dataset.root.resolve())
    manifest = Manifest(source, dataset.layout, options, videos, boxes, left_out, tuple(dataset.notes))
    write_json(root / store.MANIFEST, asdict(manifest))


def _mask_name(video: Video) -> str:
    return f"{store.MASKS}/{video.name}{video.mask.suffix}"


def _plan(
    dataset: Dataset, index: FaceIndex, root: Path, options: CropOptions, before: dict[str, Finished]
) -> tuple[dict[str, Finished], list[Job]]:
    """Return the videos that are in the store as they should be, and what is to be cut."""
    finished, todo = {}, []
    for video in dataset.videos:
        entry = index.entry(video.name)
        if why_no_clip(video, entry, 1, options.first_frames) is not None:
            continue
        face, item = entry.to_json(), before.get(video.name)
        if item and item.options == options and item.face == face and _is_there(root, item) and _is_same(item, video):
            finished[video.name] = replace(item, original=_stat_of(video.path, item.original.sha256))
        else:
            todo.append(Job(video, face, options, root, video.path))
    return finished, todo


def _is_there(root: Path, item: Finished) -> bool:
    path = store.video_file(root, item.video, item.options.format)
    try:
        return path.stat().st_size == item.bytes and store.table_file(path).is_file()
    except OSError:
        return False


def _is_same(item: Finished, video: Video) -> bool:
    """Whether the original of a crop is what it was; its content is read only where its size or time has changed."""
    original = item.original
    try:
        status = video.path.stat()
    except OSError:
        return False
    if (status.st_size, status.st_mtime_ns) == (original.bytes, original.modified):
        return True
    return status.st_size == original.bytes and _has_sha(video.path, original.sha256)


def _has_sha(path: Path, expected: str) -> bool:
    try:
        return store.checksum(path) == expected
    except OSError:
        return False


def _stat_of(path: Path, sha256: str) -> Original:
    status = path.stat()
    return Original(str(path.resolve()), status.st_size, status.st_mtime_ns, sha256)


def _append(root: Path, lines: Iterable[str]) -> None:
    path = root / store.JOURNAL
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def _write_journal(root: Path, finished: dict[str, Finished]) -> None:
    """Write one line a finished video, by name, in place of the whole file or not at all."""
    with replacing(root / store.JOURNAL) as temporary:
        lines = (json.dumps(asdict(finished[name]), ensure_ascii=False) + "\n" for name in sorted(finished))
        temporary.write_text("".join(lines), encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
