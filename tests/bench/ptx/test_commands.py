"""`python -m bench execute` and `python -m bench count`: records of compiled kernels."""

import pytest
import torch

from bench.__main__ import main
from bench.checks.cases import OPERATIONS
from bench.common.record import read_run
from bench.ptx import Machine, Options
from bench.ptx.count import counts, described, document, needed_multiply_adds, warps_held
from bench.ptx.execute import NOT_THE_SAME, SHAPES, execute_case, select
from kernels.relevance import operator as relevance

ONE = ["--operation=layer_norm_difference", "--which=small", "--dtype=bfloat16", "--sm=80", "--processes=1"]


def test_execute_writes_the_records_of_numerics_for_each_architecture(tmp_path, capsys):
    assert main(["execute", *ONE, "--repeat", f"--output={tmp_path}", "--commit=given"]) == 0
    rows = read_run(tmp_path).tables["execute"]
    assert [row["quantity"] for row in rows] == ["out", "grad x", "grad weight", "grad bias"]
    assert {(row["sm"], row["kernel"], row["dtype"], row["verdict"]) for row in rows} == {
        ("80", "layer_norm_difference", "bfloat16", "holds")
    }
    assert all(0 <= float(row["ratio"]) <= 1.5 for row in rows)
    assert "4 comparisons of compiled kernels, 0 failed." in capsys.readouterr().out


def test_execute_fails_where_no_case_is_chosen(capsys):
    """It said that 0 comparisons were made and 0 failed."""
    assert main(["execute", *ONE, "--shape=S=0"]) == 2
    assert "is left by --operation, --dtype, --match and --shape; expected one" in capsys.readouterr().err


def test_every_operation_has_shapes_that_are_executed():
    for which, shapes in SHAPES.items():
        assert shapes.keys() == OPERATIONS.keys(), which


def test_count_says_where_no_launch_is_chosen(capsys):
    """It ended with status 1 and without a word."""
    assert main(["count", "--sm=90", "--match=nothing"]) == 2
    assert "no launch is left by --operation, --dtype, --match and --kernel" in capsys.readouterr().err


@pytest.fixture
def case():
    [case] = select("small", "layer_norm_difference", ["bfloat16"]).values()
    return case


def test_other_bits_in_another_order_of_programs_are_a_failure(case, monkeypatch):
    machine = Machine(Options(architecture=80))
    run = machine.run

    def forgetful(kernel, grid, arguments, options, meta):
        report = run(kernel, grid, arguments, options, meta)
        if machine.options.reverse and "out" in arguments:
            arguments["out"].view(-1)[0] += 1
        return report

    monkeypatch.setattr(machine, "run", forgetful)
    rows = execute_case(case, machine, repeat=True)
    assert {(row["verdict"], row["note"]) for row in rows} == {("FAILS", NOT_THE_SAME)}


def test_counts_of_a_launch_are_a_record_and_lines_of_python(case):
    machine = Machine(Options(architecture=90))
    with machine.takes_launches():
        case.kernel()
    forward = machine.reports[0]
    row = {"sm": 90, "kernel": forward.name, "dtype": "bfloat16", "shape": case.shape, "times": 1}
    row |= counts(forward.name, forward, 90)
    assert row["instructions"] == sum(forward.by_class().values()) == forward.counts[:, 0].sum() > 0
    assert row["loaded_sectors"] >= row["distinct_loaded_sectors"] > 0
    assert row["multiply_adds"] == row["needed_multiply_adds"] == 0  # no tensor cores in a normalization
    text = described(row, forward, verbose=True)
    assert "layer_norm_difference_forward bfloat16" in text
    assert "kernels.py:" in text


def test_products_of_attention_are_those_of_its_mathematics():
    [case] = select("small", "spatial_attention", ["bfloat16"], captures=()).values()
    machine = Machine(Options(architecture=80))
    with machine.takes_launches():
        case.kernel()
    forward = next(report for report in machine.reports if report.name == "spatial_forward")
    assert needed_multiply_adds("spatial_forward", forward) == 2 * 2 * 2 * 37 * 37 * 40  # products, F, N, S, S, D
    assert forward.multiply_adds() >= needed_multiply_adds("spatial_forward", forward)


@pytest.mark.parametrize("architecture", [80, 90])
def test_no_warp_of_relevance_over_positions_repeats_the_products_of_another(architecture):
    """32 rows had 8 warps, and six of them computed what the other two did: the map took 7.8 times the instructions."""
    positions = 150
    q, k, v, u = torch.randn(4, 1, 1, positions, 1, 64, generator=torch.Generator().manual_seed(0))
    machine = Machine(Options(architecture=architecture))
    with machine.takes_launches():
        relevance.launch_spatial_relevance(q, k, v, u, 0.1, 0.01)
        relevance.launch_spatial_map(None, q, k, v, u, u, 0.1, False)
    for report in machine.reports:
        if report.name in ("spatial_relevance", "spatial_map"):
            products = needed_multiply_adds(f"{report.name} {report.arguments.get('OF', '')}".strip(), report)
            rows, columns = report.meta["BLOCK_M"], report.meta["BLOCK_N"]
            padded = -(-positions // rows) * rows * -(-positions // columns) * columns
            assert report.multiply_adds() == 3 * products // positions**2 * padded


def test_the_document_sets_two_runs_side_by_side():
    row = {"sm": "80", "kernel": "k", "dtype": "float32", "shape": "B=1 D=64", "times": "2", "instructions": "3000000"}
    row |= {"distinct_loaded_sectors": "1000", "loaded_sectors": "2500", "registers": "99", "warps_held": "16"}
    text = document([row, row | {"kernel": "gone"}], [row | {"instructions": "1500000", "registers": "80"}])
    assert "| 80 | k | float32 | 64 | 6.00 -> 3.00 | - | - | - | 2.50 |" in text
    assert "| 99 -> 80 | 16 |" in text
    assert "| 80 | gone (before) | float32 | 64 | 6.00 |" in text


def test_a_multiprocessor_holds_as_many_warps_as_registers_and_shared_memory_let_it():
    assert warps_held(80, 8, 250, 73_728) == 8  # registers of one program
    assert warps_held(80, 4, 243, 49_152) == 8  # of two
    assert warps_held(90, 1, 32, 0) == 32  # as many programs as it holds
    assert warps_held(90, 4, 32, 100 << 10) == 8  # shared memory of two
