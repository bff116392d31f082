"""`python -m bench`: what it prints and the status it exits with."""

import argparse
import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.__main__ import main
from bench.checks import numerics
from bench.checks.cases import OPERATIONS
from bench.checks.error_bound import HOLDS, NumericsCase, compare
from bench.common.process_pool import Outcome
from bench.kernels.temporal import contenders

ROOT = Path(__file__).parents[2]


def test_numerics_starts_itself_where_there_is_a_gpu_or_not_and_writes_the_rows_that_it_prints(tmp_path):
    words = ["numerics", "--operation", "layer_norm_difference", "--processes", "1", "--output", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1].endswith(", 0 failed.")
    written = list(csv.DictReader((tmp_path / "numerics.csv").open()))
    assert {row["quantity"] for row in written} == {"out", "grad x", "grad weight", "grad bias"}
    table = lines.index("numerics: kernel layer_norm_difference, verdict holds")
    assert table - 1 == len(lines[table + 4 : -2]) == len(written)  # each as it comes, and all once more
    assert re.search(r"(\d+)/\1 cases, \d+ s, about 0 s left", done.stderr)


def test_numerics_that_run_out_of_time_leave_what_they_had_and_name_the_rest(tmp_path, monkeypatch, capsys):
    """Killed at its limit, it used to have printed nothing: hundreds of kernels are compiled before the last row."""
    row = {"quantity": "out", "error": 1e-7, "eager": 2e-7, "ratio": 0.5, "verdict": "holds"}

    def run_tasks(work, tasks, processes, seconds_each, seconds):
        assert seconds == 3.0 and processes == 1
        yield Outcome(tasks[0], [numerics._described(tasks[0]) | row])
        assert len((tmp_path / "numerics.csv").read_text().splitlines()) == 2
        yield Outcome(tasks[1], failure="took more than 120 s")
        yield from (Outcome(task, failure="the time was used up") for task in tasks[2:])

    monkeypatch.setattr(numerics, "run_tasks", run_tasks)
    monkeypatch.setattr("kernels.common.launch.interpreted", lambda: True)
    arguments = argparse.Namespace(
        operation=list(OPERATIONS)[:2], budget=3.0, processes=1, output=tmp_path, commit=None
    )
    assert numerics.run(arguments) == 1
    written = list(csv.DictReader((tmp_path / "numerics.csv").open()))
    assert [row["kernel"] for row in written[:4]] == list(OPERATIONS)[:2] * 2  # what matters most of each, first
    assert [row["verdict"] for row in written[:3]] == ["holds", "FAILS", "not run"]
    assert written[1]["note"] == "took more than 120 s"
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"2 comparisons on Triton's interpreter, 1 failed, {len(written) - 2} cases not run."


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "command", ["ceilings", "gpu", "temporal", "tune spatial", "tune temporal", "training --preset seed"]
)
def test_a_command_that_needs_a_gpu_says_so_in_one_sentence_and_leaves_nothing(command, tmp_path, capsys):
    words = command.split()
    assert main([*words, "--output", str(tmp_path / "none")]) == 2
    what = "training of the presets seed and published" if words[0] == "training" else words[0]
    sentence = f"bench: {what} needs an NVIDIA GPU, and PyTorch finds none here.\n"
    assert capsys.readouterr() == ("", sentence)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["numerics", "--processes", "0"],
            "argument --processes: '0' is no count; expected a whole number of at least 1",
        ),
        (["execute", "--match", "("], "argument --match: '(' is no regular expression (missing ), unterminated"),
    ],
)
def test_a_count_and_a_pattern_that_are_none_are_one_sentence(words, says, capsys):
    """They were tracebacks."""
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert says in capsys.readouterr().err


def test_compile_prints_the_resources_of_each_launch(capsys):
    assert main(["compile", "--operation", "layer_norm_difference", "--sm", "90", "--processes", "1"]) == 0
    out, _ = capsys.readouterr()
    assert all(column in out for column in ("registers", "spill B", "shared B", "loads", "tensor core"))
    assert "layer_norm_difference_backward" in out
    assert out.splitlines()[-1].endswith(", 0 failed.")


def verdict(exact, error, eager_error=1e-3):
    case = NumericsCase(
        "x", "", torch.float32, "",
        kernel=lambda: {"out": exact + error},
        eager=lambda: {"out": exact + eager_error},
        oracle=lambda: {"out": exact},
    )  # fmt: skip
    return compare(case)[0]["verdict"] == HOLDS


EXACT = torch.linspace(1, 2, 50, dtype=torch.float64)


def test_a_kernel_with_twice_the_error_of_eager_or_with_nan_does_not_hold():
    assert verdict(EXACT, 1e-3)
    assert not verdict(EXACT, 2e-3)
    assert not verdict(EXACT, torch.nan)


def test_nothing_holds_where_eager_pytorch_is_wrong_itself():
    """On a device that computes nothing at all every comparison held: kernel and eager were equally wrong."""
    assert not verdict(EXACT, -EXACT, -EXACT)


def test_a_gradient_that_cancels_to_zero_is_not_held_against_eagers_luck():
    """Of one position: the softmax is 1, eager finds exactly 0, the kernel what rounding leaves of two equal sums."""
    assert verdict(torch.zeros(50), 2e-7, 0.0)
    assert not verdict(torch.zeros(50), 2e-5, 0.0)


def test_what_a_kernel_does_not_write_is_not_a_number():
    case = NumericsCase(
        "x", "", torch.float32, "",
        kernel=lambda: {"out": torch.empty(50)},
        eager=lambda: {"out": EXACT},
        oracle=lambda: {"out": EXACT},
    )  # fmt: skip
    assert compare(case)[0]["verdict"] != HOLDS
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("mode", ["fused", "off"])
def test_peers_of_the_temporal_benchmark_do_the_same_task(mode):
    qkv = torch.randn(2, 4, 3, 3, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = {one.name: one.function for one in contenders(8, mode)}
    expected = found["ours"](qkv, scale=0.3)
    for name in ("naive", "sdpa math", "sdpa flash"):
        assert torch.allclose(found[name](qkv, scale=0.3), expected), name
