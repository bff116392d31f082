"""Faults that are planted in kernels and in their compiled code are found, and named where they are."""

import re
from contextlib import contextmanager

import ptx_kernels as kernels
import pytest
import torch

from bench.ptx import execute_kernel, machine
from bench.ptx.reader import Unsupported

ARCHITECTURES = pytest.mark.parametrize("architecture", [80, 90])


def random(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@contextmanager
def edited(edit):
    """Execute what `edit` makes of the compiled code."""
    parse = machine.parse
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "parse", lambda ptx: parse(edit(ptx)))
        patch.setattr(machine, "_parsed", {})
        yield


def kinds(report):
    return {fault.kind for fault in report.faults}


@ARCHITECTURES
def test_a_read_past_the_end_names_the_tensor_and_the_byte(architecture):
    x, y, out = random(1024), random(1024), torch.zeros(1024)
    report = execute_kernel(kernels.add_beyond, 4, x, y, out, n=1024, BLOCK=256, architecture=architecture)
    [fault] = report.faults
    assert (fault.kind, fault.count, fault.program) == ("global-out-of-bounds", 1, 3)
    assert fault.address == "byte 4096 of x (4096 bytes)"
    assert "ptx_kernels.py" in fault.where


@ARCHITECTURES
def test_two_programs_that_write_one_element_are_found(architecture):
    report = execute_kernel(
        kernels.overlap, 4, random(1024), torch.zeros(1024), n=1024, BLOCK=256, architecture=architecture
    )
    assert "two-programs-write-one-element" in kinds(report)


@ARCHITECTURES
def test_a_vector_load_at_an_odd_address_is_found(architecture):
    def shift(ptx):
        return re.sub(r"(ld\.global\.v\d\.b32.*\[ %rd\d+ \+ )0", r"\g<1>4", ptx, count=1)

    with edited(shift):
        report = execute_kernel(
            kernels.add, 4, random(1024), random(1024), torch.zeros(1024), n=1024, BLOCK=512, architecture=architecture
        )
    assert "global-misaligned" in kinds(report)


SYNCHRONIZATION = {
    "barrier": r"bar\.sync \t0;",
    "cp.async wait": r"cp\.async\.wait_group \t\d+;",
    "proxy fence": r"fence\.proxy\.async\.shared::cta;",
    "wgmma wait": r"wgmma\.wait_group\.sync\.aligned \d+;",
}


@ARCHITECTURES
@pytest.mark.parametrize(
    ("dtype", "stages", "warps"), [(torch.float16, 1, 4), (torch.float16, 3, 4), (torch.float32, 2, 8)]
)
@pytest.mark.parametrize("missing", SYNCHRONIZATION)
def test_a_missing_synchronization_is_found(architecture, dtype, stages, warps, missing):
    a, b = random(128, 256).to(dtype), random(256, 64, seed=2).to(dtype)
    blocks = {"BM": 64, "BN": 64, "BK": 32, "P": "tf32", "STAGES": stages}

    def run():
        return execute_kernel(
            kernels.matmul, 2, a, b, torch.zeros(128, 64), 128, 64, 256, 64, 1, **blocks, num_warps=warps,
            architecture=architecture,
        )  # fmt: skip

    def noticed(report):
        return sum(fault.count for fault in (*report.faults, *report.notes))

    seen = []
    with edited(lambda ptx: seen.append(ptx) or ptx):
        correct = run()
    assert not correct.faults
    places = [found.span() for found in re.finditer(SYNCHRONIZATION[missing], seen[0])]
    found = 0
    for begin, end in places:
        with edited(lambda ptx, begin=begin, end=end: ptx[:begin] + ptx[end:]):
            found += noticed(run()) > noticed(correct)
    assert found or not places, f"none of {len(places)}"


@ARCHITECTURES
def test_shared_memory_that_is_read_and_never_written_is_found(architecture):
    def without_stores(ptx):
        return re.sub(r"(@%p\d+ )?st(matrix\S*)?\.shared\.?[^;]*;|stmatrix[^;]*;", "", ptx)

    with edited(without_stores):
        report = execute_kernel(
            kernels.transpose, 1, random(64, 64), torch.zeros(64, 64), M=64, N=64, architecture=architecture
        )
    assert "shared-uninitialized-read" in kinds(report)


@ARCHITECTURES
def test_an_instruction_that_is_not_known_is_an_error_that_names_it(architecture):
    with (
        edited(lambda ptx: ptx.replace("add.f32", "frobnicate.f32", 1)),
        pytest.raises(Unsupported, match=r"add: instruction '.*frobnicate\.f32.*ptx_kernels\.py"),
    ):
        execute_kernel(
            kernels.add, 1, random(1024), random(1024), torch.zeros(1024), n=1024, BLOCK=256, architecture=architecture
        )
