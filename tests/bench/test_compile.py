"""Every kernel and config compiles for four GPU generations, and the machine code is what it should be."""

import pytest
import torch
import triton
import triton.language as tl

from bench.__main__ import main
from bench.checks import compile as command
from bench.checks import numerics
from bench.checks.cases import ARCHITECTURES, OPERATIONS, compiled
from bench.checks.sass import compile_launches
from bench.common.process_pool import Outcome
from bench.common.record import read_run, record_table
from kernels.common.launch import Launch, recorded
from kernels.layer_norm import operator as layer_norm_difference
from kernels.relevance import configs as relevance
from kernels.spatial import configs as spatial
from kernels.temporal import configs as temporal

# Of each operation the cases that the published model launches: every launch of them is compiled.
OF_THE_MODEL = {
    "layer_norm_difference": (0,), "temporal_attention": (0, 1), "spatial_attention": (1, 4), "relevance": (1, 4),
}  # fmt: skip


def launches_of(case, architecture):
    with recorded(architecture) as launches:
        case.start()
    return launches


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_kernel_with_each_config_compiles_without_spills_or_narrow_loads_within_the_chip(operation, architecture):
    """And all that the published model launches; `python -m bench compile` has every case, in some minutes."""
    launches, seen = [], set()
    cases = compiled(operation)
    for index in sorted(range(len(cases)), key=lambda index: index not in OF_THE_MODEL[operation]):
        if architecture not in cases[index].architectures:
            continue
        for launch in launches_of(cases[index], architecture):
            config = launch.kernel.fn.__name__, launch.config
            if config not in seen or (index in OF_THE_MODEL[operation] and architecture != 80):  # as on sm_89
                launches.append((cases[index], launch))
            seen.add(config)
    found = compile_launches([launch for _, launch in launches], architecture)
    rows = [command.judge(*launched, used, architecture) for launched, used in zip(launches, found, strict=True)]
    faulty = [row for row in rows if row["verdict"] != "holds"]
    assert not faulty, "\n" + record_table(faulty)
    assert {row["kernel"] for row in rows} == {kernel for kernel, _ in seen}


def test_a_compiler_that_crashes_or_hangs_is_a_row_that_says_so(monkeypatch, tmp_path, capsys):
    """A pool of processes waited for ever for what one that had ended owed it: CI stood still until its limit."""
    failures = ["its process ended with status -11", "took more than 300 s"]

    def run_tasks(work, given, processes, seconds_each, seconds):
        assert (work, seconds_each) == (command.compile_case, 300)
        yield from (Outcome(task, failure=failure) for task, failure in zip(given, failures, strict=False))

    monkeypatch.setattr(numerics, "run_tasks", run_tasks)
    words = ["compile", "--operation", "layer_norm_difference", "--sm", "80", "--sm", "90", "--output", str(tmp_path)]
    assert main(words) == 1
    rows = read_run(tmp_path).tables["compile"]
    assert [(row["verdict"], row["note"]) for row in rows] == [("FAILS", failure) for failure in failures]
    assert (rows[0]["case"], rows[0]["sm"]) == ("bfloat16 B=8 C=728", "80")
    assert failures[0] in capsys.readouterr().out


TABLES = {
    "layer_norm_difference": {
        "layer_norm_difference_forward": (layer_norm_difference.FORWARD,),
        "layer_norm_difference_backward": (layer_norm_difference.BACKWARD,),
    },
    "temporal_attention": {
        "tensor_core_forward": (temporal.TENSOR_CORE_FORWARD,),
        "tensor_core_backward": (temporal.TENSOR_CORE_BACKWARD,),
        "fp32_forward": (temporal.FP32_FORWARD,), "fp32_backward": (temporal.FP32_BACKWARD,),
    },
    "spatial_attention": {
        "spatial_forward": (
            spatial.FORWARD_16, spatial.FORWARD_16_CAPTURE, spatial.FORWARD_32, spatial.FEW_FORWARD,
        ),
        "spatial_backward": (spatial.BACKWARD_16,),
        "spatial_backward_queries": (
            spatial.BACKWARD_QUERIES_16, spatial.BACKWARD_QUERIES_16_CAPTURE, spatial.BACKWARD_QUERIES_32,
            spatial.FEW_BACKWARD_QUERIES,
        ),
        "spatial_backward_keys": (
            spatial.BACKWARD_KEYS_16, spatial.BACKWARD_VALUES_16, spatial.BACKWARD_KEYS_32, spatial.FEW_BACKWARD_KEYS,
        ),
    },
    "relevance": {
        "spatial_forward": (spatial.ROW_STATS,),
        "spatial_map": (relevance.MAP, relevance.MAP_FEW, relevance.MAP_SHORT),
        "spatial_relevance": tuple(relevance.RELEVANCE.values()),
        "temporal_relevance": (relevance.TEMPORAL,), "temporal_map": (relevance.TEMPORAL,),
    },
}  # fmt: skip


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_row_of_every_table_of_configs_is_compiled(operation):
    """A config that is never compiled would be found to spill, or not to fit, on a GPU.

    Relevance of heads wider than 96 did spill on sm_89, for which it had not been compiled.
    """
    found = set()
    for case in compiled(operation):
        for architecture in case.architectures:
            launches = launches_of(case, architecture)
            found |= {(launch.kernel.fn.__name__, architecture, launch.config) for launch in launches}
    missing = {
        (kernel, architecture, config)
        for kernel, tables in TABLES[operation].items()
        for table in tables
        for architecture in ARCHITECTURES
        for _, config in table.get(architecture, table["any"])
    } - found
    assert not missing


@pytest.mark.parametrize("name", ["temporal_relevance", "temporal_map"])  # the spatial ones: tests/bench/ptx
def test_every_warp_of_a_temporal_relevance_kernel_has_16_rows_of_its_own(name):
    """32 rows had 8 warps, and six of them computed what the other two did: the map took 7.8 times the instructions."""
    for table in TABLES["relevance"][name]:
        for configs in table.values():
            assert all(config.kwargs["BLOCK_M"] >= 16 * config.num_warps for _, config in configs)


@triton.jit
def careless(x, out, stride, N: tl.constexpr):
    rows, columns = tl.arange(0, N), tl.arange(0, N)
    tile = tl.load(x + rows[:, None] * stride + columns[None, :])
    tl.store(out + rows[:, None] * N + columns[None, :], tl.dot(tile, tl.trans(tile)))


def test_a_kernel_that_loads_two_bytes_at_a_time_is_caught_and_so_is_one_that_spills_or_does_not_fit():
    """The gate itself, on head dimension 91 read as it lies."""
    x = torch.empty(64, 91, dtype=torch.bfloat16, device="meta")
    out = torch.empty(64, 64, device="meta")
    config = triton.Config({}, num_warps=1, num_stages=1)
    launch = Launch(careless, 1, {"x": x, "out": out, "stride": 91, "N": 64}, config)
    [used] = compile_launches([launch], 89)
    assert command.faults(used, 89, 0, narrowest_load=16) == []
    assert command.faults(used, 89, 0, narrowest_load=32) == ["loads 16 bits at a time"]
    assert command.faults(used | {"spill B": 8}, 89, 0, 16) == ["spills 8 bytes, 0 allowed"]
    (fault,) = command.faults(used | {"shared B": 100 * 1024}, 89, 0, 16)
    assert fault == "asks for 102400 bytes of shared memory, the chip has 101376"
