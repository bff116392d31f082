"""A mistake in a call, or a machine without a compiler, is one sentence."""

import ptx_kernels as kernels
import pytest
import torch
import triton

from bench.ptx import Machine, Options, execute_kernel, library
from dataloading.errors import InputError

X = torch.zeros(64)


@pytest.mark.parametrize(
    ("grid", "arguments", "said"),
    [
        (0, {}, r"add: a grid of \(0,\); expected one to three numbers of at least 1"),
        ((1, 70_000), {}, "a GPU takes at most"),
        (1, {"x": X.to("meta")}, "add: x is on meta; expected a tensor on the CPU"),
        (1, {"x": "text"}, "add: x is a str; expected a tensor, a number, a truth value or None"),
        (1, {"x": X.to(torch.complex64)}, "add: x is torch.complex64, which no kernel takes"),
        (1, {"x": 3.0}, "add does not compile with these arguments: Unsupported ptr type"),
        (1, {"BLOCK": 60}, "add does not compile with these arguments: arange's range must be a power of 2"),
        (1, {"size": 3}, "add: got an unexpected keyword argument 'size'; it takes x, y, out, n, BLOCK"),
        (1, {"num_warps": 3}, "num_warps is 3; expected a power of two"),
        (1, {"architecture": 70}, "architecture 70: expected one of 80, 90"),
    ],
)
def test_a_call_that_does_not_fit_is_one_sentence(grid, arguments, said):
    given = {"x": X, "y": X, "out": X.clone(), "n": 64, "BLOCK": 64} | arguments
    with pytest.raises(InputError, match=said):
        execute_kernel(kernels.add, grid, **given)


def test_an_argument_that_is_missing_is_named():
    with pytest.raises(InputError, match="add: missing a required argument: 'out'"):
        execute_kernel(kernels.add, 1, X, X)


def test_an_autotuned_kernel_is_asked_for_its_function():
    tuned = triton.autotune([triton.Config({"BLOCK": 64})], key=[])(kernels.add)
    with pytest.raises(InputError, match=r"Autotuner is no function of triton.jit; .* give its \.fn"):
        execute_kernel(tuned, 1, X, X, X, 64)


def test_more_shared_memory_than_the_architecture_has_is_one_sentence():
    a, b, c = torch.zeros(256, 256), torch.zeros(256, 256), torch.zeros(256, 256)
    blocks = {"BM": 128, "BN": 128, "BK": 128, "P": "tf32", "STAGES": 4}
    with pytest.raises(InputError, match=r"matmul needs \d+ bytes of shared memory, and sm_80 has 166912"):
        execute_kernel(kernels.matmul, 4, a, b, c, 256, 256, 256, 256, 1, **blocks, num_warps=8, architecture=80)


def test_a_kernel_that_never_ends_is_one_sentence():
    machine = Machine(Options(step_limit=10_000))
    with pytest.raises(InputError, match=r"endless does not end: .* after 10000 instructions at .*ptx_kernels\.py"):
        execute_kernel(kernels.endless, 1, torch.zeros(1), machine=machine)


def test_a_machine_without_a_compiler_is_one_sentence(monkeypatch):
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"needs a C\+\+ compiler: none of \$CXX, c\+\+, g\+\+ and clang\+\+ is found"):
        library.library.__wrapped__()


def test_a_compiler_that_fails_is_one_sentence(monkeypatch, tmp_path):
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'x.cpp:1: error: out of order' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"broken does not compile the executor: x\.cpp:1: error: out of order"):
        library.library.__wrapped__()
    assert not list((tmp_path / "cache" / "istvt" / "ptx").iterdir())  # nothing half done is left
