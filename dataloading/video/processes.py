"""Worker processes for decoders and face detectors: one that crashes or stands still costs one file.

Both are C code that reads bytes of unknown origin. A segmentation fault in a thread would end a training run, and a
thread that stands still cannot be ended, so such code runs in processes of its own, one job at a time::

    with Workers() as workers:
        result = workers.call(function, *arguments, file=path)

`function` is one of a module that is quick to import (no torch); its arguments are pickled. Its result is None, a
number, text, a NumPy array, or lists and dicts of them (a tuple becomes a list): what comes back is data and never
unpickled, so that a process that a video has taken over cannot take over this one.

A process is started where none is idle, and kept for the next job, of any `Workers` of the same kind. What a process
does with signals: Ctrl-C is for the process that writes the results. A job without progress for `STALLED_SECONDS` ends
its process (SIGALRM, which needs no Python), and so does the end of the process that started it, however it ends.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import inspect
import json
import math
import os
import pickle
import queue
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dataloading.errors import InputError
from dataloading.video.sandbox import Sandbox, restrict

Job = TypeVar("Job")
Item = TypeVar("Item")
_Kind = tuple[str, Sandbox | None]  # of a process: its command and its limits

MOST_WORKERS = 1024
STALLED_SECONDS = 60.0  # without a decoded picture or packet; a frame of 16K takes about one second
STOP_SECONDS = 1.0  # that jobs in hand may take when `Workers` are closed
WAIT_SECONDS = 0.5  # at most, without a look at signals that have arrived
LARGEST_RESULT = 4 << 30  # bytes; six frames of 16K, as they are kept for a clip, are 300 MB
DECODER = "the decoder or the face detector"
# What a new process runs; sys.path, the numbers of its socket and its lifeline, and its limits follow.
COMMAND = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from dataloading.video.processes import serve; serve(*map(json.loads, sys.argv[2:]))"
)
_ENVIRONMENT = ("PATH", "PYTHON", "VIRTUAL_ENV", "LD_", "LANG", "LC_", "OMP_", "HOME", "TMPDIR")  # of a sandbox
_LENGTH = struct.Struct("<Q")
_END = object()
_patience = 0.0  # seconds; in a worker process, while it has a job


class Stopped(Exception):
    """The work was given up while a job was in hand; the reader of its result has left."""


class Workers:
    """Processes that run one job each at a time, for the threads that call them; as many as there are such threads.

    At the end of the context jobs in hand get `STOP_SECONDS`, then their processes are ended: files must be written so
    that a half of one is none.
    """

    def __init__(self, sandbox: Sandbox | None = None) -> None:
        """`sandbox`: limits of the processes, which are then used by these `Workers` alone and end with them."""
        self.sandbox = sandbox
        self._kind = COMMAND, sandbox
        self._busy: set[_Worker] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self.sandbox is not None:
            _end_idle_workers(self._kind)

    def call(self, function: Callable[..., Any], *arguments: Any, file: str | Path, blame: str = DECODER) -> Any:
        """Return what a function of a module returns in a worker process.

        A job whose process dies is done once more, in another one: it may have been ended by a person, or by a system
        that had no memory left. After the second time, or the first time without progress, the file is to blame; from
        then on it is refused at once, for as long as it is not changed.

        Args:
            function: See the module.
            arguments: Of the function.
            file: What the function reads or writes, for the sentence.
            blame: What would have crashed, for the sentence.

        Raises:
            InputError: As the function, and where `file` made the process crash, stand still or take more memory than
                there is, or the function raised an error of an unexpected type.
            OSError: As the function.
            Stopped: `stop` was called meanwhile.
        """
        values = self.iterate(function, *arguments, file=file, blame=blame)
        value = next(values)
        if next(values, _END) is not _END:
            values.close()
            raise InputError(f"{file} failed (its process gave more than one answer).")
        return value

    def iterate(
        self, function: Callable[..., Any], *arguments: Any, file: str | Path, blame: str = DECODER
    ) -> Iterator[Any]:
        """Yield what a generator of a module yields in a worker process, as it is yielded; see `call`.

        Where the process dies, another one begins again, and what was yielded already is left out.
        """
        version, yielded, end = (self.sandbox, _version(file)), 0, {}
        if version in _refused:
            raise InputError(_refused[version])
        for last in (False, True):
            worker = self._take()
            try:
                for number, reply in enumerate(worker.replies(function, arguments)):
                    if "value" not in reply:
                        end = reply
                    elif number >= yielded:
                        yielded += 1
                        yield reply["value"]
            except _GarbledError:
                self._drop(worker)
                raise InputError(f"{file} failed (its process gave an answer that is none).") from None
            except _DiedError as death:
                self._drop(worker)
                if self._stopped:
                    raise Stopped from None
                if last or death.stalled:
                    reason = f"{file} made {blame} {death}."
                    if None not in version[1:]:  # a file that is there
                        _refused[version] = reason
                    raise InputError(reason) from None
            except BaseException:  # Ctrl-C in this thread, or the consumer leaves: replies are still to come
                self._drop(worker)
                raise
            else:
                self._give_back(worker)
                _raise_error(end, file)
                return

    def run_all(
        self,
        function: Callable[[Job], Any],
        jobs: Iterable[Job],
        count: int,
        file: Callable[[Job], str | Path],
        blame: str = DECODER,
        ready: Callable[[Job], AbstractContextManager[Job]] = nullcontext,
    ) -> Iterator[tuple[Job, Any]]:
        """Yield `(job, result)` for each job, as they are done, by `count` processes.

        The result is an InputError where `call` or `ready` raises one; another error ends all of it. `ready` gives the
        job that the process is given, such as one with a local copy of a remote file, in a thread of this process.
        """
        done: queue.SimpleQueue[tuple[Job, Any]] = queue.SimpleQueue()

        def work(job: Job) -> None:
            try:
                with ready(job) as given:
                    result = self.call(function, given, file=file(given), blame=blame)
            except BaseException as error:  # raised in the thread that waits
                result = error
            done.put((job, result))

        with ThreadPoolExecutor(count, thread_name_prefix="worker") as threads:
            try:
                for _ in [threads.submit(work, job) for job in jobs]:
                    job, result = get(done)
                    if isinstance(result, BaseException) and not isinstance(result, InputError):
                        raise result
                    yield job, result
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                self.stop(seconds=0)
                raise

    def is_stopped(self) -> bool:
        """Return whether `stop` was called."""
        return self._stopped

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """End what is in hand after so many seconds, and take no more jobs."""
        deadline = time.monotonic() + seconds
        self._stopped = True
        while self._busy and time.monotonic() < deadline:
            time.sleep(0.01)
        with self._lock:
            for worker in self._busy:
                worker.process.kill()

    def _take(self) -> _Worker:
        """Return an idle process, or a new one."""
        with self._lock:
            if self._stopped:
                raise Stopped
            worker = _idle_worker(self._kind) or _Worker(*self._kind)
            self._busy.add(worker)
            return worker

    def _give_back(self, worker: _Worker) -> None:
        with self._lock:
            self._busy.discard(worker)
        with _idle_lock:
            _idle.append(worker)

    def _drop(self, worker: _Worker) -> None:
        worker.end()
        with self._lock:
            self._busy.discard(worker)


def get(entries: queue.Queue[Item] | queue.SimpleQueue[Item]) -> Item:
    """Return the next entry of a queue as soon as there is one.

    Python handles Ctrl-C in its main thread only, and not in a wait that began while the signal arrived: no wait lasts
    longer than `WAIT_SECONDS`.
    """
    while True:
        with contextlib.suppress(queue.Empty):
            return entries.get(timeout=WAIT_SECONDS)


def alive(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items of a job; in a worker process each gives it another `STALLED_SECONDS`."""
    for item in items:
        _reset_alarm()
        yield item


