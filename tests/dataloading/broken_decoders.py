"""Decoders that crash, hang or fail as C code does, in the worker processes of the product, for files marked so.

`install()` runs in a worker process, before its first job; the fixture `broken_decoders` makes every worker do so.
A file is marked by a few bytes at its end, which no container minds; its name stays that of the data set.
"""

import ctypes
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from dataloading.video import decode, probe, processes

MARK = b"\0\0\0\x28free broken: "  # a box of MP4 without meaning, of 40 bytes
COMMAND = processes.COMMAND.replace("from", "import broken_decoders; broken_decoders.install(); from")


def break_video(path: Path, kind: str, stage: str = "decode") -> Path:
    """Mark a file: the decoder breaks on it when it is opened ("probe") or when its first frame is decoded."""
    with path.open("ab") as file:
        file.write((MARK + f"{kind} {stage}".encode()).ljust(40))
    return path


def repair(paths: Iterable[Path]) -> None:
    for path in paths:
        content, _, _ = path.read_bytes().partition(MARK)
        path.write_bytes(content)


def install() -> None:
    processes.STALLED_SECONDS = 8.0  # a detector is loaded within it, on a busy machine too
    describe, decode_from = probe._describe, decode._decode_from

    def probed(container, stream, path):
        _break(path, "probe")
        return describe(container, stream, path)

    def decoded(path, *arguments):
        frames = decode_from(path, *arguments)
        first = next(frames)
        _break(path, "decode")
        yield first
        yield from frames

    probe._describe, decode._decode_from = probed, decoded


def _break(path: Path, stage: str) -> None:
    _, mark, kind = path.read_bytes().partition(MARK)
    if not mark or kind.split()[1].decode() != stage:
        return
    match kind.split()[0].decode():
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "hang":
            ctypes.PyDLL(None).sleep(10_000)  # with the interpreter's lock held, as a C extension may
        case "exception":
            raise KeyError("a table of the decoder")
        case "exit":
            os._exit(3)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "slow":
            time.sleep(0.5)
