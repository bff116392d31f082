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

from bench.common.record import one_line

SECONDS_BETWEEN_LOOKS = 1.0


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
    context = multiprocessing.get_context("spawn")
    deadline = time.monotonic() + seconds
    waiting = deque(tasks)
    working: dict[Connection, tuple[BaseProcess, Any, float]] = {}  # process, task and when it began

    def begin(connection: Connection, process: BaseProcess) -> None:
        working[connection] = process, waiting.popleft(), time.monotonic()
        connection.send(working[connection][1])

    def end(connection: Connection) -> None:
        process = working.pop(connection)[0]
        connection.close()
        process.kill()
        process.join()

    try:
        while (waiting or working) and time.monotonic() < deadline:
            while waiting and len(working) < processes:
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, work), daemon=True)
                process.start()
                theirs.close()
                begin(ours, process)
            ready = wait(list(working), timeout=SECONDS_BETWEEN_LOOKS)
            for connection, (process, task, began) in list(working.items()):
                result = None
                if connection in ready:
                    try:
                        result, failure = connection.recv()
                    except (EOFError, OSError):
                        process.join()
                        failure = f"its process ended with status {process.exitcode}"
                elif time.monotonic() - began > seconds_each:
                    failure = f"took more than {seconds_each:.0f} s"
                else:
                    continue
                if waiting and not failure:
                    begin(connection, process)
                else:
                    end(connection)
                yield Outcome(task, result, failure)
        waiting.extendleft(task for _, task, _ in working.values())
    finally:
        for connection in list(working):
            end(connection)
    yield from (Outcome(task, failure="the time was used up", in_time=False) for task in waiting)


def _serve(connection: Connection, work: Callable[[Any], Any]) -> None:
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