class _GarbledError(Exception):
    """What a worker process sent is no message."""


class _LateError(Exception):
    """The time of a job is over."""


class _DiedError(Exception):
    """A worker process ended in its job; the message follows "made the decoder"."""

    def __init__(self, status: int, how: str = "") -> None:
        self.stalled = status == -signal.SIGALRM
        if how:
            pass
        elif self.stalled:
            how = f"stand still: nothing was decoded for {STALLED_SECONDS:.0f} s"
        elif status == -signal.SIGKILL:
            how = "fail twice: its process was killed, as the system does where memory runs out"
        elif status < 0:
            how = f"crash ({(signal.strsignal(-status) or f'signal {-status}').lower()})"
        else:
            how = f"crash (status {status})"
        super().__init__(how)


class _Worker:
    """One process, from the side of the process that started it."""

    def __init__(self, command: str, sandbox: Sandbox | None) -> None:
        self.kind = command, sandbox
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # the processes are the parallelism
        if sandbox:  # no keys or tokens; and what it prints is not shown
            environment = {name: value for name, value in environment.items() if name.startswith(_ENVIRONMENT)}
        self._seconds = sandbox.seconds if sandbox else math.inf
        self._connection, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        arguments = [json.dumps(list(map(str, sys.path))), str(theirs.fileno()), str(lifeline)]
        arguments += [json.dumps(asdict(sandbox))] if sandbox else []
        # What is blocked here is blocked in a new process from its first instruction on.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if sandbox else 2,  # what a C library prints is no result of a command
                stderr=subprocess.DEVNULL if sandbox else None,
                pass_fds=(theirs.fileno(), lifeline),
                env=environment,
            )
        except BaseException:
            self._connection.close()
            os.close(self._lifeline)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
            os.close(lifeline)

    def replies(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
        """Yield the replies to a job: values, and at last its end or error; `_DiedError` where the process dies."""
        request = pickle.dumps((_directory(), function, arguments))
        try:
            self._connection.settimeout(None)
            self._connection.sendall(_LENGTH.pack(len(request)) + request)
            self._connection.settimeout(WAIT_SECONDS)  # see `get`
            reply: dict[str, Any] = {"value": None}
            deadline = time.monotonic() + self._seconds
            while "value" in reply:
                reply, arrays = _receive_values(self._connection, deadline)
                if "value" in reply:
                    reply["value"] = _with_arrays(reply["value"], arrays)
                yield reply
        except _LateError:
            raise _DiedError(-signal.SIGALRM, f"take longer than {self._seconds:.0f} s") from None
        except (OSError, EOFError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=5)  # its end is closed before it has ended
            self.process.kill()
            raise _DiedError(self.process.wait()) from None

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.wait()
        self._connection.close()
        with contextlib.suppress(OSError):
            os.close(self._lifeline)
        self._lifeline = -1


_idle: list[_Worker] = []
_idle_lock = threading.Lock()
_refused: dict[tuple[Any, ...], str] = {}  # the sentence, by limits and version of a file
os.register_at_fork(after_in_child=_idle.clear)  # they answer to the process that started them


def _idle_worker(kind: _Kind) -> _Worker | None:
    """Return a process that waits for a job, the one that was used last; those that have died meanwhile go."""
    with _idle_lock:
        for place in range(len(_idle) - 1, -1, -1):
            if _idle[place].kind == kind:
                worker = _idle.pop(place)
                if worker.process.poll() is None:
                    return worker
                worker.end()
    return None


@atexit.register
def _end_idle_workers(kind: _Kind | None = None) -> None:
    """End the idle processes of a kind, or all."""
    with _idle_lock:
        for worker in [worker for worker in _idle if kind in (None, worker.kind)]:
            _idle.remove(worker)
            worker.end()


def _directory() -> str:
    """Return the working directory, to which the paths of a job may be relative; "" where it has been removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


def _version(file: str | Path) -> tuple[str, int, int] | None:
    """Return what changes with a file; None where it is not there yet."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    return str(file), status.st_mtime_ns, status.st_size


def _raise_error(reply: dict[str, Any], file: str | Path) -> None:
    """Raise the error that the last reply to a job holds, if any."""
    match reply:
        case {"end": None}:
            return
        case {"input_error": str(sentence)}:
            raise InputError(sentence)
        case {"os_error": [int(number), str(reason), str() | None as name]}:
            raise OSError(number, reason, name)
        case {"memory_error": _}:
            raise InputError(f"{file} needs more memory than its process may use.")
        case {"error": str(kind), "traceback": str(where)}:
            raise InputError(f"{file} failed ({kind}).") from RuntimeError(f"in a worker process:\n{where}")
    raise InputError(f"{file} failed (its process gave an answer that is none).")


def _receive_values(connection: socket.socket, deadline: float) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return the JSON object and the arrays of a message; EOFError where it is cut short."""
    size = _length(connection, deadline)
    text = bytearray(size)
    _receive_into(connection, memoryview(text), deadline)
    try:
        described, reply = json.loads(text)
        if not isinstance(reply, dict):
            raise TypeError("no object")
        dtypes = [np.dtype(dtype) for dtype, _ in described]
        shapes = [tuple(map(int, shape)) for _, shape in described]
        sizes = [dtype.itemsize * math.prod(shape) for dtype, shape in zip(dtypes, shapes, strict=True)]
        if any(dtype.kind not in "biuf" for dtype in dtypes) or any(side < 0 for shape in shapes for side in shape):
            raise ValueError("no array of numbers")
        if sum(sizes) > LARGEST_RESULT:
            raise ValueError("too large")
    except (ValueError, TypeError, RecursionError) as error:
        raise _GarbledError from error
    arrays = [np.empty(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    for array in arrays:
        _receive_into(connection, memoryview(array.reshape(-1).view(np.uint8)), deadline)
    return reply, arrays


def _length(connection: socket.socket, deadline: float = math.inf) -> int:
    data = bytearray(_LENGTH.size)
    _receive_into(connection, memoryview(data), deadline)
    (length,) = _LENGTH.unpack(data)
    if length > LARGEST_RESULT:
        raise _GarbledError
    return length


def _receive_into(connection: socket.socket, view: memoryview, deadline: float = math.inf) -> None:
    while view:
        if time.monotonic() > deadline:
            raise _LateError
        try:
            received = connection.recv_into(view)
        except TimeoutError:
            continue
        if not received:
            raise EOFError
        view = view[received:]


def _with_arrays(value: Any, arrays: list[np.ndarray]) -> Any:
    """Put the arrays of a message where they belong."""
    if isinstance(value, dict):
        if value.keys() != {"__array__"}:
            return {key: _with_arrays(item, arrays) for key, item in value.items()}
        if value["__array__"] not in range(len(arrays)):
            raise _GarbledError
        return arrays[value["__array__"]]
    if isinstance(value, list):
        return [_with_arrays(item, arrays) for item in value]
    return value


# In a worker process.


def serve(connection_number: int, lifeline: int, limits: dict[str, Any] | None = None) -> None:
    """Do jobs in a worker process until the process that started it leaves."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash leaves no file
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGALRM})
    if hasattr(fcntl, "F_SETSIG"):  # Linux: the end of the other process ends this one, even in C code
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:
        return  # it has ended already
    connection = socket.socket(fileno=connection_number)
    if limits is not None:
        restrict(Sandbox(**limits))
    with contextlib.suppress(EOFError, OSError):
        while True:
            request = bytearray(_length(connection))
            _receive_into(connection, memoryview(request))
            for reply in _replies(request):
                _send(connection, reply)


