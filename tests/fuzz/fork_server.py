"""Fork server: runs `istvt` commands, each in a fork of a process that has imported everything, within limits.

A command that takes seconds to import takes a fraction of one here, so that thousands of damaged inputs take minutes.
Each runs in a process group of its own with a limit on its memory and on its time. The server is a process without
threads: nothing has been computed in it before a fork.

    with ForkServer(memory=2 << 30, seconds=30) as server:
        result = server.run(["predict", "a.mp4", "--checkpoint=run"], place)
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What commands import while they run; a fork that finds it imported starts at once.
IMPORTS = (
    "istvt.cli.main", "istvt.training.trainer", "istvt.report.evaluate_checkpoint", "istvt.inference.predict",
    "istvt.explain_video.video", "istvt.model.authors", "dataloading.faces.prepare", "nvidia.dali.fn", "yuface",
    "torch.utils.tensorboard", "rich.table", "filelock", "yaml", "pydantic", "expected_scores",
)  # fmt: skip
# A narrower encoding than a terminal's would hide faults, and bfloat16, where the processor has it, wrong scores.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
    "PYTHONIOENCODING": "utf-8:strict",
    "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
}
FAULT = 70  # exit status of a function that raised something else than SystemExit


@dataclass(frozen=True)
class Result:
    """How a command ended.

    Attributes:
        status: exit status; negative for the signal that ended it, None where the time limit did.
        out, err: what it printed.
        seconds: wall time.
        memory: bytes that it had resident at most, what it shares with the server among them.
    """

    status: int | None
    out: str
    err: str
    seconds: float
    memory: int


class ForkServer:
    """A server process, for as long as the context lasts.

    Args:
        memory: bytes that a command may allocate.
        seconds: wall time of a command.
    """

    def __init__(self, memory: int, seconds: float) -> None:
        self.memory, self.seconds = memory, seconds

    def __enter__(self) -> ForkServer:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | ENVIRONMENT,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stdin.close()
        self._server.wait()

    def run(self, arguments: list[str], place: Path, function: str = "istvt.cli.main:main") -> Result:
        """Call a function of a module with a list of arguments, by default the command; it runs in `place`."""
        request = {"function": function, "arguments": arguments, "place": str(place)}
        request |= {"memory": self.memory, "seconds": self.seconds}
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        if not (line := self._server.stdout.readline()):
            raise RuntimeError(f"the fork server ended with status {self._server.wait()}")
        return Result(**json.loads(line))


def serve() -> None:
    """Answer requests, one a line of standard input, until it is closed."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    for name in IMPORTS:
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    for line in sys.stdin.buffer:
        answers.write(json.dumps(_answer(**json.loads(line))).encode() + b"\n")


def _answer(function: str, arguments: list[str], place: str, memory: int, seconds: float) -> dict[str, Any]:
    (read_out, write_out), (read_err, write_err) = (_unlinked_file(name) for name in ("out", "err"))
    began = time.monotonic()
    process = os.fork()
    if process == 0:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(write_out, 1)
        os.dup2(write_err, 2)
        os._exit(_call(function, arguments, place, memory))
    status, usage = _wait(process, began + seconds)
    for file in (write_out, write_err):
        os.close(file)
    with open(read_out, "rb") as out, open(read_err, "rb") as err:
        texts = {"out": out.read(1 << 20), "err": err.read(1 << 20)}
    return {
        "status": status,
        **{name: text.decode(errors="backslashreplace") for name, text in texts.items()},
        "seconds": time.monotonic() - began,
        "memory": usage,
    }


def _call(function: str, arguments: list[str], place: str, memory: int) -> int:
    """Return the exit status of the call; the process is left by os._exit, so that the server's state stays its own."""
    status = FAULT
    try:
        os.chdir(place)
        # RLIMIT_DATA counts what can be written to; RLIMIT_AS would also count what malloc reserves for each thread.
        limit = _status_bytes("VmData") + memory
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        module, _, name = function.partition(":")
        status = getattr(importlib.import_module(module), name)(arguments)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else bool(error.code)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    return status


def _wait(process: int, until: float) -> tuple[int | None, int]:
    """Return exit status (None: killed at `until`) and the largest resident memory of a child, in bytes."""
    pause = 0.001
    while time.monotonic() < until:
        ended, code, usage = os.wait4(process, os.WNOHANG)
        if ended:
            break
        time.sleep(pause)
        pause = min(1.5 * pause, 0.05)
    else:
        os.killpg(process, signal.SIGKILL)
        _, _, usage = os.wait4(process, 0)
        return None, usage.ru_maxrss * 1024
    with contextlib.suppress(ProcessLookupError):  # what the command started and left running
        os.killpg(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(code), usage.ru_maxrss * 1024


def _unlinked_file(name: str) -> tuple[int, int]:
    """Return two descriptors of a file in memory: one to read from its beginning, one to write to."""
    write = os.memfd_create(name)
    return os.open(f"/proc/self/fd/{write}", os.O_RDONLY), write


def _status_bytes(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    serve()
