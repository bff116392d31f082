"""What commands show while they work."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from rich.console import Console


def starting(console: Console) -> contextlib.AbstractContextManager[Any]:
    """Something to see while PyTorch is imported, which takes seconds."""
    return console.status("starting") if console.is_terminal else contextlib.nullcontext()


def print_warnings(sentences: Sequence[str], console: Console) -> None:
    """What a person should know before relying on a verdict."""
    for sentence in sentences:
        console.print(sentence, style="yellow", markup=False, highlight=False, soft_wrap=True)


def counted(number: int, noun: str) -> str:
    """1 video, 2 videos."""
    return f"{number} {noun}{'s' * (number != 1)}"