def _replies(request: bytearray) -> Iterator[dict[str, Any]]:
    """Do one job; yield its value, or those of a generator, and its end or its error."""
    global _patience
    _patience = STALLED_SECONDS
    _reset_alarm()
    try:
        directory, function, arguments = pickle.loads(request)
        if directory not in ("", _directory()):
            os.chdir(directory)  # of the other process, which may have changed it since this one was started
        result = function(*arguments)
        for value in result if inspect.isgenerator(result) else [result]:
            signal.setitimer(signal.ITIMER_REAL, 0)  # the other process may take its time
            yield {"value": value}
            _reset_alarm()
        end: dict[str, Any] = {"end": None}
    except InputError as error:
        end = {"input_error": str(error)}
    except OSError as error:
        end = _unexpected(error)
        if error.errno is not None and error.strerror is not None:
            name = None if error.filename is None else os.fsdecode(error.filename)
            end = {"os_error": [error.errno, error.strerror, name]}
    except MemoryError:
        end = {"memory_error": None}
    except Exception as error:
        end = _unexpected(error)
    signal.setitimer(signal.ITIMER_REAL, 0)
    _patience = 0.0
    yield end


def _reset_alarm() -> None:
    if _patience:
        signal.setitimer(signal.ITIMER_REAL, _patience)


def _unexpected(error: Exception) -> dict[str, str]:
    message = " ".join(str(error).split())[:500]
    kind = type(error).__name__
    return {"error": f"{kind}: {message}" if message else kind, "traceback": traceback.format_exc()[-5000:]}


def _without_arrays(value: Any, arrays: list[np.ndarray]) -> Any:
    """Return a value for JSON, with a place holder for each array, which is added to `arrays`."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"__array__": len(arrays) - 1}
    if isinstance(value, dict):
        return {key: _without_arrays(item, arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_arrays(item, arrays) for item in value]
    return value


def _send(connection: socket.socket, reply: dict[str, Any]) -> None:
    arrays: list[np.ndarray] = []
    reply = _without_arrays(reply, arrays)
    arrays = [np.ascontiguousarray(array) for array in arrays]
    text = json.dumps([[(array.dtype.str, array.shape) for array in arrays], reply]).encode()
    connection.sendall(_LENGTH.pack(len(text)) + text)
    for array in arrays:
        connection.sendall(memoryview(array.reshape(-1).view(np.uint8)))
