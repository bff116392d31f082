"""What a kernel of another project may use beyond this one's: grids of three dimensions, atomics, cache hints."""

import ptx_kernels as kernels
import pytest
import torch
import triton

from bench.ptx import Machine, Options, execute_kernel, executed

pytestmark = pytest.mark.parametrize("architecture", [80, 90])


def test_a_grid_has_three_dimensions(architecture):
    out = torch.full((3, 4, 5), -1, dtype=torch.int32)
    report = execute_kernel(kernels.place_of_program, (5, 4, 3), out, architecture=architecture)
    z, y, x = torch.meshgrid(*map(torch.arange, out.shape), indexing="ij")
    assert torch.equal(out, (10000 * z + 100 * y + x).int())
    assert (report.programs, report.faults) == (60, [])


def test_atomics_of_many_programs_go_in_the_order_of_programs(architecture):
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    total, largest = torch.zeros(1), torch.full((1,), -torch.inf)
    order, counter = torch.full((8,), -1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    for reverse, expected in ((False, range(8)), (True, reversed(range(8)))):
        machine = Machine(Options(architecture=architecture, reverse=reverse))
        total.zero_(), counter.zero_()
        report = execute_kernel(kernels.atomics, 8, x, total, largest, order, counter, 1000, BLOCK=128, machine=machine)
        assert order.tolist() == list(expected)
        assert not report.faults
    torch.testing.assert_close(total[0], x.sum())
    assert largest[0] == x.max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int32])
def test_atomics_of_the_lanes_of_a_warp_meet_in_one_element(architecture, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-3, 4, (128,), generator=generator).to(dtype)
    index = torch.randint(0, 4, (128,), generator=generator, dtype=torch.int32)
    out = torch.zeros(4, dtype=dtype)
    execute_kernel(kernels.scatter_add, 1, x, index, out, BLOCK=128, architecture=architecture)
    assert torch.equal(out, torch.zeros(4, dtype=dtype).index_add(0, index, x))


def test_hints_to_caches_change_nothing(architecture):
    x, out = torch.arange(256.0), torch.zeros(256)
    report = execute_kernel(kernels.cached_copy, 2, x, out, BLOCK=128, architecture=architecture)
    assert torch.equal(out, x)
    assert any("evict" in text or "cache_hint" in text for text in report.kernel.text)


def test_launches_of_unchanged_functions_are_executed(architecture):
    def add(x, y):  # as another project's function launches its kernel
        out = torch.empty_like(x)
        kernels.add[lambda meta: (-(-x.numel() // meta["BLOCK"]),)](x, y, out, x.numel(), BLOCK=128, num_warps=2)
        return out

    x, y = torch.randn(2, 300)
    with executed(Machine(Options(architecture=architecture))) as machine:
        assert torch.equal(add(x, y), x + y)
    [report] = machine.reports
    assert (report.name, report.grid, report.warps) == ("add", (3, 1, 1), 2)


def test_an_autotuned_kernel_takes_its_first_config(architecture):
    configs = [triton.Config({"BLOCK": 128}, num_warps=2), triton.Config({"BLOCK": 256})]
    tuned = triton.autotune(configs, key=["n"])(kernels.add)
    x, y = torch.randn(2, 300)
    out = torch.empty_like(x)
    with executed(Machine(Options(architecture=architecture))) as machine:
        tuned[lambda meta: (triton.cdiv(300, meta["BLOCK"]),)](x, y, out, 300)
    assert torch.equal(out, x + y)
    assert [(report.grid, report.warps) for report in machine.reports] == [((3, 1, 1), 2)]
