"""The kernels and their peers as named, grouped benchmarks: `pytest bench/ --benchmark-json=now.json`. Needs a GPU.

What cannot run is skipped with the reason. Two files are compared by `pytest-benchmark compare a.json b.json`.
"""

import time

import pytest

pytest.importorskip("pytest_benchmark", reason="these are benchmarks for pytest-benchmark, which is not installed")

import torch

from bench.common import peers, timing
from bench.common.process_pool import one_line
from bench.kernels import relevance, spatial, temporal

AT_PAPER = (
    temporal.attention(temporal.PAPER_SHAPES[:1], torch.bfloat16, 0), temporal.layer_norm(8, torch.bfloat16, 0),
    spatial.attention(spatial.PAPER_SHAPES[:1], torch.bfloat16, 0), relevance.operations(relevance.SHAPES[:1], 0),
)  # fmt: skip
TASKS = peers.ordered(task for tasks in AT_PAPER for task in tasks)


def seconds_of_the_device() -> float:
    """The clock, once the GPU has done what it was given: launching a call overlaps with running the one before."""
    torch.cuda.synchronize()
    return time.perf_counter()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels are timed on a GPU")
@pytest.mark.benchmark(timer=seconds_of_the_device, min_time=0.01)
@pytest.mark.parametrize("task", TASKS, ids=lambda task: "-".join(map(str, (task.table, *task.row.values()))))
def test_speed(benchmark, task, monkeypatch):
    monkeypatch.setattr(timing, "time_and_memory", lambda call, _: [benchmark(call), {"microseconds": 1.0}][1])
    benchmark.group = " ".join(str(value) for key, value in task.row.items() if key != "contender")
    benchmark.extra_info["device"] = torch.cuda.get_device_name()
    try:
        task.measure()
    except Exception as error:
        pytest.skip(one_line(error))
