"""Tasks in processes of their own: one that crashes, hangs or breaks the GPU's context costs itself and no other."""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from bench.common.record import one_line


@dataclass(frozen=True)
class Outcome:
    """Result of a task, or why there is none. `in_time` is False where the time of all tasks ran out."""

    task: Any
    result: Any = None
    failure: str = ""
    in_time: bool = True


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
        left = deadline - time.monotonic()
        result, failure = None, "the time was used up"
        try:
            if left > 0 and getattr(of_thread, "process", None) is None:
                of_thread.connection, theirs = context.Pipe()
                of_thread.process = context.Process(target=_serve, args=(theirs, work), daemon=True)
                of_thread.process.start()
                started.append(of_thread.process)
                theirs.close()
                of_thread.connection.recv()  # once `work` is imported, which takes seconds of no task
            if left > 0:
                of_thread.connection.send(task)
                if of_thread.connection.poll(min(seconds_each, left)):
                    result, failure = of_thread.connection.recv()
                elif seconds_each < left:
                    failure = f"took more than {seconds_each:.0f} s"
        except (EOFError, OSError):
            of_thread.process.join()
            failure = f"its process ended with status {of_thread.process.exitcode}"
        if failure and left > 0:
            of_thread.process.kill()
            of_thread.process = None
        return Outcome(task, result, failure, failure != "the time was used up")

    threads = ThreadPoolExecutor(processes)
    try:
        yield from (future.result() for future in as_completed([threads.submit(outcome, task) for task in tasks]))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for process in started:
            process.kill()


def _serve(connection: Connection, work: Callable[[Any], Any]) -> None:
    connection.send(None)
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            connection.send((work(task), ""))
        except Exception as error:
            connection.send((None, one_line(error)))
            return
