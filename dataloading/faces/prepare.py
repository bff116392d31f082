"""Preparation of a data set: finds the face in every video, once, and writes the face index beside the set."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dataloading import remote
from dataloading.clips.sampling import CLIP_FRAMES, why_no_clip
from dataloading.clips.store import checksum
from dataloading.dataset import Dataset, Video
from dataloading.engines import Engine, versions
from dataloading.engines.journal import Line, Shard, keeping, typed
from dataloading.errors import InputError, writing
from dataloading.face_index import BOXES_FILE, FILE_NAME, WHOLE_FRAME, FaceEntry, FaceIndex, crop_name
from dataloading.faces.boxes_file import FACES, read_boxes, with_boxes, with_face
from dataloading.faces.detect import find_face, finding_face, finding_shots
from dataloading.faces.detectors import WITH_LANDMARKS, make_detector
from dataloading.faces.reuse import reuse_boxes
from dataloading.faces.tracking import EVERY
from dataloading.io import locked, parse_json, replacing
from dataloading.video.probe import probe
from dataloading.video.processes import MOST_WORKERS, Workers

logger = logging.getLogger(__name__)


def prepare(
    dataset: Dataset,
    *,
    detector: str = "auto",
    detect: bool = True,
    boxes: str | Path | None = None,
    every: int = EVERY,
    workers: int = 2,
    replace: bool = False,
    before: Callable[[], None] | None = None,
    progress: bool = True,
    index_file: str | Path | None = None,
    again: Collection[str] = (),
    engine: Engine | None = None,
    shard: Shard | None = None,
) -> FaceIndex:
    """Find the main face and the shots of every video and write the face index.

    Each video is one line, written as soon as it is done: a run that was stopped goes on where it was, and videos that
    could not be used are tried again. A fake takes the boxes of the original it was made from wherever they fit. No
    video stops the run; those that cannot be used are in the index with the reason, and listed at the end. At the
    end of a run the lines of the index are in the order of the set, originals first, and those that are damaged, or
    that a later one replaced, are gone.

    Args:
        dataset: From `read_dataset`.
        detector: One of `dataloading.faces.DETECTORS`, or `"auto"` for the best one installed.
        detect: False records the whole picture as the box, for videos that are face crops already. Nothing is decoded,
            and shots are not known.
        boxes: A JSON file `{video: [[frame, x0, y0, x1, y1], ...]}` with boxes made elsewhere; videos that it does
            not name are looked at as usual.
        every: Look at every so many frames.
        workers: Processes that read videos. One that crashes or stands still costs the video that it was reading.
        replace: Do again the videos whose boxes in the index are of another kind than those asked for here (of another
            detector, or whole pictures), or lack the landmarks that the detector finds (those of an earlier version).
            Without it a set that has videos of another kind is refused: they may have taken hours.
        before: Called once, when all arguments are found right and before the first video.
        progress: Show a progress bar and a summary on standard error.
        index_file: The face index, where it does not lie in the root of the data set.
        again: Videos (`Video.name`) that are looked at again, as their files have changed.
        engine: Looks at the videos on other machines; None in `workers` processes of this one.
        shard: The part of the videos that is looked at; fakes are in that of their original. It is written to a file of
            its own beside the index, `Shard.file`, for `merge_index`, and the index is only read.

    Returns:
        The whole index, with the videos that were there already; of a shard, its videos.

    Raises:
        InputError: An argument is wrong, the detector is not installed, the index cannot be written, another run is
            writing it, or it holds what would be replaced.
    """
    for argument, value in (("every", every), ("workers", workers)):
        if value < 1:
            raise InputError(f"{argument} is {value}; expected at least 1.")
    if workers > MOST_WORKERS:
        raise InputError(f"workers is {workers}; expected at most {MOST_WORKERS:,}.")
    if not detect and detector != "auto":
        raise InputError(f"detector is {detector}, but face detection is off; give one or the other.")
    given = read_boxes(boxes, dataset) if boxes is not None else {}
    faces = read_boxes(dataset.root / FACES, dataset) if (dataset.root / FACES).is_file() and not detect else {}
    needs_detector = detect and any(video.name not in given for video in dataset.videos)
    detector = make_detector(detector).name if needs_detector else WHOLE_FRAME
    remote.require_one_machine(dataset.root, engine, shard)
    if index_file is None and (url := remote.mirrored(dataset.root)):
        raise InputError(
            f"{url} is remote, and its face index cannot be written there; `istvt prepare {url} --crops DIR` keeps it "
            "in DIR, with the crops."
        )
    path = Path(index_file or dataset.root / FILE_NAME)
    whole = index_order(dataset.videos)
    settings = {"root": str(dataset.root), "detector": detector, "every": every, "versions": versions()}
    settings["boxes"] = checksum(Path(boxes)) if boxes is not None else None
    opened = _whole_index(path, whole) if shard is None else _shard_index(path, whole, shard, settings)
    with opened as (index, videos, keep):
        for name in again:
            index.entries.pop(name, None)
        plan = _Plan(videos, index, detector, given, faces, replace)
        todo, superseded = plan.todo(), plan.superseded()
        if any(video.crops for video in videos):
            if superseded:
                raise InputError(
                    f"{dataset.root} is a crop store, cut for the boxes that it has; `istvt prepare` with its data set "
                    f"and --crops {dataset.root} makes others."
                )
            todo = []  # what cannot be used was looked at in the data set
        if superseded and not replace:
            raise InputError(plan.refusal())
        if before:
            before()
        if progress:
            _log_dropped_lines(index, superseded)
        # Originals first: the fakes made from them need only a look.
        names = {video.name for video in videos}
        waves = (
            [video for video in todo if video.source not in names],
            [video for video in todo if video.source in names],
        )
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        bar = Progress(*columns, console=Console(stderr=True), disable=not (progress and todo))
        with bar, Workers() as processes:
            shown = bar.add_task("Finding faces" if needs_detector else "Reading videos", total=len(todo))
            for wave in waves:
                jobs = [
                    _Job(
                        video, detector, every, given.get(video.name), index.entries.get(video.source or ""),
                        plan.face(video),
                    )
                    for video in wave
                ]  # fmt: skip
                ready = partial(_local_job, processes=processes)
                run_all = engine.run_all if engine else partial(processes.run_all, ready=ready)
                for job, line in run_all(prepare_video, jobs, workers, lambda job: job.video.path):
                    if isinstance(line, InputError):
                        line = FaceEntry(job.video.name, error=str(line)).to_json()
                    keep(line)
                    index.entries[job.video.name] = FaceEntry.from_json(line)
                    index.lines += 1
                    bar.advance(shown)
    if progress:
        logger.info(format_preparation(index, videos))
    return index


@dataclass(frozen=True, slots=True)
class ShardLine:
    """Result of a video in the journal of a shard: its line in the face index."""

    face: str


def merge_index(lines: Sequence[Line], path: Path) -> FaceIndex:
    """Write the lines of all shards of a data set, in `index_order`, to its index, in place of those of their videos.

    Raises:
        InputError: The index cannot be written, or another run is writing it.
    """
    entries = [FaceEntry.from_json(typed(line.result, ShardLine, line.video).face, line.video) for line in lines]
    _check_writable(path)
    with locked(_lock_file(path), f"writing {path}; wait for it"):
        index = FaceIndex.read(path, leave_out_broken=True)
        index.entries |= {entry.video: entry for entry in entries}
        _order(index, [entry.video for entry in entries], rewrite=True)
    return index


def index_order(videos: Sequence[Video]) -> list[Video]:
    """Return videos in the order of their lines in an index: originals first."""
    names = {video.name for video in videos}
    return sorted(videos, key=lambda video: video.source in names)


# The entries that are there, the videos that are looked at, and what keeps the line of one.
_Opened = tuple[FaceIndex, Sequence[Video], Callable[[str], None]]


@contextlib.contextmanager
def _whole_index(path: Path, videos: Sequence[Video]) -> Iterator[_Opened]:
    """Open the index of a data set, and leave it in order."""
    _check_writable(path)
    # The compressions of a set share an index, and a run replaces the file at its end.
    with locked(_lock_file(path), f"writing {path}; wait for it"):
        _cut_off_half_line(path)
        index = FaceIndex.read(path, leave_out_broken=True)

        def keep(line: str) -> None:
            with writing(path), path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

        yield index, videos, keep
        _order(index, [video.name for video in videos])


@contextlib.contextmanager
def _shard_index(path: Path, videos: Sequence[Video], shard: Shard, settings: dict[str, Any]) -> Iterator[_Opened]:
    """Open a shard of an index, with what the index itself has of its videos."""
    names = {video.name: at for at, video in enumerate(videos)}
    with keeping(
        shard.file(path),
        "prepare",
        settings,
        [(video.name, video.path) for video in videos],
        shard,
        groups=[video.source if video.source in names else video.name for video in videos],
        to_dict=lambda entry: {"face": entry.to_json()},
        parse=lambda data, where: FaceEntry.from_json(parse_json(data, ShardLine, where).face, where),
        failed=lambda entry: entry.error is not None,
    ) as journal:
        own = [videos[at] for at in journal.positions]
        known = FaceIndex.read(path, leave_out_broken=True).entries if path.is_file() else {}
        entries = {video.name: known[video.name] for video in own if video.name in known}
        entries |= {entry.video: entry for entry in journal.results.values()}
        index = FaceIndex(entries, journal.path)

        def keep(line: str) -> None:
            entry = FaceEntry.from_json(line)
            journal.add(names[entry.video], entry)

        yield index, own, keep
        for video in own:
            journal.results[names[video.name]] = index.entries[video.name]
        journal.rewrite()


def unusable(index: FaceIndex, videos: Iterable[Video], frames: int = CLIP_FRAMES) -> list[str]:
    """Return a sentence for each of these videos that gives no clip of so many frames, whatever the reason."""
    reasons = [why_no_clip(video, index.entry(video.name), frames) for video in videos]
    return [reason for reason in reasons if reason is not None]


def format_preparation(index: FaceIndex, videos: Iterable[Video]) -> str:
    """Return what the index says of these videos: counts, and the reason for each that cannot be used."""
    reasons = {video.name: why_no_clip(video, index.entry(video.name)) for video in videos}
    usable = [index.entry(name) for name, reason in reasons.items() if reason is None]
    errors = [reason for name, reason in reasons.items() if reason and index.entry(name).error is not None]
    short = [reason for name, reason in reasons.items() if reason and index.entry(name).error is None]
    reused = sum(entry.boxes_of is not None for entry in usable)
    whole = sum(entry.whole_frame for entry in usable)
    parts = [f"{len(usable)} of {len(reasons)} videos can be used"]
    if reused:
        parts.append(f"{reused} of them with the boxes of their original")
    if whole:
        parts.append(f"{whole} of them as whole pictures")
    lines = [f"{index.path}: {', '.join(parts)}."]
    uncut = index.without_shots(entry.video for entry in usable if not entry.whole_frame)
    if uncut:
        why = "boxes of a file, a damaged frame, or a line of an earlier version: delete it to have it made anew"
        lines.append(f"The shots of {len(uncut)} are not known ({why}): a clip of theirs may span a cut.")
    if errors:
        lines += [f"{len(errors)} cannot be used:", *(f"  {error}" for error in errors)]
    if short:
        what = f"give no clip of {CLIP_FRAMES} frames (--model.frames may ask for others)"
        lines += [f"{len(short)} {what}:", *(f"  {reason}" for reason in short)]
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Job:
    """One video to prepare: its boxes where they are given, the entry of its original, and the face in a picture."""

    video: Video
    detector: str
    every: int
    boxes: np.ndarray | None
    original: FaceEntry | None
    face: np.ndarray | None


@dataclass(frozen=True)
class _Plan:
    """What an index is to hold: the boxes that are given, and for the other videos those that `detector` finds.

    `faces` says where the faces of whole pictures are; `replace` is that of `prepare`.
    """

    videos: Sequence[Video]
    index: FaceIndex
    detector: str
    given: dict[str, np.ndarray]
    faces: dict[str, np.ndarray]
    replace: bool

    def face(self, video: Video) -> np.ndarray | None:
        """Return where the face is in a video used as a whole picture: of a fake where it is in its original.

        Parts of both are then cropped alike, as faces are (`dataloading.faces.reuse`).
        """
        return self.faces.get(video.source or "", self.faces.get(video.name))

    def wanted(self, entry: FaceEntry) -> str:
        """Return the detector whose boxes are wanted for this video."""
        of_original = entry.boxes_of in self.given and self.detector != WHOLE_FRAME  # where those fit a fake
        return BOXES_FILE if entry.video in self.given or of_original else self.detector

    def is_wanted(self, name: str) -> bool:
        """Whether the entry of a video is usable and of the kind that is wanted."""
        entry = self.index.entries.get(name)
        if entry is None or entry.error is not None or entry.detector != self.wanted(entry):
            return False
        # A line of an earlier version lacks landmarks: to read them from a file costs nothing, to look for them hours.
        may_have = name in self.faces if entry.whole_frame else self.replace and entry.detector in WITH_LANDMARKS
        return entry.has_landmarks or not may_have

    def todo(self) -> list[Video]:
        """Return the videos without a usable entry of the kind that is wanted."""

        def is_done(name: str) -> bool:
            # A run that was stopped may have done the original again and not yet this fake, which takes its boxes.
            original = self.index.entries[name].boxes_of if self.is_wanted(name) else None
            return self.is_wanted(name) and (original is None or name in self.given or self.is_wanted(original))

        return [video for video in self.videos if not is_done(video.name)]

    def superseded(self) -> list[FaceEntry]:
        """Return the usable entries of another kind than is wanted."""
        found = [self.index.entries[video.name] for video in self.videos if video.name in self.index]
        return [entry for entry in found if entry.error is None and entry.detector != self.wanted(entry)]

    def refusal(self) -> str:
        """Return the sentence that refuses to throw away what an earlier run found."""
        superseded = self.superseded()
        there = {entry.detector for entry in superseded}
        kept = ""
        if len(there) == 1:
            [kind] = there
            option = {WHOLE_FRAME: "--no-detect", BOXES_FILE: "--boxes FILE"}.get(kind, f"--detector {kind}")
            # A replacement that was stopped leaves two kinds, and the option of either would be refused for the other.
            if kind == BOXES_FILE or not dataclasses.replace(self, detector=kind).superseded():
                kept = f", and {option} goes on with what is there"
        of = f"{len(superseded)} of {len(self.videos)}"
        return (
            f"{self.index.path} has {crop_name(there)} for {of} videos, and this run would have "
            f"{crop_name(map(self.wanted, superseded))} in their place: --replace does that{kept}."
        )


def _log_dropped_lines(index: FaceIndex, superseded: Sequence[FaceEntry]) -> None:
    """Log a sentence on each kind of line that the file will have lost."""
    sentences = []
    if superseded:
        kind = crop_name(entry.detector for entry in superseded)
        sentences.append(f"{len(superseded)} videos that {index.path} has {kind} for are done again (--replace).")
    if index.broken:
        numbers = ", ".join(map(str, index.broken[:10])) + ", ..." * (len(index.broken) > 10)
        many = "s" * (len(index.broken) > 1)
        sentences.append(
            f"{index.path}: {len(index.broken)} damaged line{many} (number{many} {numbers}) dropped; videos without "
            "another line are looked at again."
        )
    for sentence in sentences:
        logger.warning(sentence)


def _order(index: FaceIndex, names: Sequence[str], rewrite: bool = False) -> None:
    """Leave one line a video in the file, in the order of `names` and not in that in which processes were done.

    It is written in place of the whole file or not at all, and only if something changes, or with `rewrite`.
    """
    names = dict.fromkeys(names)
    order = [name for name in index.entries if name not in names] + [name for name in names if name in index.entries]
    if rewrite or index.broken or index.lines > len(index) or order != list(index.entries):
        index.entries = {name: index.entries[name] for name in order}
        with replacing(index.path) as temporary:
            temporary.write_text("".join(entry.to_json() + "\n" for entry in index), encoding="utf-8")


def _lock_file(path: Path) -> Path:
    """Return a hidden file in the directory of the index itself, which several sets may have a link to."""
    path = path.resolve()
    return path.with_name(f".{path.name}.lock")


def _check_writable(path: Path) -> None:
    """Make the index file where it is not there; InputError where it cannot be written."""
    try:
        path.open("ab").close()
    except OSError as error:
        raise InputError(
            f"The face index {path} cannot be written ({error.strerror}); expected a data set that may be written to; "
            "`istvt prepare --crops DIR` keeps it in DIR."
        ) from error


def _cut_off_half_line(path: Path) -> None:
    """Cut off what a killed run left of its last line: the next one begins a line of its own."""
    with path.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


@contextlib.contextmanager
def _local_job(job: _Job, processes: Workers) -> Iterator[_Job]:
    """Give the job with files of this machine."""
    with remote.local_video(job.video, processes.is_stopped) as video:
        yield dataclasses.replace(job, video=video)


_detector = lru_cache(make_detector)  # one a process


def prepare_video(job: _Job) -> str:
    """Return the line of a video in the face index; called in a worker process.

    Raises:
        InputError: The video cannot be used.
    """
    video, original = job.video, job.original
    info = probe(video.path)
    if job.boxes is None and job.detector != WHOLE_FRAME:
        detector = _detector(job.detector)
        if original is not None and original.boxes is not None:
            reused = reuse_boxes(original, video, info, detector)
            if reused is not None:
                return reused.to_json()
        return find_face(video.path, detector, job.every, video.name, info, video.mask).to_json()
    entry = FaceEntry(video.name, info.frames, info.fps, info.width, info.height, WHOLE_FRAME)
    if job.boxes is not None:
        entry = with_boxes(entry, job.boxes)
    elif job.face is not None:
        entry = with_face(entry, job.face)
    return entry.to_json()


def find_in_file(
    path: Path, detector: str | None, clip_frames: int, threads: int = 1
) -> Iterator[tuple[int, int] | str]:
    """Yield how far it is, and last the line, as in a face index, of a video of no set; called in a worker process.

    Args:
        path: The file.
        detector: Its name; None for the whole picture.
        clip_frames: As for `find_face`.
        threads: That decode.

    Yields:
        (frames searched, frames in all) now and then; at last the line, whose video is `"video"`.

    Raises:
        InputError: The video cannot be used.
    """
    if detector is None:
        entry = yield from finding_shots(path, "video", threads)
    else:
        finder = _detector(detector)
        entry = yield from finding_face(path, finder, name="video", clip_frames=clip_frames, threads=threads)
    yield entry.to_json()
