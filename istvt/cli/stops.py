"""Signals that stop a command: Ctrl-C and SIGTERM, while modules are imported and while files are written.

The standard library alone is imported here, so that the first of a command's imports can be stopped too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM, sent by a scheduler, a terminal or a shutdown."""


def end_at_once(number: int, _: Any) -> NoReturn:
    """End the process in a sentence, as a handler of a signal.

    An exception would come out of whatever is imported just then as a traceback, or as another exception.
    """
    if os.environ.get("RANK", "0") == "0":
        os.write(2, b"istvt: stopped\n")
    os._exit(128 + number)


def interrupt(number: int, frame: Any) -> None:
    """Raise KeyboardInterrupt, so that worker processes are ended before this one and files are finished or removed."""
    if number == signal.SIGTERM:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second SIGTERM ends the process at once
        raise Terminated
    signal.default_int_handler(number, frame)


def handle_stops(handler: Callable[[int, Any], None]) -> dict[int, Any]:
    """Handle both signals by `end_at_once` or `interrupt`, and return their handlers before.

    A signal that is ignored, as by nohup, stays so. In a thread other than the main one there is none to handle.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    # A process of a group may wait in a collective, which no handler interrupts: SIGTERM must end it at once.
    grouped = int(os.environ.get("WORLD_SIZE", "1")) > 1
    numbers = (signal.SIGINT,) if grouped else (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: earlier for number, earlier in before.items() if earlier is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    return before


@contextlib.contextmanager
def stopping(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Handle both signals by `end_at_once` or `interrupt` for as long as the context lasts."""
    before = handle_stops(handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
