"""Tasks in processes of their own: one that crashes, hangs or breaks the GPU's context costs itself and no other."""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True)
class Outcome:
    """What came of a task: its result, or why there is none. `in_time` is False where the time of all ran out."""

    task: Any
    result: Any = None
    failure: str = ""
    in_time: bool = True


@dataclass
class _Worker:
    process: BaseProcess
    task: Any
    since: float


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
    context = multiprocessing.get_context("spawn")
    deadline = time.monotonic() + seconds
    waiting, workers = deque(tasks), {}
    try:
        while (waiting or workers) and time.monotonic() < deadline:
            while waiting and len(workers) < processes:
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, work), daemon=True)
                process.start()
                theirs.close()
                _give(ours, workers, process, waiting)
            ready = wait(list(workers), timeout=SECONDS_BETWEEN_LOOKS)
            for connection in list(workers):
                worker = workers[connection]
                overdue = time.monotonic() - worker.since > seconds_each
                if connection not in ready and not overdue:
                    continue
                if connection in ready:
                    outcome = _receive(connection, worker)
                else:
                    outcome = Outcome(worker.task, failure=f"took more than {seconds_each:.0f} s")
                if waiting and not outcome.failure:
                    _give(connection, workers, worker.process, waiting)
                else:
                    _end(connection, workers)
                yield outcome
        cut = [worker.task for worker in workers.values()]
    finally:
        for connection in list(workers):
            _end(connection, workers)
    yield from (Outcome(task, failure="the time was used up", in_time=False) for task in (*cut, *waiting))


def _serve(connection: Connection, work: Callable[[Any], Any]) -> None:
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            connection.send((work(task), ""))
        except Exception as error:
            said = str(error).strip().splitlines()
            connection.send((None, f"{type(error).__name__}: {said[0] if said else ''}"))
            return


def _give(connection: Connection, workers: dict[Connection, _Worker], process: BaseProcess, waiting: deque) -> None:
    task = waiting.popleft()
    workers[connection] = _Worker(process, task, time.monotonic())
    connection.send(task)


def _receive(connection: Connection, worker: _Worker) -> Outcome:
    try:
        result, failure = connection.recv()
    except (EOFError, OSError):
        worker.process.join()
        return Outcome(worker.task, failure=f"its process ended with status {worker.process.exitcode}")
    return Outcome(worker.task, result, failure)


def _end(connection: Connection, workers: dict[Connection, _Worker]) -> None:
    process = workers.pop(connection).process
    connection.close()
    process.kill()
    process.join()
