"""Console output that several commands share: a progress bar, what the library logs, and counted nouns."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from rich.console import Console

from istvt.cli.stops import end_at_once, stopping

# The first items of a run (decoders, memory) take longer than the rest: no estimate is made from them.
SECONDS_TO_ESTIMATE = 20


@contextlib.contextmanager
def starting(console: Console) -> Iterator[None]:
    """Show a status line on a terminal while PyTorch is imported, which takes seconds; a stop ends the process."""
    with stopping(end_at_once), console.status("starting") if console.is_terminal else contextlib.nullcontext():
        yield


class ConsoleHandler(logging.Handler):
    """Handler that prints records as lines of a console: warnings in yellow, the style of `extra` before that."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        style = getattr(record, "style", "yellow" if record.levelno >= logging.WARNING else None)
        try:
            print_lines(self._console, self.format(record), style=style)
        except Exception:  # as logging's own handlers: a closed pipe ends no training
            self.handleError(record)


@contextlib.contextmanager
def logging_to(console: Console) -> Iterator[None]:
    """Print what the library logs for as long as the context lasts: a run on this console, a data set on stderr.

    What `dataloading` logs stands beside its progress bars, and not among the lines that another program may read.
    """
    handlers = {"istvt": ConsoleHandler(console), "dataloading": ConsoleHandler(Console(stderr=True))}
    before = {name: logging.getLogger(name).level for name in handlers}
    for name, handler in handlers.items():
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        yield
    finally:
        for name, handler in handlers.items():
            logging.getLogger(name).removeHandler(handler)
            logging.getLogger(name).setLevel(before[name])


def print_lines(console: Console, *lines: str, style: str | None = None) -> None:
    """Print lines without markup and line breaks: paths in them may hold brackets and be longer than the terminal."""
    for line in lines:
        console.print(printable(line), style=style, markup=False, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """Return text in which what is no character is an escape: a file name may hold codes that a terminal obeys."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def counted(number: int, noun: str) -> str:
    """Return "1 video", "2 videos"."""
    return f"{number} {noun}{'s' * (number != 1)}"


@contextlib.contextmanager
def progress_bar(console: Console, description: str) -> Iterator[Callable[..., None]]:
    """Show a progress bar; the context gives a function of (done, total) and, where that changes, a description.

    Another total is another task, whose time is estimated by itself. Without a terminal, one line after some seconds
    estimates the time that is left of a task, if that is over a minute.
    """
    from rich.progress import Progress

    started, announced = time.monotonic(), console.is_terminal
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task, total_before, done_before = progress.add_task(description, total=None), None, 0.0

        def update(done: float, total: int, what: str = description) -> None:
            nonlocal announced, started, total_before, done_before
            if total != total_before:
                progress.reset(task, total=total)
                if total_before is not None:
                    started, done_before, announced = time.monotonic(), done, console.is_terminal
                total_before = total
            progress.update(task, completed=done, total=total, description=what)
            seconds = time.monotonic() - started
            minutes = seconds / 60 * (total - done) / (done - done_before) if done > done_before else 0
            if not announced and seconds > SECONDS_TO_ESTIMATE and minutes > 1:
                announced = True
                console.print(f"{what}: {done / total:.0%} done, about {minutes:.0f} min more", style="dim")

        yield update
