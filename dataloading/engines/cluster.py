"""Ray engine: videos are jobs of worker processes on the machines of a Ray cluster.

A machine has a worker for each GPU where models run on GPUs, and for each set of cores elsewhere. A worker keeps its
model and has two jobs at a time, or one a core, so that the next video is decoded while one is scored. All machines
read videos and model from the same paths, as on a shared disk, with the same versions of the packages.

The jobs of a worker that is lost go to others. A job whose worker died is done alone from then on, and given up where
that worker dies too; the loss of a whole machine, which may be for any reason, counts only after `MOST_MACHINES`.
Machines that join the cluster get workers, too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from dataloading.engines import versions
from dataloading.errors import InputError
from dataloading.video.processes import DECODER, Workers

Job = TypeVar("Job")
Setup = Callable[[], Callable[[Any], Any]]

CORES = 4  # of a worker without a GPU, where a machine has so many
AT_ONCE = 2  # jobs of a worker with a model
MOST_MACHINES = 5  # that may be lost with a job
MOST_STARTS = 3  # of a worker that dies while it starts
WITHOUT_MACHINES = 60.0  # seconds
WITHOUT_HEAD = 20.0  # seconds; after 60 Ray ends the process
_REACH_SECONDS = 10.0
_END_SECONDS = 2.0  # until a process that was killed no longer listens
_LOOK_SECONDS = 2.0  # between looks at which machines there are


class RayEngine:
    """The machines of a Ray cluster, for as long as the context lasts::

    with RayEngine("10.0.0.1:6379") as engine:
        predictions = predict("runs/ffpp", files, engine=engine)
    """

    def __init__(
        self, address: str | None = None, cores: int = CORES, warn: Callable[[str], None] | None = None
    ) -> None:
        """Check the arguments; nothing is connected yet.

        Args:
            address: HOST:PORT of the cluster; None for the one that this process is connected to, or that its machine
                belongs to.
            cores: Of each worker without a GPU.
            warn: Called with a sentence where a worker is lost.

        Raises:
            InputError: Ray is not installed, or the address is none.
        """
        self._ray = _import_ray()
        self._where: str | None = None  # address of the head; None for a connection that was there before
        self._headless = False
        self.address, self.cores, self.warn = address, cores, warn or (lambda sentence: None)
        if address is not None and not _host_and_port(address):
            raise InputError(f"--address is {address!r}; expected HOST:PORT, as `ray start --head` prints it")

    def __enter__(self) -> RayEngine:
        self._connected = self.address is None and self._ray.is_initialized()
        if self._connected:
            return self
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            where = self.address or self._address_here()
            _check_answer(*_host_and_port(where))
            self._where = where
            self._ray.init(where, logging_level=logging.CRITICAL, log_to_driver=False)
        except (OSError, RuntimeError, ValueError) as error:  # ConnectionError is an OSError
            if isinstance(error, InputError):
                raise
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:300]
            raise InputError(
                f"the Ray cluster {where} cannot be reached ({reason}); expected the address of `ray start --head`"
            ) from error
        finally:
            with contextlib.suppress(ValueError):  # not in the main thread: Ray has set none
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        # Ray prints there what happens to its processes, in paragraphs; this module says what follows from it.
        self._ray._private.worker.print_to_stdstream = lambda *_, **__: None
        return self

    def __exit__(self, *_: object) -> None:
        if not self._connected:
            self._ray.shutdown()

    @property
    def description(self) -> str:
        """The cluster in words."""
        machines = self._machines()
        gpus, cores = (sum(int(machine["Resources"].get(kind, 0)) for machine in machines) for kind in ("GPU", "CPU"))
        count = f"{len(machines)} machine{'s' * (len(machines) != 1)}"
        return f"Ray cluster of {count} with {cores} cores and {gpus} GPU{'s' * (gpus != 1)}"

    def device_type(self, device: str) -> str:
        """Return "cuda" or "cpu": where models of this device ("auto", "cpu", "cuda") are.

        Raises:
            InputError: It is a GPU, and no machine has one; or it is one of several GPUs.
        """
        gpus = any(machine["Resources"].get("GPU", 0) >= 1 for machine in self._machines())
        if device == "cuda" and not gpus:
            raise InputError("device is cuda, and no machine of the Ray cluster has a GPU; expected auto or cpu")
        if device not in ("auto", "cpu", "cuda"):
            raise InputError(f"device is {device}, and each worker has a GPU of its own; expected auto, cpu or cuda")
        return "cpu" if device == "cpu" or not gpus else "cuda"

    def run_all(
        self,
        function: Callable[[Job], Any],
        jobs: Iterable[Job],
        count: int,
        file: Callable[[Job], str | Path],
        blame: str = DECODER,
    ) -> Iterator[tuple[Job, Any]]:
        """Yield `(job, result)` for each job, as they are done, as `Workers.run_all` does.

        Each runs in a worker process of a worker, one a core; `count` is not used.
        """
        setup = partial(_in_a_process, function, file, blame)
        return self._map(setup, jobs, file, gpu=False, at_once=None)

    def map(
        self, setup: Setup, jobs: Iterable[Job], file: Callable[[Job], str | Path], *, gpu: bool
    ) -> Iterator[tuple[Job, Any]]:
        """Yield `(job, result)` for each job, as they are done.

        Args:
            setup: Called in each worker: returns the function of a job, such as one that has a model.
            jobs: What is done.
            file: What a job reads, which has to be on each machine, for the sentences.
            gpu: Workers have a GPU each, on the machines that have any.

        Yields:
            The result is an InputError where the function raises one, or an unexpected error, or the job made its
            worker die twice.

        Raises:
            InputError: A worker cannot start (no model there, other versions), lacks a file that this machine has, or
                no machine is left.
            OSError: As the function.
        """
        return self._map(setup, jobs, file, gpu, AT_ONCE)

    def _map(
        self, setup: Setup, jobs: Iterable[Job], file: Callable[[Job], str | Path], gpu: bool, at_once: int | None
    ) -> Iterator[tuple[Job, Any]]:
        todo = deque(_Task(job, file(job)) for job in jobs)
        pool = _WorkerPool(self, setup, gpu, at_once, len(todo))
        try:
            while todo or pool.busy:
                pool.take_on()
                pool.hand_out(todo)
                for task, outcome in pool.outcomes():
                    if isinstance(outcome, _Lost):
                        reason = self._why_given_up(task, outcome)
                        if reason is None:
                            todo.appendleft(task)
                            continue
                        outcome = InputError(reason)
                    yield task.job, outcome
        finally:
            pool.leave()

    def _machines(self) -> list[dict[str, Any]]:
        """Return the machines that are there; OSError where the head of the cluster does not answer."""
        if self._where is not None:
            _check_answer(*_host_and_port(self._where))
        return [machine for machine in self._ray.nodes() if machine["Alive"]]

    def _why_given_up(self, task: _Task, lost: _Lost) -> str | None:
        """Count a worker that is lost; return why its job is not done again, or None."""
        alone, task.alone = task.alone, True
        task.deaths += not lost.machine
        task.machines += lost.machine
        if task.deaths >= 2 and alone and not lost.machine:
            return f"{task.file} made its worker die twice ({lost.reason})."
        if task.machines >= MOST_MACHINES:
            return f"{task.file} was on {MOST_MACHINES} machines that were lost, one after the other."
        return None

    def _address_here(self) -> str:
        """Return the address of the cluster that this machine belongs to."""
        try:
            return self._ray._private.services.canonicalize_bootstrap_address_or_die("auto")
        except ConnectionError as error:
            raise InputError(
                "no Ray cluster runs on this machine, or several; expected `ray start --head` here or `ray start "
                "--address HOST:PORT` before, or --address"
            ) from error


@dataclass(eq=False)
class _Task:
    """A job, and what became of the workers that it was given to."""

    job: Any
    file: str | Path
    alone: bool = False
    deaths: int = 0
    machines: int = 0


@dataclass(frozen=True)
class _Lost:
    """The worker of a job has died; `machine`: with its machine."""

    machine: bool
    reason: str


@dataclass(eq=False)
class _Slot:
    """Place of a worker on a machine, and the worker there, if any."""

    machine: str
    host: str
    raylet: tuple[str, int]  # address of Ray's own process there
    cores: int
    gpu: bool
    actor: Any = None
    start: Any = None  # reference to the end of its start, until that
    starts: int = 0
    tasks: dict[Any, _Task] = field(default_factory=dict)  # by the reference to its result

    @property
    def ready(self) -> bool:
        return self.actor is not None and self.start is None


class _WorkerPool:
    """The workers of one call of `map`."""

    def __init__(self, engine: RayEngine, setup: Setup, gpu: bool, at_once: int | None, most: int) -> None:
        self._engine, self._ray, self._gpu, self._at_once, self._most = engine, engine._ray, gpu, at_once, most
        self._slots: dict[tuple[str, int], _Slot] = {}
        self._setup = self._ray.put((os.getcwd(), socket.gethostname(), versions(), setup))
        self._looked = 0.0
        self._since = self._answered = time.monotonic()
        self._broken = ""

    @property
    def busy(self) -> bool:
        """Whether a job is in hand."""
        return any(slot.tasks for slot in self._slots.values())

    def take_on(self) -> None:
        """Start workers where there is room for one."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        try:
            places = self._places()
        except OSError as error:
            if now - self._answered < WITHOUT_HEAD:
                return  # workers go on without it for a while
            self._engine._headless = True
            reason = error.strerror or str(error)
            where = self._engine._where
            raise InputError(f"the head of the Ray cluster {where} is lost ({reason}); what is done is kept") from error
        self._answered = now
        for key, slot in list(self._slots.items()):
            if key not in places and not slot.tasks and slot.start is None:
                del self._slots[key]
        for key, slot in places.items():
            self._slots.setdefault(key, slot)
        slots = [slot for slot in self._slots.values() if slot.starts < MOST_STARTS or slot.actor is not None]
        if slots:
            self._since = now
        elif self._broken:
            raise InputError(self._broken)
        elif now - self._since > WITHOUT_MACHINES:
            raise InputError("no machine of the Ray cluster is left; what is done is kept")
        room = self._most - sum(slot.actor is not None for slot in slots)
        for slot in [slot for slot in slots if slot.actor is None][: max(room, 0)]:
            self._start(slot)

    def hand_out(self, todo: deque[_Task]) -> None:
        """Give jobs to the workers that have room for them and the fewest in hand."""
        while todo:
            free = [slot for slot in self._slots.values() if self._has_room(slot, todo[0])]
            if not free:
                return
            slot, task = min(free, key=lambda slot: len(slot.tasks)), todo.popleft()
            is_here = os.path.exists(task.file)
            slot.tasks[slot.actor.run.remote(task.job, str(task.file), is_here)] = task

    def _has_room(self, slot: _Slot, task: _Task) -> bool:
        if not slot.ready or (task.alone and slot.tasks) or any(other.alone for other in slot.tasks.values()):
            return False
        return len(slot.tasks) < (self._at_once or max(slot.cores, 1))

    def outcomes(self) -> Iterator[tuple[_Task, Any]]:
        """Wait a little; yield what has been done meanwhile, and the jobs of workers that were lost."""
        owners = {reference: slot for slot in self._slots.values() for reference in (*slot.tasks, slot.start)}
        owners.pop(None, None)
        if not owners:
            time.sleep(_LOOK_SECONDS / 4)
            return
        done, _ = self._ray.wait(list(owners), timeout=_LOOK_SECONDS)
        for reference in done:
            slot = owners[reference]
            if reference not in slot.tasks and reference is not slot.start:
                continue  # of a worker whose loss is known
            try:
                answer = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                answer = {"error": " ".join(str(error.cause or error).split())[:500]}
            except self._ray.exceptions.RayError as error:
                yield from self._lose(slot, error)
                continue
            if reference is slot.start:
                self._started(slot, answer)
            else:
                task = slot.tasks.pop(reference)
                yield task, _result(answer, task, slot)

    def leave(self) -> None:
        """End the workers, unless the connection has: they end with it, and a further call would make another."""
        if self._engine._headless or not self._ray.is_initialized():
            return
        for slot in self._slots.values():
            if slot.actor is not None:
                with contextlib.suppress(Exception):  # the cluster may be gone
                    self._ray.kill(slot.actor)

    def _places(self) -> dict[tuple[str, int], _Slot]:
        """Return where workers may be, by machine and number."""
        places: dict[tuple[str, int], _Slot] = {}
        for machine in self._engine._machines():
            resources, host = machine["Resources"], machine["NodeManagerHostname"]
            raylet = machine["NodeManagerAddress"], machine["NodeManagerPort"]
            cores, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
            count = gpus if self._gpu else max(cores // self._engine.cores, min(cores, 1))
            for number in range(count):
                slot = _Slot(machine["NodeID"], host, raylet, min(cores // count, self._engine.cores), self._gpu)
                if self._gpu:
                    slot.cores = cores // count
                places[machine["NodeID"], number] = slot
        return places

    def _start(self, slot: _Slot) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        slot.actor = (
            self._ray.remote(_Worker)
            .options(
                num_cpus=slot.cores,
                num_gpus=int(slot.gpu),
                max_concurrency=self._at_once or max(slot.cores, 1),
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(slot.machine, soft=False),
            )
            .remote()
        )
        slot.start, slot.starts = slot.actor.start.remote(self._setup), slot.starts + 1

    def _started(self, slot: _Slot, answer: dict[str, Any]) -> None:
        slot.start = None
        if "done" in answer:
            slot.starts = 0
            return
        reason = answer.get("input_error") or answer.get("error") or "unknown"
        raise InputError(f"the machine {slot.host} of the Ray cluster cannot do this: {reason}")

    def _lose(self, slot: _Slot, error: Exception) -> Iterator[tuple[_Task, _Lost]]:
        """Take a worker that has died off its slot and yield its jobs."""
        words = " ".join(str(error).split())
        lost = _Lost(self._machine_is_lost(slot, error), _ended_by(words))
        if getattr(error, "actor_init_failed", False):
            why = words.rsplit("Error:", 1)[-1].strip()[:200]
            raise InputError(
                f"the machine {slot.host} of the Ray cluster cannot start a worker ({why}); expected istvt to be "
                "installed on every machine"
            )
        if slot.start is not None and not lost.machine and slot.starts >= MOST_STARTS:
            self._broken = f"no worker of the Ray cluster starts: on {slot.host} it died ({lost.reason})"
        with contextlib.suppress(Exception):
            self._ray.kill(slot.actor)  # where it is only unreachable
        tasks, slot.tasks, slot.actor, slot.start = list(slot.tasks.values()), {}, None, None
        self._looked = 0.0
        what = f"the machine {slot.host} was" if lost.machine else f"a worker on {slot.host} was"
        files = ", ".join(str(task.file) for task in tasks)
        self._engine.warn(f"{what} lost{f'; done again: {files}' if tasks else ''}")
        for task in tasks:
            yield task, lost

    def _machine_is_lost(self, slot: _Slot, error: Exception) -> bool:
        """Return whether a worker was lost with its machine, which the cluster may notice many seconds later."""
        if "its node has died" in str(error):
            return True
        if isinstance(error, self._ray.exceptions.ActorUnavailableError):  # Ray does not know why it is not reached
            end = time.monotonic() + _END_SECONDS
            while time.monotonic() < end:
                try:
                    _check_answer(*slot.raylet, seconds=_END_SECONDS)
                except OSError:
                    return True
                time.sleep(_END_SECONDS / 10)
        return False


class _Worker:
    """A process of the cluster; runs in it."""

    def start(self, everything: tuple[str, str, dict[str, str], Setup]) -> dict[str, Any]:
        """Call the setup in the folder of the process that asks for it."""
        folder, host, expected, setup = everything
        with contextlib.suppress(OSError):
            os.chdir(folder)
        for name, version in expected.items():
            here = versions().get(name, "none")
            if here != version:
                return {"input_error": f"it has {name} {here}, and {host} has {version}; expected the same everywhere"}
        return _answer(lambda: setattr(self, "_function", setup()))

    def run(self, job: Any, file: str, must_be_here: bool) -> dict[str, Any]:
        """Do a job."""
        if must_be_here and not os.path.exists(file):
            return {"missing": socket.gethostname()}
        return _answer(partial(self._function, job))


def _answer(function: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"done": function()}
    except InputError as error:
        return {"input_error": str(error)}
    except OSError as error:
        if error.errno is None:
            raise
        return {"os_error": (error.errno, error.strerror, error.filename)}


def _result(answer: dict[str, Any], task: _Task, slot: _Slot) -> Any:
    """Return the result that a worker has answered with, an InputError, or raise what ends the whole."""
    match answer:
        case {"done": value}:
            return value
        case {"input_error": sentence}:
            return InputError(sentence)
        case {"os_error": (number, reason, name)}:
            raise OSError(number, f"{reason}, on {slot.host}", name)
        case {"missing": host}:
            raise InputError(
                f"{task.file} is not on the machine {host} of the Ray cluster; expected the same paths on every "
                "machine, as on a shared disk"
            )
    return InputError(f"{task.file} failed ({answer['error']}).")


def _in_a_process(
    function: Callable[[Any], Any], file: Callable[[Any], str | Path], blame: str
) -> Callable[[Any], Any]:
    """Return what runs a function on a job in a process of its own."""
    processes = Workers()
    return lambda job: processes.call(function, job, file=file(job), blame=blame)


def _ended_by(words: str) -> str:
    """Return how a worker ended, from Ray's paragraph."""
    if "OutOfMemory" in words or "memory monitor" in words.lower():
        return "memory ran out"
    return "its process ended, as where memory runs out or a library crashes"


def _check_answer(host: str, port: int, seconds: float = _REACH_SECONDS) -> None:
    """Raise OSError where no server of HTTP/2 answers, which gRPC is: Ray would try for minutes."""
    with socket.create_connection((host, port), seconds) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        answer = b""
        while len(answer) < 4 and (more := connection.recv(4 - len(answer))):
            answer += more
    if answer[3:] != b"\x04":  # the frame of settings, which every connection begins with
        raise ConnectionError("what answers there is not Ray")


def _host_and_port(address: str) -> tuple[str, int] | None:
    host, _, port = address.rpartition(":")
    return (host, int(port)) if host and port.isdecimal() and int(port) < 65536 and "/" not in host else None


def _import_ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns that it will be the default
    try:
        import ray
        import ray._private.worker
    except ImportError as error:
        raise InputError("Ray, which --engine ray needs, is not installed: pip install 'istvt[ray]'") from error
    return ray
