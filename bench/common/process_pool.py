"""Tasks in processes of their own: one that crashes, hangs or breaks the GPU's context costs itself and no other."""

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

USED_UP = "the time was used up"


@dataclass(frozen=True)
class Outcome:
    """Result of a task, or why there is none."""

    task: Any
    result: Any = None
    failure: str = ""  # USED_UP where the time of all tasks ran out


def run_tasks(
    work: Callable[[Any], Any], tasks: Sequence[Any], processes: int, seconds_each: float, seconds: float
) -> Iterator[Outcome]:
    """Yield the outcome of each task, in the order in which they end; every task has one.

    Args:
        work: what is done with a task; a function of a module, called in another process.
        tasks: first come, first served.
        processes: at most so many at once. One whose task failed is not used again: its GPU context may be broken.
        seconds_each: a task that takes longer is ended.
        seconds: after which what still runs is ended and nothing is started.
    """
    context, of_thread, started = multiprocessing.get_context("spawn"), threading.local(), []
    deadline = time.monotonic() + seconds

    def outcome(task: Any) -> Outcome:
        """Hand a task to the process of this thread and wait for its answer."""
        if time.monotonic() > deadline:
            return Outcome(task, failure=USED_UP)
        result = None
        try:
            if getattr(of_thread, "process", None) is None:
                of_thread.connection, theirs = context.Pipe()
                of_thread.process = context.Process(target=_serve, args=(theirs, work), daemon=True)
                of_thread.process.start()
                started.append(of_thread.process)
                theirs.close()
                of_thread.connection.recv()  # once `work` is imported, which takes seconds of no task
            of_thread.connection.send(task)
            left = deadline - time.monotonic()
            failure = f"took more than {seconds_each:.0f} s" if seconds_each < left else USED_UP
            if of_thread.connection.poll(max(0, min(seconds_each, left))):
                result, failure = of_thread.connection.recv()
        except (EOFError, OSError):
            of_thread.process.join()
            failure = f"its process ended with status {of_thread.process.exitcode}"
        if failure:
            of_thread.process.kill()
            of_thread.process = None
        return Outcome(task, result, failure)

    threads = ThreadPoolExecutor(processes)
    try:
        yield from (future.result() for future in as_completed([threads.submit(outcome, task) for task in tasks]))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for process in started:
            process.kill()


def one_line(error: Exception) -> str:
    """Return the kind of an error and the first line of what it says."""
    first, *_ = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {first}"


def _serve(connection: Connection, work: Callable[[Any], Any]) -> None:
    connection.send(None)
    with contextlib.suppress(EOFError):
        while True:
            task = connection.recv()
            try:
                connection.send((work(task), ""))
            except Exception as error:
                connection.send((None, one_line(error)))
                return
