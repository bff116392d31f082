"""Every kernel and launch setting compiles for four GPU generations, and its machine code is what it should be."""

import pytest
import torch
import triton
import triton.language as tl

from bench import compile as command
from bench.cases import ARCHITECTURES, OPERATIONS, module
from bench.resources import compile_launch
from bench.table import format_table
from kernels.launch import Launch, Setting
from kernels.temporal_attention import settings


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_launch_compiles_without_spills_or_narrow_loads_within_the_chip(operation):
    reports = list(command.reports([operation], workers=2))
    faulty = [command.row(report) for report in reports if report.faults]
    assert not faulty, "\n" + format_table(command.HEADER, faulty)
    assert {report.resources.architecture for report in reports} == set(ARCHITECTURES)


def test_every_row_of_the_temporal_tables_is_compiled():
    """A setting that nobody compiles would be found to spill, or not to fit, on somebody's GPU."""
    compiled = set()
    for case in module("temporal_attention").compiled():
        for architecture in case.architectures:
            with command.recorded(architecture) as launches:
                case.start()
            compiled |= {(launch.kernel.fn.__name__, architecture, launch.setting) for launch in launches}
    tables = {
        "matrix_forward": settings.MATRIX_FORWARD, "matrix_backward": settings.MATRIX_BACKWARD,
        "exact_forward": settings.EXACT_FORWARD, "exact_backward": settings.EXACT_BACKWARD,
    }  # fmt: skip
    missing = {
        (kernel, architecture, setting)
        for kernel, table in tables.items()
        for architecture in ARCHITECTURES
        for _, setting in table.get(architecture, table["any"])
    } - compiled
    assert not missing


@triton.jit
def careless(x, out, stride, N: tl.constexpr):
    rows, columns = tl.arange(0, N), tl.arange(0, N)
    tile = tl.load(x + rows[:, None] * stride + columns[None, :])
    tl.store(out + rows[:, None] * N + columns[None, :], tl.dot(tile, tl.trans(tile)))


def test_a_kernel_that_loads_two_bytes_at_a_time_and_spills_is_caught():
    """The gate itself: head dimension 91 read as it lies, in a tile too large for one warp."""
    x = torch.empty(128, 91, dtype=torch.bfloat16, device="meta")
    out = torch.empty(128, 128, device="meta")
    launch = Launch(careless, 1, {"x": x, "out": out, "stride": 91, "N": 128}, Setting(rows=128, num_warps=1))
    faults = command._faults(compile_launch(launch, 90), allowed_spill=0, narrowest_load=32)
    assert any("loads 16 bits" in fault for fault in faults)
    assert any("spills" in fault for fault in faults)
