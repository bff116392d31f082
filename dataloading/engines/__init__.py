"""Engines, which map videos to results: processes of this machine, machines of a Ray cluster, shards of a job.

`dataloading.video.processes.Workers` is the engine of one machine. `cluster.RayEngine` has the same `run_all`, and
`map` for what keeps a model in memory. A batch system without Ray runs one command a shard, each on one machine. What
is done is kept by `journal.Journal`, a line a video, from which a job goes on and from which shards are merged.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypeVar

Job = TypeVar("Job")
# What results depend on, where it is installed.
_PACKAGES = ("av", "opencv-python-headless", "numpy", "torch", "nvidia-dali-cuda130", "yuface", "dlib-bin")


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that results depend on."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


class Engine(Protocol):
    """What runs a function of a module over jobs in processes: `Workers` here, `cluster.RayEngine` elsewhere too."""

    def run_all(
        self, function: Callable[[Job], Any], jobs: Iterable[Job], count: int, file: Callable[[Job], str | Path]
    ) -> Iterator[tuple[Job, Any]]:
        """Yield `(job, result)` as jobs are done; the result is an InputError where the file of a job is to blame."""


class ModelEngine(Engine, Protocol):
    """What also runs jobs in workers that keep a model in memory."""

    def device_type(self, device: str) -> str:
        """Return "cuda" or "cpu": where models of this device ("auto", "cpu", "cuda") are."""

    def map(
        self,
        setup: Callable[[], Callable[[Job], Any]],
        jobs: Iterable[Job],
        file: Callable[[Job], str | Path],
        *,
        gpu: bool,
    ) -> Iterator[tuple[Job, Any]]:
        """Yield `(job, result)` as jobs are done by the function that `setup` returns in each worker; see `run_all`."""
