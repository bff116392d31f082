"""Why a run ends, said once, however many processes torchrun started: most mistakes are met by all of them.

torchrun gives every process of a machine a file for its error, all below one directory. There the process that says
a sentence leaves its mark, so that the others keep quiet about it, and about what they meet because that one has ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

_MARK = "said-"
# A process learns that another one has ended a moment before or after that one's sentence is out.
_SECONDS_TO_LEARN_WHY = 2.0


def first_to_say(sentence: str) -> bool:
    """Whether no other process of this machine has said the sentence; this one must say it then.

    Each leaves it where torchrun looks for it, which ends the others and names as the cause what it finds of the first
    that ended: that may be one which kept quiet.
    """
    error_file = _error_file()
    if error_file is None:
        return True
    try:
        error = {"message": sentence, "extraInfo": {"timestamp": str(int(time.time()))}}
        error_file.write_text(json.dumps({"message": error}))
        # Made by one process only, whichever comes first.
        (_marks(error_file) / (_MARK + hashlib.sha256(sentence.encode()).hexdigest()[:16])).touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True  # said twice rather than not at all
    return True


def another_has_said_why() -> bool:
    """Whether a process of this machine has ended with a sentence, which then is the cause of what this one meets."""
    error_file = _error_file()
    if error_file is None:
        return False
    deadline = time.monotonic() + _SECONDS_TO_LEARN_WHY
    while not any(_marks(error_file).glob(_MARK + "*")):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _error_file() -> Path | None:
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return Path(path) if path and int(os.environ.get("WORLD_SIZE", "1")) > 1 else None


def _marks(error_file: Path) -> Path:
    return error_file.parent.parent
