"""Queue of the service: one thread works through scores and explanations; results go after a set time.

Everything of a job lies in a directory of its own, which goes with it: when it is deleted, when its time is over, and
when the server ends. A server that was killed leaves its directory behind; the next one with the same storage removes
it, as no process holds its lock any more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dataloading.errors import InputError
from dataloading.video.processes import Stopped, Workers
from istvt.cli.service.analysis import Analyzer, ScoredVideo, sandboxed
from istvt.cli.service.pdf import write_pdf
from istvt.cli.service.schemas import Problem
from istvt.cli.service.uploads import Upload, has_room
from istvt.config import ExplanationSettings, ServeSettings
from istvt.explain_video.video import VideoExplanation
from istvt.inference.predict import verdicts_to_dict
from istvt.run_dir import output_directory

log = logging.getLogger("istvt.serve")
STAGES = ("looking for faces", "scoring clips", "explaining clips", "drawing")
SCORING = STAGES[:2]  # an explanation of a scored video has the others
_FIRST_GUESS = (0.3, 0.3, 0.25, 0.15)  # shares of the time of a job, before one was measured
_SECONDS_TO_ESTIMATE = 1.0
_PREFIX = "istvt-serve-"


Observe = Callable[[str, dict[str, float]], None]


class CanceledError(Exception):
    """The job in work was deleted, or the server ends."""


@dataclass
class Progress:
    """How far a task is; see `istvt.cli.service.schemas.Progress`.

    Attributes:
        stage: one of `STAGES`, "waiting", "done" or "failed".
        done, total: parts of the stage.
        started: seconds of `time.monotonic` at which the work began.
        stages: those of the task.
        seconds: of the stages that are over.
    """

    stage: str = "waiting"
    done: int = 0
    total: int = 0
    started: float = 0.0
    stages: tuple[str, ...] = STAGES
    seconds: dict[str, float] = field(default_factory=dict)
    entered: float = 0.0
    fraction: float = 0.0


@dataclass
class Explanation:
    """An explanation of a job: its method, its directory, and its files once it is done."""

    method: str
    clips: int
    folder: Path
    progress: Progress
    problem: Problem | None = None
    written: VideoExplanation | None = None

    @property
    def status(self) -> str:
        """One of waiting, running, done, failed."""
        return _status(self.progress)


@dataclass
class Job:
    """A video that was uploaded, and what is known of it.

    Attributes:
        id: cannot be guessed.
        folder: of everything that is kept of it.
        upload: the file.
        about: what the file says of itself.
        person: the one that is judged; None for all.
        progress: of its score and first explanation.
        scored, result: once it is scored.
        problem: why there is no result.
        explanations: by method.
        ended: seconds of `time.time` at which its last task was done; 0 before.
        deleted: it was deleted while it was in work.
    """

    id: str
    folder: Path
    upload: Upload
    about: dict[str, Any]
    person: int | None
    progress: Progress = field(default_factory=Progress)
    scored: ScoredVideo | None = None
    result: dict[str, Any] | None = None
    problem: Problem | None = None
    explanations: dict[str, Explanation] = field(default_factory=dict)
    ended: float = 0.0
    deleted: bool = False


@dataclass
class _Task:
    """Something to do for a job: an explanation, and before the first one its score."""

    job: Job
    explanation: Explanation | None


class Jobs:
    """All jobs of a server, and the thread that works on them."""

    def __init__(self, analyzer: Analyzer, settings: ServeSettings, observe: Observe | None = None) -> None:
        """`observe` is called with the outcome of each task and the seconds of its stages.

        Raises:
            InputError: the directory for files cannot be made.
        """
        self.analyzer, self.settings, self._observe = analyzer, settings, observe or (lambda *_: None)
        self.jobs: dict[str, Job] = {}
        self._tasks: deque[_Task] = deque()
        self._current: _Task | None = None
        self._processes: Workers | None = None
        self._reserved = 0  # places in the queue of uploads that are arriving
        self._changed = threading.Condition()
        self._stopping = False
        self._shares = dict(zip(STAGES, _FIRST_GUESS, strict=True))
        self._measured = dict.fromkeys(STAGES, 0.0)
        self.folder, self._lock = _own_folder(settings.storage)
        self._thread = threading.Thread(target=self._work, name="istvt-serve", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def close(self) -> None:
        """End the work in hand and remove all files."""
        with self._changed:
            self._stopping = True
            self._tasks.clear()
            if self._processes:
                self._processes.stop(seconds=0)
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()

    @property
    def is_working(self) -> bool:
        """Whether the thread takes tasks."""
        return self._thread.is_alive() and not self._stopping

    @property
    def waiting(self) -> int:
        """How many places of the queue are taken."""
        return len(self._tasks) + self._reserved

    @contextlib.contextmanager
    def reserved(self) -> Iterator[Path]:
        """Hold a place in the queue while a file arrives; gives an empty directory, which `submit` takes over.

        Raises:
            Problem: the queue or the disk is full, or the server stops.
        """
        with self._changed:
            self._check_room()
            self._reserved += 1
        folder = self.folder / secrets.token_urlsafe(16)
        try:
            if not has_room(self.folder, self.settings.max_bytes):
                raise Problem("disk-full", "There is no room for a video on the disk of this server.")
            folder.mkdir()
            yield folder
        finally:
            with self._changed:
                self._reserved -= 1
                kept = folder.name in self.jobs
            if not kept:
                shutil.rmtree(folder, ignore_errors=True)

    def submit(
        self, folder: Path, upload: Upload, about: dict[str, Any], person: int | None, method: str, clips: int
    ) -> Job:
        """Take a video into the queue; call it within `reserved`."""
        job = Job(folder.name, folder, upload, about, person)
        with self._changed:
            if self._stopping:
                raise Problem("stopping", "The server is stopping.")
            self.jobs[job.id] = job
            self._tasks.append(_Task(job, self._new_explanation(job, method, clips)))
            self._changed.notify_all()
        return job

    def explain(self, job: Job, method: str, clips: int) -> Explanation:
        """Take another explanation into the queue; one that is there already, or on its way, is returned as it is.

        Raises:
            Problem: the job is not scored, or the queue is full.
        """
        with self._changed:
            there = job.explanations.get(method)
            if there and there.status != "failed" and (there.clips == clips or there.status != "done"):
                return there
            if job.problem:
                raise job.problem
            if job.scored is None:
                raise Problem("not-ready", "The video is not scored yet; wait for its result.")
            self._check_room()
            explanation = self._new_explanation(job, method, clips)
            self._tasks.append(_Task(job, explanation))
            job.ended = 0.0
            self._changed.notify_all()
        return explanation

    def get(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            Problem: there is none, or its time is over.
        """
        self.sweep()
        job = self.jobs.get(job_id)
        if job is None:
            keep = self.settings.keep_minutes
            raise Problem("unknown-job", f"There is no such job; results are kept for {keep:g} minutes.")
        return job

    def delete(self, job: Job) -> None:
        """Cancel what is left to do of a job, and remove everything of it."""
        with self._changed:
            self.jobs.pop(job.id, None)
            self._tasks = deque(task for task in self._tasks if task.job is not job)
            job.deleted = True
            in_work = self._current is not None and self._current.job is job
            if in_work and self._processes:
                self._processes.stop(seconds=0)
        if not in_work:  # else the thread removes it as soon as it has let go of it
            shutil.rmtree(job.folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove the jobs whose time is over."""
        oldest = time.time() - 60 * self.settings.keep_minutes
        for job in list(self.jobs.values()):
            if job.ended and job.ended < oldest:
                self.delete(job)

    def expires(self, job: Job) -> str | None:
        """Return when a job is removed, ISO 8601; None before it is done."""
        if not job.ended:
            return None
        return datetime.fromtimestamp(job.ended + 60 * self.settings.keep_minutes, UTC).isoformat(timespec="seconds")

    def progress(self, task: Job | Explanation) -> dict[str, Any]:
        """Return how far a job or an explanation is, and the time that is left of it, as data."""
        progress = task.progress
        ahead = self._ahead(task) if progress.stage == "waiting" else 0
        fraction = {"done": 1.0, "failed": 1.0, "waiting": 0.0}.get(progress.stage, progress.fraction)
        left = None
        if progress.stage in ("done", "failed"):
            left = 0.0
        elif fraction > 0:
            elapsed = time.monotonic() - progress.started
            left = elapsed * (1 - fraction) / fraction if elapsed > _SECONDS_TO_ESTIMATE else None
        elif progress.stage == "waiting" and (a_job := sum(self._measured.values())):
            left = (ahead + 1) * a_job
        return {
            "stage": progress.stage,
            "done": progress.done,
            "total": progress.total,
            "fraction": fraction,
            "seconds_left": left,
            "ahead": ahead,
        }

    def retry_after(self) -> int:
        """Return after how many seconds a place may be free: those of a job, as far as any was measured."""
        return max(1, min(600, round(sum(self._measured.values()) or 5)))

    def _ahead(self, task: Job | Explanation) -> int:
        for place, other in enumerate(list(self._tasks)):
            if task is other.job or task is other.explanation:
                return place + (self._current is not None)
        return 0

    def _check_room(self) -> None:
        if self._stopping:
            raise Problem("stopping", "The server is stopping.")
        if self.waiting >= self.settings.queue:
            seconds = self.retry_after()
            raise Problem(
                "queue-full",
                f"{self.settings.queue} videos are waiting already, as many as may; try again in {seconds} s.",
                {"Retry-After": str(seconds)},
            )

    def _new_explanation(self, job: Job, method: str, clips: int) -> Explanation | None:
        if not self.analyzer.explainable:
            return None
        folder = job.folder / f"{method}-{secrets.token_hex(4)}"
        stages = STAGES[len(SCORING) :] if job.scored else STAGES
        explanation = Explanation(method, clips, folder, Progress(stages=stages))
        job.explanations[method] = explanation
        return explanation

    # In the thread that works.

    def _work(self) -> None:
        while not self._stopping:
            with self._changed:
                self._changed.wait_for(lambda: self._tasks or self._stopping, timeout=5)
                self._current = self._tasks.popleft() if self._tasks and not self._stopping else None
            if self._current:
                self._do(self._current)
                with self._changed:
                    task, self._current = self._current, None
                if task.job.deleted:
                    shutil.rmtree(task.job.folder, ignore_errors=True)
            self.sweep()

    def _do(self, task: _Task) -> None:
        job, explanation = task.job, task.explanation
        first = job.scored is None
        progress = job.progress if first else explanation.progress
        if explanation and first:
            explanation.progress = progress
        progress.started = progress.entered = time.monotonic()
        outcome = "done"
        try:
            with sandboxed(job.upload.path) as processes:
                self._processes = processes
                self._advance(task, progress, progress.stages[0], 0, 0)
                if first:
                    scored = self.analyzer.score(
                        job.upload.path,
                        job.upload.name,
                        job.person,
                        processes,
                        lambda *step: self._advance(task, progress, *step),
                    )
                    result = verdicts_to_dict(scored.prediction, self.analyzer.band)
                    result.pop("path")
                    job.scored, job.result = scored, result
                if explanation:
                    self._explain(job, explanation, processes, progress)
            self._enter(progress, "done")
        except (CanceledError, Stopped):
            outcome = "canceled"
        except Problem as problem:
            outcome = self._fail(task, progress, problem)
        except Exception as error:  # one video must not end the service
            log.exception("a job failed")
            from istvt.device import is_out_of_memory

            why = "there was too little memory for it" if is_out_of_memory(error) else type(error).__name__
            outcome = self._fail(task, progress, Problem("failed", f"This video could not be judged: {why}."))
        finally:
            self._processes = None
            with self._changed:
                job.ended = 0.0 if any(other.job is job for other in self._tasks) else time.time()
        self._learn(progress, whole=outcome == "done" and first)
        self._observe(outcome, progress.seconds)

    def _explain(self, job: Job, explanation: Explanation, processes: Workers, progress: Progress) -> None:
        def advance(stage: str, done: int, total: int) -> None:
            self._advance(_Task(job, explanation), progress, stage, done, total)

        settings = ExplanationSettings(method=explanation.method, clips=explanation.clips)
        advance("explaining clips", 0, 0)
        path, name, video = job.upload.path, job.upload.name, job.scored
        written = self.analyzer.explain(path, name, video, explanation.folder, settings, processes, advance)
        write_pdf(explanation.folder / "report.pdf", job.upload, job.about, job.result, written, self.analyzer)
        explanation.written = written

    def _fail(self, task: _Task, progress: Progress, problem: Problem) -> str:
        explanation = task.explanation
        if explanation:
            explanation.problem = problem
        if task.job.scored is None:
            task.job.problem = problem
        elif explanation and explanation.progress is task.job.progress:  # the score stands without an explanation
            explanation.progress = Progress(stage="failed", stages=progress.stages)
            self._enter(progress, "done")
            return "not explained"
        self._enter(progress, "failed")
        return "failed"

    def _advance(self, task: _Task, progress: Progress, stage: str, done: float, total: int) -> None:
        if task.job.deleted or self._stopping:
            raise CanceledError
        if stage != progress.stage:
            self._enter(progress, stage)
        progress.done, progress.total = int(done), total
        shares = [self._shares[name] for name in progress.stages]
        place = progress.stages.index(stage)
        part = done / total if total else 0.0
        fraction = (sum(shares[:place]) + shares[place] * min(part, 1.0)) / sum(shares)
        progress.fraction = max(progress.fraction, min(fraction, 0.999))

    def _enter(self, progress: Progress, stage: str) -> None:
        now = time.monotonic()
        if progress.stage in STAGES:
            progress.seconds[progress.stage] = progress.seconds.get(progress.stage, 0.0) + now - progress.entered
        progress.stage, progress.entered, progress.done, progress.total = stage, now, 0, 0

    def _learn(self, progress: Progress, whole: bool) -> None:
        """Take the time of a whole job into the estimates: half of them is what was measured before."""
        if not whole or set(progress.seconds) != set(STAGES):
            return
        for stage, seconds in progress.seconds.items():
            before = self._measured[stage] or seconds
            self._measured[stage] = (before + seconds) / 2
        total = sum(self._measured.values()) or 1.0
        self._shares = {stage: max(seconds / total, 0.01) for stage, seconds in self._measured.items()}


def _status(progress: Progress) -> str:
    return progress.stage if progress.stage in ("waiting", "done", "failed") else "running"


def job_status(job: Job) -> str:
    """Return one of waiting, running, done, failed."""
    return _status(job.progress)


def _own_folder(storage: Path | None) -> tuple[Path, FileLock]:
    """Return a new directory for the files of this server, and its lock; those that killed servers left are removed."""
    parent = output_directory(storage or tempfile.gettempdir())
    for leftover in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(Timeout, OSError):
            status = leftover.lstat()
            # Of this user, and not one whose server is about to lock it.
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and time.time() - status.st_mtime > 60:
                with FileLock(leftover / ".lock").acquire(timeout=0):
                    shutil.rmtree(leftover, ignore_errors=True)
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    except OSError as error:
        raise InputError(
            f"{parent}: no directory can be made in it ({error.strerror}); expected a writable one"
        ) from error
    lock = FileLock(folder / ".lock")
    lock.acquire(timeout=0)
    return folder, lock
