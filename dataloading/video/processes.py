"""A pool of worker processes that end when the process that started them ends, however it ends."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process, resource_tracker
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def process_pool(
    count: int, initializer: Callable[..., None], arguments: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of `count` processes, each begun by `initializer(*arguments)`.

    Where the block is left by an exception (a stop by Ctrl-C or SIGTERM is one) what the workers have in hand is
    dropped: files must be written so that a half of one is none.
    """
    # Spawned, not forked: the caller may hold threads (torch, a progress bar) or a CUDA context.
    pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_start, initargs=(initializer, arguments))
    try:
        with _stops_wait():
            for _ in range(count):
                pool.submit(_nothing)  # each job starts a process until there are as many as there may be
        yield pool
    except BaseException:
        # The executor itself would wait for every job in hand; from Python 3.14 this is its terminate_workers().
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _stops_wait() -> Iterator[None]:
    """Make a stop wait for the end of the block: a process whose start is cut off half way ends in a traceback.

    Processes that are started meanwhile never receive Ctrl-C, which is for the one that writes the results: what is
    blocked in a process is blocked in those that it starts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    resource_tracker.ensure_running()  # when it is started later, it unblocks Ctrl-C
    came: list[int] = []
    # Another thread may take a signal that is blocked in this one; its handler runs here all the same.
    before = {number: signal.signal(number, lambda which, _: came.append(which)) for number in STOPS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _nothing() -> None:
    pass


def _start(initializer: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    # A worker waits for jobs in a pipe whose other end it holds too: the pipe does not close when its parent ends.
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()
    initializer(*arguments)


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)
