"""Clips a second of the loader: originals beside lossless (FFV1, MagicYUV) and JPEG crops, at 640x480 and 1280x720.

Videos are made first, into a folder that is removed afterwards: a drawn face in a textured scene with sensor noise,
H.264 as FaceForensics++ has it (crf 23, a key frame every 250), and crop stores of them. Each is then read in a
process of its own, in alternating order, and counted in processor time of all threads: other processes take time on the
clock and none of that. Reading and decoding alone, which is what the processors do where a GPU crops and augments, is a
column of its own, and so are memory and its growth over the measured epochs.

`lock clips/s` is what reading from crops would reach if decoding took no time: as much as the interpreter lock allows,
with any number of threads. `threads` is measured with decoding slept for as long as it takes, which needs no processor
and leaves the lock to others as decoding does: 16 threads on any machine.

What cannot be measured is a record that says why: a bare GPU machine has neither DALI nor PyAV.
"""

import argparse
import atexit
import contextlib
import itertools
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from bench.common.record import Row, at_least_one
from bench.common.tasks import Task

SOURCES = ("originals", "ffv1", "magicyuv", "jpeg")
PICTURES = {"640x480": (640, 480), "1280x720": (1280, 720)}
FRAMES, VIDEOS = 300, 2
FACE = 0.3125  # of the picture's height: 150 pixels of 480, as in FaceForensics++
QUALITY = 95
THREADS = 16
# Calculated, not measured: clips a second of the paper's model, at 40 to 55 % of an H200's bfloat16 peak.
H200_TRAINS = (200, 280)
BATCH = 8


@dataclass(frozen=True)
class Case:
    """What is read, from where, and how often: `clips` a video and epoch."""

    root: Path
    source: str
    device: str
    workers: int
    image_size: int
    clips: int
    epochs: int


