"""``python -m bench``: what it prints and the status it exits with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.comparison import NumericsCase, compare
from bench.temporal import contenders

ROOT = Path(__file__).parents[2]


def bench(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_numerics_starts_itself_where_there_is_a_gpu_or_not_and_prints_one_table():
    done = bench("numerics", "--operation", "layer_norm_difference")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["kernel", "mode", "dtype", "shape", "quantity", "error", "eager", "ratio", "verdict"]
    assert "grad weight" in done.stdout
    assert lines[-1].endswith(", 0 failed.")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_temporal_says_in_one_sentence_that_it_needs_a_gpu():
    done = bench("temporal")
    assert done.returncode != 0
    assert done.stdout == "bench temporal needs an NVIDIA GPU, and PyTorch finds none here.\n"


def test_compile_prints_the_resources_of_each_launch():
    done = bench("compile", "--operation", "layer_norm_difference", "--sm", "90", "--workers", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "registers  spill B  shared B" in done.stdout
    assert "layer_norm_difference_backward" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(", 0 with a fault.")


def test_a_kernel_with_twice_the_error_of_eager_or_with_nan_does_not_hold():
    exact = torch.linspace(1, 2, 50, dtype=torch.float64)

    def verdict(error):
        case = NumericsCase(
            "x", "", torch.float32, "",
            kernel=lambda: {"out": exact + error},
            eager=lambda: {"out": exact + 1e-3},
            oracle=lambda: {"out": exact},
        )  # fmt: skip
        return compare(case)[0].holds

    assert verdict(1e-3)
    assert not verdict(2e-3)
    assert not verdict(torch.nan)


@pytest.mark.parametrize("mode", ["fused", "off"])
def test_peers_of_the_temporal_benchmark_do_the_same_task(mode):
    qkv = torch.randn(2, 4, 3, 3, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = contenders(mode)
    expected = found["ours"](qkv, 0.3)
    for name in ("naive", "sdpa math", "sdpa flash"):
        assert torch.allclose(found[name](qkv, 0.3), expected), name
