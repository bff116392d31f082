"""Preparation of a data set: finds the face in every video, once, and writes the face index beside the set."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dataloading.clips.sampling import CLIP_FRAMES, why_no_clip
from dataloading.dataset import Dataset, Video
from dataloading.errors import InputError, writing
from dataloading.face_index import BOXES_FILE, FILE_NAME, WHOLE_FRAME, FaceEntry, FaceIndex, crop_name
from dataloading.faces.boxes_file import read_boxes, with_boxes
from dataloading.faces.detect import EVERY, find_face
from dataloading.faces.detectors import make_detector
from dataloading.faces.reuse import reuse_boxes
from dataloading.io import locked, replacing
from dataloading.video.probe import probe
from dataloading.video.processes import process_pool


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
) -> FaceIndex:
    """Find the main face and the shots of every video and write the face index.

    Each video is one line, written as soon as it is done: a run that was stopped goes on where it was, and videos that
    could not be used are tried again. A fake takes the boxes of the original it was made from wherever they fit. No
    video stops the run; those that cannot be used are in the index with the reason, and listed at the end. Lines of the
    index that are damaged, or that a later one replaced, are gone at the end of a run.

    Args:
        dataset: From `read_dataset`.
        detector: One of `dataloading.faces.DETECTORS`, or `"auto"` for the best one installed.
        detect: False records the whole picture as the box, for videos that are face crops already. Nothing is decoded,
            and shots are not known.
        boxes: A JSON file `{video: [[frame, x0, y0, x1, y1], ...]}` with boxes made elsewhere; videos that it does
            not name are looked at as usual.
        every: Look at every so many frames.
        workers: Processes; with 1 everything happens in this one. They are spawned, so a script that calls this needs
            the usual `if __name__ == "__main__"`.
        replace: Do again the videos whose boxes in the index are of another kind than those asked for here (of another
            detector, or whole pictures). Without it a set that has such videos is refused: they may have taken hours.
        before: Called once, when all arguments are found right and before the first video.
        progress: Show a progress bar and a summary on standard error.

    Returns:
        The whole index, with the videos that were there already.

    Raises:
        InputError: An argument is wrong, the detector is not installed, the index cannot be written, another run is
            writing it, or it holds what would be replaced.
    """
    for argument, value in (("every", every), ("workers", workers)):
        if value < 1:
            raise InputError(f"{argument} is {value}; expected at least 1.")
    if not detect and detector != "auto":
        raise InputError(f"detector is {detector}, but face detection is off; give one or the other.")
    given = read_boxes(boxes, dataset) if boxes is not None else {}
    needs_detector = detect and any(video.name not in given for video in dataset.videos)
    detector = make_detector(detector).name if needs_detector else WHOLE_FRAME
    path = dataset.root / FILE_NAME
    _check_writable(path)
    # The compressions of a set share an index, and a run replaces the file at its end.
    with locked(_lock_file(path), f"writing {path}; wait for it"):
        _cut_off_half_line(path)
        index = FaceIndex.read(path, leave_out_broken=True)
        plan = _Plan(dataset.videos, index, detector, given)
        todo, superseded = plan.todo(), plan.superseded()
        if superseded and not replace:
            raise InputError(plan.refusal())
        if before:
            before()
        if progress:
            _print_dropped_lines(index, superseded)
        # Originals first: the fakes made from them need only a look.
        names = {video.name for video in dataset.videos}
        waves = (
            [video for video in todo if video.source not in names],
            [video for video in todo if video.source in names],
        )
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=_console(), disable=not (progress and todo)) as bar:
            shown = bar.add_task("Finding faces" if needs_detector else "Reading videos", total=len(todo))
            for wave in waves:
                jobs = [
                    _Job(video, detector, every, given.get(video.name), index.entries.get(video.source or ""))
                    for video in wave
                ]
                for entry in _run(jobs, workers):
                    line = entry.to_json()
                    with writing(path), path.open("a", encoding="utf-8") as file:
                        file.write(line + "\n")
                    index.entries[entry.video] = FaceEntry.from_json(line)
                    index.lines += 1
                    bar.advance(shown)
        if index.broken or index.lines > len(index):
            _rewrite(index)
    if progress:
        _console().print(format_preparation(index, dataset.videos), markup=False, highlight=False, soft_wrap=True)
    return index


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
    """One video to prepare: its boxes where they are given, and the entry of its original."""

    video: Video
    detector: str
    every: int
    boxes: np.ndarray | None
    original: FaceEntry | None


@dataclass(frozen=True)
class _Plan:
    """What an index is to hold: the boxes that are given, and for the other videos those that `detector` finds."""

    videos: Sequence[Video]
    index: FaceIndex
    detector: str
    given: dict[str, np.ndarray]

    def wanted(self, entry: FaceEntry) -> str:
        """Return the detector whose boxes are wanted for this video."""
        of_original = entry.boxes_of in self.given and self.detector != WHOLE_FRAME  # where those fit a fake
        return BOXES_FILE if entry.video in self.given or of_original else self.detector

    def is_wanted(self, name: str) -> bool:
        """Whether the entry of a video is usable and of the kind that is wanted."""
        entry = self.index.entries.get(name)
        return entry is not None and entry.error is None and entry.detector == self.wanted(entry)

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


def _print_dropped_lines(index: FaceIndex, superseded: Sequence[FaceEntry]) -> None:
    """Print a sentence on each kind of line that the file will have lost."""
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
        _console().print(sentence, markup=False, highlight=False, soft_wrap=True)


def _console() -> Console:
    return Console(stderr=True)


def _rewrite(index: FaceIndex) -> None:
    """Write one line a video, in place of the whole file or not at all."""
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
            f"The face index {path} cannot be written ({error.strerror}); expected a data set that may be written to."
        ) from error


def _cut_off_half_line(path: Path) -> None:
    """Cut off what a killed run left of its last line: the next one begins a line of its own."""
    with path.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def _run(jobs: Sequence[_Job], workers: int) -> Iterator[FaceEntry]:
    """Yield the entries of all jobs, in the order in which they are done."""
    if workers == 1 or len(jobs) < 2:
        yield from map(_prepare, jobs)
        return
    remaining = {job.video.name: job for job in jobs}
    while remaining:
        try:
            for entry in _in_processes(list(remaining.values()), workers):
                del remaining[entry.video]
                yield entry
        except BrokenProcessPool:
            # A decoder or detector written in C took its process down. The video is one of the first that are left,
            # because they are handed out in order; each gets a process of its own.
            for job in list(remaining.values())[:workers]:
                del remaining[job.video.name]
                yield _isolated(job)


def _in_processes(jobs: Sequence[_Job], workers: int) -> Iterator[FaceEntry]:
    # The processes are the parallelism. yuface's OpenMP reads this from the environment when it is loaded.
    with process_pool(workers, os.putenv, ("OMP_NUM_THREADS", "1")) as pool:
        for future in as_completed([pool.submit(_prepare, job) for job in jobs]):
            yield future.result()


def _isolated(job: _Job) -> FaceEntry:
    try:
        [entry] = _in_processes([job], 1)
    except BrokenProcessPool:
        return FaceEntry(job.video.name, error=f"{job.video.path} made the decoder or the face detector crash.")
    return entry


_detector = lru_cache(make_detector)  # one a process


def _prepare(job: _Job) -> FaceEntry:
    """Return the entry of a video, with the reason where it cannot be used."""
    try:
        return _prepare_video(job)
    except InputError as error:
        return FaceEntry(job.video.name, error=str(error))
    except Exception as error:  # one video must not end the preparation of thousands
        return FaceEntry(job.video.name, error=f"{job.video.path} failed ({type(error).__name__}: {error}).")


def _prepare_video(job: _Job) -> FaceEntry:
    video, original = job.video, job.original
    info = probe(video.path)
    if job.boxes is None and job.detector != WHOLE_FRAME:
        detector = _detector(job.detector)
        if original is not None and original.boxes is not None:
            reused = reuse_boxes(original, video, info, detector)
            if reused is not None:
                return reused
        return find_face(video.path, detector, job.every, video.name, info, video.mask)
    entry = FaceEntry(video.name, info.frames, info.fps, info.width, info.height, WHOLE_FRAME)
    return entry if job.boxes is None else with_boxes(entry, job.boxes)
