"""Why a run ends, said once, however many processes torchrun started: most mistakes are met by all of them.

torchrun gives every process of a machine a file for its error, all below one directory. There the process that says
a sentence leaves its mark, so that the others keep quiet about it, and about what they meet because that one has ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

_SAYING, _SAID = "saying-", "said-"
# A process learns that another one has ended a moment before or after that one's sentence is out.
_SECONDS_TO_LEARN_WHY = 2.0


def say_once(sentence: str, say: Callable[[str], None]) -> None:
    """Call `say(sentence)`, unless another process of this machine says the same: then wait until that has.

    The sentence is also left where torchrun looks for it, which ends the others and names the sentence as the cause;
    by every process, because torchrun may look at any of them first.
    """
    error_file = _error_file()
    if error_file is None:
        say(sentence)
        return
    digest = hashlib.sha256(sentence.encode()).hexdigest()[:16]
    with contextlib.suppress(OSError):  # said twice rather than not at all
        error = {"message": sentence, "extraInfo": {"timestamp": str(int(time.time()))}}
        error_file.write_text(json.dumps({"message": error}))
        try:
            (_marks(error_file) / (_SAYING + digest)).touch(exist_ok=False)  # made by one process, whichever is first
        except FileExistsError:
            if _wait_for(_marks(error_file), _SAID + digest):  # torchrun ends that one as soon as this one has ended
                return
    say(sentence)
    with contextlib.suppress(OSError):
        (_marks(error_file) / (_SAID + digest)).touch()


def another_has_said_why() -> bool:
    """Whether a process of this machine has ended with a sentence, which then is the cause of what this one meets."""
    error_file = _error_file()
    if error_file is None:
        return False
    return _wait_for(_marks(error_file), _SAID + "*")


def _wait_for(directory: Path, pattern: str) -> bool:
    """Whether a file of that name is there in time."""
    deadline = time.monotonic() + _SECONDS_TO_LEARN_WHY
    while not any(directory.glob(pattern)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _error_file() -> Path | None:
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return Path(path) if path and int(os.environ.get("WORLD_SIZE", "1")) > 1 else None


def _marks(error_file: Path) -> Path:
    return error_file.parent.parent
