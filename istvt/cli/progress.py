"""How far the work is, on a terminal and in a file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console

# What is first in a run (decoders, memory) takes longer than the rest, and no estimate should be made of it.
SECONDS_TO_ESTIMATE = 20


@contextlib.contextmanager
def progress_bar(console: Console, description: str) -> Iterator[Callable[..., None]]:
    """A progress bar; what it gives is called with (done, total) and, if that changes, what is done.

    In a file, where no bar moves, one line says after some seconds how long it will take, if that is over a minute.
    """
    from rich.progress import Progress

    started, announced = time.monotonic(), console.is_terminal
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=None)

        def update(done: int, total: int, what: str = description) -> None:
            nonlocal announced
            progress.update(task, completed=done, total=total, description=what)
            seconds = time.monotonic() - started
            minutes = seconds / 60 * (total / done - 1) if done else 0
            if not announced and seconds > SECONDS_TO_ESTIMATE and minutes > 1:
                announced = True
                console.print(f"{what}: {done} of {total} done, about {minutes:.0f} min more", style="dim")

        yield update
