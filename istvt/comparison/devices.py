"""Models of a comparison on several GPUs of this machine: a process for each, which takes one model after another."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from dataloading.errors import InputError
from istvt.comparison.check import CheckedPlan
from istvt.comparison.models import finish_model

_LOOK_SECONDS = 1.0  # between looks at whether the processes live


def finish_on_devices(ready: CheckedPlan, devices: Sequence[str], done: Callable[[int, int, str], None]) -> None:
    """Train and evaluate the models of a comparison, each on one of several devices.

    Args:
        ready: the comparison.
        devices: one process for each; the same one may come several times.
        done: called with (models done, models in all, the model) as each is done.

    Raises:
        InputError: as `train` and `evaluate_checkpoint`, or a process died; the others are ended, and what they have
            written stays.
    """
    context, models = multiprocessing.get_context("spawn"), ready.plan.models
    jobs, results = context.Queue(), context.Queue()
    for place in range(len(models)):
        jobs.put(place)
    for _ in devices:
        jobs.put(None)
    processes = [context.Process(target=_work, args=(ready, device, jobs, results)) for device in devices]
    try:
        for process in processes:
            process.start()
        for count in range(1, len(models) + 1):
            place, error = _next(results, processes)
            if error is not None:
                raise InputError(error)
            done(count, len(models), str(models[place]))
        for process in processes:
            process.join()
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            with contextlib.suppress(AssertionError):  # one that was not started
                process.join()


def _next(results: Any, processes: Sequence[BaseProcess]) -> tuple[int, str | None]:
    while True:
        try:
            return results.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            for process in processes:
                if process.exitcode not in (None, 0):
                    raise InputError(
                        f"a process of the comparison ended with {process.exitcode}; the same command goes on"
                    ) from None


def _work(ready: CheckedPlan, device: str, jobs: Any, results: Any) -> None:
    """Finish one model after another, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    while (place := jobs.get()) is not None:
        error = None
        try:
            finish_model(ready, ready.plan.models[place], device=device)
        except InputError as found:
            error = f"{ready.plan.models[place]}: {found}"
        results.put((place, error))


def _end_with(parent: BaseProcess) -> None:
    """End this process when the first one has ended, which may have been killed: its lock is free then."""
    parent.join()
    os._exit(1)