@cache
def make_videos(folder: Path, width: int, height: int) -> Path:
    """Write a data set of such videos with its face index, and its crop stores, below `folder`; return it."""
    import numpy as np

    from dataloading import FaceIndex, read_dataset
    from dataloading.clips.cutting import write_crops
    from dataloading.clips.store import CropOptions
    from dataloading.face_index import FaceEntry, FaceTrack
    from dataloading.synthetic.rendering import VideoPlan, render

    side, root = round(2 * FACE * height) // 2 * 2, folder / "originals"
    lines, at = [], np.arange(0, FRAMES, 5)
    for number in range(VIDEOS):
        random = np.random.default_rng(number)
        scene = _textured(random, width, height)
        drawn = [picture for picture, _ in render(VideoPlan(0, number, number, 0, 0, "original", 40, side))]
        x, y = (width - side) // 2, (height - side) // 2
        drift = 12 * np.sin(np.arange(FRAMES) / 40 + number)

        def frames(scene=scene, drawn=drawn, x=x, y=y, drift=drift, random=random) -> Iterator[np.ndarray]:
            for t in range(FRAMES):
                picture = scene.copy()
                left = x + round(drift[t])
                picture[y : y + side, left : left + side] = drawn[(t if t // 40 % 2 == 0 else -1 - t) % 40]
                yield (picture + random.normal(0, 2.5, picture.shape)).clip(0, 255).astype(np.uint8)

        path = root / ("real", "fake")[number % 2] / f"{number:03}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        _encode(path, frames(), width, height)
        name = path.relative_to(root).with_suffix("").as_posix()
        track = FaceTrack(at, x + side / 2 + drift[at], np.full(len(at), height / 2), np.full(len(at), FACE * height))
        lines.append(FaceEntry(name, FRAMES, 25.0, width, height, "drawn", track).to_json())
    (root / "face_index.jsonl").write_text("".join(f"{line}\n" for line in lines))
    dataset, index = read_dataset(root), FaceIndex.read(root)
    for options in (CropOptions(), CropOptions("magicyuv"), CropOptions("jpeg", QUALITY)):
        write_crops(dataset, index, folder / options.format, options, workers=1, progress=False)
    return folder


def _textured(random: Any, width: int, height: int) -> Any:
    """Return a background, float64 [height, width, 3]."""
    import cv2

    scene = cv2.resize(random.uniform(60, 190, (height // 8, width // 8, 3)), (width, height))
    return scene + cv2.GaussianBlur(random.normal(0, 25, (height, width, 3)), (0, 0), 1.2)


def _encode(path: Path, frames: Iterator[Any], width: int, height: int) -> None:
    """Write frames (uint8 [H, W, 3]) as H.264 with x264's own defaults, as published sets are."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def clips_of(case: Case) -> Sequence[Any]:
    """Return clips of the videos at random starts within the frames that a store keeps, as in a training epoch.

    Neighbors are of different videos, as they are among thousands: the loader decodes neighboring clips of one video in
    one pass, which two videos would give the originals by chance and a data set does not.
    """
    from dataloading.clips.sampling import evaluation_clips
    from dataloading.layouts import open_dataset

    dataset, index = open_dataset(case.root)
    of_videos = [evaluation_clips([video], index, clips_per_video=case.clips) for video in dataset.videos]
    draw = torch.Generator().manual_seed(0)
    orders = [torch.randperm(case.clips, generator=draw).tolist() for _ in of_videos]
    return [clips[order[i]] for i in range(case.clips) for clips, order in zip(of_videos, orders, strict=True)]


def measure(case: Case) -> Row:
    """Return speed and memory of a loader over some epochs, after one that warms up; of the process that calls this.

    The epochs of a training run have thousands of batches. The memory of the first few is new to the process, and takes
    as long to be filled with zeros by the system as half of their resampling: they are in the epoch that warms up.
    """
    from dataloading.clips.loader import ClipLoader
    from dataloading.clips.store import LOSSLESS

    os.environ["OMP_NUM_THREADS"] = "1"
    clips = clips_of(case)
    options = {"augment": True, "device": case.device, "workers": case.workers}
    loader = ClipLoader(clips, BATCH, case.image_size, **options)
    for _ in loader:
        pass
    before, seen = _memory_bytes(), 0
    started, used = time.perf_counter(), _processor_seconds()
    for _ in range(case.epochs):
        for loaded in loader:
            seen += len(loaded.labels)
    if case.device == "cuda":
        torch.cuda.synchronize()
    seconds, used, after = time.perf_counter() - started, _processor_seconds() - used, _memory_bytes()
    if loader.skipped:
        raise RuntimeError(loader.skipped[0][1])
    decoded = {}
    if loader.decoder != "jpeg" or case.device == "cpu":  # on a GPU DALI's graph decodes it: reading says nothing
        decoding = _seconds_to_decode(clips, case.image_size)
        decoded = {"decoded_per_core": len(clips) / decoding, "decoded_16_cores": 16 * len(clips) / decoding}
    if case.source in LOSSLESS:
        decoded |= _lock(clips, case.image_size, decoding / len(clips))
    frames = {(clip.video.path, int(frame)) for clip in clips for frame in clip.frames}
    return {
        "decoder": loader.decoder, "clips": seen, "clips_per_core": seen / used, "clips_per_second": seen / seconds,
        "bytes_per_frame": _bytes_per_frame(case, clips, len(frames)), "memory_bytes": after,
        "grown_bytes": after - before,
    } | decoded  # fmt: skip


def _seconds_to_decode(clips: Sequence[Any], image_size: int) -> float:
    """Return the processor seconds of one thread that reads and decodes clips."""
    from dataloading.clips.reader import decode_windows

    started = time.thread_time()
    for clip in clips:
        if isinstance(sample := decode_windows([clip], image_size)[0], str):
            raise RuntimeError(sample)
    return time.thread_time() - started


def _lock(clips: Sequence[Any], image_size: int, seconds: float) -> Row:
    """Return clips a second without decoding, and of `THREADS` threads that sleep for as long as decoding takes."""
    from dataloading.clips import reader, store

    pictures: dict[Path, Any] = {}

    def stand_in(path: Path, table: Any, frames: Any, pause: float) -> Iterator[tuple[int, Any]]:
        for frame, _ in store.read_frames(path, table, frames):
            time.sleep(pause)
            yield frame, pictures[path]

    def read(clip: Any) -> None:
        reader.decode_windows([clip], image_size)

    decode = reader.decode_crops
    for clip in clips:
        [(_, pictures[clip.video.path])] = decode(clip.video.path, store.read_table(clip.video.crops), clip.frames[:1])
    try:
        reader.decode_crops = partial(stand_in, pause=0)
        started = time.thread_time()
        for clip in clips:
            read(clip)
        alone = (time.thread_time() - started) / len(clips)
        reader.decode_crops = partial(stand_in, pause=(seconds - alone) / len(clips[0].frames))
        many = [*clips] * THREADS
        with ThreadPoolExecutor(THREADS) as threads:
            started = time.perf_counter()
            list(threads.map(read, many))
            together = (time.perf_counter() - started) / len(many)
    finally:
        reader.decode_crops = decode
    return {"lock_clips": 1 / alone, "thread_clips": 1 / together, "thread_share": seconds / THREADS / together}


def _bytes_per_frame(case: Case, clips: Sequence[Any], frames: int) -> float:
    """Return the bytes on the disk of a frame, on average over the videos."""
    from dataloading.clips.store import read_table

    videos = {clip.video for clip in clips}
    if case.source == "originals":
        return sum(video.path.stat().st_size for video in videos) / (FRAMES * len(videos))
    tables = [read_table(video.crops) for video in videos]
    return sum(float(table.size.mean()) for table in tables) / len(tables)


def _family() -> list[str]:
    """Return the numbers of this process and of those that it started, which decode originals."""
    numbers = ["self"]
    for tasks in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            numbers += (tasks / "children").read_text().split()
    return numbers


def _processor_seconds() -> float:
    """Return the processor time of these processes so far, in all their threads."""
    fields = (Path(f"/proc/{number}/stat").read_text().rpartition(") ")[2].split() for number in _family())
    return sum(int(of[11]) + int(of[12]) for of in fields) / os.sysconf("SC_CLK_TCK")


def _memory_bytes() -> int:
    """Return the memory of these processes that is in use now; what they share counts once."""
    text = "".join(Path(f"/proc/{number}/smaps_rollup").read_text() for number in _family())
    return 1024 * sum(map(int, re.findall(r"^Pss: +([0-9]+) kB", text, re.MULTILINE)))


@cache
def process_of(source: str, picture: str) -> ProcessPoolExecutor:
    """Return the process that reads one source, for its memory."""
    pool = ProcessPoolExecutor(1, get_context("spawn"))
    atexit.register(pool.shutdown)
    return pool


def in_its_process(folder: Path, picture: str, case: Case) -> Row:
    """Return what is measured of a case, for whose size of picture videos are made where there are none yet."""
    make_videos(folder / picture, *PICTURES[picture])
    return process_of(case.source, picture).submit(measure, case).result()


def comparison(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each size of picture: how many times as fast crops are, and what 16 cores would give."""
    lines = []
    for picture in dict.fromkeys(row["picture"] for row in rows):
        of = {
            source: [row for row in rows if (row["picture"], row["source"]) == (picture, source) and "clips" in row]
            for source in SOURCES
        }
        if not all(of.values()):
            continue
        for source in SOURCES[1:]:
            whole = _ratios(of[source], of["originals"], "clips_per_core")
            line = f"{picture}, {source}: {whole} times the clips a core of the originals"
            if not all(row.get("decoded_per_core") for row in of[source]):
                lines.append(f"{line}; DALI decodes it.")
                continue
            alone = _ratios(of[source], of["originals"], "decoded_per_core")
            cores = [row["decoded_16_cores"] for row in of[source]]
            lines.append(
                f"{line}, {alone} times in reading and decoding alone. 16 processes that each have a core as this one "
                f"did would decode {min(cores):,.0f} to {max(cores):,.0f} a second."
            )
    if lines:
        low, high = H200_TRAINS
        lines.append(
            f"What that has to feed: by calculation, not measured, an H200 at 40 to 55 % of its peak trains on {low} "
            f"to {high} clips a second."
        )
    return lines


def _ratios(rows: Sequence[Row], others: Sequence[Row], key: str) -> str:
    """Return the ratio of each round, from the smallest to the largest."""
    found = sorted(row[key] / other[key] for row, other in zip(rows, others, strict=False))
    return f"{found[0]:.1f} to {found[-1]:.1f}" if len(found) > 1 else f"{found[0]:.1f}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add sizes."""
    parser.add_argument("--picture", choices=PICTURES, action="append", help="size of the videos (repeatable; both)")
    parser.add_argument(
        "--workers", type=at_least_one, action="append", help="threads that decode (repeatable; default 1)"
    )
    parser.add_argument("--image-size", type=at_least_one, default=300, help="pixels of a clip (default 300)")
    parser.add_argument("--clips", type=at_least_one, default=16, help="clips of each video and epoch (default 16)")
    parser.add_argument(
        "--epochs", type=at_least_one, default=3, help="measured epochs, after one that warms up (default 3)"
    )
    parser.add_argument(
        "--rounds", type=at_least_one, default=3, help="how often each is measured, in alternating order"
    )


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """Yield each size of picture, number of workers and source, the sources in alternating order."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    pictures, workers = arguments.picture or list(PICTURES), arguments.workers or [1]
    for picture, turn, number in itertools.product(pictures, range(arguments.rounds), workers):
        for source in SOURCES if turn % 2 == 0 else SOURCES[::-1]:
            root = folder / picture / source
            case = Case(root, source, device, number, arguments.image_size, arguments.clips, arguments.epochs)
            row = {"source": source, "picture": picture, "device": device, "workers": number}
            row |= {"image_size": arguments.image_size, "batch": BATCH}
            yield Task("loader", row, partial(in_its_process, folder, picture, case))


def conclude(tables: dict[str, list[Row]], folder: Path) -> int:
    """Print how the sources compare; return 1 if nothing could be measured."""
    print("", *comparison(tables["loader"]), sep="\n")
    return 0 if any("clips" in row for row in tables["loader"]) else 1
